"""Whole runs from Python: run a recipe, audit its judge, compare runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from rlaif import pipeline
from rlaif.audits import PROBE_PAIRS
from rlaif.audits.audit import AuditResult, write_audit
from rlaif.audits.modes import parse_modes
from rlaif.config import Recipe, load_recipe
from rlaif.config.judging import CompareMode
from rlaif.errors import ConfigError
from rlaif.evaluation.compare import compare_runs
from rlaif.run_folder import Run

PathLike = str | os.PathLike[str]


def run(
    recipe: str | Recipe,
    overrides: Sequence[str] = (),
    out: PathLike | None = None,
    *,
    until: str | None = None,
    since: PathLike | Iterable[PathLike] = (),
    redo: bool = False,
) -> Run:
    """Bring a run up to date, stage by stage, up to the stage `until`; a finished stage is skipped.

    `recipe` is a shipped name, a path or a Recipe; `overrides` are `section.key=value`; `out` is the run folder, by
    default runs/<name>. What the runs `since` made of the very same inputs is taken over from there; `redo` allows
    finished stages to be done again where the recipe changed. The attributes of the result are the paths of what it
    made. Everything that the command line says is raised as an RlaifError.
    """
    found = _recipe(recipe, overrides)
    only = None if until is None else pipeline.stages_until(found, until)
    folder = Path(out or Path("runs") / found.name).expanduser()
    return pipeline.run_recipe(found, folder, only, since=_paths(since), redo=redo)


def audit(  # noqa: PLR0913 (each is an option of the command)
    recipe: str | Recipe,
    gold: PathLike | Iterable[PathLike],
    overrides: Sequence[str] = (),
    out: PathLike | None = None,
    *,
    gate: str | None = None,
    limit: int | None = None,
    probe_pairs: int = PROBE_PAIRS,
    modes: Sequence[str] = (),
) -> AuditResult:
    """Measure a recipe's judge against human labels (files of any form that rlaif reads), as `rlaif audit` does.

    `sentence` is the opinion, `audit` all figures, `page` and `file` what was written to `out` (by default
    runs/audit-<name>), `shortfalls` what misses the `gate`.
    """
    # Which mode `auto` is, this audit is to find out; should it propose none, it is about the default.
    found = _recipe(recipe, overrides, CompareMode() if modes else None)
    tried = parse_modes(modes, found.label.mode) if modes else ()
    written = None if out is None else Path(out).expanduser()
    return write_audit(found, _paths(gold), gate, written, limit=limit, probe_pairs=probe_pairs, modes=tried)


def compare(runs: Iterable[PathLike | Run], out: PathLike | None = None) -> list[tuple[str, ...]]:
    """Runs side by side: a table of texts, header first, a column for each run, intervals in brackets.

    With `out` the page is written there and the numbers beside it as JSON. DataError for fewer than two runs.
    """
    folders = [one.folder if isinstance(one, Run) else Path(one).expanduser() for one in runs]
    if out is not None:
        return list(compare_runs(folders, Path(out).expanduser()))
    with tempfile.TemporaryDirectory() as folder:
        return list(compare_runs(folders, Path(folder) / "compare.html"))


def _recipe(recipe: str | Recipe, overrides: Sequence[str], auto: CompareMode | None = None) -> Recipe:
    if isinstance(recipe, Recipe):
        if overrides:
            raise ConfigError("overrides: they go with the name or the path of a recipe")
        return recipe
    return load_recipe(os.fspath(recipe), overrides, auto=auto)


def _paths(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """One path or several."""
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [Path(path).expanduser() for path in several]
