"""Trackers outside the run folder (wandb, trackio, mlflow), through accelerate. They are readers of the metrics: one
that breaks is said and dropped, and training goes on.

A stage is one run there, with its own steps from 0. What a stage that goes on needs to find its run again lies beside
its checkpoints and goes with them. Rows that are made again carry the same step and the same numbers.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.errors import ConfigError
from rlaif.forms import TEXTS
from rlaif.jsonl import read_json, write_json
from rlaif.processes import leads


def check_trackers(recipe: Recipe) -> None:
    """ConfigError for the first tracker that is not installed. Imports nothing heavy."""
    for name in recipe.tracking.to:
        if find_spec(name) is None:
            raise ConfigError(f"tracking.to: {name} is not installed; pip install {name}, or leave it out")


def open_trackers(recipe: Recipe, stage: str, folder: Path) -> dict[str, Any]:
    """The recipe's trackers, started, by name. `folder` is the stage's own. ConfigError where one does not start."""
    check_trackers(recipe)
    if not recipe.tracking.to or not leads():
        return {}
    ids = folder / "trackers.json"
    known: dict[str, str] = read_json(ids, TEXTS) if ids.exists() else {}
    opened: dict[str, Any] = {}
    for name in recipe.tracking.to:
        try:
            opened[name] = _start(name, recipe, stage, known)
            opened[name].store_init_configuration(_flat(recipe.model_dump(mode="json")))
        except Exception as error:  # whatever a library of others raises: no key, no network, another version
            raise ConfigError(f"tracking.to: {name} does not start: {first_line(error)}") from None
    write_json(ids, known)
    return opened


def first_line(error: Exception) -> str:
    """What went wrong, on one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _start(name: str, recipe: Recipe, stage: str, known: dict[str, str]) -> Any:
    """One tracker, in the run that is known from before, or in a new one that is known from now on."""
    from accelerate import PartialState  # noqa: PLC0415 (brings torch)
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker  # noqa: PLC0415

    PartialState()  # without it accelerate's logging refuses to work
    project, title = recipe.tracking.project, f"{recipe.name}/{stage}"
    if name == "mlflow":
        tracker = MLflowTracker(experiment_name=project, run_id=known.get(name), run_name=title)
        tracker.start()
        known[name] = tracker.tracker.info.run_id
        return tracker
    identity = known.setdefault(name, secrets.token_hex(4))
    if name == "wandb":
        tracker = WandBTracker(project, name=title, group=recipe.name, id=identity, resume="allow")
    else:
        tracker = TrackioTracker(project, name=f"{title}/{identity}", group=recipe.name, resume="allow")
    tracker.start()
    return tracker


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Dotted keys; what is no number becomes text."""
    found: dict[str, str | float] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found |= _flat(inner, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = inner if isinstance(inner, int | float) else str(inner)
    return found
