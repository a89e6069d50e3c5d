"""What a judge learns from: of each pair the requests that judging makes, as rows, and what should come of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from rlaif.models.chat import ChatRequest
from rlaif.models.local.answers import KnownLabels, LabelTokens, shared_rows
from rlaif.models.local.architecture import context_of
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, encode_response, turn_of


class JudgeQuestion(NamedTuple):
    """What one principle asks about a pair."""

    requests: tuple[ChatRequest, ...]
    """`compare`: with a shown first, then b. `score` and `checklist`: about a, then b. `contrast`: of a `for` and
    `against`, then of b."""
    p_a: float
    """What the label says: the probability that a follows it better."""
    desired: Literal["yes", "no"] = "yes"
    """`checklist`: the answer that follows the principle."""


class JudgeLesson(NamedTuple):
    """The questions of one pair that are learnt together, and how much the pair counts."""

    id: str
    prompt_id: str
    questions: tuple[JudgeQuestion, ...]
    weight: float = 1.0


class Encoder:
    """From requests to rows, as the model in this process reads them to judge."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._labels = KnownLabels(tokenizer)

    def label_tokens(self, request: ChatRequest) -> LabelTokens:
        """Where the probabilities of the request's labels are read."""
        return self._labels.tokens(self._model, request)

    def row(self, request: ChatRequest) -> Row:
        """The prompt, and its `answer` with what ends it; or the prompt up to where a label is read."""
        ids = tuple(encode_prompt(self._tokenizer, request.messages))
        if request.answer is not None:
            return Row(ids, tuple(encode_response(self._tokenizer, request.answer)))
        ids = (*ids, *self.label_tokens(request).lead)
        return Row(ids[:-1], ids[-1:])

    def rows(self, lesson: JudgeLesson) -> list[tuple[Row, ...]]:
        """Of each question; what they have in common is in `prompt`, to be computed once."""
        found = [tuple(self.row(request) for request in question.requests) for question in lesson.questions]
        if lesson.questions[0].requests[0].answer is not None:
            return found  # the texts after one instruction share it already
        if len(found) == 1:  # a's request and b's begin alike
            return [_shared(found[0])]
        sides = [_shared([rows[side] for rows in found]) for side in range(2)]
        return list(zip(*sides, strict=True))

    def text_tokens(self, row: Row) -> int:
        """Of a row with an answer: how many of its tokens are the text, the end aside."""
        return len(row.response) - len(turn_of(self._tokenizer).written)

    def length(self, lesson: JudgeLesson) -> int:
        """Tokens of its longest row."""
        return max(sum(map(len, self.row(request))) for question in lesson.questions for request in question.requests)

    @property
    def context(self) -> int | None:
        """The longest prompt that the model answers."""
        limit = context_of(self._model.config)
        return None if limit is None else limit - 1


def _shared(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The same rows, cut where they begin to differ."""
    return tuple(shared_rows([[*row.prompt, *row.response] for row in rows]))
