"""Which tokens moved a number that a model in this process gives: integrated gradients over its embedding
(arXiv 1703.01365), computed by captum.

The number is counted from a baseline: the same tokens, with a blank in each place that is asked about. What all places
are given adds up to the difference between the two. The integral is a sum of steps, whose number is doubled until that
holds within `TOLERANCE`.

Shape suffixes: B rows, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.errors import ModelError
from rlaif.models.day import strftime_now
from rlaif.models.local.architecture import pass_through
from rlaif.models.reasoning import template_words
from rlaif.records import Messages, plain
from rlaif.signals import needs

STEPS, MOST_STEPS = 32, 1024
TOLERANCE = 0.02
"""Most that the sum may be off, as a share of the difference that it should be."""
AT_ONCE = 4096
"""Tokens in one pass."""


class Attribution(NamedTuple):
    """What each place did to the value."""

    tokens: Sequence[float]
    value: float
    baseline: float

    @property
    def gap(self) -> float:
        """How far the sum is from value - baseline."""
        return sum(self.tokens) - (self.value - self.baseline)


def integrated_gradients(
    backbone: Any,
    read: Callable[[Tensor], Tensor],
    ids: Sequence[int],
    places: Sequence[int],
    blank: int,
    steps: int = STEPS,
    most: int = MOST_STEPS,
) -> Attribution:
    """Of what `read` makes of the last token's state (hidden_BH to value_B); the weights are better float32. From
    `steps` on their number is doubled, up to `most`."""
    needs("explain", ["captum"])
    from captum.attr import LayerIntegratedGradients  # noqa: PLC0415 (an extra)

    def value(ids_BS: Tensor) -> Tensor:
        return read(pass_through(backbone, ids_BS.tolist(), None)[:, -1])

    device = next(backbone.parameters()).device
    whole = torch.tensor([list(ids)], device=device)
    empty = whole.clone()
    empty[0, list(places)] = blank
    with torch.no_grad():
        full, none = (float(value(rows)) for rows in (whole, empty))
    method = LayerIntegratedGradients(value, backbone.get_input_embeddings())
    while True:
        with torch.enable_grad():
            parts = method.attribute(
                whole, baselines=empty, n_steps=steps, internal_batch_size=max(1, AT_ONCE // len(ids))
            )
        per_token = parts.detach().double().sum(-1)[0]
        found = Attribution(tuple(per_token[list(places)].tolist()), full, none)
        if abs(found.gap) <= TOLERANCE * abs(full - none) + 1e-5 or steps >= most:
            return found
        steps *= 2


def blank_of(tokenizer: Any) -> int:
    """The token of a space: text that says nothing."""
    return int(tokenizer.encode(" ", add_special_tokens=False)[-1])


def pieces_of(tokenizer: Any, ids: Sequence[int], values: Sequence[float]) -> list[tuple[str, float]]:
    """The text of the tokens, each piece with its value; tokens that make one character together are one piece."""
    pieces: list[tuple[str, float]] = []
    said, waiting = "", 0.0
    for end, value in enumerate(values, start=1):
        text, waiting = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False), waiting + value
        if not text.endswith("\ufffd") or end == len(values):
            pieces.append((text[len(said) :], waiting))
            said, waiting = text, 0.0
    return pieces


def places_of(
    tokenizer: Any, ids: Sequence[int], messages: Messages, marked: Messages, mark: str, text: str
) -> list[int]:
    """Which of a prompt's tokens say `text`, which stands where the same messages, `marked`, have `mark`. ModelError
    where the tokenizer does not tell."""
    whole, around = (
        tokenizer.apply_chat_template(
            plain(each), add_generation_prompt=True, tokenize=False, strftime_now=strftime_now, **template_words(False)
        )
        for each in (messages, marked)
    )
    start = around.find(mark)
    end = start + len(text)
    read = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    same = read["input_ids"] == list(ids[: len(read["input_ids"])])
    if not (tokenizer.is_fast and same and start >= 0 and whole[start:end] == text):
        raise ModelError("this tokenizer does not tell where the response stands; use --method sentences")
    return [place for place, (one, other) in enumerate(read["offset_mapping"]) if one < end and other > start]
