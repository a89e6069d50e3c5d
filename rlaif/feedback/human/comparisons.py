"""Rows with `chosen` and `rejected`: HH-RLHF transcripts (arXiv 2204.05862), TRL preference rows, UltraFeedback
binarized, and the HHH evaluation's `text_correct` and `text_incorrect` (arXiv 2212.08073).

The last assistant turn is the response, what stands before it the prompt. Both are transcripts, or texts or message
lists with `prompt` or with the prompt inside them.
"""

from __future__ import annotations

from collections.abc import Iterable

from rlaif.config.sections import Comparisons
from rlaif.errors import DataError
from rlaif.feedback.human.sheet import Sheet, number, require, said_by
from rlaif.feedback.sources import (
    SourceRow,
    Unusable,
    is_transcript,
    message_list,
    parse_transcript,
    prompt_part,
    prompt_value,
    tags_of,
)
from rlaif.records import Message, Messages, Prompt

HHH_KEYS = ("text_correct", "text_incorrect")
SCORES = ("score_chosen", "score_rejected")


def read_comparisons(rows: Iterable[SourceRow], form: Comparisons, sheet: Sheet) -> None:
    """A judgment a row."""
    for row in rows:
        keys = HHH_KEYS if any(key in row.value for key in HHH_KEYS) else ("chosen", "rejected")
        require(row, form.kind, *keys)
        with sheet.attempt(row.place):
            _compare(row, keys, sheet)


def _compare(row: SourceRow, keys: tuple[str, str], sheet: Sheet) -> None:
    if row.value.get("source") == "ai":
        raise Unusable("labelled by a judge, not by a human")
    *prompt, chosen = _conversation(row, keys[0])
    *other_prompt, rejected = _conversation(row, keys[1])
    if prompt != other_prompt:
        raise Unusable("chosen and rejected answer different prompts")
    if chosen == rejected:
        raise Unusable("chosen and rejected are the same text", chosen.content)
    p_chosen = row.value.get("p_chosen", 1.0)
    if not isinstance(p_chosen, int | float) or not 0.5 <= p_chosen <= 1:
        raise DataError(f"{row.place}: p_chosen: must be from 0.5 to 1 (got {p_chosen!r})")
    if all(key in row.value for key in SCORES):
        p_chosen = _by_scores(row)
    asked = sheet.addressed(Prompt.of(tuple(prompt), tags_of(row, sheet.source)))
    sheet.label(asked, chosen.content, rejected.content, p_chosen, said_by(row))


def _by_scores(row: SourceRow) -> float:
    """UltraFeedback binarized: scores of 1 to 10; equal ones are a tie, whatever the columns are called."""
    chosen, rejected = (number(row, key, 1, 10) for key in SCORES)
    if chosen < rejected:
        raise Unusable("rejected has the higher score", f"score_chosen {chosen:g}, score_rejected {rejected:g}")
    return 0.5 if chosen == rejected else 1.0


def _conversation(row: SourceRow, key: str) -> Messages:
    """Prompt and response as one conversation: surely a prompt, and then one stripped assistant turn."""
    value = row.value[key]
    if key in HHH_KEYS and not isinstance(value, str):
        raise DataError(f"{row.place}: {key}: must be a transcript (got {value!r})")
    if isinstance(value, str) and (is_transcript(value) or key in HHH_KEYS or "prompt" not in row.value):
        messages = parse_transcript(value)
    elif isinstance(value, str):
        prompt = prompt_value(row.value["prompt"], row.place, "prompt")
        messages = (*prompt, Message(role="assistant", content=value))
    else:
        messages = message_list(value, row.place, key)
        # Some data sets repeat the prompt inside `chosen` and `rejected`, with or without a `prompt` column.
        if "prompt" in row.value and not any(message.role == "user" for message in messages):
            messages = (*prompt_value(row.value["prompt"], row.place, "prompt"), *messages)
    return _checked(messages, key if key not in HHH_KEYS else {"text_correct": "chosen"}.get(key, "rejected"))


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
