"""What pydantic says of a bad recipe, in the words of the recipe: `section.key: message (got value)`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rlaif.config.sections import Recipe, Section
from rlaif.errors import did_you_mean

TAGS = ("backend", "kind")
"""The keys that tell the alternatives of a union apart."""

Place = Sequence[int | str]
"""Pydantic's path to a value. Where it passes a union it also names the alternative (`ppo.kl.fixed.coef`)."""


def explain(error: ValidationError, values: Any) -> list[str]:
    """One line for each mistake in these values, with the nearest valid name for a typo."""
    problems = error.errors(include_url=False)
    inside = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    # A complaint about what contains another mistake only repeats it.
    return [
        f"{'.'.join(_written(problem['loc'], values)) or 'recipe'}: {_message(problem)}"
        for problem in problems
        if problem["loc"] not in inside
    ]


def _message(problem: ErrorDetails) -> str:
    context, place = problem.get("ctx", {}), problem["loc"]
    given = repr(problem["input"])
    got = f"(got {given if len(given) <= 80 else given[:77] + '...'})"
    match problem["type"]:
        case "extra_forbidden":
            message = f"no such key{did_you_mean(str(place[-1]), _keys(place[:-1]))}"
        case "missing":
            message = "required, but missing"
        case "union_tag_not_found":
            message = f"must say its {context['discriminator']} {got}"
        case "union_tag_invalid":
            key, tag = context["discriminator"].strip("'"), str(context["tag"])
            known = re.findall("'(.*?)'", context["expected_tags"])
            message = f"no {key} {tag!r}{did_you_mean(tag, known)}"
        case "model_type" | "model_attributes_type":
            message = f"a section of keys and values, not a single value {got}"
        case "value_error":
            message = str(context["error"])
        case _:
            message = f"{problem['msg']} {got}"
    return message


def _written(place: Place, values: Any) -> Iterator[str]:
    """The parts of the key as the recipe has them, without alternatives of unions."""
    node, named = values, False
    for part in place:
        if not named and isinstance(node, dict) and part in [node.get(tag) for tag in TAGS]:
            named = True
            continue
        yield str(part)
        named = False
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None


def _keys(place: Place) -> set[str]:
    """Every key that the section at this place may have."""
    sections: list[type[Section]] = [Recipe]
    for part in place:
        if isinstance(part, int):
            continue  # an item of a list has the sections of the list
        if len(sections) > 1:
            sections = [s for s in sections if part in [s.model_fields[t].default for t in TAGS if t in s.model_fields]]
        else:
            sections = [inner for s in sections for inner in sections_in(s.model_fields[part].annotation)]
    return {key for section in sections for key in section.model_fields}


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections inside an annotation such as `tuple[A | B, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in get_args(annotation) for section in sections_in(inner)]
