"""Write a constitution as the YAML that `load.py` reads: for constitutions that a program made, not a person.

What equals its default is left out, comments are not kept, and loading it again gives the same hash.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml

from rlaif.constitution.schema import Constitution, Principle
from rlaif.jsonl import write_atomic


def write_constitution(path: Path, constitution: Constitution, header: str = "") -> None:
    """Write the file atomically; see `dump_constitution`."""
    write_atomic(path, dump_constitution(constitution, header).encode())


def dump_constitution(constitution: Constitution, header: str = "") -> str:
    """The constitution as YAML, its principles set apart by blank lines; each line of `header` is a comment on top."""
    whole = constitution.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    whole.pop("principles")
    principles = [textwrap.indent(_yaml([_plain(p)]), "  ") for p in constitution.principles]
    return _comment(header) + _yaml(whole) + "principles:\n" + "\n".join(principles)


def _plain(principle: Principle) -> dict[str, Any]:
    fields: dict[str, Any] = principle.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if principle.check is not None:
        fields["check"] = principle.check.model_dump(mode="json")  # `kind` is a default, and the one key it needs
    return fields


def _comment(text: str) -> str:
    # A control character, even in a comment, is not valid YAML.
    lines = ["".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines()]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
    if all(c.isprintable() or c == "\n" for c in text):
        return text
    # PyYAML writes U+0085 and its like raw and reads them back as a space: escape all there is.
    escaped: str = yaml.safe_dump(value, sort_keys=False, width=110)
    return escaped
