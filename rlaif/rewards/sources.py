"""Rewards without a model of their own: the judge, the constitution's checks and vetoes, length, and weighted sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode, TurnsMode
from rlaif.config.scoring import FlipsCost, JudgeScore
from rlaif.constitution import Constitution, Principle, read_ahead
from rlaif.errors import ConfigError, did_you_mean
from rlaif.feedback.judge.drive import drive
from rlaif.feedback.judge.reference import flipped, opened
from rlaif.feedback.judge.score import score_responses
from rlaif.formats.given import opposite
from rlaif.models.engine import Engine
from rlaif.patterns import Undecided
from rlaif.records import Messages, Prompt, grouped
from rlaif.signals import measured
from rlaif.signals.kinds import Signal
from rlaif.training.optimise.rewards import Reward, Scores, Values

if TYPE_CHECKING:
    from rlaif.models.local.packing import Row


class JudgeReward(Reward):
    """What the judge says of each response, in [-1, 1], with `reference` in [-1, 0], or with `contrast` the log density
    ratio over tau; None where a question failed."""

    def __init__(
        self, model: Engine, source: JudgeScore, constitution: Constitution, section: LabelSection, seed: int
    ) -> None:
        self._model = model
        self._mode = source.mode
        if source.principles:
            known = {p.id: p for p in constitution.principles}
            named = tuple(_named(name, known, constitution) for name in source.principles)
            constitution = constitution.model_copy(update={"principles": named})
        self._all, self._constitution = not source.principles, constitution
        self._rest = (constitution, section, seed)

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        applies = [self._all or bool(self._constitution.for_tags(prompt.tags)) for prompt in prompts]
        asked = [item for item, here in zip(zip(prompts, texts, strict=True), applies, strict=True) if here]
        rated = score_responses(self._model, self._mode, asked, *self._rest)
        values = [None if one is None else one.value for one in rated.scores]
        if isinstance(self._mode, ChecklistMode | TurnsMode):  # a share in [0, 1]
            values = [None if value is None else 2 * value - 1 for value in values]
        found = iter(values)
        return Scores([next(found) if here else 0.0 for here in applies], asked=rated.cost.facts)


class FlipsReward(Reward):
    """P(a response contradicts that of the same number to the prompt's opposite); None where that is not there or the
    judge does not say, 0 for a prompt without opposite."""

    def __init__(
        self, model: Engine, source: FlipsCost, constitution: Constitution, section: LabelSection, seed: int
    ) -> None:
        self._model, self._template = model, opened(source.contradict, "contradict")
        self._rest = (constitution.preamble, section.min_label_mass)

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        places = grouped(range(len(prompts)), lambda place: prompts[place].id)
        turned = {name: opposite(prompts[each[0]]) for name, each in places.items()}
        pairs = [
            pair
            for name, other in turned.items()
            if other is not None
            for pair in zip(places[name], places.get(other.id, ()), strict=False)
        ]
        works = (flipped(self._template, prompts[a], texts[a], texts[b], *self._rest) for a, b in pairs)
        values: Values = [0.0 if turned[prompt.id] is None else None for prompt in prompts]
        found, cost = drive(self._model, works)
        for pair, value in zip(pairs, found, strict=True):
            for place in pair:
                values[place] = value
        return Scores(values, asked=cost.facts)


class ChecksReward(Reward):
    """A value by the checked principles that apply to the prompt; None where one of them is not decided."""

    def __init__(
        self, principles: Sequence[Principle], value: Callable[[Sequence[Principle], str, Messages], float | None]
    ) -> None:
        self._principles = principles
        self._value = value

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        read_ahead(self._principles, [(text, p.messages, p.tags) for p, text in zip(prompts, texts, strict=True)])
        return Scores([self._of(prompt, text) for prompt, text in zip(prompts, texts, strict=True)])

    def _of(self, prompt: Prompt, text: str) -> float | None:
        try:
            return self._value([p for p in self._principles if p.applies_to(prompt.tags)], text, prompt.messages)
        except Undecided:
            return None


def checks(constitution: Constitution, names: Sequence[str] = ()) -> ChecksReward:
    """The weighted share of the checked principles (of `names`, if there are any) that each response passes; None where
    none applies.

    ConfigError for a principle that the constitution has not, or that has neither check nor classifier.
    """
    checked = {p.id: p for p in constitution.principles if p.coded}
    if not checked:
        raise ConfigError(f"optimise.scoring: constitution {constitution.id!r} has no checked principle to score by")
    chosen = [_named(name, checked, constitution) for name in names or checked]

    def share(these: Sequence[Principle], text: str, prompt: Messages) -> float | None:
        return sum(p.weight for p in these if p.passes(text, prompt)) / sum(p.weight for p in these) if these else None

    return ChecksReward(chosen, share)


def _named(name: str, known: Mapping[str, Principle], constitution: Constitution) -> Principle:
    if name not in known:
        raise ConfigError(
            f"optimise.scoring.principles: {name!r} is no such principle of constitution {constitution.id!r}"
            f"{did_you_mean(name, known)}"
        )
    return known[name]


def vetoes(constitution: Constitution) -> ChecksReward:
    """0 where a checked principle with `veto: true` fails, else 1. ConfigError where the constitution has none."""
    absolute = [p for p in constitution.principles if p.veto and p.coded]
    if not absolute:
        raise ConfigError(
            f"optimise.veto: constitution {constitution.id!r} has no principle with both `check` and `veto: true`, and "
            "none with both `classifier` and `veto: true`"
        )
    return ChecksReward(absolute, lambda these, text, prompt: float(all(p.passes(text, prompt) for p in these)))


class SignalReward(Reward):
    """What the signal says of each response; None where it says nothing."""

    def __init__(self, signal: Signal) -> None:
        self._signal = signal

    def measure(self, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None = None) -> Scores:
        answers = [(text, prompt.messages) for prompt, text in zip(prompts, texts, strict=True)]
        self._signal.read_ahead(answers)
        return Scores([measured(self._signal, *answer) for answer in answers])


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
        asked = Counter[str]()
        for name, weight, reward in self._terms:
            values, inner, took = reward.measure(prompts, texts, rows)
            asked.update(took)
            # In float32, as a reward model's scores are: a run that goes on adds up to the same bits.
            total_B = total_B + np.float32(weight) * np.array(values, np.float32)  # None becomes NaN
            parts |= {name: values} | {f"{name}/{key}": value for key, value in inner.items()}
        return Scores([None if np.isnan(value) else float(value) for value in total_B], parts, asked)
