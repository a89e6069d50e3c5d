"""What scores a response, whoever asks: a reward model, a judge by a constitution, a function of the user's."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from rlaif.api.inputs import ModelLike, constitution_of, model_of, open_engine
from rlaif.api.judging import ConstitutionLike
from rlaif.api.reward import RewardModel
from rlaif.config.base import Section
from rlaif.config.feedback import LabelSection
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError, NoAnswer, RlaifError, shown
from rlaif.feedback.judge.score import RateMode, score_responses
from rlaif.formats.rows import Unusable, message_list, prompt_part
from rlaif.models.local.parsing import answer_in
from rlaif.models.scripted import said
from rlaif.records import Messages, Prompt, plain
from rlaif.run_folder import Run

Item = tuple[Prompt, str]
Value = float | str
"""A score, or why there is none."""
Scorer = Callable[[Sequence[Item]], list[Value]]


def item_of(prompt: Any, completion: Any, where: str) -> Item | str:
    """What is asked and the answer without its reasoning; or why that is no conversation to score."""
    try:
        turns = _turns(prompt, "user", where) + _turns(completion, "assistant", where)
        if turns[-1].role != "assistant":
            return "the completion does not end with the assistant's turn"
        answer = answer_in(turns[-1].content)
        asked = prompt_part(turns[:-1])
        if len(asked) < len(turns) - 1:
            return "the response does not follow a user's turn"
        return Prompt.of(asked), answer
    except Unusable as error:
        return error.reason
    except NoAnswer as error:
        return str(error)


def _turns(value: Any, role: str, where: str) -> Messages:
    value = value.tolist() if hasattr(value, "tolist") else value  # an array, as parquet has lists
    given = [{"role": role, "content": value}] if isinstance(value, str) else value
    return message_list(given, where, "prompt" if role == "user" else "completion")


def finite(value: Value) -> Value:
    return value if isinstance(value, str) or math.isfinite(value) else f"the score is {value}"


def share(value: float, mode: str = "") -> float:
    """A score as a share from 0 to 1, by which trainers drop prompts that are too easy or too hard: a judge's by where
    it stands on the scale of its mode, any other by the sigma of its value."""
    if mode == "score":
        return (value + 1) / 2
    return value if mode == "checklist" else 1 / (1 + math.exp(-max(-700.0, value)))


class ByFunction:
    """Of a function of the user's: what it raises at its first call is a mistake, later a response without a score."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._has_answered = function, False

    def __call__(self, items: Sequence[Item]) -> list[Value]:
        return [self._one(prompt, text) for prompt, text in items]

    def _one(self, prompt: Prompt, text: str) -> Value:
        try:
            value = self._function(plain(prompt.messages), text)
        except Exception as error:
            if not self._has_answered or isinstance(error, RlaifError):
                raise
            return said(error)
        self._has_answered = True
        if value is None:
            return "the function gave none"
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"the reward function returned {shown(value)}, which is no number") from None


class ByJudge:
    """Of a constitution, as a judge reads it. The model is opened when it is first asked."""

    def __init__(self, target: Any, model: ModelLike, section: LabelSection, seed: int, stack: ExitStack) -> None:
        if not isinstance(target, str | os.PathLike | Constitution):
            raise ConfigError(f"target: with a judge, `model`, it must be a constitution (got {shown(target)})")
        self.constitution = constitution_of(target)
        self._model, self._section, self._seed = model, section, seed
        self._stack = stack
        if isinstance(model, str | Mapping | Section):
            model_of(model)

    @cached_property
    def _engine(self) -> Any:
        return self._stack.enter_context(open_engine(self._model))

    def __call__(self, items: Sequence[Item]) -> list[Value]:
        mode = cast("RateMode", self._section.mode)
        rated = score_responses(self._engine, mode, items, self.constitution, self._section, self._seed)
        reasons = [": ".join(filter(None, (why[0].reason, why[0].detail))) if why else "" for why in rated.failures]
        return [reason if score is None else score.value for score, reason in zip(rated.scores, reasons, strict=True)]


def by_model(model: RewardModel) -> Scorer:
    def values(items: Sequence[Item]) -> list[Value]:
        given = [{"prompt": prompt.messages, "response": text} for prompt, text in items]
        found = model.score(given)
        return [
            value if value is not None else model.problem(one) or "the reward model gave none"
            for one, value in zip(given, found, strict=True)
        ]

    return values


def reward_model_of(target: RewardModel | Run | ConstitutionLike) -> RewardModel:
    if isinstance(target, RewardModel):
        return target
    if isinstance(target, Run):
        return RewardModel.load(target.folder)
    if isinstance(target, Constitution):
        raise ConfigError("model: name the judge that reads the constitution")
    if not isinstance(target, str | os.PathLike):
        raise ConfigError(
            "target: must be a reward model, its folder, a run, a function, or a constitution with its judge "
            f"(got {shown(target)})"
        )
    if not Path(target).expanduser().exists():
        raise ConfigError(f"{target}: no such folder; of a constitution name the judge too, as `model`")
    return RewardModel.load(target)
