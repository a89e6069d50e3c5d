"""What a rollout is worth, behind one protocol: the reward model, its ensemble, the judge, checks, length, sums.

What reads text (the judge, the constitution's checks) comes in as a callable, because training knows neither. A text
that such a source cannot score has the score NaN here, and whoever learns leaves it out.

Shape suffixes: B rollouts, M members of an ensemble.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rlaif.config.scoring import ChecksScore, EnsembleScore, JudgeScore, LengthScore, ModelScore, SumScore, Veto
from rlaif.config.scoring import Scoring as Source
from rlaif.models.local.packing import Row, microbatches
from rlaif.models.local.tokens import encode_prompt, turn_of
from rlaif.records import Prompt
from rlaif.training import losses, parallel
from rlaif.training.lessons import encode_scored
from rlaif.training.reward.ensemble import Scorer as RewardModel
from rlaif.training.reward.ensemble import load_scorer
from rlaif.training.scalar_model import as_ended

TextScorer = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]
"""From prompts and responses to a number each; None where there is none (the judge failed)."""
TextSources = Callable[[JudgeScore | ChecksScore | Veto], TextScorer]
"""Opens what reads text. Of a veto the number is 0 where it strikes, else 1; None where that cannot be told."""


class Scored(NamedTuple):
    """Of each rollout, on the CPU: the score, NaN where there is none, and what a person may want to see of it."""

    score_B: Tensor
    parts: dict[str, Tensor]


class Scorer(Protocol):
    """Scores rollouts; every process is given all of them and gets all scores."""

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row]) -> Scored:
        """One score a rollout, in order."""


class Workshop(NamedTuple):
    """What scorers are made with."""

    reward_model: Callable[[str | None], RewardModel]
    """The run's reward model, read through the common head (None) or a principle's."""
    tokenizer: Any
    max_tokens: int
    """In one forward pass of the reward model."""
    text: TextSources


@dataclass(frozen=True)
class Scorers:
    """Everything that scores a step's rollouts."""

    score: Scorer
    costs: Mapping[str, Scorer] = field(default_factory=dict)
    """Of the constraints, by name: what is to be held at or below the limit."""
    veto: TextScorer | None = None
    gold: TextScorer | None = None
    """Held out: it teaches nothing."""
    max_failures: float = 0.02
    """Above this share of rollouts without a score the step fails."""


def open_scorer(source: Source, shop: Workshop) -> Scorer:
    """The scorer of one section of the recipe."""
    if isinstance(source, SumScore):
        return _sum(source, [open_scorer(part.source, shop) for part in source.parts])
    if isinstance(source, ModelScore):
        return _reward_model(shop.reward_model(source.head), shop)
    if isinstance(source, EnsembleScore):
        return _ensemble(source, shop.reward_model(None), shop)
    if isinstance(source, LengthScore):
        return lambda prompts, texts, rows: Scored(
            torch.tensor([len(row.response) / source.per for row in rows], dtype=torch.float32), {}
        )
    return _text(in_one_process(shop.text(source)))


def in_one_process(scorer: TextScorer) -> TextScorer:
    """The first process asks, for all: there is one judge, however many processes train."""

    return lambda prompts, texts: parallel.first(lambda: scorer(prompts, texts))


def as_scores(values: Sequence[float | None]) -> Tensor:
    """score_B, NaN for None."""
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float32)


def _text(scorer: TextScorer) -> Scorer:
    return lambda prompts, texts, rows: Scored(as_scores(scorer(prompts, texts)), {})


def _reward_model(model: RewardModel, shop: Workshop) -> Scorer:
    return lambda *rollouts: Scored(_by_member(model, shop, *rollouts).mean(0), {})


def _ensemble(source: EnsembleScore, model: RewardModel, shop: Workshop) -> Scorer:
    def score(prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row]) -> Scored:
        score_MB = _by_member(model, shop, prompts, texts, rows)
        joined_B = losses.ensemble_score(score_MB, source.reduce, source.penalty)
        return Scored(joined_B, {"disagreement": score_MB.std(0, unbiased=False)})

    return score


def _by_member(
    model: RewardModel, shop: Workshop, prompts: Sequence[Prompt], texts: Sequence[str], written: Sequence[Row]
) -> Tensor:
    """score_MB, told from each member's reference score: 0 is what the untrained policy gets. The microbatches are
    divided among the processes: each forms the same ones as a single process would."""
    rows = as_scored(shop.tokenizer, prompts, texts, written)
    parts = [
        (group, weight * model.scores_by_member([rows[i] for i in group], shop.max_tokens))
        for group, weight in parallel.turns(list(microbatches(rows, shop.max_tokens)))
    ]
    score_MB = torch.zeros(len(parts[0][1]), len(rows))
    for group, part_MB in parts:
        score_MB[:, group] += part_MB
    return parallel.add_up(score_MB) - torch.tensor([[member.reference] for member in model.members])


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


def _sum(source: SumScore, scorers: Sequence[Scorer]) -> Scorer:
    names = _names([part.source.kind for part in source.parts])

    def score(prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row]) -> Scored:
        total_B = torch.zeros(len(rows))
        parts: dict[str, Tensor] = {}
        for name, part, scorer in zip(names, source.parts, scorers, strict=True):
            scored = scorer(prompts, texts, rows)
            total_B = total_B + part.weight * scored.score_B
            parts |= {name: scored.score_B} | {f"{name}/{inner}": value for inner, value in scored.parts.items()}
        return Scored(total_B, parts)

    return score


def _names(kinds: Sequence[str]) -> list[str]:
    """The kinds, numbered from the second of its sort on: judge, length, judge_2."""
    return [
        kind if kinds[:place].count(kind) == 0 else f"{kind}_{kinds[:place].count(kind) + 1}"
        for place, kind in enumerate(kinds)
    ]


def open_reward_model(folder: Path | None, dtype: torch.dtype) -> Callable[[str | None], RewardModel]:
    """The reward model of a run, loaded when it is first asked for, and once for each head."""
    opened: dict[str | None, RewardModel] = {}

    def load(head: str | None) -> RewardModel:
        assert folder is not None, "a recipe that reads a reward model trains one"
        if head not in opened:
            opened[head] = load_scorer(folder, dtype, head)
        return opened[head]

    return load
