"""The reward model as a reward, be it one or several: whole conversations in, one value per response out.

It reads token rows. Where a policy wrote the text they are the policy's own; else the text is encoded here, as whoever
loads the model from its folder has it.

Shape suffixes: B responses, M members of an ensemble.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from rlaif.config.models import Dtype
from rlaif.config.reward import RewardSection
from rlaif.config.scoring import EnsembleScore
from rlaif.errors import ConfigError, ModelError, one_line
from rlaif.models.local.architecture import context_of
from rlaif.models.local.load import from_pretrained, load_tokenizer
from rlaif.models.local.machine import torch_dtype
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, turn_of
from rlaif.records import Pair, Prompt, prompt_of
from rlaif.training.lessons import encode_scored
from rlaif.training.losses import preference as losses
from rlaif.training.optimise.rewards import Reward, Scores, Values
from rlaif.training.reward.ensemble import each_member, member_folders
from rlaif.training.scalar_model import ScalarModel, as_ended


class ModelReward(Reward):
    """The mean of the members' scores, each counted from its reference score: 0 is what the untrained policy gets."""

    def __init__(
        self,
        members: Callable[[], Iterable[ScalarModel]],
        tokenizer: Callable[[], Any],
        max_tokens: int,
        max_length: int | None = None,
        joined: EnsembleScore | None = None,
        centred: bool = True,
    ) -> None:
        """`max_tokens` is that of one forward pass. A conversation longer than `max_length` tokens is cut as the reward
        stage cuts. `joined` says how members become one score, in place of their mean. Not `centred`, scores are as the
        models give them."""
        self._members = members
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._max_length = max_length
        self._joined = joined
        self._centred = centred

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        if rows is None:
            found = self.encoded(prompts, texts)
        else:
            found = list(as_scored(self._tokenizer(), prompts, texts, rows))
        values: list[float | None] = [None] * len(found)
        places = [place for place, row in enumerate(found) if isinstance(row, Row)]
        if not places:
            return Scores(values)
        readable = [row for row in found if isinstance(row, Row)]
        scores = [
            member.score_all(readable, self._max_tokens) - (member.reference if self._centred else 0.0)
            for member in self._members()
        ]
        score_MB = torch.stack(scores)
        parts: dict[str, Values] = {}
        if self._joined is None:
            score_B = score_MB.mean(0)
        else:
            score_B = losses.ensemble_score(score_MB, self._joined.reduce, self._joined.penalty)
            parts = {"disagreement": score_MB.std(0, unbiased=False).tolist()}
        for place, value in zip(places, score_B.tolist(), strict=True):
            values[place] = value
        return Scores(values, parts)

    def encoded(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Row | str]:
        """Each conversation as a row, or why it cannot be one. Neighbours to one prompt are encoded, and cut, alike."""
        found: list[Row | str] = []
        for prompt, group in groupby(zip(prompts, texts, strict=True), key=lambda pair: pair[0]):
            these = [text for _, text in group]
            try:
                found += encode_scored(self._tokenizer(), prompt.messages, these, self._max_length or sys.maxsize)
            except (ModelError, ValueError, TypeError) as error:
                alone = len(these) == 1
                found += [one_line(error) if alone else self.encoded([prompt], [text])[0] for text in these]
        return found


class FolderReward(ModelReward):
    """A reward model read from its folder when it is first asked; of an ensemble one member at a time is in memory.

    With a `max_length` longer conversations are cut to it; without, one that is longer than the model reads has no
    score.
    """

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        max_tokens: int,
        max_length: int | None = None,
        centred: bool = True,
        head: str | None = None,
    ) -> None:
        members = member_folders(folder)
        first = members[0] if members else folder
        self._only = cache(lambda: ScalarModel.load(folder, dtype, head))
        self._longest = cache(lambda: longest_read(first))
        super().__init__(
            lambda: each_member(folder, dtype, head) if members else [self._only()],
            cache(lambda: load_tokenizer(str(first))),
            max_tokens,
            max_length,
            centred=centred,
        )

    def encoded(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Row | str]:
        rows = super().encoded(prompts, texts)
        if self._max_length is None:  # nothing was cut
            for place, row in enumerate(rows):
                length = 0 if isinstance(row, str) else len(row.prompt) + len(row.response)
                if length > self._longest():
                    rows[place] = f"{length} tokens, and the reward model reads at most {self._longest()}"
        return rows


class OtherReward(FolderReward):
    """A reward model of another run or policy: it reads texts as its own tokenizer has them, whoever wrote them."""

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        return super().measure(prompts, texts)


def other_reward(folder: Path, max_tokens: int) -> OtherReward:
    """ConfigError, before any work, where the folder is no reward model."""
    if not (folder / "config.json").is_file() and not member_folders(folder):
        raise ConfigError(f"{folder}: is no reward model's folder; `rlaif.train_reward_model` makes one")
    return OtherReward(folder, torch_dtype("auto"), max_tokens)


def longest_read(folder: Path) -> int:
    """The most tokens that the model of this folder has positions for."""
    config = from_pretrained(AutoConfig, str(folder), "has no usable config", folder)
    return context_of(config) or sys.maxsize


def score_pairs(folder: Path, section: RewardSection, dtype: Dtype, pairs: Sequence[Pair]) -> dict[str, float]:
    """score(a) - score(b) by pair id, as each pair is held; of an ensemble the members' mean. ModelError for a pair
    that the reward model cannot read."""
    reward = FolderReward(folder, torch_dtype(dtype), section.microbatch_tokens, section.max_length, centred=False)
    prompts = [prompt_of(pair) for pair in pairs for _ in "ab"]
    texts = [text for pair in pairs for text in (pair.a, pair.b)]
    values = reward.score(prompts, texts)
    if None in values:
        at = values.index(None)
        raise ModelError(f"pair {pairs[at // 2].id}: {reward.encoded(prompts[at : at + 1], texts[at : at + 1])[0]}")
    score_N = torch.tensor(values, dtype=torch.float32)
    margins = (score_N[0::2] - score_N[1::2]).tolist()
    return {pair.id: round(margin, 6) for pair, margin in zip(pairs, margins, strict=True)}


def as_scored(tokenizer: Any, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row]) -> list[Row]:
    """Rollouts as a reward model reads them: the policy's own tokens, unless the chat template renders them otherwise
    (a thinking model's, say); then what it makes of the texts, after as much of the prompt as the policy read."""
    if turn_of(tokenizer).seamless:
        return as_ended(rows, tokenizer)
    scored = []
    for prompt, text, row in zip(prompts, texts, rows, strict=True):
        (whole,) = encode_scored(tokenizer, prompt.messages, [text], sys.maxsize)
        cut = len(encode_prompt(tokenizer, prompt.messages)) - len(row.prompt)
        scored.append(whole._replace(prompt=whole.prompt[min(cut, len(whole.prompt) - 1) :]))
    return scored


def openrlhf_rewards(values: Sequence[float], shares: Sequence[float]) -> dict[str, Any]:
    """What OpenRLHF's `reward_func` returns: rewards to train on, scores from 0 to 1 to filter by."""
    return {"rewards": torch.tensor(values), "scores": torch.tensor(shares), "extra_logs": {}}
