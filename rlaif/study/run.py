"""A whole study: every arm with every seed, the contest, the figures, the page. Each part goes on where it was killed.

arms/<arm>/seed-<n>/   an ordinary run; skipped when it is done. Arms share what they have in common
contest/               the judgments of all arms' answers; `rlaif annotate` on it adds people's
accuracy.jsonl         what every reward model says of the held-out human labels
comparison.json, .html
"""

from __future__ import annotations

from pathlib import Path

from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.jsonl import write_atomic
from rlaif.pipeline import run_recipe
from rlaif.study.arms import arm_runs
from rlaif.study.config import Study, dump_study, load_study
from rlaif.study.contest import hold_contest
from rlaif.study.heldout import measure_accuracy
from rlaif.study.page import write_comparison


def run_study(study: Study, folder: Path, redo: bool = False) -> list[str]:
    """Bring the study up to date; returns what to print. Arms that are done are not run again (`redo` as in
    `run_recipe`), and what an arm before made of the very same inputs is taken over: samples, labels, reward models.

    ConfigError where the folder belongs to another study, or an arm's recipe does not hold together: all are looked at
    before the first begins.
    """
    runs = list(arm_runs(study, folder))
    claim(study, folder)
    for number, (arm, seed, recipe, run) in enumerate(runs, start=1):
        say(f"arm {arm}, seed {seed} ({number} of {len(runs)}): {run.folder}")
        before = [other.run.folder for other in runs[: number - 1] if other.seed == seed]
        run_recipe(recipe, run.folder, since=before, redo=redo)
    hold_contest(study, folder, runs)
    measure_accuracy(study, folder, runs)
    return write_comparison(folder)


def claim(study: Study, folder: Path) -> None:
    """Bind the folder to the study. Arms and seeds may be added later; what the arms that are there do may not change
    without `redo`: their runs refuse that themselves."""
    path = folder / "study.yaml"
    if path.exists():
        before = load_study(path)
        if before.name != study.name:
            raise ConfigError(
                f"{folder}: holds the study {before.name!r}; use another folder (--out) or delete this one"
            )
        gone = [arm for arm in before.arms if arm not in study.arms]
        if gone:
            raise ConfigError(
                f"{folder}: the arm {gone[0]!r} is there and the study has it no more; keep it, or use --out"
            )
    write_atomic(path, dump_study(study).encode())
