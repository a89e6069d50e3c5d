"""The prompts of a run, read from its sources and split once into training and held-out prompts.

Membership of the held-out set hangs on the hash of the prompt alone, so sorting a file or adding a duplicate
moves nothing. Next: `sources.py` for the row formats, `sample.py` for what is done with prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rlaif.config.sections import DataSource, FileSource, PromptsSection
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.sources import (
    SourceRow,
    Unusable,
    message_list,
    parse_transcript,
    prompt_part,
    prompt_value,
    read_rows,
    tags_of,
)
from rlaif.records import Failure, Message, Messages, Prompt, content_id
from rlaif.resources import resolve

PROMPT_KEYS = ("prompt", "messages", "chosen")


class PromptSplit(NamedTuple):
    """Both parts in the order of the sources. `failures` are blank rows and transcripts without a prompt."""

    train: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    failures: tuple[Failure, ...] = ()


def read_prompts(section: PromptsSection) -> PromptSplit:
    """All prompts, one per conversation (tags of repeats are joined), split by the hash of the prompt.

    The `section.heldout` prompts with the smallest hashes are held out; `section.limit` then keeps the
    training prompts that follow them in hash order. Raises ConfigError when nothing would be left to train
    on, DataError for a row of the wrong shape.
    """
    found: dict[str, Prompt] = {}
    failures = []
    for source in section.sources:
        for row, messages in _conversations(source):
            if isinstance(messages, Unusable):
                failures.append(Failure(stage="prompts", id=row.place, reason=messages.reason, detail=messages.detail))
                continue
            prompt = Prompt.of(messages, tags_of(row, source))
            known = found.get(prompt.id)
            tags = (*known.tags, *prompt.tags) if known else prompt.tags
            found[prompt.id] = Prompt.of(messages, tuple(dict.fromkeys(tags)))

    if len(found) <= section.heldout:
        raise ConfigError(
            f"prompts.heldout: {section.heldout} prompts are to be held out, but the sources have only "
            f"{len(found)} different ones and training needs some; lower prompts.heldout or add prompts"
        )
    by_hash = sorted(found, key=lambda prompt_id: content_id("heldout", prompt_id))
    heldout = set(by_hash[: section.heldout])
    end = None if section.limit is None else section.heldout + section.limit
    train = set(by_hash[section.heldout : end])
    prompts = [with_system(prompt, section.system) for prompt in found.values()]
    return PromptSplit(
        train=tuple(prompt for prompt in prompts if prompt.id in train),
        heldout=tuple(prompt for prompt in prompts if prompt.id in heldout),
        failures=tuple(failures),
    )


def with_system(prompt: Prompt, system: str | None) -> Prompt:
    """The prompt after this system turn. Its id stays: it is still the same prompt, held out or not."""
    if system is None or prompt.messages[0].role == "system":
        return prompt
    return prompt.model_copy(update={"messages": (Message(role="system", content=system), *prompt.messages)})


def _conversations(source: DataSource) -> Iterator[tuple[SourceRow, Messages | Unusable]]:
    path = resolve("prompts/sets", source.path) if isinstance(source, FileSource) else None
    for row in read_rows(source, path):
        if isinstance(source, FileSource):
            key = next((key for key in PROMPT_KEYS if key in row.value), None)
            if key is None:
                near = did_you_mean("prompt", row.value)
                raise DataError(f"{row.place}: no key 'prompt', 'messages' or 'chosen'{near}")
        else:
            key = source.column
            row.require(key)
        try:
            yield row, _conversation(row, key)
        except Unusable as unusable:
            yield row, unusable


def _conversation(row: SourceRow, key: str) -> Messages:
    value = row.value[key]
    if key == "chosen" and isinstance(value, str):
        return prompt_part(parse_transcript(value))
    if key in ("messages", "chosen"):
        return prompt_part(message_list(value, row.place, key))
    return prompt_value(value, row.place, key)
