"""Rows with `chosen` and `rejected`: HH-RLHF transcripts (arXiv 2204.05862), TRL preference rows, UltraFeedback
binarized, and the HHH evaluation's `text_correct` and `text_incorrect` (arXiv 2212.08073).

The last assistant turn is the response, what stands before it the prompt. Both are transcripts, or texts or message
lists with `prompt` or with the prompt inside them; in RewardBench 2 each is a list of texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice, product
from typing import Literal, NamedTuple

from rlaif.errors import DataError
from rlaif.formats.format import Format
from rlaif.formats.given import prompt_from
from rlaif.formats.rows import (
    SourceRow,
    Unusable,
    after_speaker,
    after_system,
    bare_response,
    is_transcript,
    joined,
    message_list,
    parse_transcript,
    prompt_part,
    prompt_value,
)
from rlaif.formats.sheet import MOST_PAIRS, Attribution, Sheet, said_by
from rlaif.formats.signals import margins, signals, strength_of, verdicts
from rlaif.records import Message, Messages, Prompt

HHH_KEYS = ("text_correct", "text_incorrect")
PROMPTS = ("question", "instruction", "conversations", "input")
"""What the prompt is called where no column `prompt` is: in Orca's pairs, and by LLaMA-Factory and axolotl."""


class Comparisons(Format):
    """`chosen` and `rejected`: HH-RLHF transcripts, TRL rows (explicit or implicit prompt), our preferences.jsonl.

    Also UltraFeedback binarized, RewardBench, the HHH evaluation's `text_correct` and `text_incorrect`, and rows whose
    prompt is called `question`, `instruction` (and `input`) or `conversations`. A row's own figures
    (`score_chosen` and `score_rejected`, `chosen-rating`, `margin`, ...) are held against the label: equal ones are a
    tie, and a row in which rejected is ahead is a failure. Margins from 0 to 1 are 2 p - 1 (our OpenRLHF export).
    """

    kind: Literal["comparisons"] = "comparisons"
    KEYS = ({"chosen"}, {"rejected"}, {"text_correct"}, {"text_incorrect"})
    HAS_STRENGTH = True

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """One judgment per row, or per pair of texts where a side is a list of them. A file whose margins are all from
        0 to 1 says 2 p - 1 by them, as our own exports do; others are differences of ratings, and what is ahead is
        surely better."""
        found = []
        for row in rows:
            keys = HHH_KEYS if any(key in row.value for key in HHH_KEYS) else ("chosen", "rejected")
            self.require(row, *keys)
            for single in _single(row, keys, sheet):
                with sheet.attempt(row.place):
                    found.append(_compared(single, keys, sheet))
        are_shares = all(one.margin is None or one.margin <= 1 for one in found)
        for one in found:
            p = one.p_chosen if one.margin is None or not are_shares else 0.5 + one.margin / 2
            sheet.label(one.prompt, one.chosen, one.rejected, p, one.said)


class Comparison(NamedTuple):
    """What a row says."""

    prompt: Prompt
    chosen: str
    rejected: str
    p_chosen: float
    margin: float | None
    """Where the row has one, and says no p."""
    said: Attribution


def _single(row: SourceRow, keys: tuple[str, str], sheet: Sheet) -> Iterator[SourceRow]:
    """The row, or where a side is a list of texts, of which each is as good as the next, a row per pair of them."""
    sides = [
        value if isinstance(value, list) and value and all(isinstance(text, str) for text in value) else [value]
        for value in (row.value[key] for key in keys)
    ]
    sheet.tally("not_drawn", max(math.prod(map(len, sides)) - MOST_PAIRS, 0))
    for texts in islice(product(*sides), MOST_PAIRS):
        yield SourceRow(row.place, row.value | dict(zip(keys, texts, strict=True)))


