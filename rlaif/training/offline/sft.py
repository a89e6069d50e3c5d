"""Supervised fine-tuning: cross-entropy on the response and its end token; the prompt is only read.

Shape suffixes: N demonstrations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from rlaif.records import Messages, content_id, plain
from rlaif.training.lessons import Text, encode
from rlaif.training.offline.loop import LessonLosses, TextLesson
from rlaif.training.truncation import Truncation


class SftExample(NamedTuple):
    """A prompt and the response to imitate."""

    prompt_id: str
    prompt: Messages
    response: Text


@dataclass(frozen=True)
class SftMethod:
    """The method. A lesson weighs as many tokens as it has: the loss is the mean over the minibatch's tokens."""

    lessons: Sequence[TextLesson]
    name: str = "sft"

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        demonstrations: Sequence[SftExample],
        max_length: int,
        truncation: Truncation | None = None,
    ) -> SftMethod:
        """Without those that have no token at all (blank and cut off)."""
        found: list[TextLesson] = []
        for shown in demonstrations:
            encoded = partial(encode, tokenizer, shown.prompt, [shown.response])
            rows = encoded(max_length)
            if truncation is not None:
                truncation.saw(rows, encoded)
            if tokens := len(rows[0].response):
                identity = content_id(plain(shown.prompt), shown.response.text)
                found.append(TextLesson(len(found), identity, shown.prompt_id, rows, float(tokens)))
        if truncation is not None:
            truncation.check()
        return cls(found)

    def teach(self, lessons: Sequence[TextLesson], logprobs_NK: Tensor) -> LessonLosses:
        """-log pi(response | prompt), in nats."""
        return LessonLosses(-logprobs_NK.squeeze(1), {})

    def describe(self, loss: float) -> dict[str, float]:
        """Perplexity a token."""
        return {"perplexity": math.exp(min(loss, 700.0))}
