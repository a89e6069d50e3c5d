"""What a model answers to the held-out prompts: as it samples, or the best of several by a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlaif.config import Recipe
from rlaif.config.models import PolicyModel
from rlaif.config.optimise import BestOfN
from rlaif.feedback.sample import check_sample_failures
from rlaif.jsonl import write_jsonl
from rlaif.records import Failure, Prompt, Response
from rlaif.rewards.open import open_rewards
from rlaif.run_folder import Run
from rlaif.stages.stage import asking, draw_samples, made

if TYPE_CHECKING:
    from rlaif.training.optimise.rewards import Scores


def answers_of(
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


def best_of_n(
    recipe: Recipe,
    run: Run,
    model: PolicyModel,
    prompts: Sequence[Prompt],
    failures: list[Failure],
    asked: Counter[str],
) -> Sequence[Response]:
    """Of each n responses the one with the highest score; of equal ones the first. A response without a score (the
    judge failed) does not take part; where all n are such, the prompt has a failure.

    Drawn under a stage name of their own, so that no candidate is the reference's response drawn again. What the scores
    took of a judge is added to `asked`.
    """
    section = recipe.optimise
    assert isinstance(section, BestOfN)
    count = recipe.evaluate.responses_per_prompt
    drawn = answers_of(recipe, run, model, prompts, failures, "best_of_n", section.n)
    scores = _scored(recipe, run, section, drawn)
    asked.update(scores.asked)
    groups: dict[tuple[str, int], list[tuple[float, Response]]] = {(p.id, i): [] for p in prompts for i in range(count)}
    for response, score in zip(drawn, scores.values, strict=True):
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


def _scored(recipe: Recipe, run: Run, section: BestOfN, responses: Sequence[Response]) -> Scores:
    """What the section's source says of each response; None where it says nothing (the judge failed)."""
    from rlaif.models.local.load import load_tokenizer
    from rlaif.models.local.machine import torch_dtype
    from rlaif.training.policy_model import worth
    from rlaif.training.reward.ensemble import RewardModels

    folder = made(run.reward_model, "reward") if section.reads_reward_model else None
    models = RewardModels(folder, torch_dtype(recipe.policy.dtype))
    tokenizer = load_tokenizer(recipe.policy.model, recipe.policy.revision)
    with open_rewards(recipe, lambda judge: asking(judge, run), models, section.microbatch_tokens) as open_reward:
        return worth(open_reward(section.scoring), tokenizer, responses)
