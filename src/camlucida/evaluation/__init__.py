"""Evaluation of a classifier's maps on labelled pictures: by the field's protocols, with baselines and intervals."""

from .operating import calibrated
from .result import Baseline, Case, ClassRow, Evaluation, Figure, Value
from .run import Localizer, evaluate

__all__ = ["Baseline", "Case", "ClassRow", "Evaluation", "Figure", "Localizer", "Value", "calibrated", "evaluate"]
