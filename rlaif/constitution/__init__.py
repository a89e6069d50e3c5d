"""Constitutions: `schema` is what one is, `load` reads it, `lint` warns, `checks` is what code decides."""

from rlaif.constitution.checks import CheckHelp, list_checks, repetition_rate
from rlaif.constitution.lint import lint
from rlaif.constitution.load import load_constitution
from rlaif.constitution.schema import Constitution, Contrast, Example, Principle

__all__ = [
    "CheckHelp",
    "Constitution",
    "Contrast",
    "Example",
    "Principle",
    "lint",
    "list_checks",
    "load_constitution",
    "repetition_rate",
]
