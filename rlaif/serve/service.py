"""One request of the service, from questions to answers: the queue, the limit of time, the record, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from rlaif.api.scorers import Scored
from rlaif.errors import DataError, ModelError, RlaifError
from rlaif.jsonl import check_text
from rlaif.models.local.parsing import TEMPLATED, TextParser, answer_in
from rlaif.records import Message, Messages, Pair, Prompt, Record
from rlaif.serve.batching import Batcher, QueueFull
from rlaif.serve.metrics import Meter
from rlaif.serve.records import ServedJudgment, ServedScore, ServiceLog
from rlaif.serve.target import Judged, Question, Target

Answer = TypeVar("Answer")


class NoScore(RlaifError, RuntimeError):
    """There is no value, so there is no reply that a trainer could take for one."""


class CannotScore(DataError):
    """There is no value because of what was sent: asked again it has none either."""


class TooSlow(RlaifError, RuntimeError):
    """The answer did not come in time."""


class Limits(NamedTuple):
    """What the service takes on."""

    waiting: int = 4096
    """Questions that wait; one more is refused."""
    batch: int = 256
    """Questions that are worked on together."""
    timeout_s: float = 170.0
    """Of one request: trainers give up after 180 s or 120 s, and ask once more."""


class Service:
    """A target, asked by many at once."""

    def __init__(self, target: Target, parser: TextParser | None, log: ServiceLog, limits: Limits) -> None:
        self.target, self._parser, self._log, self._limits = target, parser, log, limits
        self.meter = Meter(OUTCOMES, lambda: self._scores.waiting + self._judgments.waiting)
        workers = target.workers
        sizes = limits.batch, limits.waiting, self.meter.batch
        self._scores = Batcher[Question, Scored](target.score, workers, *sizes)
        self._judgments = Batcher[Question, Judged](target.judge, workers, *sizes)

    async def score(self, protocol: str, questions: Sequence[Question]) -> list[Scored]:
        """What each response is worth, recorded. RlaifErrors where the request as a whole has no answer."""

        def row(question: Question, scored: Scored) -> Record:
            return ServedScore(
                protocol=protocol,
                target=self.target.name,
                revision=self.target.revision,
                prompt=question.prompt.messages,
                tags=question.prompt.tags,
                text=question.text,
                principles=question.principles,
                value=scored.value,
                parts=scored.parts,
                reason=scored.reason,
                score=scored.score,
                failures=scored.failures,
            )

        return await self._answered(questions, self._scores.ask, row)

    async def judge(self, protocol: str, questions: Sequence[Question]) -> list[Judged]:
        """Which response of each question is better, recorded. RlaifErrors as of `score`."""

        def row(question: Question, judged: Judged) -> Record:
            return ServedJudgment(
                protocol=protocol,
                target=self.target.name,
                revision=self.target.revision,
                pair=Pair.of(question.prompt, question.text, question.other or ""),
                principles=question.principles or ((question.asked,) if question.asked else ()),
                judgment=judged.judgment,
                failures=judged.failures,
            )

        return await self._answered(questions, self._judgments.ask, row)

    def read(self, text: str, prompt: str | None = None) -> tuple[Messages, str]:
        """Prompt and response of a templated text; see `TextParser.conversation`."""
        return self._reader().conversation(text, prompt)

    def read_apart(self, prompt: str | None, response: str) -> tuple[Messages, str]:
        """A prompt's messages, where it is given as a text, and a response's text. Without a template neither may hold
        marks of one."""
        if self._parser is None and not any(TEMPLATED.search(text) for text in (prompt or "", response)):
            return (Message(role="user", content=prompt),) if prompt is not None else (), answer_in(response)
        reader = self._reader()
        return reader.prompt(prompt) if prompt is not None else (), reader.response(response)

    def _reader(self) -> TextParser:
        if self._parser is None:
            raise DataError("text: which chat template has it? start the service with --template MODEL")
        return self._parser

    async def _answered(
        self,
        questions: Sequence[Question],
        ask: Callable[[Sequence[Question]], Awaitable[list[Answer]]],
        row: Callable[[Question, Answer], Record],
    ) -> list[Answer]:
        for question in questions:
            self.target.check(question)
        try:
            answers = await asyncio.wait_for(ask(questions), self._limits.timeout_s)
        except TimeoutError:
            raise TooSlow(f"no answer within {self._limits.timeout_s:g} s") from None
        self._log.write(row(question, answer) for question, answer in zip(questions, answers, strict=True))
        return answers

    def close(self) -> None:
        """Begin nothing more, and free what is held."""
        self._scores.close()
        self._judgments.close()
        self.target.close()
        self._log.close()


OUTCOMES: dict[Any, str] = {QueueFull: "full", TooSlow: "too slow", ModelError: "no model", NoScore: "no score"}


def no_score(found: Scored | Judged) -> RlaifError:
    """Why there is none, as an error: the request's own, or the service's."""
    return (CannotScore if found.refused else NoScore)(found.reason)


def question_of(
    messages: Messages, text: str, other: str | None = None, tags: Sequence[str] = (), principles: Sequence[str] = ()
) -> Question:
    """The question of one response, or two, whose reasoning is apart already. DataError where the messages are no
    prompt, or something is no text."""
    check_text([*(message.content for message in messages), text, other], "body")
    if not messages or messages[-1].role != "user":
        raise DataError("prompt: must end with a user turn")
    return Question(Prompt.of(messages, tuple(tags)), text, other, tuple(principles))
