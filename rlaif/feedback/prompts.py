"""The prompts of a run, read from its sources and split once into training and held-out prompts; and demonstrations for
supervised fine-tuning, rows of files or answers of the judge.

Membership of the held-out set hangs on the hash of the prompt alone, so sorting a file or adding a duplicate
moves nothing. Next: `rlaif/formats/rows.py` for the row formats, `sample.py` for what is done with prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from rlaif.config.feedback import PromptsSection, SampleSection
from rlaif.config.optimise import JudgeDemonstrations
from rlaif.config.sources import DataSource, FileSource
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.failures import check_share
from rlaif.feedback.sample import Progress, SampleResult, sample_responses
from rlaif.formats.rows import (
    SourceRow,
    Unusable,
    after_system,
    after_turn,
    message_list,
    parse_transcript,
    prompt_part,
    prompt_value,
    read_rows,
    tags_of,
    with_system,
)
from rlaif.jsonl import first_problem
from rlaif.models.engine import Engine
from rlaif.records import Failure, Messages, Prompt, content_id
from rlaif.resources import resolve

PROMPT_KEYS = ("prompt", "messages", "chosen")


class PromptSplit(NamedTuple):
    """Both parts in the order of the sources. `failures` are rows that hold none: blank, a tool's turn, a picture."""

    train: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    failures: tuple[Failure, ...] = ()


def read_prompts(section: PromptsSection) -> PromptSplit:
    """All prompts, one per conversation (tags of repeats are joined), split by the hash of the prompt.

    The `section.heldout` prompts with the smallest hashes are held out; `section.limit` then keeps the
    training prompts that follow them in hash order. Raises ConfigError when nothing would be left to train
    on, DataError for a row of the wrong shape, and for more rows without a prompt than `section.max_failures`.
    """
    found: dict[str, Prompt] = {}
    failures, rows = [], 0
    for source in section.sources:
        for row, messages in _conversations(source):
            rows += 1
            if isinstance(messages, Unusable):
                failures.append(Failure(stage="prompts", id=row.place, reason=messages.reason, detail=messages.detail))
                continue
            prompt = Prompt.of(messages, tags_of(row, source))
            known = found.get(prompt.id)
            tags = (*known.tags, *prompt.tags) if known else prompt.tags
            found[prompt.id] = Prompt.of(messages, tuple(dict.fromkeys(tags)))

    check_share("prompts", len(failures), rows, failures, "prompts.max_failures", section.max_failures)
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


def _conversations(source: DataSource) -> Iterator[tuple[SourceRow, Messages | Unusable]]:
    path = resolve("prompts/sets", source.path) if isinstance(source, FileSource) else None
    for row in read_rows(source, path):
        if isinstance(source, FileSource):
            keys = [key for key in PROMPT_KEYS if key in row.value]
            if not keys:
                near = did_you_mean("prompt", row.value)
                raise DataError(f"{row.place}: no key 'prompt', 'messages' or 'chosen'{near}")
        else:
            keys = [source.column]
            row.require(source.column)
        try:
            yield row, _conversation(row, keys)
        except Unusable as unusable:
            yield row, unusable


def _conversation(row: SourceRow, keys: Sequence[str]) -> Messages:
    """The prompt under the first of these keys that has one, after the system turn of the row, wherever that stands."""
    given = [key for key in keys if row.value[key] is not None] or keys
    messages = _under(row, given[0])
    for key in given[1:]:
        beside = row.value[key]
        first = beside[0] if isinstance(beside, list) and beside else None
        if isinstance(first, dict) and first.get("role") in ("system", "developer"):
            messages = after_turn(message_list(first, row.place, key)[0].content, messages)
    return after_system(row, messages)


def _under(row: SourceRow, key: str) -> Messages:
    value = row.value[key]
    if key == "chosen" and isinstance(value, str):
        return prompt_part(parse_transcript(value))
    if key in ("messages", "chosen"):
        return prompt_part(message_list(value, row.place, key))
    return prompt_value(value, row.place, key)


class DemonstrationText(NamedTuple):
    """A prompt and a response to imitate; one that a token limit cut off is not `finished`."""

    prompt: Prompt
    text: str
    finished: bool = True


class _Marks(BaseModel):
    """What a row may say besides; other columns are nobody's business here."""

    model_config = ConfigDict(extra="ignore", strict=True)

    prompt_id: str | None = None
    finished: bool = True


def read_demonstrations(source: FileSource, system: str | None) -> Iterator[DemonstrationText]:
    """The rows of a JSONL file: `prompt` and `completion`, each a text or a message list (as TRL has them).

    Also our own demonstrations.jsonl. `finished: false` marks a completion that was cut off. `system` goes before
    every prompt without a system turn. Raises DataError, naming file and line, for any other row.
    """
    for row in read_rows(source):
        row.require("prompt", "completion")
        try:
            messages = after_system(row, prompt_value(row.value["prompt"], row.place, "prompt"))
            marks = _Marks.model_validate(row.value)
        except Unusable as unusable:
            raise DataError(f"{row.place}: prompt: {unusable} ({unusable.detail})") from None
        except ValidationError as error:
            raise DataError(f"{row.place}: {first_problem(error)}") from None
        prompt = Prompt.of(messages, source.tags)
        if marks.prompt_id is not None:
            prompt = prompt.model_copy(update={"id": marks.prompt_id})
        yield DemonstrationText(with_system(prompt, system), _completion(row), marks.finished)


def _completion(row: SourceRow) -> str:
    value: Any = row.value["completion"]
    if isinstance(value, str):
        text = value
    else:
        try:
            turns = message_list(value, row.place, "completion")
        except Unusable as unusable:
            raise DataError(f"{row.place}: completion: {unusable} ({unusable.detail})") from None
        if len(turns) != 1 or turns[0].role != "assistant":
            roles = ", ".join(turn.role for turn in turns) or "nothing"
            raise DataError(f"{row.place}: completion: must be a text or one assistant turn (got {roles})")
        text = turns[0].content
    if not text.strip():
        raise DataError(f"{row.place}: completion: blank; there is nothing to imitate")
    return text.strip()


def ask_judge(
    model: Engine,
    prompts: Sequence[Prompt],
    data: JudgeDemonstrations,
    seed: int,
    progress: Progress | None = None,
) -> SampleResult:
    """The judge's own answer to each prompt. An error or a blank answer is a failure, never a demonstration."""
    # Not validated: a judge may answer greedily, a policy that is sampled may not.
    section = SampleSection.model_construct(temperature=data.temperature, top_p=1.0, max_tokens=data.max_tokens)
    result = sample_responses(model, prompts, section, seed, "optimise", progress, n=1)
    blank = [r for r in result.responses if not r.text]
    failures = [Failure(stage="optimise", id=r.prompt_id, reason="empty reply", detail=r.model) for r in blank]
    return result._replace(
        responses=tuple(r for r in result.responses if r.text), failures=(*result.failures, *failures)
    )
