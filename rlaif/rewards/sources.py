"""Rewards without a model of their own: the judge, the constitution's checks and vetoes, length, and weighted sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode
from rlaif.config.scoring import JudgeScore
from rlaif.constitution import Constitution, Principle
from rlaif.errors import ConfigError, did_you_mean
from rlaif.feedback.judge.score import score_responses
from rlaif.models.engine import Engine
from rlaif.patterns import Endless
from rlaif.records import Prompt
from rlaif.training.optimise.rewards import Reward, Scores, Values

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row


class JudgeReward(Reward):
    """What the judge says of each response, in [-1, 1], or with `contrast` the log density ratio over tau; None where a
    question failed."""

    def __init__(
        self, model: Engine, source: JudgeScore, constitution: Constitution, section: LabelSection, seed: int
    ) -> None:
        self._model = model
        self._mode = source.mode
        self._rest = (constitution, section, seed)

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        rated = score_responses(self._model, self._mode, list(zip(prompts, texts, strict=True)), *self._rest)
        values = [None if one is None else one.value for one in rated.scores]
        if isinstance(self._mode, ChecklistMode):  # a share in [0, 1]
            values = [None if value is None else 2 * value - 1 for value in values]
        return Scores(values)


class ChecksReward(Reward):
    """A value by the checked principles that apply to the prompt; None where one of them comes to no end."""

    def __init__(
        self, principles: Sequence[Principle], value: Callable[[Sequence[Principle], str], float | None]
    ) -> None:
        self._principles = principles
        self._value = value

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        return Scores([self._of(prompt, text) for prompt, text in zip(prompts, texts, strict=True)])

    def _of(self, prompt: Prompt, text: str) -> float | None:
        try:
            return self._value([p for p in self._principles if not p.tags or set(p.tags) & set(prompt.tags)], text)
        except Endless:
            return None


def checks(constitution: Constitution, names: Sequence[str] = ()) -> ChecksReward:
    """The weighted share of the checked principles (of `names`, if there are any) that each response passes; None where
    none applies.

    ConfigError for a principle that the constitution has not, or that has no check.
    """
    checked = {p.id: p for p in constitution.principles if p.check is not None}
    if not checked:
        raise ConfigError(f"optimise.scoring: constitution {constitution.id!r} has no checked principle to score by")
    for name in names:
        if name not in checked:
            raise ConfigError(
                f"optimise.scoring.principles: {name!r} is no checked principle of constitution {constitution.id!r}"
                f"{did_you_mean(name, checked)}"
            )

    def share(these: Sequence[Principle], text: str) -> float | None:
        return sum(p.weight for p in these if p.passes(text)) / sum(p.weight for p in these) if these else None

    return ChecksReward([checked[name] for name in names or checked], share)


def vetoes(constitution: Constitution) -> ChecksReward:
    """0 where a checked principle with `veto: true` fails, else 1. ConfigError where the constitution has none."""
    absolute = [p for p in constitution.principles if p.veto and p.check is not None]
    if not absolute:
        raise ConfigError(
            f"optimise.veto: constitution {constitution.id!r} has no principle with both `check` and `veto: true`"
        )
    return ChecksReward(absolute, lambda these, text: float(all(p.passes(text) for p in these)))


class LengthReward(Reward):
    """Response tokens, the end of the turn included, over `per`. A text without its tokens is encoded as the policy
    would write it."""

    def __init__(self, per: int, tokenizer: Callable[[], Any]) -> None:
        self._per = per
        self._tokenizer = tokenizer

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        if rows is not None:
            return Scores([len(row.response) / self._per for row in rows])
        from rlaif.models.local.tokens import encode_response  # noqa: PLC0415 (brings torch)

        tokenizer = self._tokenizer()
        return Scores([len(encode_response(tokenizer, text)) / self._per for text in texts])


class SumReward(Reward):
    """Several rewards, each times its weight. None where one of them is None.

    Parts bear the kinds' names, numbered from the second of its sort on: judge, length, judge_2.
    """

    def __init__(self, kinds: Sequence[str], weights: Sequence[float], rewards: Sequence[Reward]) -> None:
        earlier = [kinds[:place].count(kind) for place, kind in enumerate(kinds)]
        names = [f"{kind}_{count + 1}" if count else kind for kind, count in zip(kinds, earlier, strict=True)]
        self._terms = list(zip(names, weights, rewards, strict=True))

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        total_B = np.zeros(len(rows if rows is not None else texts), np.float32)
        parts: dict[str, Values] = {}
        for name, weight, reward in self._terms:
            values, inner = reward.measure(prompts, texts, rows)
            # In float32, as a reward model's scores are: a run that goes on adds up to the same bits.
            total_B = total_B + np.float32(weight) * np.array(values, np.float32)  # None becomes NaN
            parts |= {name: values} | {f"{name}/{key}": value for key, value in inner.items()}
        return Scores([None if np.isnan(value) else float(value) for value in total_B], parts)