def _compared(row: SourceRow, keys: tuple[str, str], sheet: Sheet) -> Comparison:
    if row.value.get("source") == "ai":
        raise Unusable("labelled by a judge, not by a human")
    *prompt, chosen = _conversation(row, keys[0])
    *other_prompt, rejected = _conversation(row, keys[1])
    if prompt != other_prompt:
        raise Unusable("chosen and rejected answer different prompts")
    if chosen == rejected:
        raise Unusable("chosen and rejected are the same text", chosen.content)
    p_chosen, margin = _strength(row)
    asked = sheet.addressed(prompt_from(row, tuple(prompt), sheet.source))
    return Comparison(asked, chosen.content, rejected.content, p_chosen, margin, said_by(row))


def _strength(row: SourceRow) -> tuple[float, float | None]:
    """p, and the margin where there is no `p_chosen`. Unusable where a figure of the row says that rejected is better;
    where all say that neither is, it is a tie."""
    scores, gaps = list(signals(row, "chosen", "rejected")), list(margins(row))
    said = (*scores, *gaps, *verdicts(row, "chosen", "rejected"))
    for signal in said:
        if signal.lead < 0:
            raise Unusable("the row's own figures say that rejected is better", signal.said)
    p_chosen = strength_of(row)
    if p_chosen is not None:
        return p_chosen, None
    leads = [signal.lead for signal in said]
    margin = None if scores else next((gap.lead for gap in gaps if gap.said.lower().startswith("margin ")), None)
    return (1.0 if any(leads) or not leads else 0.5), margin or None


def _conversation(row: SourceRow, key: str) -> Messages:
    """Prompt and response as one conversation: surely a prompt, and then one stripped assistant turn."""
    value = row.value[key]
    if key in HHH_KEYS:
        if not isinstance(value, str):
            raise DataError(f"{row.place}: {key}: must be a transcript (got {value!r})")
        return _checked(parse_transcript(value), "chosen" if key == HHH_KEYS[0] else "rejected")
    prompt = row.value.get("prompt")
    before = () if prompt is None else prompt_value(prompt, row.place, "prompt")
    messages: Messages | None = None if isinstance(value, str) else message_list(value, row.place, key)
    whole = is_transcript(value) if messages is None else any(message.role == "user" for message in messages)
    if prompt is None and not whole:
        before = _asked(row)
    if messages is None and (whole or not before):
        messages = parse_transcript(value)
    elif messages is None:
        beside = isinstance(prompt, str) and is_transcript(prompt)
        messages = (Message(role="assistant", content=(after_speaker if beside else bare_response)(value)),)
    # Some data sets repeat the prompt inside `chosen` and `rejected`, with or without a `prompt` column.
    if any(message.role == "user" for message in messages):
        *inside, response = _checked(messages, key)
        asked = joined(before, tuple(inside)) if before else tuple(inside)
    else:
        *inside, response = _checked((*before, *messages), key)
        asked = tuple(inside)
    return (*after_system(row, asked), response)


def _asked(row: SourceRow) -> Messages:
    """The prompt under another name than `prompt`; nothing where there is none."""
    key = next((key for key in PROMPTS if row.value.get(key) is not None), None)
    if key is None:
        return ()
    if row.value.get("history"):
        raise Unusable("earlier turns in a column history are not read", str(row.value["history"]))
    value = row.value[key]
    if key == "instruction" and isinstance(value, str) and isinstance(row.value.get("input"), str):
        value = f"{value}\n{row.value['input']}".strip()
    return prompt_value(value, row.place, key)


def _checked(messages: Messages, side: str) -> Messages:
    if not messages or messages[-1].role != "assistant":
        raise Unusable(f"{side} does not end with an assistant turn")
    response = messages[-1].content.strip()
    if not response:
        raise Unusable(f"{side} has an empty response")
    prompt = prompt_part(messages[:-1])
    if len(prompt) != len(messages) - 1:
        raise Unusable(f"{side} has two assistant turns at its end")
    return (*prompt, Message(role="assistant", content=response))
