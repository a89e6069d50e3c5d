"""One reward, called as the trainers of others call theirs: TRL's reward functions, verl's `compute_score`, OpenRLHF's
`reward_func`. What has no score is None where the trainer has a place for that, and an error where it has none.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from threading import Lock
from typing import Any

from rlaif.api.inputs import ModelLike
from rlaif.api.judging import ConstitutionLike, ModeLike, scoring_of
from rlaif.api.reward import RewardModel
from rlaif.api.scorers import Item, Scored, Scorer, by_function, by_judge, by_model, item_of, reward_model_of, share
from rlaif.config.feedback import LabelSection
from rlaif.console import say
from rlaif.errors import ConfigError, DataError, ModelError, shown
from rlaif.records import Prompt
from rlaif.run_folder import Run

RewardLike = RewardModel | Run | ConstitutionLike | Callable[[list[dict[str, str]], str], float | None]
VERL_PROMPTS = ("prompt", "question")
"""Keys of verl's `extra_info` that may hold what was asked: verl hands its own prompt to nobody."""


def reward_function(
    target: RewardLike,
    model: ModelLike | None = None,
    *,
    tokenizer: Any = None,
    mode: ModeLike = "score",
    seed: int = 0,
    **knobs: Any,
) -> RewardFunction:
    """What a response is worth, as the trainers of others ask for it.

    Without `model`, `target` is a RewardModel, its folder, a run that has one, or a function of the prompt's messages
    and the response's text that returns a number, or None. With `model` it is a constitution, and `model` its judge;
    `mode`, `seed` and `knobs` are those of `score`. The result is called as TRL calls a reward function; its `verl` is
    a `compute_score`, its `openrlhf` a `reward_func`. `tokenizer`, a name, a folder or an object, is the one whose chat
    template wrote the texts that OpenRLHF sends; a reward model has its own. ConfigError for what cannot score.
    """
    if model is None and (mode != "score" or knobs):
        raise ConfigError(f"{next(iter(knobs), 'mode')}: goes with a constitution and its judge, `model`")
    section = scoring_of(mode, knobs)
    return RewardFunction(target, model, tokenizer, section, seed)


