"""What pydantic says of a bad recipe or study, in its own words: `file:line: section.key: message (got value)`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from yaml import Node

from rlaif.config.base import Section, kinds_in
from rlaif.errors import ConfigError, did_you_mean, few, shown
from rlaif.strict_yaml import NotYaml, line_of, read_yaml

S = TypeVar("S", bound=Section)
TAGS = ("backend", "kind")
"""The keys that tell the alternatives of a union apart."""

Place = Sequence[int | str]
"""Pydantic's path to a value. Where it passes a union it also names the alternative (`ppo.kl.fixed.coef`)."""


class Mistake(NamedTuple):
    """One thing that is wrong with a file's values."""

    place: tuple[int | str, ...]
    """The keys that lead to it, as the file writes them."""
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(str(part)[:80] for part in self.place)}: {self.message}".removeprefix(": ")


def mistakes(error: ValidationError, values: Any, root: type[Section]) -> list[Mistake]:
    """Each mistake in the values of a `root`, with the nearest valid name for a typo."""
    problems = error.errors(include_url=False)
    inside = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    # A complaint about what contains another mistake only repeats it.
    return [
        Mistake(tuple(_written(problem["loc"], values)), _message(problem, root))
        for problem in problems
        if problem["loc"] not in inside
    ]


def validated(model: type[S], path: Path, node: Node | None, values: Any, overridden: Collection[str] = ()) -> S:
    """The values of a file as a section, `node` being the file as it is written and `overridden` the dotted keys that
    do not come from it. ConfigError, a line with its place for each mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [
            f"{_source(mistake.place, path, node, overridden)}: {mistake}" for mistake in mistakes(error, values, model)
        ]
        raise ConfigError(few(lines)) from None


def _source(place: Place, path: Path, node: Node | None, overridden: Collection[str]) -> str:
    keys = [".".join(map(str, place[: length + 1])) for length in range(len(place))]
    if any(key in overridden for key in keys):
        return "override"
    line = line_of(node, place)
    return f"{path}:{line}" if line else str(path)


def written(text: str, place: type[Section], option: str) -> Any:
    """The value of the only key of `place`, written as `{kind: ..., ...}` on the command line after `option`.

    ConfigError, in one line, for text that is no YAML or no such value.
    """
    (key,) = place.model_fields
    try:
        values = {key: read_yaml(text)}
        return getattr(place.model_validate(values), key)
    except NotYaml as error:
        raise ConfigError(f"{option} {shown(text)}: {error.problems[0][1]}") from None
    except ValidationError as error:
        first, *_ = mistakes(error, values, place)
        raise ConfigError(f"{option} {shown(text)}: {first}") from None


def _message(problem: ErrorDetails, root: type[Section]) -> str:
    context, place = problem.get("ctx", {}), problem["loc"]
    got = f"(got {shown(problem['input'])})"
    match problem["type"]:
        case "extra_forbidden":
            message = f"no such key{did_you_mean(str(place[-1]), _keys(place[:-1], root))}"
        case "missing":
            message = "required, but missing"
        case "union_tag_not_found":
            message = f"must say its {context['discriminator']} {got}"
        case "union_tag_invalid":
            key, tag = context["discriminator"].strip("'"), str(context["tag"])
            known = re.findall("'(.*?)'", context["expected_tags"])
            message = f"no {key} {shown(tag)}{did_you_mean(tag, known)}"
        case "model_type" | "model_attributes_type":
            message = f"a section of keys and values, not a single value {got}"
        case "value_error":
            message = str(context["error"])
        case _:
            message = f"{problem['msg']} {got}"
    return message


def _written(place: Place, values: Any) -> Iterator[int | str]:
    """The parts of the key as the recipe has them, without alternatives of unions."""
    node, named = values, False
    for part in place:
        if not named and isinstance(node, dict) and part in [node.get(tag) for tag in TAGS]:
            named = True
            continue
        yield part
        named = False
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None


def _keys(place: Place, root: type[Section]) -> set[str]:
    """Every key that the section at this place may have."""
    sections, in_mapping = [root], False
    for part in place:
        if isinstance(part, int) or in_mapping:
            in_mapping = False
            continue  # an item of a list has the sections of the list, and one of a mapping those of the mapping
        if len(sections) > 1:
            sections = [s for s in sections if part in [s.model_fields[t].default for t in TAGS if t in s.model_fields]]
        else:
            annotations = [_fields(s)[part].annotation for s in sections]
            sections = [inner for annotation in annotations for inner in sections_in(annotation)]
            in_mapping = any(get_origin(annotation) is dict for annotation in annotations)
    return {key for section in sections for key in _fields(section)}


def _fields(section: type[Section]) -> dict[str, FieldInfo]:
    """By the names that files use."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections inside an annotation such as `tuple[A | B, ...]`."""
    return [kind for kind in kinds_in(annotation) if isinstance(kind, type) and issubclass(kind, Section)]
