"""Principles about who the policy should be: `{profile.NAME}` in a principle's text is filled from a prompt's profile.

A constitution names the profile's keys (`profile: [name, tone]`), so that a name that it does not know is an error of
its file and not a gap in a judge's question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlaif.errors import did_you_mean

if TYPE_CHECKING:
    from rlaif.constitution.schema import Principle

PLACE = re.compile(r"\{\s*profile\s*\.\s*([^{}\s]*)\s*\}")
TEXTS = ("compare", "critique", "revise", "question", "contrast")


class Unfilled(Exception):
    """A principle asks for what a prompt's profile does not have."""


def unknown_names(principle: Principle, known: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(field, what is wrong) of each placeholder that is not among the names of the constitution's profile."""
    for field in TEXTS:
        for name in PLACE.findall(_text(getattr(principle, field))):
            if name not in known:
                yield field, f"no {name!r} in the constitution's profile{did_you_mean(name, known)}"


def filled(principle: Principle, profile: Mapping[str, str]) -> Principle:
    """The principle for a prompt with this profile. Unfilled where it lacks a name."""

    def value(place: re.Match[str]) -> str:
        if place[1] not in profile:
            raise Unfilled(f"no {place[1]!r} in the prompt's profile{did_you_mean(place[1], profile)}")
        return profile[place[1]]

    changed: dict[str, Any] = {}
    for field in TEXTS:
        text = getattr(principle, field)
        if isinstance(text, str):
            changed[field] = PLACE.sub(value, text)
        elif text is not None:
            sides = {side: PLACE.sub(value, getattr(text, side)) for side in ("for_", "against")}
            changed[field] = text.model_copy(update=sides)
    return principle.model_copy(update=changed)


def _text(value: Any) -> str:
    """Of a text, or both of a contrast."""
    return value if isinstance(value, str) else f"{value.for_}\n{value.against}" if value is not None else ""
