"""Was it worth it: the stages evaluate and report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.config.measures import CodeMeasure
from rlaif.config.models import PolicyModel, with_weights
from rlaif.config.optimise import BestOfN
from rlaif.constitution import load_constitution
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.sample import check_sample_failures
from rlaif.forms import HELDOUT, RATED
from rlaif.jsonl import read_rows, write_json, write_jsonl
from rlaif.models.files import module_files
from rlaif.records import Failure, Judgment, Prompt, Response, content_id, prompt_of
from rlaif.rewards.open import open_rewards
from rlaif.run_folder import Run
from rlaif.stages.optimise import method_files
from rlaif.stages.stage import (
    Stage,
    asking,
    cost_of,
    draw_samples,
    judge_files,
    judge_with_bar,
    made,
    model_files,
    prompt_files,
    read_if_there,
)

BEFORE_EVALUATION = ("sample", "label", "pairs", "reward", "optimise")


def evaluate(recipe: Recipe, run: Run) -> dict[str, Any]:
    """evaluation.json: the policy against the reference on held-out prompts.

    A recipe without a reward model gets no scores, and one whose evaluation has no judgment no win rate.
    """
    from rlaif.evaluation.evaluate import EvaluationInputs, sample_rows
    from rlaif.evaluation.evaluate import evaluate as measure
    from rlaif.evaluation.measures import instruments_of
    from rlaif.evaluation.winrate import evaluation_pairs, with_partner
    from rlaif.training.policy_model import measure_kl

    has_reward_model = recipe.learns_from == "reward_model"
    reward_model = made(run.reward_model, "reward") if has_reward_model else None
    policy = made(run.policy, "optimise")
    trained = with_weights(recipe.policy, str(policy))
    prompts = evaluation_prompts(recipe)
    by_origin = recipe.sample.contrast is not None and recipe.sample.contrast.labels == "origin"
    failures: list[Failure] = []
    # One model after the other: each is closed, and a server stopped, before the next one needs the GPU.
    answers = _best_of_n if isinstance(recipe.optimise, BestOfN) else _answers
    theirs = _answers(recipe, run, recipe.compared_with, prompts, failures)
    before, after = with_partner(theirs, answers(recipe, run, trained, prompts, failures))
    judged = judge_with_bar(recipe, run, evaluation_pairs(before, after), "evaluate")
    write_jsonl(run.evaluation_failures, [*failures, *judged.failures])
    kl = measure_kl(recipe, policy, after)
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
        instruments=instruments_of(recipe, constitution),
        cost=_cost(run, cost_of(judged.cost)),
    )
    write_jsonl(run.samples, sample_rows(inputs))
    write_jsonl(run.evaluation_judgments, judged.judgments)
    write_json(run.evaluation, measure(inputs, recipe.evaluate, recipe.evaluation_seed))
    return {"heldout_prompts": len(prompts), "unsampled": len(failures), **cost_of(judged.cost)}


def _scores(
    recipe: Recipe, reward_model: Path | None, policy: Path, before: Sequence[Response], after: Sequence[Response]
) -> tuple[list[float], list[float]]:
    """What the reward model, as it is, says of both sets; nothing without one."""
    if reward_model is None:
        return [], []
    from rlaif.models.local.load import load_tokenizer
    from rlaif.models.local.machine import torch_dtype
    from rlaif.rewards.model import ModelReward
    from rlaif.training.policy_model import rows_of
    from rlaif.training.reward.ensemble import RewardModels

    tokenizer = load_tokenizer(str(policy))
    models = RewardModels(reward_model, torch_dtype(recipe.policy.dtype))
    reward = ModelReward(models, lambda: tokenizer, recipe.reward.microbatch_tokens, centred=False)
    found = [
        reward.measure(*_prompts_and_texts(responses), rows_of(tokenizer, responses)).values
        for responses in (before, after)
    ]
    one, other = ([round(value, 4) for value in values if value is not None] for values in found)
    return one, other


def _prompts_and_texts(responses: Sequence[Response]) -> tuple[list[Prompt], list[str]]:
    """The responses as a reward takes them."""
    return [prompt_of(r) for r in responses], [r.text for r in responses]


def evaluation_prompts(recipe: Recipe) -> list[Prompt]:
    """The held-out prompts that are answered, in their order."""
    heldout = read_prompts(recipe.prompts).heldout
    by_hash = sorted(heldout, key=lambda prompt: content_id("evaluate", prompt.id))
    taken = {prompt.id for prompt in by_hash[: recipe.evaluate.prompts]}
    return [prompt for prompt in heldout if prompt.id in taken]


def _answers(
    recipe: Recipe,
    run: Run,
    model: PolicyModel,
    prompts: Sequence[Prompt],
    failures: list[Failure],
    stage: str = "evaluate",
    best_of: int = 1,
) -> Sequence[Response]:
    """The model's responses. What failed joins `failures`, on disk before its share is held against the limit."""
    n = best_of * recipe.evaluate.responses_per_prompt
    result = draw_samples(recipe, run, model, prompts, stage, n, recipe.evaluation_seed)
    failures += result.failures
    write_jsonl(run.evaluation_failures, failures)
    check_sample_failures(result, recipe.label.max_failures, "evaluate")
    return result.responses


