"""The whole recipe, top to bottom: the file to read first.

    constitution + prompts
      -> responses.jsonl     sample     n responses per prompt from the policy (+ sample_failures.jsonl)
      -> judgments.jsonl     label      the judge's verdicts, both orders, per principle (+ failures.jsonl)
      -> preferences.jsonl   pairs      AI, human or mixed
      -> reward_model/       reward     trained on preferences; never learns where a row came from
      -> policy/             optimise   trained on whatever `optimise.kind` learns from
      -> evaluation.json     evaluate   policy against reference on held-out prompts
      -> report.html         report     one page for a person

Every arrow is a stage in `stages/`: it reads files, writes files and is skipped when what it would read has not
changed. Which stages a recipe needs is said in `config/needs.py`: it depends on what its method learns from, and on
where its labels come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rlaif import reads, stages
from rlaif.annotate.publish import publish
from rlaif.config import Recipe
from rlaif.config.needs import Artefact, feedback_stages, learns_from
from rlaif.console import heartbeat, say
from rlaif.errors import ConfigError
from rlaif.evaluation.instruments import instruments
from rlaif.feedback.human import annotated_run
from rlaif.feedback.judge import check_modes
from rlaif.formats import Annotations
from rlaif.processes import several
from rlaif.run import Run
from rlaif.stages.forecast import forecast
from rlaif.training.trackers import check_trackers

T = TypeVar("T")
TOGETHER = {"reward", "optimise"}
"""Stages that all processes of `accelerate launch` do together; in the others the first works and the rest wait."""


class Stage(NamedTuple):
    """One arrow of the drawing."""

    work: Callable[[Recipe, Run], dict[str, Any]]
    """Does it; returns facts for the manifest (counts, tokens)."""
    reads: Callable[[Recipe, Run], list[Path]]
    writes: Callable[[Run], list[Path]]


def _learnt_from(recipe: Recipe, run: Run) -> list[Path]:
    """What of this run the policy is trained on."""
    files: dict[Artefact | None, list[Path]] = {
        "reward_model": [run.reward_model],
        "preferences": [run.preferences, run.responses, run.human_demonstrations],
        "demonstrations": [run.demonstrations],
        None: [],
    }
    return files[learns_from(recipe.optimise)]


STAGES: dict[str, Stage] = {
    "sample": Stage(
        stages.sample,
        lambda recipe, run: [
            *reads.prompt_files(recipe),
            *reads.policy_files(recipe),
            *reads.instruction_files(recipe),
        ],
        lambda run: [run.responses, run.sample_failures],
    ),
    "label": Stage(
        stages.label,
        lambda recipe, run: [
            run.responses,
            *reads.judge_files(recipe),
            *reads.instruction_files(recipe),
            *reads.audit_files(recipe),
            *reads.human_files(recipe, run),
            *reads.prompt_files(recipe),
        ],
        lambda run: [run.judgments, run.failures, *run.evidence],
    ),
    "pairs": Stage(
        stages.pairs,
        lambda recipe, run: [
            run.judgments,
            run.routing,
            *reads.human_files(recipe, run),
            *reads.included_files(recipe),
            *reads.prompt_files(recipe),
        ],
        lambda run: [run.preferences, run.human_edits, run.human_demonstrations, run.annotators, run.conflicts],
    ),
    "reward": Stage(
        stages.reward,
        lambda recipe, run: [
            run.preferences,
            run.responses,
            *([run.scores] if recipe.reward.loss.kind == "regression" else []),
            *([run.judgments] if recipe.reward.principle_heads else []),
            *reads.backbone_files(recipe),
        ],
        lambda run: [run.reward_model, run.heldout, run.heldout_ratings, run.strengths],
    ),
    "optimise": Stage(
        stages.optimise,
        lambda recipe, run: [
            *_learnt_from(recipe, run),
            *reads.method_files(recipe),
            *reads.prompt_files(recipe),
            *reads.policy_files(recipe),
        ],
        lambda run: [run.policy, run.judge_demonstrations],
    ),
    "evaluate": Stage(
        stages.evaluate,
        lambda recipe, run: [
            run.judgments,
            run.failures,
            run.heldout,
            run.heldout_ratings,
            run.reward_model,
            run.policy,
            *reads.judge_files(recipe),
            *reads.method_files(recipe),
            *reads.prompt_files(recipe),
            *reads.reference_files(recipe),
            *reads.measure_files(recipe),
        ],
        lambda run: [run.evaluation, run.samples, run.evaluation_judgments, run.evaluation_failures],
    ),
    "report": Stage(stages.report, lambda recipe, run: [run.evaluation, run.samples], lambda run: [run.report]),
}


def stages_of(recipe: Recipe) -> list[str]:
    """The stages this recipe needs, in order."""
    needed = {*feedback_stages(recipe), "optimise", "evaluate", "report"}
    return [name for name in STAGES if name in needed]


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
    _by_first(lambda: None)  # all are here: whatever fails from now on is said once
    with run.lock():
        recipe = _by_first(lambda: _claimed(recipe, run))
        _by_first(lambda: _publish_answers(recipe, run))
        check_trackers(recipe)
        check_modes(recipe)
        instruments(recipe.evaluate.measures)  # a function that is not there is said now too
        wanted = stages_of(recipe)
        todo = sorted({_place(wanted, name) for name in (wanted if only is None else only)})
        for place in todo:
            STAGES[wanted[place]].reads(recipe, run)  # a name that stands for nothing is said now, not after hours
        if only is None and not run.read_manifest()["stages"] and (line := _by_first(lambda: forecast(recipe))):
            say(line)
        for place in todo:
            run_stage(recipe, run, wanted[place], f"[{place + 1}/{len(wanted)}] {wanted[place]}")
    return run


def _claimed(recipe: Recipe, run: Run) -> Recipe:
    """The recipe as this run has it, `dtype: auto` settled; the folder is bound to it."""
    if '"dtype":"auto"' in recipe.model_dump_json():
        from rlaif.models.local.dtype import settled  # noqa: PLC0415 (brings torch)

        recipe = settled(recipe, run.earlier())
    run.claim(recipe)
    return recipe


def _publish_answers(recipe: Recipe, run: Run) -> None:
    """What people answered on the pages that this recipe learns from becomes files, before a stage looks at them."""
    for source in (*recipe.preferences.labels.human_data, *recipe.preferences.annotators.gold):
        if isinstance(source, Annotations):
            publish(annotated_run(source, run))


def run_stage(recipe: Recipe, run: Run, name: str, title: str) -> None:
    """Do one stage unless it is done already for these very inputs."""
    stage = STAGES[name]
    inputs = _by_first(lambda: _due(recipe, run, name))
    if inputs is None:
        say(f"{title}: up to date")
        return
    say(title)
    began = time.monotonic()
    with heartbeat(name):
        facts = stage.work(recipe, run) if name in TOGETHER else _by_first(lambda: stage.work(recipe, run))
    seconds = round(time.monotonic() - began, 1)
    run.mark_done(name, inputs, stage.writes(run), {"seconds": seconds, "dtypes": recipe.dtypes, **facts})
    said = ", ".join(f"{key} {value}" for key, value in facts.items() if isinstance(value, int | str))
    say(f"{title}: done in {seconds:.0f} s{' (' + said + ')' if said else ''}")


def _due(recipe: Recipe, run: Run, name: str) -> str | None:
    """The hash of what the stage reads, if it is to be done now (and is noted as begun); None if it is done."""
    inputs = run.inputs_hash(recipe, STAGES[name].reads(recipe, run))
    if run.is_done(name, inputs):
        return None
    run.begin(name, inputs)
    return inputs


def _by_first(work: Callable[[], T]) -> T:
    """What `work` returns, done by the first of the processes that a launcher started, if it started several."""
    if not several():
        return work()
    from rlaif.training import parallel  # noqa: PLC0415 (brings torch)

    parallel.start()
    return parallel.first(work)
