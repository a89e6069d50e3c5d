"""`rlaif judge train`: labelled pairs in, a folder out that `judge.model` names like any other.

All that shapes the result is in one hash, the subject, under which the work lies beside the folder until that is whole:
the same command goes on after a kill, and another one begins anew. It runs in one process.
"""
# ruff: noqa: PLC0415 (brings torch)

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlaif.audits.judge_training import record, worth
from rlaif.audits.judge_training.labels import Split, read_labels, split
from rlaif.audits.judge_training.material import (
    JudgeTrainMaterial,
    answer_of,
    material_of,
    trainable_mode,
    without_long,
)
from rlaif.audits.judges import open_judges
from rlaif.config import Recipe
from rlaif.config.models import LocalModel, VllmModel
from rlaif.console import bar, heartbeat, say
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError
from rlaif.feedback.judge import JudgeResult
from rlaif.files import writing
from rlaif.jsonl import write_json
from rlaif.processes import several
from rlaif.records import derive_seed
from rlaif.run_folder import Run
from rlaif.stats import Bootstrap

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row
    from rlaif.training.judge.lessons import Encoder, JudgeLesson
    from rlaif.training.judge.loop import JudgeTrainResult

MEASURED = 64
"""So many of the longest pairs say how much memory a step takes."""


class TrainedJudge(NamedTuple):
    """What the command line needs."""

    folder: Path | None
    """None: no epoch was better than none."""
    lines: list[str]
    record: dict[str, Any]
    """As in judge.json, written or not."""


class JudgeTrainTask(NamedTuple):
    """One training, before it begins."""

    recipe: Recipe
    base: LocalModel
    constitution: Constitution
    parts: Split
    run: Run
    """Where the work lies until it is whole."""
    folder: Path
    """The judge's, in there: of the name that it will have, under which the replies of its audit are kept."""


def train_command(
    recipe: Recipe, gold: Sequence[Path], audit: Sequence[Path] | None = None, out: Path | None = None
) -> TrainedJudge:
    """Train the recipe's judge on these labels and write it to the folder `out` (default: runs/judge-<recipe>).

    `audit`: the labels by which it is audited before and after; without any a share of the prompts is kept for that.
    Raises ConfigError for a judge that cannot be trained and for an `out` that holds something else, DataError for
    labels that cannot be used and for audit labels on prompts that train.
    """
    base = judge_to_train(recipe)
    trainable_mode(recipe)
    constitution = load_constitution(recipe.constitution)
    labels = read_labels(gold, constitution)
    apart = read_labels(audit, constitution) if audit else None
    about = record.beginning(recipe, constitution, labels, apart)
    target = out or Path("runs") / f"judge-{recipe.name}"
    if (done := _done(target, about["subject"])) is not None:
        say(f"{target}: up to date")
        return TrainedJudge(target, record.lines(done, target), done)
    parts = split(labels.labels, apart.labels if apart else None, recipe.judge_training)
    record.refuse_seen(recipe, [label.pair for label in parts.audit])
    material = material_of(recipe, constitution, parts.train)
    record.say_counts(labels, apart, parts)
    place = target.resolve()
    hidden = place.with_name(f".{place.name}.training")
    with Run(hidden).lock():
        run = Run(hidden / about["subject"])
        folder = run.folder / place.name
        made = about | _train_and_audit(JudgeTrainTask(recipe, base, constitution, parts, run, folder), material)
        if made["best_epoch"]:
            write_json(folder / record.FILE, made)
            shutil.copyfile(run.metrics, folder / "rlaif_metrics.jsonl")
            folder.rename(place)
        shutil.rmtree(hidden)
    return TrainedJudge(target if made["best_epoch"] else None, record.lines(made, target), made)


def judge_to_train(recipe: Recipe) -> LocalModel:
    """The recipe's judge as a model in this process. ConfigError for one whose weights are not here."""
    judge = recipe.judge
    if not isinstance(judge, LocalModel | VllmModel):
        raise ConfigError(
            f"judge train: judge.backend={judge.backend}: its weights are not here; only those of local and vllm can "
            "be trained (judge.backend=local judge.model=...)"
        )
    if several():
        raise ConfigError("judge train: runs in one process; start it without accelerate launch")
    from rlaif.models.local.machine import resolve

    batch_size = judge.batch_size if isinstance(judge, LocalModel) else LocalModel(model=judge.model).batch_size
    dtype = resolve(judge.dtype)
    return LocalModel(model=judge.model, revision=judge.revision, dtype=dtype, batch_size=batch_size)


def _done(target: Path, subject: str) -> dict[str, Any] | None:
    """The record of this very training, if it is there already. ConfigError where something else is."""
    if not target.exists():
        return None
    found = record.read_record(target) if target.is_dir() else None
    if found is not None and found["subject"] == subject:
        return found
    if target.is_dir() and not any(target.iterdir()):
        return None
    what = "a judge that was trained otherwise" if found is not None else "there already, and no trained judge"
    raise ConfigError(f"{target}: {what}; name another folder with --out, or delete this one")


