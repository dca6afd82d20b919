"""Evaluation of a classifier's maps on labelled pictures: by the field's protocols, with baselines and intervals."""

from camlucida.evaluation.evaluate import Localizer, evaluate
from camlucida.evaluation.operating import calibrated
from camlucida.evaluation.result import Baseline, Case, ClassRow, Evaluation, Figure, Value

__all__ = ["Baseline", "Case", "ClassRow", "Evaluation", "Figure", "Localizer", "Value", "calibrated", "evaluate"]
