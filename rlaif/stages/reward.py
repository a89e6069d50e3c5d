"""From preferences to a reward model: the stage reward."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlaif.config import Recipe
from rlaif.config.reward import Demonstrations, Regression
from rlaif.config.sources import FileSource
from rlaif.feedback.demonstrations import against, preferences_of
from rlaif.feedback.pairs import read_preferences
from rlaif.forms import NUMBERS
from rlaif.jsonl import read_json, read_jsonl, write_json, write_jsonl
from rlaif.models.files import model_folders
from rlaif.records import Judgment, Preference, Response, Score, Source, content_id
from rlaif.run_folder import Run
from rlaif.stages.demonstrations import demonstrations
from rlaif.stages.stage import Stage, made, model_files, named, prompt_files, publishing, read_if_there

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row
    from rlaif.training.lessons import Lesson
    from rlaif.training.reward.data import PrincipleLabels
    from rlaif.training.reward.ensemble import MetricsPart
    from rlaif.training.reward.train import RewardStage
    from rlaif.training.scalar_model import ScalarModel
    from rlaif.training.truncation import Truncation

MOST_REFERENCE_RESPONSES = 512
"""Enough to know the mean score of the untrained policy to a few hundredths of a standard deviation."""


class Material(NamedTuple):
    """What the stage learns from, encoded once for all of its models."""

    tokenizer: Any
    preferences: list[Preference]
    labels: PrincipleLabels
    """Principles' own; empty where no heads are wanted."""
    scores: list[Score]
    """Ratings; empty where pairs are learnt."""
    lessons: list[Lesson]
    truncation: Truncation
    """Of the lessons."""
    reference: list[Row]
    """Scores are told against these."""
    facts: dict[str, int]
    """Of demonstrations, where these are learnt."""


def reward(recipe: Recipe, run: Run) -> dict[str, Any]:
    """reward_model/ and what it says of held-out preferences; with `denoise` also reward_strengths.jsonl.

    A model at a time, each with its own seeds and checkpoints. What is finished stays finished.
    """
    from rlaif.training import memory

    material = _material(recipe, run)
    rows = [row for lesson in material.lessons for row in lesson.rows]
    with memory.within(memory.plan_memory(recipe, "reward", rows)):
        return _reward(recipe, run, material)


def _reward(recipe: Recipe, run: Run, material: Material) -> dict[str, Any]:
    from rlaif.models.local.machine import torch_dtype
    from rlaif.training import parallel
    from rlaif.training.reward import ensemble, train, worth
    from rlaif.training.tracking import tracking
    from rlaif.training.truncation import Truncation

    section, dtype = recipe.reward, torch_dtype(recipe.policy.dtype)
    first, kept = ensemble.measuring_names(section), ensemble.member_names(section)
    steps = {name: len(train.plan(material.lessons, section, recipe.seed, name)) for name in [*first, *kept]}
    with tracking(run, "reward", sum(steps.values()), recipe) as tracker:
        parts = ensemble.parts_of(tracker, steps)
        run.strengths.unlink(missing_ok=True)
        if first:
            material = _treated(recipe, run, material, parts)
        if section.ensemble is None:
            stage = _trained(recipe, run, "model", material, parts)
        else:
            for name in kept:
                _train_member(recipe, run, name, material, parts)
    with publishing(run.reward_model) as folder:

        def models() -> Iterable[ScalarModel]:
            return [stage.model] if section.ensemble is None else ensemble.each_member(folder, dtype)

        if section.ensemble is None:
            stage.model.save(folder, stage.tokenizer)
        else:
            parallel.first(lambda: [shutil.copytree(_finished(run, name), folder / name) for name in kept])
        tokenizer, preferences = material.tokenizer, material.preferences
        unseen = Truncation("reward", section, "held-out pairs", limited=False)
        heldout = worth.score_heldout(models(), tokenizer, section, preferences, material.labels, unseen)
        rated = worth.score_ratings(models(), tokenizer, section, material.scores, preferences)
    write_jsonl(run.heldout, [row.row() for row in heldout])
    if rated:
        write_jsonl(run.heldout_ratings, [row._asdict() for row in rated])
    correct = sum(row.margin > 0 for row in heldout)
    learnt = {**material.facts, "updates": sum(steps.values()), material.truncation.unit: len(material.lessons)}
    measured = {"heldout_pairs": len(heldout), "heldout_correct": correct}
    return learnt | material.truncation.facts() | measured | unseen.facts("heldout_")


def _material(recipe: Recipe, run: Run) -> Material:
    from rlaif.models.local.load import load_tokenizer
    from rlaif.training.reward import data
    from rlaif.training.truncation import Truncation

    section = recipe.reward
    if isinstance(section.loss, Demonstrations):
        preferences, facts = _shown(recipe, run, section.loss)
    else:
        preferences, facts = read_preferences(made(run.preferences, "pairs")), {}
    tokenizer = load_tokenizer(recipe.policy.model, recipe.policy.revision)
    labels: PrincipleLabels = {}
    scores: list[Score] = []
    if section.principle_heads:
        labels = data.principle_labels(read_jsonl(made(run.judgments, "label"), Judgment))
    if isinstance(section.loss, Regression):
        scores = read_jsonl(made(run.scores, "label"), Score)
        truncation = Truncation("reward", section, "ratings")
        lessons = data.rating_lessons(tokenizer, scores, preferences, section.max_length, truncation)
    else:
        truncation = Truncation("reward", section)
        margin = recipe.preferences.tie_margin
        lessons = data.pair_lessons(tokenizer, preferences, section, margin, labels, truncation)
    reference = data.reference_rows(tokenizer, reference_responses(run), preferences, section.max_length)
    return Material(tokenizer, preferences, labels, scores, lessons, truncation, reference, facts)


