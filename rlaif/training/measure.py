"""What the trained models say of finished responses: KL per response and reward-model scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlaif.config import Recipe
from rlaif.models.local.load import DTYPES
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, response_tokens
from rlaif.records import Response
from rlaif.training.policy_model import PolicyModel
from rlaif.training.scalar_model import ScalarModel, as_ended


class Measured(NamedTuple):
    """One number a response, in the order given."""

    kl: list[float]
    """Sum over tokens of log pi - log reference at the sampling temperature, in nats: unbiased for KL per response."""
    scores_before: list[float]
    scores_after: list[float]


def measure_responses(
    recipe: Recipe, reward_model: Path, policy: Path, before: Sequence[Response], after: Sequence[Response]
) -> Measured:
    """Score both sets with the reward model, and measure the KL of the policy's own responses from the reference.

    The tokens are those the policy chose where its server tells them, else those of the text.
    """
    budget = recipe.reward.microbatch_tokens
    dtype = DTYPES[recipe.policy.dtype]
    model = PolicyModel.load(str(policy), None, dtype)
    rows_after = _rows(model.tokenizer, after)
    logprobs_BT = model.without_gradients(rows_after, recipe.sample.temperature, budget).logprobs_BT
    reference = PolicyModel.load(recipe.policy.model, recipe.policy.revision, dtype)
    ref_logprobs_BT = reference.without_gradients(rows_after, recipe.sample.temperature, budget).logprobs_BT
    scorer = ScalarModel.load(reward_model, dtype)
    scores_before = scorer.score_all(as_ended(_rows(model.tokenizer, before), model.tokenizer), budget)
    scores_after = scorer.score_all(as_ended(rows_after, model.tokenizer), budget)
    return Measured(
        kl=[round(value, 4) for value in (logprobs_BT - ref_logprobs_BT).sum(1).tolist()],
        scores_before=[round(value, 4) for value in scores_before.tolist()],
        scores_after=[round(value, 4) for value in scores_after.tolist()],
    )


def _rows(tokenizer: object, responses: Sequence[Response]) -> list[Row]:
    return [Row(tuple(encode_prompt(tokenizer, r.prompt)), tuple(response_tokens(tokenizer, r))) for r in responses]
