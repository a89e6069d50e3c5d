"""The work of `rlaif judge train`, once its labels are read and split: audit, train, save, audit again."""
# ruff: noqa: PLC0415 (brings torch)

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlaif.audits.judge_training import worth
from rlaif.audits.judge_training.material import JudgeTrainMaterial, method_of, without_long
from rlaif.audits.judge_training.split import Split
from rlaif.audits.judges import open_judges
from rlaif.config import Recipe
from rlaif.config.models import LocalModel
from rlaif.console import bar, heartbeat, say
from rlaif.constitution import Constitution
from rlaif.feedback.judge import JudgeResult
from rlaif.files import writing
from rlaif.records import derive_seed
from rlaif.run_folder import Run

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row
    from rlaif.training.judge.lessons import Encoder, JudgeLesson
    from rlaif.training.judge.loop import JudgeTraining

MEASURED = 64
"""So many of the longest pairs say how much memory a step takes."""


class JudgeTrainTask(NamedTuple):
    """One training, before it begins."""

    recipe: Recipe
    base: LocalModel
    constitution: Constitution
    material: JudgeTrainMaterial
    parts: Split
    run: Run
    """Where the work lies until it is whole."""
    folder: Path
    """The judge's, in there: of the name that it will have, under which the replies of its audit are kept."""


class JudgeTrainOutcome(NamedTuple):
    """What came of it; with `trained.best` 0 there is no folder, and no audit."""

    trained: JudgeTraining
    material: JudgeTrainMaterial
    """Without what turned out too long."""
    before: JudgeResult | None
    after: JudgeResult | None


def do(work: JudgeTrainTask) -> JudgeTrainOutcome:
    """Train, and audit with the same labels before and after."""
    from rlaif.models.local.load import free_memory

    before = _audited(work, work.base, "audit before") if work.parts.audit else None
    trained, material = _trained(work)
    free_memory()
    after = None
    if trained.best and before is not None:
        own = work.base.model_copy(update={"model": str(work.folder), "revision": None})
        after = _audited(work, own, "audit after")
    return JudgeTrainOutcome(trained, material, before, after)


def _audited(work: JudgeTrainTask, judge: LocalModel, title: str) -> JudgeResult:
    """Behind the cache of replies: after a kill nothing is asked twice."""
    labels = work.parts.audit
    with (
        open_judges(judge, str(work.run.folder.resolve())) as judges,
        bar(title, len(labels), "pairs") as advance,
    ):
        return worth.ask(judges.cached, labels, work.constitution, work.recipe, advance)


def _trained(work: JudgeTrainTask) -> tuple[JudgeTraining, JudgeTrainMaterial]:
    """Trained and saved in `work.folder`, unless no epoch was better than none."""
    from rlaif.models.local.dtype import torch_dtype
    from rlaif.training import memory
    from rlaif.training.judge import loop
    from rlaif.training.judge.inside import as_judge
    from rlaif.training.judge.lessons import Encoder
    from rlaif.training.offline import make_learner
    from rlaif.training.policy_model import PolicyModel
    from rlaif.training.tracking import tracking

    recipe, section, base = work.recipe, work.recipe.judge_training, work.base
    policy = PolicyModel.load(base.model, base.revision, torch_dtype(base.dtype))
    encoder = Encoder(policy.model, policy.tokenizer)
    material = without_long(work.material, encoder, section.max_length)
    if material.dropped:
        left_out = ", ".join(f"{cause} {count}" for cause, count in material.dropped.most_common())
        say(f"  left out of training: {left_out}")
    rows = _largest_pass(material, encoder, section.microbatch_tokens)
    plan = memory.plan_memory(recipe, "judge_training", rows, policy.model)
    make_learner(policy, section.lora, derive_seed(recipe.seed, loop.STAGE, "lora"), recipe.compute)
    learner = loop.Learner(policy, method_of(material.mode, section.mass_weight), encoder, section)

    def look() -> loop.HeldoutAgreement:
        labels = work.parts.heldout
        with heartbeat(f"{len(labels)} held-out pairs"), as_judge(policy, base.batch_size) as judge:
            result = worth.ask(lambda which: nullcontext(judge), labels, work.constitution, recipe)
        return loop.HeldoutAgreement(*worth.agreement_with(labels, result))

    steps = sum(map(len, loop.plan_of(material.lessons(0), section, recipe.seed)))
    with memory.within(plan), tracking(work.run, loop.STAGE, steps, recipe) as tracker:
        checkpoints = work.run.checkpoints / loop.STAGE
        trained = loop.train(learner, material.lessons, recipe.seed, checkpoints, tracker, look)
    if trained.best:
        shutil.rmtree(work.folder, ignore_errors=True)  # half of one, after a kill
        with writing(work.folder):
            policy.save(work.folder)
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
