"""Rewards that are arithmetic: the length of a response, and the weighted sum of other rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlaif.records import Prompt
from rlaif.training.optimise.rewards import Reward, Scores, Values

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row


class LengthReward(Reward):
    """Response tokens, the end of the turn included, over `per`. A text without its tokens is encoded as the policy
    would write it."""

    def __init__(self, per: int, tokenizer: Callable[[], Any]) -> None:
        self._per = per
        self._tokenizer = tokenizer

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        return Scores([length / self._per for length in self._lengths(texts, rows)])

    def _lengths(self, texts: Sequence[str], rows: Sequence[Row] | None) -> list[int]:
        if rows is not None:
            return [len(row.response) for row in rows]
        from rlaif.models.local.tokens import encode_response  # noqa: PLC0415 (brings torch)

        tokenizer = self._tokenizer()
        return [len(encode_response(tokenizer, text)) for text in texts]


class SumReward(Reward):
    """Several rewards, each times its weight. None where one of them is None."""

    def __init__(self, kinds: Sequence[str], weights: Sequence[float], rewards: Sequence[Reward]) -> None:
        self._terms = list(zip(numbered(kinds), weights, rewards, strict=True))

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        total_B = np.zeros(len(rows if rows is not None else texts), np.float32)
        parts: dict[str, Values] = {}
        for name, weight, reward in self._terms:
            values, inner = reward.measure(prompts, texts, rows)
            # In float32, as a reward model's scores are: a run that goes on adds up to the same bits.
            total_B = total_B + np.float32(weight) * np.array([np.nan if v is None else v for v in values], np.float32)
            parts |= {name: values} | {f"{name}/{key}": value for key, value in inner.items()}
        return Scores([None if np.isnan(value) else float(value) for value in total_B], parts)


def numbered(kinds: Sequence[str]) -> list[str]:
    """The kinds, numbered from the second of its sort on: judge, length, judge_2."""
    return [
        kind if kinds[:place].count(kind) == 0 else f"{kind}_{kinds[:place].count(kind) + 1}"
        for place, kind in enumerate(kinds)
    ]
