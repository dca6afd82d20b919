"""Evaluation of a classifier's maps on labelled pictures: by the field's protocols, with baselines and intervals."""

from camlucida.evaluation.evaluate import ImageLocalizer, evaluate
from camlucida.evaluation.findings import Baseline, Case, ClassRow, Figure, Value
from camlucida.evaluation.operating_point import calibrated
from camlucida.evaluation.result import Evaluation

__all__ = ["Baseline", "Case", "ClassRow", "Evaluation", "Figure", "ImageLocalizer", "Value", "calibrated", "evaluate"]
