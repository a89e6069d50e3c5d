"""What scores a response, whoever asks: a reward model, a judge by a constitution, a function of the user's."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rlaif.api.inputs import ModelLike, constitution_of, lenient, model_of, open_engine
from rlaif.api.judging import ConstitutionLike
from rlaif.api.reward import RewardModel
from rlaif.config.base import Section
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import RateMode
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError, NoAnswer, shown
from rlaif.feedback.judge.score import score_responses
from rlaif.formats.given import given_of
from rlaif.formats.rows import SourceRow, Unusable, message_list, prompt_part
from rlaif.models.engine import Engine
from rlaif.models.local.parsing import answer_in
from rlaif.models.scripted import as_number
from rlaif.records import Failure, Messages, Prompt, Score, plain
from rlaif.run_folder import Run

if TYPE_CHECKING:
    from rlaif.training.optimise.rewards import Reward

Item = tuple[Prompt, str]


class Scored(NamedTuple):
    """What one response is worth."""

    value: float | None
    reason: str = ""
    """Why there is none."""
    parts: dict[str, float | None] = {}  # noqa: RUF012 (never changed)
    score: Score | None = None
    failures: tuple[Failure, ...] = ()
    refused: bool = False
    """There is no value because of what was sent."""

    @property
    def finite(self) -> Scored:
        """Itself, with a reason only where there is no value, and no value that is none."""
        if self.value is None:
            return self
        return self._replace(reason="") if math.isfinite(self.value) else Scored(None, f"the score is {self.value}")


NO_VALUE = "the reward has no value for it"
Scorer = Callable[[Sequence[Item]], list[Scored]]


def item_of(prompt: Any, completion: Any, where: str, given: Any = None) -> Item | str:
    """What is asked, with what a row gives besides, and the answer without its reasoning; or why that is no
    conversation to score."""
    try:
        turns = _turns(prompt, "user", where) + _turns(completion, "assistant", where)
        if turns[-1].role != "assistant":
            return "the completion does not end with the assistant's turn"
        answer = answer_in(turns[-1].content)
        asked = prompt_part(turns[:-1])
        if len(asked) < len(turns) - 1:
            return "the response does not follow a user's turn"
        asked, more = given_of(SourceRow(where, {"given": given}), asked)
        return Prompt.of(asked, given=more), answer
    except Unusable as error:
        return error.reason
    except NoAnswer as error:
        return str(error)


def _turns(value: Any, role: str, where: str) -> Messages:
    value = value.tolist() if hasattr(value, "tolist") else value  # an array, as parquet has lists
    given = [{"role": role, "content": value}] if isinstance(value, str) else value
    return message_list(given, where, "prompt" if role == "user" else "completion")


def too_long(failures: Sequence[Failure]) -> bool:
    """Whether they came about because the judge does not read as much as was sent."""
    return bool(failures) and all(failure.too_long for failure in failures)


def why(failure: Failure) -> str:
    """A failure in words."""
    text = ": ".join(filter(None, (failure.reason, failure.detail)))
    return f"{text} ({failure.principle})" if failure.principle else text


def share(value: float, mode: str = "") -> float:
    """A score as a share from 0 to 1, by which trainers drop prompts that are too easy or too hard: a judge's by where
    it stands on the scale of its mode, any other by the sigma of its value."""
    if mode == "score":
        return (value + 1) / 2
    return value if mode == "checklist" else 1 / (1 + math.exp(-max(-700.0, value)))


def by_function(function: Callable[..., Any]) -> Scorer:
    """Of a function of the user's (`lenient`). A value that is no number, as a truth value or a text, is a mistake
    always."""
    call = lenient(function, partial(Scored, None))

    def score(prompt: Prompt, text: str) -> Scored:
        value = call(plain(prompt.messages), text)
        if isinstance(value, Scored):
            return value
        try:
            return Scored(value if value is None else as_number(value), "the function gave none").finite
        except Exception:  # whatever its type does where a float is wanted
            raise ConfigError(f"the reward function returned {shown(value)}, which is no number") from None

    return lambda items: [score(*item) for item in items]


def by_judge(target: Any, model: ModelLike, section: LabelSection, seed: int, stack: ExitStack) -> tuple[str, Scorer]:
    """The id of a constitution, and what scores by it as a judge reads it. The model is opened, and put on the stack,
    when it is first asked."""
    if not isinstance(target, str | os.PathLike | Constitution):
        raise ConfigError(f"target: with a judge, `model`, it must be a constitution (got {shown(target)})")
    constitution, mode = constitution_of(target), cast("RateMode", section.mode)
    if isinstance(model, str | Mapping | Section):
        model_of(model)
    engine = cache(lambda: stack.enter_context(open_engine(model)))
    return constitution.id, lambda items: scored_by_judge(engine(), mode, items, constitution, section, seed)


def scored_by_judge(engine: Engine, mode: RateMode, items: Sequence[Item], *by: Any) -> list[Scored]:
    """What a judge says that each response is worth; `by` what else `score_responses` takes."""
    rated = score_responses(engine, mode, items, *by)
    return [
        Scored(score.value if score else None, "; ".join(map(why, failures)), {}, score, failures, too_long(failures))
        for score, failures in zip(rated.scores, rated.failures, strict=True)
    ]


def scored_by_reward(
    reward: Reward, problem: Callable[[Prompt, str], str | None], items: Sequence[Item]
) -> list[Scored]:
    """What a reward says that each response is worth; `problem` says why one could have no score."""
    found = reward.measure([prompt for prompt, _ in items], [text for _, text in items])
    scored = []
    for place, (item, value) in enumerate(zip(items, found.values, strict=True)):
        parts = {name: values[place] for name, values in found.parts.items()}
        wrong = problem(*item) if value is None else None
        scored.append(Scored(value, wrong or NO_VALUE, parts, refused=wrong is not None).finite)
    return scored


def by_model(model: RewardModel) -> Scorer:
    return partial(scored_by_reward, model.reward, lambda prompt, text: model.problem((prompt.messages, text)))


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
