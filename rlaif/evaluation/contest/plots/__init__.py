"""The comparison's pictures, each as the text of one SVG in the report's style (`evaluation/plots.py`).

Each is meant to be read without its legend: green is better than the reference, red-brown worse, grey cannot be told.
"""

from rlaif.evaluation.contest.plots.planes import Curve, Look, frontiers, looks, refusal_map
from rlaif.evaluation.contest.plots.rows import GREY, accuracy_dots, forest, matrix, standings

__all__ = [
    "GREY",
    "Curve",
    "Look",
    "accuracy_dots",
    "forest",
    "frontiers",
    "looks",
    "matrix",
    "refusal_map",
    "standings",
]
