"""What a run folder holds, read for people: any part may be missing, but what is there must be readable."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter

from rlaif.errors import DataError
from rlaif.forms import EVALUATION, MANIFEST, METRICS, SAMPLE, SOURCE
from rlaif.jsonl import read_json, read_rows, read_text
from rlaif.stats import at
from rlaif.strict_yaml import read_mapping

T = TypeVar("T")


class Artefacts(NamedTuple):
    """A run's files as plain values; a missing file is an empty value."""

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    metrics: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    preferences: Counter[tuple[str, str]]
    """How many rows by (source, split)."""

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return self.setting("name", str) or self.folder.resolve().name

    def setting(self, key: str, kind: type[T]) -> T | None:
        """The recipe's value at a dotted key; None where there is none of this kind: the file may have been changed."""
        value = at(self.recipe, key)
        return value if isinstance(value, kind) else None


def read_artefacts(folder: Path) -> Artefacts:
    """Everything a report or a comparison shows. DataError, naming the file, for one that cannot be read."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run folder")
    recipe_text, recipe = "", dict[str, Any]()
    if os.path.lexists(path := folder / "recipe.yaml"):
        recipe_text, (_, recipe) = read_text(path), read_mapping(path, "a recipe is a mapping of sections")
    return Artefacts(
        folder=folder,
        recipe=recipe,
        recipe_text=recipe_text,
        manifest=_json(folder / "manifest.json", MANIFEST),
        evaluation=_json(folder / "evaluation.json", EVALUATION),
        metrics=read_rows(folder / "metrics.jsonl", METRICS),
        failures=read_rows(folder / "failures.jsonl", SOURCE),
        samples=read_rows(folder / "evaluation_samples.jsonl", SAMPLE),
        preferences=Counter(
            (str(row.get("source")), str(row.get("split"))) for row in read_rows(folder / "preferences.jsonl", SOURCE)
        ),
    )


def _json(path: Path, form: TypeAdapter[Any]) -> dict[str, Any]:
    return read_json(path, form) if os.path.lexists(path) else {}
