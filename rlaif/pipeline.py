"""The whole recipe, top to bottom: the file to read first.

    constitution + prompts
      -> responses.jsonl     sample     n responses per prompt from the policy (+ sample_failures.jsonl)
      -> judgments.jsonl     label      the judge's verdicts, both orders, per principle (+ failures.jsonl)
      -> preferences.jsonl   pairs      AI, human or mixed
      -> reward_model/       reward     trained on preferences; never learns where a row came from
      -> policy/             optimise   trained against the reward model
      -> evaluation.json     evaluate   policy against reference on held-out prompts
      -> report.html         report     one page for a person

Every arrow is a stage in `stages/`: it reads files, writes files and is skipped when what it would read has not
changed. Which stages a recipe needs depends on where its labels come from, and on nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlaif import reads, stages
from rlaif.config import Recipe
from rlaif.config.sections import HumanLabels
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.run import Run


class Stage(NamedTuple):
    """One arrow of the drawing."""

    work: Callable[[Recipe, Run], dict[str, Any]]
    """Does it; returns facts for the manifest (counts, tokens)."""
    reads: Callable[[Recipe, Run], list[Path]]
    writes: Callable[[Run], list[Path]]


STAGES: dict[str, Stage] = {
    "sample": Stage(
        stages.sample,
        lambda recipe, run: [*reads.prompt_files(recipe), *reads.policy_files(recipe)],
        lambda run: [run.responses, run.sample_failures],
    ),
    "label": Stage(
        stages.label,
        lambda recipe, run: [
            run.responses,
            *reads.judge_files(recipe),
            *reads.audit_files(recipe),
            *reads.human_files(recipe),
            *reads.prompt_files(recipe),
        ],
        lambda run: [run.judgments, run.failures, *run.evidence],
    ),
    "pairs": Stage(
        stages.pairs,
        lambda recipe, run: [run.judgments, *reads.human_files(recipe), *reads.prompt_files(recipe)],
        lambda run: [run.preferences],
    ),
    "reward": Stage(
        stages.reward,
        lambda recipe, run: [
            run.preferences,
            run.responses,
            *reads.backbone_files(recipe),
        ],
        lambda run: [run.reward_model, run.heldout],
    ),
    "optimise": Stage(
        stages.optimise,
        lambda recipe, run: [run.reward_model, *reads.prompt_files(recipe), *reads.policy_files(recipe)],
        lambda run: [run.policy],
    ),
    "evaluate": Stage(
        stages.evaluate,
        lambda recipe, run: [
            run.judgments,
            run.failures,
            run.heldout,
            run.reward_model,
            run.policy,
            *reads.judge_files(recipe),
            *reads.prompt_files(recipe),
            *reads.policy_files(recipe),
        ],
        lambda run: [run.evaluation, run.samples, run.evaluation_judgments, run.evaluation_failures],
    ),
    "report": Stage(stages.report, lambda recipe, run: [run.evaluation, run.samples], lambda run: [run.report]),
}


def stages_of(recipe: Recipe) -> list[str]:
    """The stages this recipe needs, in order: human labels need neither samples nor a judge to make preferences."""
    labels = recipe.preferences.labels
    skipped: set[str] = set()
    if isinstance(labels, HumanLabels):
        skipped = {"sample", "label"}
    elif labels.pairs == "human":
        skipped = {"sample"}
    return [name for name in STAGES if name not in skipped]


def stages_until(recipe: Recipe, last: str) -> list[str]:
    """The stages this recipe needs up to this one. ConfigError for a stage that it has not."""
    wanted = stages_of(recipe)
    return wanted[: _place(wanted, last) + 1]


def _place(wanted: Sequence[str], name: str) -> int:
    if name not in wanted:
        raise ConfigError(f"{name}: this recipe has no such stage; it has {', '.join(wanted)}")
    return wanted.index(name)


def run_recipe(recipe: Recipe, folder: Path, only: Sequence[str] | None = None) -> Run:
    """Bring the run folder up to date, stage by stage; with `only`, just those stages."""
    run = Run(folder)
    with run.lock():
        run.claim(recipe)
        wanted = stages_of(recipe)
        todo = sorted({_place(wanted, name) for name in (wanted if only is None else only)})
        for place in todo:
            STAGES[wanted[place]].reads(recipe, run)  # a name that stands for nothing is said now, not after hours
        for place in todo:
            run_stage(recipe, run, wanted[place], f"[{place + 1}/{len(wanted)}] {wanted[place]}")
    return run


def run_stage(recipe: Recipe, run: Run, name: str, title: str) -> None:
    """Do one stage unless it is done already for these very inputs."""
    stage = STAGES[name]
    inputs = run.inputs_hash(recipe, stage.reads(recipe, run))
    if run.is_done(name, inputs):
        say(f"{title}: up to date")
        return
    say(title)
    run.begin(name, inputs)
    began = time.monotonic()
    facts = stage.work(recipe, run)
    seconds = round(time.monotonic() - began, 1)
    run.mark_done(name, inputs, stage.writes(run), {"seconds": seconds, **facts})
    said = ", ".join(f"{key} {value}" for key, value in facts.items() if isinstance(value, int | str))
    say(f"{title}: done in {seconds:.0f} s{' (' + said + ')' if said else ''}")
