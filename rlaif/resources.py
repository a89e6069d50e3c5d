"""Find the files that ship with rlaif: a name means the shipped file, anything else is a path.

In a checkout the data folders lie beside the package, where people edit them; in an installed wheel they lie
inside it. Nothing is read here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from rlaif.errors import ConfigError, did_you_mean

Kind = Literal["constitutions", "prompts/judge", "prompts/sets", "recipes"]

_PACKAGE = Path(__file__).resolve().parent
_WORDS: dict[Kind, tuple[str, str]] = {
    "constitutions": ("constitution", ".yaml"),
    "prompts/judge": ("judge template", ".jinja"),
    "prompts/sets": ("prompt set", ".jsonl"),
    "recipes": ("recipe", ".yaml"),
}


def _folder(kind: Kind) -> Path:
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def available(kind: Kind) -> list[str]:
    """The shipped names of this kind, sorted."""
    suffix = _WORDS[kind][1]
    return sorted(path.stem for path in _folder(kind).glob(f"*{suffix}"))


def resolve(kind: Kind, name: str) -> Path:
    """The file that `name` stands for; a shipped name (`harmlessness`) wins over a path.

    Raises ConfigError with the nearest shipped name when there is no such file.
    """
    word, suffix = _WORDS[kind]
    if name in available(kind):
        return _folder(kind) / f"{name}{suffix}"
    path = os.path.expanduser(name)
    if os.path.isfile(path):  # False, not an exception, for names that no file can have
        return Path(path)
    if os.sep in name or name.endswith(suffix):
        raise ConfigError(f"{name}: no such {word} file{did_you_mean(Path(name).stem, available(kind))}")
    raise ConfigError(f"no {word} {name!r}{did_you_mean(name, available(kind))}")
