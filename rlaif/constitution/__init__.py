"""Constitutions: here one is read, and written where a program made it. `schema` is what one is, `lint` warns, `diff`
tells two versions apart, `checks` is what code decides."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rlaif.config.base import Mistake, mistake_at, repeated, validated
from rlaif.constitution.lint import lint
from rlaif.constitution.schema import SCHEMA, Constitution, Contrast, Example, Principle, read_ahead
from rlaif.jsonl import write_atomic
from rlaif.resources import resolve
from rlaif.strict_yaml import read_mapping

__all__ = [
    "Constitution",
    "Contrast",
    "Example",
    "Principle",
    "dump_constitution",
    "lint",
    "load_constitution",
    "read_ahead",
    "write_constitution",
]

WORDS = {
    "string_too_short": "is empty",
    "too_short": "is empty",
    "string_pattern_mismatch": "use letters, digits, - and _ only",
    "string_type": "must be text; put it in quotes to make it text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "tuple_type": "must be a list, like [this]",
    "model_type": "must be a mapping, like {key: value}",
    "model_attributes_type": "must be a mapping, like {kind: no_list}",
}
"""What is said for pydantic's errors in the strict models of a constitution."""


def load_constitution(name_or_path: str) -> Constitution:
    """The constitution of a shipped name (`harmlessness`) or a path.

    Raises ConfigError with all mistakes found in the file, one line each: `file:line: principles.ID.key: message`.
    """
    path = resolve("constitutions", name_or_path)
    node, values = read_mapping(path, f"a constitution is a mapping that begins with `schema: {SCHEMA}`")
    return validated(Constitution, path, node, values, words=WORDS, known=[*_missing(values), *_same_ids(values)])


def _missing(whole: dict[str, Any]) -> Iterator[Mistake]:
    """Values left empty, which would be read without a word, and what a file that is no constitution lacks."""
    if "schema" not in whole:
        yield mistake_at(("schema",), whole, f"required, but missing; write `schema: {SCHEMA}`")
    places: list[tuple[tuple[int | str, ...], Any]] = [((), whole)]
    for place, value in places:
        if value is None:
            yield mistake_at(place, whole, "is empty; write a value or leave the key out")
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        places += [((*place, key), each) for key, each in inside]


def _same_ids(whole: dict[str, Any]) -> Iterator[Mistake]:
    """Principles whose id came before; seen here so that it is reported beside other mistakes."""
    principles = whole.get("principles")
    ids = [p.get("id") if isinstance(p, dict) else None for p in principles] if isinstance(principles, list) else []
    for index in repeated(ids):
        if ids[index] is not None:
            yield mistake_at(("principles", index, "id"), whole, f"{ids[index]!r} is used twice")


def write_constitution(path: Path, constitution: Constitution, header: str = "") -> None:
    """Write the file atomically; see `dump_constitution`."""
    write_atomic(path, dump_constitution(constitution, header).encode())


def dump_constitution(constitution: Constitution, header: str = "") -> str:
    """The constitution as YAML, its principles set apart by blank lines; each line of `header` is a comment on top.

    What equals its default is left out, and loading it again gives the same hash.
    """
    whole = constitution.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    principles = []
    for principle, fields in zip(constitution.principles, whole.pop("principles"), strict=True):
        if principle.check is not None:
            fields["check"] = principle.check.model_dump(mode="json")  # `kind` is a default, and the one key it needs
        if (signal := principle.classifier) is not None:
            fields["classifier"] = {"kind": signal.kind} | fields["classifier"]
        principles.append(textwrap.indent(_yaml([fields]), "  "))
    # A control character, even in a comment, is not valid YAML.
    comment = ["".join(c if c.isprintable() else "?" for c in line) for line in header.splitlines()]
    top = "".join(f"# {line}".rstrip() + "\n" for line in comment)
    return top + _yaml(whole) + "principles:\n" + "\n".join(principles)


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
    if not all(c.isprintable() or c == "\n" for c in text):
        # PyYAML writes U+0085 and its like raw and reads them back as a space: escape all there is.
        text = yaml.safe_dump(value, sort_keys=False, width=110)
    return text