def _best_of_n(
    recipe: Recipe, run: Run, model: PolicyModel, prompts: Sequence[Prompt], failures: list[Failure]
) -> Sequence[Response]:
    """Of each n responses the one with the highest score; of equal ones the first. A response without a score (the
    judge failed) does not take part; where all n are such, the prompt has a failure.

    Drawn under a stage name of their own, so that no candidate is the reference's response drawn again.
    """
    section = recipe.optimise
    assert isinstance(section, BestOfN)
    count = recipe.evaluate.responses_per_prompt
    drawn = _answers(recipe, run, model, prompts, failures, "best_of_n", section.n)
    scores = _scored(recipe, run, section, drawn)
    groups: dict[tuple[str, int], list[tuple[float, Response]]] = {(p.id, i): [] for p in prompts for i in range(count)}
    for response, score in zip(drawn, scores, strict=True):
        if score is not None:
            groups[response.prompt_id, response.index // section.n].append((score, response))
    best = []
    for (prompt_id, index), group in groups.items():
        if group:
            _, response = max(group, key=lambda scored: (scored[0], -scored[1].index))
            best.append(response.model_copy(update={"index": index}))
        else:
            detail = f"response {index}: none of {section.n} has a score"
            failures.append(Failure(stage="evaluate", id=prompt_id, reason="nothing to choose from", detail=detail))
    return best


def _scored(recipe: Recipe, run: Run, section: BestOfN, responses: Sequence[Response]) -> list[float | None]:
    """What the section's source says of each response; None where it says nothing (the judge failed)."""
    from rlaif.models.local.load import load_tokenizer
    from rlaif.models.local.machine import torch_dtype
    from rlaif.training.policy_model import rows_of
    from rlaif.training.reward.ensemble import RewardModels

    folder = made(run.reward_model, "reward") if section.reads_reward_model else None
    models = RewardModels(folder, torch_dtype(recipe.policy.dtype))
    rows = rows_of(load_tokenizer(recipe.policy.model, recipe.policy.revision), responses)
    with open_rewards(recipe, lambda judge: asking(judge, run), models, section.microbatch_tokens) as open_reward:
        return open_reward(section.scoring).measure(*_prompts_and_texts(responses), rows).values


def _kl_bound(recipe: Recipe) -> float | None:
    """The most that best-of-n can differ from what it draws from, in nats; None for other methods."""
    if not isinstance(recipe.optimise, BestOfN) or recipe.reference is not None:
        return None
    n = recipe.optimise.n
    return round(math.log(n) - (n - 1) / n, 4)


def _cost(run: Run, here: dict[str, int]) -> dict[str, Any]:
    """Judge calls and tokens of labelling and evaluation, and the seconds that each stage so far took."""
    done = run.read_manifest()["stages"]
    labelled = done.get("label", {})
    cost: dict[str, Any] = {key: labelled.get(key, 0) + value for key, value in here.items()}
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
        *prompt_files(recipe),
        *model_files(recipe.compared_with),
        *(file for module in _measure_modules(recipe) for file in module_files(module)),
    ],
    outputs=lambda run: [run.evaluation, run.samples, run.evaluation_judgments, run.evaluation_failures],
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
    inputs=lambda recipe, run: [run.recipe, run.evaluation, run.samples],
    outputs=lambda run: [run.report],
)
