"""Was it worth it: the stages evaluate and report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.config.decode import Decode
from rlaif.config.judging import ReferenceMode
from rlaif.config.measures import CodeMeasure
from rlaif.config.models import PolicyModel, with_weights
from rlaif.config.optimise import BestOfN
from rlaif.constitution import load_constitution
from rlaif.feedback.failures import causes
from rlaif.feedback.judge import JudgeResult
from rlaif.feedback.judge.result import COSTS
from rlaif.feedback.prompts import read_prompts
from rlaif.forms import HELDOUT, RATED
from rlaif.jsonl import read_rows, write_json, write_jsonl
from rlaif.models.decoding import Decoding
from rlaif.models.files import module_files
from rlaif.records import Failure, Judgment, Prompt, Response, content_id
from rlaif.run_folder import Run
from rlaif.stages.answers import answers_of, best_of_n
from rlaif.stages.hacking import hacking_files, try_score
from rlaif.stages.optimise import method_files
from rlaif.stages.slices import annotator_groups, evaluate_slices, slice_files
from rlaif.stages.stage import (
    Stage,
    judge_files,
    judge_with_bar,
    made,
    model_files,
    prompt_files,
    read_if_there,
    user_files,
)

BEFORE_EVALUATION = ("sample", "label", "pairs", "reward", "optimise")


def evaluate(recipe: Recipe, run: Run) -> dict[str, Any]:
    """evaluation.json: the policy against the reference on held-out prompts.

    A recipe without a reward model gets no scores, and one whose evaluation has no judgment no win rate.
    """
    from rlaif.evaluation.evaluate import EvaluationInputs, sample_rows
    from rlaif.evaluation.evaluate import evaluate as measure
    from rlaif.evaluation.measures import instruments_of
    from rlaif.evaluation.truth import mode_of
    from rlaif.stages.truth import ask_flips, opposite_prompts
    from rlaif.training.decode import kl_after
    from rlaif.training.policy_model import measure_kl

    has_reward_model = recipe.learns_from == "reward_model"
    reward_model = made(run.reward_model, "reward") if has_reward_model else None
    policy = made(run.policy, "optimise")
    trained = with_weights(recipe.policy, str(policy))
    prompts = evaluation_prompts(recipe)
    by_origin = recipe.sample.contrast is not None and recipe.sample.contrast.labels == "origin"
    failures: list[Failure] = []
    opposite = opposite_prompts(prompts)
    asked = Counter[str]()
    both = _sides(recipe, run, trained, [*prompts, *opposite.values()], failures, asked)
    flips, flip_cost = ask_flips(recipe, run, opposite, *both)
    turned = {prompt.id for prompt in opposite.values()}
    before, after = ([r for r in side if r.prompt_id not in turned] for side in both)
    judged = _compared(recipe, run, before, after)
    asked.update(judged.cost.plus(flip_cost).facts)
    decoding = Decoding.of(policy) if isinstance(recipe.optimise, Decode) else None
    write_jsonl(run.evaluation_failures, [*failures, *judged.failures])
    kl = measure_kl(recipe, policy, after) if decoding is None else kl_after(recipe, policy, decoding, after)
    scores_before, scores_after = _scores(recipe, reward_model, policy, before, after)
    constitution = load_constitution(recipe.constitution)
    inputs = EvaluationInputs(
        constitution=constitution,
        before=before,
        after=after,
        judgments=judged.judgments,
        label_judgments=[] if by_origin else read_if_there(run.judgments, Judgment),
        failures=[*read_if_there(run.failures, Failure), *judged.failures],
        has_reward_model=has_reward_model,
        heldout_rows=read_rows(run.heldout, HELDOUT) if has_reward_model else [],
        heldout_ratings=read_rows(run.heldout_ratings, RATED),
        kl=kl,
        kl_bound=_kl_bound(recipe),
        scores_before=scores_before,
        scores_after=scores_after,
        hacking=try_score(recipe, run, before, after, asked),
        instruments=instruments_of(recipe, constitution),
        judge_scores=judged.scores if isinstance(recipe.label.mode, ReferenceMode) else (),
        flips=flips,
        grading=mode_of(recipe),
        cost=_cost(run, asked),
    )
    write_jsonl(run.samples, sample_rows(inputs))
    write_jsonl(run.evaluation_judgments, judged.judgments)
    found = measure(inputs, recipe.evaluate, recipe.evaluation_seed)
    if recipe.evaluate.slices:

        def asked_too(others: Sequence[Prompt]) -> tuple[EvaluationInputs, JudgeResult]:
            before, after = _sides(recipe, run, trained, others, failures, asked)
            told = _compared(recipe, run, before, after)
            one, two = _scores(recipe, reward_model, policy, before, after)
            theirs = replace(inputs, before=before, after=after, judgments=told.judgments, kl=())
            return replace(theirs, scores_before=one, scores_after=two), told

        found["slices"], told, bad = evaluate_slices(recipe, run, inputs, asked_too)
        write_jsonl(run.evaluation_failures, [*failures, *judged.failures, *(told.failures if told else ()), *bad])
        if told:  # what was asked about the sets costs too
            asked.update(told.cost.facts)
            found["cost"] = _cost(run, asked)
        if recipe.evaluate.slices.annotators:
            found["annotator_groups"] = annotator_groups(recipe, run)
    if recipe.prompts.filters:
        split = read_prompts(recipe.prompts)
        found["filters"] = {"dropped": causes(split.dropped), "masked": dict(split.masked)}
    write_json(run.evaluation, found)
    return {"heldout_prompts": len(prompts), "unsampled": len(failures), **asked}


def _sides(
    recipe: Recipe,
    run: Run,
    trained: PolicyModel,
    prompts: Sequence[Prompt],
    failures: list[Failure],
    asked: Counter[str],
) -> tuple[Sequence[Response], Sequence[Response]]:
    """What the reference and the policy answer."""
    from rlaif.evaluation.winrate import with_partner

    # One model after the other: each is closed, and a server stopped, before the next one needs the GPU.
    theirs = answers_of(recipe, run, recipe.compared_with, prompts, failures)
    if isinstance(recipe.optimise, BestOfN):
        return with_partner(theirs, best_of_n(recipe, run, trained, prompts, failures, asked))
    return with_partner(theirs, answers_of(recipe, run, trained, prompts, failures))


def _compared(recipe: Recipe, run: Run, before: Sequence[Response], after: Sequence[Response]) -> JudgeResult:
    """What the judge says of them."""
    from rlaif.evaluation.winrate import evaluation_pairs

    return judge_with_bar(recipe, run, evaluation_pairs(before, after), "evaluate")


def _scores(
    recipe: Recipe, reward_model: Path | None, policy: Path, before: Sequence[Response], after: Sequence[Response]
) -> tuple[list[float], list[float]]:
    """What the reward model, as it is, says of both sets; nothing without one."""
    if reward_model is None:
        return [], []
    from rlaif.models.local.load import load_tokenizer
    from rlaif.models.local.machine import torch_dtype
    from rlaif.rewards.model import ModelReward
    from rlaif.training.policy_model import worth
    from rlaif.training.reward.ensemble import RewardModels

    tokenizer = load_tokenizer(str(policy))
    models = RewardModels(reward_model, torch_dtype(recipe.policy.dtype))
    reward = ModelReward(models, lambda: tokenizer, recipe.reward.microbatch_tokens, centred=False)
    found = [worth(reward, tokenizer, responses).values for responses in (before, after)]
    one, other = ([round(value, 4) for value in values if value is not None] for values in found)
    return one, other


def evaluation_prompts(recipe: Recipe) -> list[Prompt]:
    """The held-out prompts that are answered, in their order."""
    heldout = read_prompts(recipe.prompts).heldout
    by_hash = sorted(heldout, key=lambda prompt: content_id("evaluate", prompt.id))
    taken = {prompt.id for prompt in by_hash[: recipe.evaluate.prompts]}
    return [prompt for prompt in heldout if prompt.id in taken]


def _kl_bound(recipe: Recipe) -> float | None:
    """The most that best-of-n can differ from what it draws from, in nats; None for other methods."""
    if not isinstance(recipe.optimise, BestOfN) or recipe.reference is not None:
        return None
    n = recipe.optimise.n
    return round(math.log(n) - (n - 1) / n, 4)


def _cost(run: Run, here: Mapping[str, int]) -> dict[str, Any]:
    """Judge calls and tokens of labelling, training and evaluation, and the seconds that each stage so far took."""
    done = run.read_manifest()["stages"]
    before = [done.get(stage, {}) for stage in ("label", "optimise")]
    cost: dict[str, Any] = {key: sum(mark.get(key, 0) for mark in before) + here[key] for key in COSTS}
    return cost | {"seconds": {name: mark["seconds"] for name, mark in done.items() if name in BEFORE_EVALUATION}}


def _measure_modules(recipe: Recipe) -> list[str]:
    return [m.function.partition(":")[0] for m in recipe.evaluate.measures if isinstance(m, CodeMeasure)]


EVALUATE = Stage(
    "evaluate",
    evaluate,
    knobs=lambda recipe: [
        "seed",
        "constitution",
        "policy",
        "reference",
        "judge",
        "prompts",
        "sample",
        "label",
        "reward",
        "optimise",
        "evaluate",
    ],
    inputs=lambda recipe, run: [
        run.judgments,
        run.failures,
        run.heldout,
        run.heldout_ratings,
        run.reward_model,
        run.policy,
        *judge_files(recipe),
        *method_files(recipe),
        *hacking_files(recipe),
        *prompt_files(recipe),
        *slice_files(recipe, run),
        *model_files(recipe.compared_with),
        *user_files(recipe),
        *(file for module in _measure_modules(recipe) for file in module_files(module)),
    ],
    outputs=lambda run: [
        run.evaluation,
        run.samples,
        run.evaluation_judgments,
        run.evaluation_failures,
        run.slice_samples,
        run.slice_judgments,
    ],
)


def report(recipe: Recipe, run: Run) -> dict[str, Any]:
    """report.html."""
    from rlaif.evaluation.report import write_report

    write_report(run.folder)
    return {}


REPORT = Stage(
    "report",
    report,
    knobs=lambda recipe: [],  # it reads the recipe's file, which is among its inputs
    inputs=lambda recipe, run: [
        run.recipe,
        run.evaluation,
        run.samples,
        *(file for file in (run.slice_samples, run.explained) if file.exists()),
    ],
    outputs=lambda run: [run.report],
)
