"""What every arm's reward model says of human labels that trained none: those on the held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.digest import hash_path
from rlaif.feedback.human import read_human
from rlaif.feedback.prompts import read_prompts
from rlaif.forms import SCORED
from rlaif.jsonl import read_rows, write_jsonl
from rlaif.records import Judgment
from rlaif.run_folder import Run
from rlaif.study.arms import ArmRun, shared_recipe
from rlaif.study.config import Study


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