def _train_and_audit(task: JudgeTrainTask, material: JudgeTrainMaterial) -> dict[str, Any]:
    """Train, and audit with the same labels before and after; returns what came of it, for judge.json."""
    from rlaif.models.embedded import resolve_model
    from rlaif.models.local.load import free_memory

    labels = task.parts.audit
    before = _audited(task, task.base, "audit before") if labels else None
    trained, material = _trained(task, material)
    free_memory()
    audit = None
    if trained.best and before is not None:
        own = task.base.model_copy(update={"model": str(task.folder), "revision": None})
        after = _audited(task, own, "audit after")
        audit = worth.worth(labels, before, after, Bootstrap.of(task.recipe.evaluate, task.recipe.seed))
    return record.outcome(
        trained,
        material,
        task.parts,
        task.recipe.judge,
        audit,
        base_revision=resolve_model(task.base.model, task.base.revision).revision,
        base_dtype=task.base.dtype,
        revision=resolve_model(str(task.folder)).revision if trained.best else None,
    )


def _audited(task: JudgeTrainTask, judge: LocalModel, title: str) -> JudgeResult:
    """Behind the cache of replies: after a kill nothing is asked twice."""
    labels = task.parts.audit
    with (
        open_judges(judge, str(task.run.folder.resolve())) as judges,
        bar(title, len(labels), "pairs") as advance,
    ):
        return worth.ask(judges.cached, labels, task.constitution, task.recipe, advance)


def _trained(task: JudgeTrainTask, material: JudgeTrainMaterial) -> tuple[JudgeTrainResult, JudgeTrainMaterial]:
    """Trained, and saved in `task.folder` unless no epoch was better than none; and the material without what turned
    out too long."""
    from rlaif.models.local.machine import torch_dtype
    from rlaif.training import memory
    from rlaif.training.fit import plan_epochs
    from rlaif.training.judge import loop
    from rlaif.training.judge.lessons import Encoder
    from rlaif.training.offline import make_learner
    from rlaif.training.policy_model import PolicyModel
    from rlaif.training.tracking import tracking

    recipe, section, base = task.recipe, task.recipe.judge_training, task.base
    policy = PolicyModel.load(base.model, base.revision, torch_dtype(base.dtype))
    encoder = Encoder(policy)
    material = without_long(material, encoder, section.max_length)
    if material.dropped:
        left_out = ", ".join(f"{cause} {count}" for cause, count in material.dropped.most_common())
        say(f"  left out of training: {left_out}")
    rows = _largest_pass(material, encoder, section.microbatch_tokens)
    plan = memory.plan_memory(recipe, "judge_training", rows, policy.model)
    make_learner(policy, section.lora, derive_seed(recipe.seed, loop.STAGE, "lora"), recipe.compute)
    learner = loop.Learner(encoder, answer_of(material.mode, section.mass_weight), section)

    def look() -> loop.HeldoutAgreement:
        labels = task.parts.heldout
        with heartbeat(f"{len(labels)} held-out pairs"), loop.as_judge(policy, base.batch_size) as judge:
            result = worth.ask(lambda which: nullcontext(judge), labels, task.constitution, recipe)
        return loop.HeldoutAgreement(*worth.agreement_with(labels, result))

    steps = sum(map(len, plan_epochs(material.lessons(0), section, recipe.seed, loop.STAGE, "order")))
    with memory.within(plan), tracking(task.run, loop.STAGE, steps, recipe) as tracker:
        checkpoints = task.run.checkpoints / loop.STAGE
        trained = loop.train(learner, material.lessons, recipe.seed, checkpoints, tracker, look)
    if trained.best:
        shutil.rmtree(task.folder, ignore_errors=True)  # half of one, after a kill
        with writing(task.folder):
            policy.save(task.folder)
    return trained, material


def _largest_pass(material: JudgeTrainMaterial, encoder: Encoder, max_tokens: int) -> list[Row]:
    """The rows of the largest microbatch among the pairs with most text."""
    from rlaif.training.judge.loop import EncodedLesson, microbatches

    lessons = sorted(material.lessons(0), key=lambda lesson: -_characters(lesson))[:MEASURED]
    encoded = [EncodedLesson(lesson, encoder.rows(lesson)) for lesson in lessons]
    groups = microbatches(encoded, max_tokens)
    largest = max(groups, key=lambda group: sum(one.tokens for one in group))
    return list(dict.fromkeys(row for one in largest for rows in one.rows for row in rows))


def _characters(lesson: JudgeLesson) -> int:
    return sum(len(turn.content) for q in lesson.questions for request in q.requests for turn in request.messages)