def _shown(recipe: Recipe, run: Run, loss: Demonstrations) -> tuple[list[Preference], dict[str, int]]:
    """Demonstrations against this policy's samples, and those of the policies before it, as preferences; with a weight
    for them the run's preferences too."""
    texts, left_out = demonstrations(recipe, run, loss.data)
    files = [made(run.responses, "sample"), *(Path(name).expanduser() for name in loss.earlier)]
    shown, alone = against(texts, [row for file in files for row in read_jsonl(file, Response)], "reward.loss.data")
    facts = {"demonstrations": len(shown), **left_out, **alone}
    earlier = read_preferences(made(run.preferences, "pairs")) if loss.preferences else []
    source: Source = "ai" if loss.data.kind == "revisions" else "human"
    share = recipe.preferences.heldout_share
    return preferences_of(shown, source, earlier, loss.preferences, share), facts


def reference_responses(run: Run) -> list[Response]:
    """The untrained policy's responses that scores are told against: the 512 with the smallest hashes, where there are
    more; with `sample.contrast` as they are, written under its instructions. Without any (human labels alone) the
    training responses take their place, so there the recorded number is their mean score and not the policy's."""
    by_hash = sorted(read_if_there(run.responses, Response), key=lambda response: content_id("centre", response.id))
    return by_hash[:MOST_REFERENCE_RESPONSES]


def _trained(recipe: Recipe, run: Run, name: str, material: Material, parts: dict[str, MetricsPart]) -> RewardStage:
    """One model, trained, with its reference score."""
    from rlaif.models.local.load import free_memory
    from rlaif.training.reward import train

    if len(parts) > 1:
        free_memory()  # of the model before
    stage = train.open_stage(recipe, name)
    log = parts[name] if len(parts) > 1 else parts[name].tracker
    train.train(stage, material.lessons, run.checkpoints / "reward" / name, log)
    train.set_reference(stage, material.reference)
    return stage


def _finished(run: Run, name: str) -> Path:
    return run.checkpoints / "reward" / f"{name}.finished"


def _train_member(recipe: Recipe, run: Run, name: str, material: Material, parts: dict[str, MetricsPart]) -> None:
    """A member of the ensemble, kept among the checkpoints until all are there."""
    if _finished(run, name).exists():
        return
    stage = _trained(recipe, run, name, material, parts)
    with publishing(_finished(run, name)) as folder:
        stage.model.save(folder, stage.tokenizer)
    shutil.rmtree(run.checkpoints / "reward" / name, ignore_errors=True)


def _treated(recipe: Recipe, run: Run, material: Material, parts: dict[str, MetricsPart]) -> Material:
    """The material with its doubtful labels treated; reward_strengths.jsonl says what was done to which pair."""
    from rlaif.training.reward import ensemble, worth

    found = []
    for name in ensemble.measuring_names(recipe.reward):
        file = run.checkpoints / "reward" / f"{name}.json"
        if file.exists():
            found.append(read_json(file, NUMBERS))
            continue
        found.append(worth.strengths(_trained(recipe, run, name, material, parts), material.lessons))
        write_json(file, found[-1])
        shutil.rmtree(file.with_suffix(""), ignore_errors=True)
    lessons, strengths = worth.treat(material.lessons, found, recipe.reward)
    write_jsonl(run.strengths, [row._asdict() for row in strengths])
    return material._replace(lessons=lessons)


def _demonstration_files(recipe: Recipe, run: Run) -> list[Path]:
    """What demonstrations are read from, and against."""
    loss = recipe.reward.loss
    if not isinstance(loss, Demonstrations):
        return []
    own = {"revisions": run.demonstrations, "human": run.human_demonstrations}
    data = named(loss.data.path) if isinstance(loss.data, FileSource) else own[loss.data.kind]
    return [data, *map(named, loss.earlier), *prompt_files(recipe)]


REWARD = Stage(
    "reward",
    reward,
    knobs=lambda recipe: [
        "seed",
        "policy",
        "reward",
        "preferences.tie_margin",
        "compute",
        "tracking",
        *(["prompts", "preferences.heldout_share"] if isinstance(recipe.reward.loss, Demonstrations) else []),
    ],
    inputs=lambda recipe, run: [
        run.preferences,
        run.responses,
        *([run.scores] if recipe.reward.loss.kind == "regression" else []),
        *([run.judgments] if recipe.reward.principle_heads else []),
        *_demonstration_files(recipe, run),
        *model_files(recipe.policy),
        *(model_folders(recipe.reward.model) if recipe.reward.model else []),
    ],
    outputs=lambda run: [run.reward_model, run.heldout, run.heldout_ratings, run.strengths],
    together=True,
)
