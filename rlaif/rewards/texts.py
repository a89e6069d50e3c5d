"""Rewards that read text alone: the judge itself, the constitution's checks, and its vetoes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode
from rlaif.config.scoring import JudgeScore
from rlaif.constitution import Constitution, Principle
from rlaif.errors import ConfigError, did_you_mean
from rlaif.feedback.judge.score import score_responses
from rlaif.models.chat import ChatModel
from rlaif.patterns import Endless
from rlaif.records import Prompt
from rlaif.training.optimise.rewards import Reward, Scores

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row


class JudgeReward(Reward):
    """What the judge says of each response, in [-1, 1], or with `contrast` the log density ratio over tau; None where a
    question failed."""

    def __init__(
        self, model: ChatModel, source: JudgeScore, constitution: Constitution, section: LabelSection, seed: int
    ) -> None:
        self._model = model
        self._mode = source.mode
        self._rest = (constitution, section, seed)

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        rated = score_responses(self._model, self._mode, list(zip(prompts, texts, strict=True)), *self._rest)
        values = [None if one is None else one.value for one in rated.scores]
        if isinstance(self._mode, ChecklistMode):
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
    """The weighted share of the checked principles that each response passes; None where none applies.

    ConfigError for a principle that the constitution has not, or that has no check.
    """

    def share(these: Sequence[Principle], text: str) -> float | None:
        return sum(p.weight for p in these if p.passes(text)) / sum(p.weight for p in these) if these else None

    return ChecksReward(_checked(constitution, names), share)


def vetoes(constitution: Constitution) -> ChecksReward:
    """0 where a checked principle with `veto: true` fails, else 1. ConfigError where the constitution has none."""
    absolute = [p for p in constitution.principles if p.veto and p.check is not None]
    if not absolute:
        raise ConfigError(
            f"optimise.veto: constitution {constitution.id!r} has no principle with both `check` and `veto: true`"
        )
    return ChecksReward(absolute, lambda these, text: float(all(p.passes(text) for p in these)))


def _checked(constitution: Constitution, names: Sequence[str]) -> list[Principle]:
    checked = {p.id: p for p in constitution.principles if p.check is not None}
    if not checked:
        raise ConfigError(f"optimise.scoring: constitution {constitution.id!r} has no checked principle to score by")
    for name in names:
        if name not in checked:
            raise ConfigError(
                f"optimise.scoring.principles: {name!r} is no checked principle of constitution {constitution.id!r}"
                f"{did_you_mean(name, checked)}"
            )
    return [checked[name] for name in names] if names else list(checked.values())
