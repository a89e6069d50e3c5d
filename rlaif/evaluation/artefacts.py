"""What a run folder holds, read for people: any part may be missing, but what is there must be readable."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.config.text import UNREADABLE, read_yaml
from rlaif.errors import DataError
from rlaif.jsonl import read_objects


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
        return str(self.recipe.get("name") or self.folder.resolve().name)

    def setting(self, key: str) -> Any:
        """The recipe's value at a dotted key; None where there is none."""
        value: Any = self.recipe
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def read_artefacts(folder: Path) -> Artefacts:
    """Everything a report or a comparison shows. DataError, naming the file, for one that cannot be read."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run folder")
    recipe_text = _text(folder / "recipe.yaml")
    return Artefacts(
        folder=folder,
        recipe=_yaml(folder / "recipe.yaml", recipe_text),
        recipe_text=recipe_text,
        manifest=_json(folder / "manifest.json"),
        evaluation=_json(folder / "evaluation.json"),
        metrics=rows_if_there(folder / "metrics.jsonl"),
        failures=rows_if_there(folder / "failures.jsonl"),
        samples=rows_if_there(folder / "evaluation_samples.jsonl"),
        preferences=Counter(
            (str(row.get("source")), str(row.get("split"))) for row in rows_if_there(folder / "preferences.jsonl")
        ),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _yaml(path: Path, text: str) -> dict[str, Any]:
    try:
        value = read_yaml(text)
    except UNREADABLE as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return _mapping(path, value)


def _json(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        return _mapping(path, json.loads(text) if text else None)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not valid JSON: {error}") from None


def _mapping(path: Path, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold an object (got {type(value).__name__})")
    return value


def rows_if_there(path: Path) -> list[dict[str, Any]]:
    """The file's rows; none where there is no file."""
    return [row for _, row in read_objects(path)] if path.exists() else []
