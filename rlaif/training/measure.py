"""How far the trained policy is from its reference, on finished responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlaif.config import Recipe
from rlaif.config.optimise import BestOfN
from rlaif.models.local.dtype import torch_dtype
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, response_tokens
from rlaif.records import Response
from rlaif.training.policy_model import PolicyModel


def measure_kl(recipe: Recipe, policy: Path, responses: Sequence[Response]) -> list[float]:
    """One value per response of the policy, in input order: the sum over its tokens of log pi - log reference at the
    sampling temperature, in nats, which is unbiased for the KL per response. Empty for best-of-n, whose responses were
    picked: of these no KL can be measured."""
    if isinstance(recipe.optimise, BestOfN):
        return []
    budget, dtype = recipe.reward.microbatch_tokens, torch_dtype(recipe.policy.dtype)
    rows = rows_of(load_tokenizer(str(policy)), responses)
    reference = (recipe.compared_with.model, recipe.compared_with.revision)
    of_policy, of_reference = (
        _logprobs(name, dtype, rows, recipe.sample.temperature, budget) for name in ((str(policy), None), reference)
    )
    return [round(value, 4) for value in (of_policy - of_reference).tolist()]


def _logprobs(
    model: tuple[str, str | None], dtype: torch.dtype, rows: Sequence[Row], temperature: float, max_tokens: int
) -> Tensor:
    """logprobs_B of whole responses under a model that is dropped again."""
    policy = PolicyModel.load(*model, dtype)
    return policy.without_gradients(rows, temperature, max_tokens).logprobs_BT.sum(1).cpu()


def rows_of(tokenizer: object, responses: Sequence[Response]) -> list[Row]:
    """The tokens that the policy chose where its server tells them, else those of the text."""
    return [Row(tuple(encode_prompt(tokenizer, r.prompt)), tuple(response_tokens(tokenizer, r))) for r in responses]
