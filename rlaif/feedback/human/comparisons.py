"""Rows with `chosen` and `rejected`: HH-RLHF transcripts (arXiv 2204.05862) or TRL preference rows.

The last assistant turn is the response, what stands before it the prompt. Rows: `chosen` and `rejected` as
transcripts, or as texts or message lists with `prompt` or with the prompt inside them.
"""

from __future__ import annotations

from rlaif.errors import DataError
from rlaif.feedback.pairs import oriented
from rlaif.feedback.prompts import with_system
from rlaif.feedback.sources import (
    SourceRow,
    Unusable,
    is_transcript,
    message_list,
    parse_transcript,
    prompt_part,
    prompt_value,
)
from rlaif.records import Judgment, Message, Messages, Prompt


def judgment_of(row: SourceRow, tags: tuple[str, ...], system: str | None = None) -> Judgment:
    """The judgment of one row with `chosen` and `rejected`. Unusable for one that is no pair of human preference."""
    if row.value.get("source") == "ai":
        raise Unusable("labelled by a judge, not by a human")
    *prompt, chosen = _conversation(row, "chosen")
    *other_prompt, rejected = _conversation(row, "rejected")
    if prompt != other_prompt:
        raise Unusable("chosen and rejected answer different prompts")
    if chosen == rejected:
        raise Unusable("chosen and rejected are the same text", chosen.content)
    pair = oriented(with_system(Prompt.of(tuple(prompt), tags), system), chosen.content, rejected.content)
    p_chosen = row.value.get("p_chosen", 1.0)
    if not isinstance(p_chosen, int | float) or not 0.5 <= p_chosen <= 1:
        raise DataError(f"{row.place}: p_chosen: must be from 0.5 to 1 (got {p_chosen!r})")
    p_a = p_chosen if pair.a == chosen.content else 1 - p_chosen
    return Judgment(pair=pair, source="human", annotator="human", p_a=p_a)


def _conversation(row: SourceRow, key: str) -> Messages:
    """Prompt and response as one conversation: surely a prompt, and then one stripped assistant turn."""
    value = row.value[key]
    if isinstance(value, str) and (is_transcript(value) or "prompt" not in row.value):
        messages = parse_transcript(value)
    elif isinstance(value, str):
        prompt = prompt_value(row.value["prompt"], row.place, "prompt")
        messages = (*prompt, Message(role="assistant", content=value))
    else:
        messages = message_list(value, row.place, key)
        # Some data sets repeat the prompt inside `chosen` and `rejected`, with or without a `prompt` column.
        if "prompt" in row.value and not any(message.role == "user" for message in messages):
            messages = (*prompt_value(row.value["prompt"], row.place, "prompt"), *messages)
    if not messages or messages[-1].role != "assistant":
        raise Unusable(f"{key} does not end with an assistant turn")
    response = messages[-1].content.strip()
    if not response:
        raise Unusable(f"{key} has an empty response")
    prompt = prompt_part(messages[:-1])
    if len(prompt) != len(messages) - 1:
        raise Unusable(f"{key} has two assistant turns at its end")
    return (*prompt, Message(role="assistant", content=response))
