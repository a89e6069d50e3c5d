"""What each stage does with the run folder: read files, call the layers below, write files atomically.

Read `pipeline.py` for the order. Nothing is decided here that a layer below could decide.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.config.sections import HumanLabels, JudgeModel, MixedLabels, PanelMode, PolicyModel
from rlaif.console import bar
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.human import read_human_judgments
from rlaif.feedback.judge import JudgeResult, check_failure_cap, judge_by_mode
from rlaif.feedback.mix import for_the_judge, mix
from rlaif.feedback.pairs import WeightedJudgment, make_pairs, to_preferences
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.sample import SampleResult, check_sample_failures, sample_responses
from rlaif.jsonl import Row, read_jsonl, read_objects, write_json, write_jsonl
from rlaif.models.cache import CachedModel
from rlaif.models.chat import ChatModel
from rlaif.models.open import open_model
from rlaif.records import Failure, Judgment, Pair, Preference, Prompt, Response, content_id
from rlaif.run import Run

BEFORE_EVALUATION = ("sample", "label", "pairs", "reward", "ppo")
MOST_REFERENCE_RESPONSES = 512
"""Enough to know the mean score of the untrained policy to a few hundredths of a standard deviation."""

# -------------------------------------------------------------------------------------------------- feedback


def _human_judgments(recipe: Recipe, run: Run) -> list[Judgment]:
    """Human labels, less those on prompts held out for evaluation: nothing may train on these."""
    data = read_human_judgments(recipe.preferences.labels.human_data, recipe.prompts.system)
    write_jsonl(run.human_failures, data.failures)
    heldout = {prompt.id for prompt in read_prompts(recipe.prompts).heldout}
    judgments = [judgment for judgment in data.judgments if judgment.pair.prompt_id not in heldout]
    if not judgments:
        raise DataError("preferences.labels.human_data: no usable human labels outside the held-out prompts")
    return judgments


def _made(path: Path, stage: str) -> Path:
    """The path, which this stage should have made. ConfigError when it has not."""
    if not path.exists():
        raise ConfigError(f"{path}: not there yet; run the {stage} stage first")
    return path


@contextlib.contextmanager
def _asking(model: Any, run: Run) -> Iterator[CachedModel]:
    """The model of this config, behind the run's reply cache, closed at the end.

    A server needs the GPU memory that models of this process, closed or trained before, still hold.
    """
    if "torch" in sys.modules:
        from rlaif.models.local.load import free_memory

        free_memory()
    cached = CachedModel(open_model(model), run.cache)
    try:
        yield cached
    finally:
        cached.close()


def sample(recipe: Recipe, run: Run) -> dict[str, Any]:
    """responses.jsonl and sample_failures.jsonl: n responses of the untrained policy to every training prompt.

    With `by_tag` only to those that the judge may label. Failures are on disk before their share is held against the
    recipe's limit; a stage within it goes on without them.
    """
    prompts = for_the_judge(read_prompts(recipe.prompts).train, recipe.preferences.labels)
    result = _sample(recipe, run, recipe.policy, prompts, "sample")
    write_jsonl(run.sample_failures, result.failures)
    check_sample_failures(result, recipe.label.max_failures, "sample")
    write_jsonl(run.responses, result.responses)
    return {
        "responses": len(result.responses),
        "failed": len(result.failures),
        "completion_tokens": result.completion_tokens,
    }


def _sample(
    recipe: Recipe, run: Run, model: PolicyModel, prompts: Sequence[Prompt], stage: str, n: int | None = None
) -> SampleResult:
    total = len(prompts) * (n or recipe.sample.responses_per_prompt)
    with _asking(model, run) as cached, bar(stage, total, "responses") as advance:
        return sample_responses(cached, prompts, recipe.sample, recipe.seed, stage, advance, n)


def label(recipe: Recipe, run: Run) -> dict[str, Any]:
    """judgments.jsonl and failures.jsonl: the judge on every pair, both orders, per principle.

    Failures are on disk before their share is held against the recipe's limit.
    """
    labels = recipe.preferences.labels
    assert not isinstance(labels, HumanLabels)
    if labels.pairs == "human":
        pairs = [judgment.pair for judgment in _human_judgments(recipe, run)]
    else:
        responses = read_jsonl(_made(run.responses, "sample"), Response)
        prompts = {r.prompt_id: Prompt(id=r.prompt_id, messages=r.prompt, tags=r.tags) for r in responses}
        pairs = make_pairs(list(prompts.values()), responses, recipe.label.pairs_per_prompt, recipe.seed)
    distinct = for_the_judge(list({pair.id: pair for pair in pairs}.values()), labels)
    result = _judge(recipe, run, distinct, "label")
    write_jsonl(run.failures, result.failures)
    check_failure_cap(result, len(distinct), recipe.label)
    write_jsonl(run.judgments, result.judgments)
    return {"pairs": len(distinct), "unlabelled": len(distinct) - len(result.judgments), **_judge_cost(result)}


def _judge(recipe: Recipe, run: Run, pairs: Sequence[Pair], stage: str) -> JudgeResult:
    """The judge on these pairs, failures under the name of the stage."""
    constitution = load_constitution(recipe.constitution)
    mode = recipe.label.mode
    members = len(mode.members) if isinstance(mode, PanelMode) else 1

    def open_judge(model: JudgeModel | None) -> AbstractContextManager[ChatModel]:
        return _asking(model or recipe.judge, run)

    with bar(stage, len(pairs) * members, "pairs") as advance:
        result = judge_by_mode(open_judge, pairs, constitution, recipe.label, recipe.seed, advance)
    return result._replace(failures=tuple(f.model_copy(update={"stage": stage}) for f in result.failures))


def _judge_cost(result: JudgeResult) -> dict[str, int]:
    calls, prompt_tokens, completion_tokens = result.cost
    return {"judge_calls": calls, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}


def pairs(recipe: Recipe, run: Run) -> dict[str, Any]:
    """preferences.jsonl: AI, human or mixed judgments become rows. The one stage where the three differ."""
    labels = recipe.preferences.labels
    ai = [] if isinstance(labels, HumanLabels) else read_jsonl(_made(run.judgments, "label"), Judgment)
    human = _human_judgments(recipe, run) if isinstance(labels, HumanLabels | MixedLabels) else []
    dropped = 0
    if isinstance(labels, MixedLabels):
        weighted, dropped = mix(ai, human, labels.policy)
    else:
        weighted = [WeightedJudgment(judgment, 1.0) for judgment in [*ai, *human]]
    result = to_preferences(weighted, recipe.preferences)
    if not result.rows:
        raise DataError("pairs: every pair is a tie; lower preferences.tie_margin or set preferences.ties=keep")
    write_jsonl(run.preferences, result.rows)
    return {**result.counts, "without_source": dropped}


# -------------------------------------------------------------------------------------------------- training


@contextlib.contextmanager
def _publishing(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes its name only when it is whole."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    yield temporary
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def reward(recipe: Recipe, run: Run) -> dict[str, Any]:
    """reward_model/ and what it says of held-out preferences.

    Scores are centred on responses of the untrained policy, the 512 with the smallest hashes where there are more.
    A run without samples (human labels alone) centres on its training responses instead, so there a score of 0 is
    their mean and not the policy's.
    """
    from rlaif.training import reward as training
    from rlaif.training.tracking import tracking

    preferences = read_jsonl(_made(run.preferences, "pairs"), Preference)
    stage = training.open_stage(recipe)
    total = training.planned_updates(stage, preferences)
    with tracking(run, "reward", total) as tracker:
        training.train_reward_model(stage, preferences, run.checkpoints / "reward", tracker)
    by_hash = sorted(_read(run.responses, Response), key=lambda response: content_id("centre", response.id))
    responses = by_hash[:MOST_REFERENCE_RESPONSES]
    training.centre(stage, training.reference_rows(stage, responses, preferences))
    with _publishing(run.reward_model) as folder:
        stage.model.save(folder, stage.tokenizer)
        heldout = training.score_heldout(stage, preferences)
    write_jsonl(run.heldout, [row._asdict() for row in heldout])
    correct = sum(row.margin > 0 for row in heldout)
    return {"updates": total, "heldout_pairs": len(heldout), "heldout_correct": correct}


def ppo(recipe: Recipe, run: Run) -> dict[str, Any]:
    """policy/: the policy trained against the reward model."""
    from rlaif.training import ppo as training
    from rlaif.training.rollout import open_actors
    from rlaif.training.tracking import tracking

    constitution = load_constitution(recipe.constitution)
    prompts = read_prompts(recipe.prompts).train
    actors = open_actors(recipe, _made(run.reward_model, "reward"))
    with tracking(run, "ppo", recipe.ppo.steps) as tracker:
        training.train_ppo(
            actors, prompts, recipe.ppo, recipe.seed, run.checkpoints / "ppo", tracker, constitution.pass_rates
        )
    with _publishing(run.policy) as folder:
        actors.policy.save(folder)
    return {"steps": recipe.ppo.steps, "rollouts": recipe.ppo.steps * recipe.ppo.rollouts_per_step}


# ------------------------------------------------------------------------------------------------ evaluation


def evaluate(recipe: Recipe, run: Run) -> dict[str, Any]:
    """evaluation.json: the policy against the reference on held-out prompts."""
    from rlaif.evaluation.evaluate import EvaluationInputs, sample_rows
    from rlaif.evaluation.evaluate import evaluate as measure
    from rlaif.evaluation.winrate import evaluation_pairs, with_partner
    from rlaif.training.measure import measure_responses

    reward_model, policy = _made(run.reward_model, "reward"), _made(run.policy, "ppo")
    trained = recipe.policy.model_copy(update={"model": str(policy), "revision": None})
    prompts = read_prompts(recipe.prompts).heldout
    # One model after the other: each is closed, and a server stopped, before the next one needs the GPU.
    sampled: list[Sequence[Response]] = []
    unsampled: list[Failure] = []
    for model in (recipe.policy, trained):
        result = _sample(recipe, run, model, prompts, "evaluate", recipe.evaluate.responses_per_prompt)
        unsampled += result.failures
        write_jsonl(run.evaluation_failures, unsampled)
        check_sample_failures(result, recipe.label.max_failures, "evaluate")
        sampled.append(result.responses)
    before, after = with_partner(*sampled)
    judged = _judge(recipe, run, evaluation_pairs(before, after), "evaluate")
    write_jsonl(run.evaluation_failures, [*unsampled, *judged.failures])
    measured = measure_responses(recipe, reward_model, policy, before, after)
    inputs = EvaluationInputs(
        constitution=load_constitution(recipe.constitution),
        before=before,
        after=after,
        judgments=judged.judgments,
        label_judgments=_read(run.judgments, Judgment),
        failures=[*_read(run.failures, Failure), *judged.failures],
        heldout_rows=[row for _, row in read_objects(run.heldout)],
        kl=measured.kl,
        scores_before=measured.scores_before,
        scores_after=measured.scores_after,
        cost=_cost(run, _judge_cost(judged)),
    )
    write_jsonl(run.samples, sample_rows(inputs))
    write_jsonl(run.evaluation_judgments, judged.judgments)
    write_json(run.evaluation, measure(inputs, recipe.evaluate, recipe.seed))
    return {"heldout_prompts": len(prompts), "unsampled": len(unsampled), **_judge_cost(judged)}


def _cost(run: Run, here: dict[str, int]) -> dict[str, Any]:
    """Judge calls and tokens of labelling and evaluation, and the seconds that each stage so far took."""
    done = run.read_manifest()["stages"]
    labelled = done.get("label", {})
    cost: dict[str, Any] = {key: labelled.get(key, 0) + value for key, value in here.items()}
    return cost | {"seconds": {name: mark["seconds"] for name, mark in done.items() if name in BEFORE_EVALUATION}}


def _read(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file that this run may not have."""
    return read_jsonl(path, kind) if path.exists() else []


def report(recipe: Recipe, run: Run) -> dict[str, Any]:
    """report.html."""
    from rlaif.evaluation.report import write_report

    write_report(run.folder)
    return {}
