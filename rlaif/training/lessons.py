"""What all learning from given texts shares: lessons as token rows, and minibatches of whole prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_conversations, encode_prompt, encode_response
from rlaif.records import Messages
from rlaif.training.truncation import Truncation

T = TypeVar("T")


class Text(NamedTuple):
    """A response. One that a token limit cut off is not `finished`: it teaches its words, and not to stop there."""

    text: str
    finished: bool = True


class Lesson(NamedTuple):
    """What one update may learn: one response to a prompt, or a pair of which the first row is the chosen one."""

    id: str
    prompt_id: str
    rows: tuple[Row, ...]
    target: float
    """P(the chosen one is better), or a rating; nothing for a text to imitate."""
    weight: float
    tie: bool = False
    margin: float = 0.0
    """Inside the sigmoid; how far the better one must be ahead."""
    by_principle: Mapping[str, float] = {}
    """P(the chosen one is better) by each principle that was judged on this pair."""


class OfPrompt(Protocol):
    """Whatever is learnt of one prompt."""

    @property
    def prompt_id(self) -> str: ...


def encode(tokenizer: Any, prompt: Messages, responses: Sequence[Text], max_length: int) -> tuple[Row, ...]:
    """What a policy learns to write: a row for each response, all after the same prompt tokens.

    `max_length` bounds the longest of them. Too long: the oldest prompt tokens go (all but one, if need be), then the
    responses' last ones with the end of the turn.
    """
    ids = [encode_response(tokenizer, r.text, r.finished) for r in responses]
    return _cut(encode_prompt(tokenizer, prompt), ids, max_length)


def encode_scored(tokenizer: Any, prompt: Messages, texts: Sequence[str], max_length: int) -> tuple[Row, ...]:
    """What a reward model reads, as whoever loads it from its folder has it: whole conversations, cut as `encode`
    does."""
    return _cut(*encode_conversations(tokenizer, prompt, texts), max_length)


def _cut(before: Sequence[int], responses: Sequence[Sequence[int]], max_length: int) -> tuple[Row, ...]:
    ids = [tuple(one[: max_length - 1]) for one in responses]  # one token of the prompt always stays
    kept = tuple(before[-(max_length - max(map(len, ids))) :])
    return tuple(Row(kept, one) for one in ids)


def encode_each(
    items: Iterable[T],
    rows_of: Callable[[T, int], tuple[Row, ...]],
    max_length: int,
    truncation: Truncation | None = None,
) -> list[tuple[T, tuple[Row, ...]]]:
    """Each item with its rows, less the pairs that are identical after truncation: they teach nothing.

    What `max_length` takes away is counted by `truncation`. DataError where that is too much.
    """
    found = []
    for item in items:
        rows = rows_of(item, max_length)
        if truncation is not None:
            truncation.saw(rows, partial(rows_of, item))
        if len(set(rows)) == len(rows):
            found.append((item, rows))
    if truncation is not None:
        truncation.check()
    return found


def distinct(lessons: Iterable[Lesson]) -> list[Row]:
    """Each different row once, in order of first appearance."""
    return list(dict.fromkeys(row for lesson in lessons for row in lesson.rows))


def minibatches(lessons: Sequence[OfPrompt], size: int, seed: int) -> list[list[int]]:
    """Places of lessons: whole prompts in seeded order, gathered until a batch has at least `size` lessons."""
    by_prompt: dict[str, list[int]] = {}
    for place, lesson in enumerate(lessons):
        by_prompt.setdefault(lesson.prompt_id, []).append(place)
    order = list(by_prompt)
    random.Random(seed).shuffle(order)
    batches: list[list[int]] = []
    for prompt_id in order:
        if not batches or len(batches[-1]) >= size:
            batches.append([])
        batches[-1] += by_prompt[prompt_id]
    return batches
