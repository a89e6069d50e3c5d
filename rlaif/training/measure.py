"""What the trained models say of finished responses: KL per response and reward-model scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlaif.config import Recipe
from rlaif.config.optimise import BestOfN
from rlaif.config.scoring import Scoring
from rlaif.models.local.dtype import torch_dtype
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, response_tokens
from rlaif.records import Prompt, Response
from rlaif.training.optimise.scorers import TextSources, Workshop, as_scored, open_reward_model, open_scorer
from rlaif.training.policy_model import PolicyModel
from rlaif.training.reward.ensemble import load_scorer


class Measurements(NamedTuple):
    """One number a response, in the order given; none at all of what was not measured."""

    kl: list[float]
    """Sum over tokens of log pi - log reference at the sampling temperature, in nats: unbiased for KL per response."""
    scores_before: list[float]
    scores_after: list[float]


def measure_responses(
    recipe: Recipe, reward_model: Path | None, policy: Path, before: Sequence[Response], after: Sequence[Response]
) -> Measurements:
    """Score both sets with the reward model, and measure the KL of the policy's own responses from the reference.

    Without a reward model there are no scores. Of best-of-n, whose responses were picked, no KL can be measured.
    The tokens are those the policy chose where its server tells them, else those of the text.
    """
    budget = recipe.reward.microbatch_tokens
    dtype = torch_dtype(recipe.policy.dtype)
    tokenizer = load_tokenizer(str(policy), None)
    rows_after = _rows(tokenizer, after)
    kl_B = torch.zeros(0)
    if not isinstance(recipe.optimise, BestOfN):
        trained = (str(policy), None)
        reference = (recipe.compared_with.model, recipe.compared_with.revision)
        of_policy, of_reference = (
            _logprobs(name, dtype, rows_after, recipe.sample.temperature, budget) for name in (trained, reference)
        )
        kl_B = of_policy - of_reference
    scores: list[list[float]] = [[], []]
    if reward_model is not None:
        scorer = load_scorer(reward_model, dtype)
        found = [
            scorer.score_all(as_scored(tokenizer, *_shown(responses), rows), budget)
            for responses, rows in ((before, _rows(tokenizer, before)), (after, rows_after))
        ]
        scores = [[round(value, 4) for value in score_B.tolist()] for score_B in found]
    return Measurements([round(value, 4) for value in kl_B.tolist()], *scores)


def score_by(
    recipe: Recipe,
    source: Scoring,
    reward_model: Path | None,
    text: TextSources,
    responses: Sequence[Response],
    max_tokens: int,
) -> list[float | None]:
    """What this source of the recipe says of each response; None where it says nothing (the judge failed)."""
    tokenizer = load_tokenizer(recipe.policy.model, recipe.policy.revision)
    load = open_reward_model(reward_model, torch_dtype(recipe.policy.dtype))
    scorer = open_scorer(source, Workshop(load, tokenizer, max_tokens, text))
    scored = scorer(*_shown(responses), _rows(tokenizer, responses))
    return [None if math.isnan(value) else value for value in scored.score_B.tolist()]


def _logprobs(
    model: tuple[str, str | None], dtype: torch.dtype, rows: Sequence[Row], temperature: float, max_tokens: int
) -> Tensor:
    """logprobs_B of whole responses under a model that is dropped again."""
    policy = PolicyModel.load(*model, dtype)
    return policy.without_gradients(rows, temperature, max_tokens).logprobs_BT.sum(1).cpu()


def _shown(responses: Sequence[Response]) -> tuple[list[Prompt], list[str]]:
    prompts = [Prompt(id=r.prompt_id, messages=r.prompt, tags=r.tags) for r in responses]
    return prompts, [r.text for r in responses]


def _rows(tokenizer: object, responses: Sequence[Response]) -> list[Row]:
    return [Row(tuple(encode_prompt(tokenizer, r.prompt)), tuple(response_tokens(tokenizer, r))) for r in responses]
