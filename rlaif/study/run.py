"""A whole study: every arm with every seed, the contest, the figures, the page. Each part goes on where it was killed.

arms/<arm>/seed-<n>/   an ordinary run; skipped when it is done. Arms share what they have in common
contest/               the judgments of all arms' answers; `rlaif annotate` on it adds people's
accuracy.jsonl         what every reward model says of human labels that trained none: those on held-out prompts
comparison.json, .html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.console import say
from rlaif.digest import hash_path
from rlaif.errors import ConfigError
from rlaif.feedback.human import read_human
from rlaif.feedback.prompts import read_prompts
from rlaif.forms import SCORED
from rlaif.jsonl import read_rows, write_atomic, write_jsonl
from rlaif.pipeline import run_recipe, unfinished
from rlaif.records import Judgment
from rlaif.run_folder import Run
from rlaif.stages.models import check_judge, check_models
from rlaif.study.config import ArmRun, Study, arm_runs, dump_study, load_study, shared_recipe
from rlaif.study.contest import contest_recipe, hold_contest
from rlaif.study.page import write_comparison


def run_study(study: Study, folder: Path, redo: bool = False) -> list[str]:
    """Bring the study up to date; returns what to print. Arms that are done are not run again (`redo` as in
    `run_recipe`), and what an arm before made of the very same inputs is taken over: samples, labels, reward models.

    ConfigError where the folder belongs to another study, or an arm's recipe does not hold together, ModelError for a
    model that is nowhere: all are looked at before the first begins.
    """
    runs = list(arm_runs(study, folder))
    check_models(*((one.recipe, unfinished(one.recipe, one.run)) for one in runs))
    if not (folder / "contest" / "asked.json").exists():
        check_judge(contest_recipe(study))
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


def heldout_labels(study: Study, folder: Path) -> list[Judgment]:
    """The study's human labels on prompts that nothing trains on, ties left out: they have no right answer."""
    sources = study.heldout_data or study.human_data
    if not sources:
        return []
    recipe = shared_recipe(study)
    heldout = {prompt.id for prompt in read_prompts(recipe.prompts).heldout}
    judgments = read_human(sources, Run(folder), recipe.prompts.system).judgments
    return [j for j in judgments if j.pair.prompt_id in heldout and j.p_a != 0.5]


def measure_accuracy(study: Study, folder: Path, runs: Sequence[ArmRun]) -> None:
    """accuracy.jsonl: {arm, seed, model, pair_id, prompt_id, p_human, margin} for each label and reward model.

    `margin` is score(a) - score(b), and p_human what people said of a. Models that were scored before are not again.
    """
    from rlaif.rewards.model import score_pairs  # noqa: PLC0415 (torch)

    path = folder / "accuracy.jsonl"
    known = read_rows(path, SCORED)
    labels = heldout_labels(study, folder)
    held = {label.pair.id: label.pair for label in labels}
    now = [(label.pair.id, label.p_of(held[label.pair.id].a)) for label in labels]
    rows: list[dict[str, Any]] = []
    for arm, seed, recipe, run in runs:
        if not labels or not run.reward_model.exists():
            continue
        model = hash_path(run.reward_model)
        found = [row for row in known if (row["arm"], row["seed"], row["model"]) == (arm, seed, model)]
        if [(row["pair_id"], row["p_human"]) for row in found] != now:
            margins = score_pairs(run.reward_model, recipe.reward, recipe.policy.dtype, list(held.values()))
            found = [
                {
                    "arm": arm,
                    "seed": seed,
                    "model": model,
                    "pair_id": pair_id,
                    "prompt_id": held[pair_id].prompt_id,
                    "p_human": p_human,
                    "margin": margins[pair_id],
                }
                for pair_id, p_human in now
            ]
        rows += found
        write_jsonl(path, rows)
    write_jsonl(path, rows)