class RewardFunction(AbstractContextManager["RewardFunction"]):
    """See `reward_function`. Calls of several threads that come while it scores are scored together, next.

    One made of a path or a constitution can be pickled, and opens anew where it is read. A judge's model is opened at
    the first call, and closed by `close` or at the end of a `with`.
    """

    def __init__(
        self, target: RewardLike, model: ModelLike | None, tokenizer: Any, section: LabelSection, seed: int
    ) -> None:
        self._given = (target, model, tokenizer, section, seed)
        self._tokenizer = tokenizer
        self._stack = ExitStack()
        self._waiting: deque[tuple[list[Item], Future[list[Scored]]]] = deque()
        self._scoring = Lock()
        self._score: Scorer
        self._mode = ""
        if model is not None:
            self.__name__, self._score = by_judge(target, model, section, seed, self._stack)
            self._mode = section.mode.kind
        elif not callable(target):
            found = reward_model_of(target)
            self.__name__, self._score = found.folder.name, by_model(found)
            self._tokenizer = tokenizer or found.tokenizer_folder
        else:
            self.__name__ = getattr(target, "__name__", type(target).__name__)
            self._score = by_function(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return RewardFunction, self._given

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the judge's model."""
        self._stack.close()

    # -------------------------------------------------------------------------------------------- the trainers' forms

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        """TRL's: prompts and completions are texts or lists of messages; a value for each, None where there is none.

        How many have none is said, and logged as `no_score`. Of what else TRL passes only the data set's column `given`
        is read, as in a prompt file.
        """
        if isinstance(prompts, str) or isinstance(completions, str) or len(prompts) != len(completions):
            raise DataError(
                f"prompts, completions: must be lists of one length (got {shown(prompts)}, {shown(completions)})"
            )
        pairs = list(zip(prompts, completions, strict=True))
        given = columns.get("given") or [None] * len(pairs)
        found = [item_of(*pair, f"completions[{n}]", given[n]) for n, pair in enumerate(pairs)]
        values = self.values(found)
        reasons = [value for value in values if isinstance(value, str)]
        if reasons:
            say(f"  {self.__name__}: {len(reasons)} of {len(values)} responses have no score: {_few(reasons)}")
        if log := columns.get("log_metric"):
            log("no_score", len(reasons) / max(len(values), 1))
        return [None if isinstance(value, str) else value for value in values]

    def verl(
        self, data_source: Any, solution_str: str, ground_truth: Any, extra_info: Any = None, **others: Any
    ) -> dict[str, float]:
        """verl's `compute_score`: the value as `score`.

        What was asked, messages or a text, is `extra_info["prompt"]`, which `rlaif export --to verl` writes, else
        `extra_info["question"]`; `extra_info["given"]` is as in a prompt file. ModelError where there is no score.
        """
        known = extra_info if isinstance(extra_info, Mapping) else {}
        key = next((key for key in VERL_PROMPTS if known.get(key) is not None), None)
        if key is None:
            raise DataError(
                "extra_info: has no 'prompt', the messages or the text that was asked: verl passes none on, so the "
                f"data set must hold it there (got the keys {shown(sorted(map(str, known)))})"
            )
        return {"score": self._sure([item_of(known[key], solution_str, "solution_str", known.get("given"))])[0]}

    def openrlhf(
        self, queries: Sequence[str], prompts: Sequence[str] | None = None, labels: Any = None, **others: Any
    ) -> dict[str, Any]:
        """OpenRLHF's `reward_func`: queries are prompts with their responses, as a chat template has written them.
        `rewards` is a tensor of the values, `scores` of the values as shares from 0 to 1. ModelError where one has
        none, DataError for a text that the template does not write."""
        from rlaif.rewards.model import openrlhf_rewards  # noqa: PLC0415 (brings torch, which whoever calls this has)

        read = self._parser.conversation
        asked = [None] * len(queries) if prompts is None else prompts
        if len(asked) != len(queries):
            raise DataError(f"prompts: {len(asked)} of them to {len(queries)} queries")
        pairs = [read(query, prompt) for query, prompt in zip(queries, asked, strict=True)]
        values = self._sure([(Prompt.of(messages), text) for messages, text in pairs])
        return openrlhf_rewards(values, [share(value, self._mode) for value in values])

    # -------------------------------------------------------------------------------------------- what they share

    def values(self, items: Sequence[Item | str]) -> list[float | str]:
        """A score for each, or why there is none; an item that is a text is such a reason already."""
        asked = [item for item in items if not isinstance(item, str)]
        scored = self._together(asked) if asked else []
        found = (one.reason if one.value is None else one.value for one in scored)
        return [item if isinstance(item, str) else next(found) for item in items]

    def _sure(self, items: Sequence[Item | str]) -> list[float]:
        values = self.values(items)
        reasons = [value for value in values if isinstance(value, str)]
        if reasons:
            raise ModelError(f"{self.__name__}: no score: {_few(reasons)}")
        return [value for value in values if not isinstance(value, str)]

    def _together(self, items: list[Item]) -> list[Scored]:
        """The values of these; whoever comes first scores all that wait."""
        answer: Future[list[Scored]] = Future()
        self._waiting.append((items, answer))
        with self._scoring:
            if waiting := [self._waiting.popleft() for _ in range(len(self._waiting))]:
                self._answer(waiting)
        return answer.result()

    def _answer(self, waiting: list[tuple[list[Item], Future[list[Scored]]]]) -> None:
        try:
            values = iter(self._score([item for items, _ in waiting for item in items]))
        except BaseException as error:
            for _, answer in waiting:
                answer.set_exception(error)
            return
        for items, answer in waiting:
            answer.set_result([next(values) for _ in items])

    @cached_property
    def _parser(self) -> Any:
        from rlaif.models.local.load import load_tokenizer  # noqa: PLC0415 (brings torch)
        from rlaif.models.local.parsing import TextParser  # noqa: PLC0415

        given = self._tokenizer
        if given is None:
            raise ConfigError("tokenizer: name the policy's, whose chat template wrote the texts that OpenRLHF sends")
        return TextParser(load_tokenizer(os.fspath(given)) if isinstance(given, str | os.PathLike) else given)


def _few(reasons: Iterable[str]) -> str:
    return "; ".join(list(dict.fromkeys(reasons))[:3])
