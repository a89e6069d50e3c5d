"""Annotators are fallible, people and judges alike: what is known of each, whom to leave out, and what to make of the
labels that are left. `simulate.py` makes crews of known faults to try it on.

    judgments + gold -> credibility -> removal -> aggregate -> one judgment a pair      (`trust.py` joins them)
"""

from rlaif.feedback.annotators.aggregate import aggregate
from rlaif.feedback.annotators.alpha import Alpha, alpha
from rlaif.feedback.annotators.credibility import AnnotatorReport, Rate, credibility
from rlaif.feedback.annotators.removal import removed
from rlaif.feedback.annotators.simulate import SimulatedAnnotator, crew_of, simulate
from rlaif.feedback.annotators.trust import Trusted, trusted

__all__ = [
    "Alpha",
    "AnnotatorReport",
    "Rate",
    "SimulatedAnnotator",
    "Trusted",
    "aggregate",
    "alpha",
    "credibility",
    "crew_of",
    "removed",
    "simulate",
    "trusted",
]
