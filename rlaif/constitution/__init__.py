"""Constitutions: `schema` is what one is, `load` reads it, `lint` warns, `checks` is what code decides."""

from rlaif.constitution.lint import lint
from rlaif.constitution.load import load_constitution
from rlaif.constitution.schema import Constitution, Contrast, Example, Principle

__all__ = ["Constitution", "Contrast", "Example", "Principle", "lint", "load_constitution"]
