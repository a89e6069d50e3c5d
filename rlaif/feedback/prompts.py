"""The prompts of a run, read from its sources and split once into training and held-out prompts; and the rows of a file
of demonstrations.

Membership of the held-out set hangs on the hash of the prompt alone, so sorting a file or adding a duplicate
moves nothing. Next: `rlaif/formats/rows.py` for the row formats, `sample.py` for what is done with prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from rlaif.config.feedback import PromptsSection
from rlaif.config.sources import DataSource, FileSource
from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.failures import check_share, told
from rlaif.feedback.screening import Placed, Screening, for_training, screened
from rlaif.feedback.screening.duplicates import overlaps
from rlaif.formats.given import prompt_from
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
    with_system,
)
from rlaif.formats.sheet import response_text
from rlaif.jsonl import first_problem
from rlaif.records import Failure, Messages, Prompt, content_id
from rlaif.resources import resolve

PROMPT_KEYS = ("prompt", "messages", "chosen")


class PromptSplit(NamedTuple):
    """Both parts in the order of the sources. `failures` are rows that hold none: blank, a tool's turn, a picture."""

    train: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    failures: tuple[Failure, ...] = ()
    dropped: tuple[Failure, ...] = ()
    """By `prompts.filters`."""
    masked: tuple[tuple[str, int], ...] = ()
    """Pieces of personal data by kind, masked by `prompts.filters`."""
    repeats: int = 0
    """Rows whose conversation an earlier row has too."""


def read_prompts(section: PromptsSection) -> PromptSplit:
    """All prompts, one per conversation (tags of repeats are joined), split by the hash of the prompt.

    The `section.heldout` prompts with the smallest hashes are held out; `section.limit` then keeps the
    training prompts that follow them in hash order. `section.filters` drop rows before, and training prompts between.
    Raises ConfigError when nothing would be left to train on, DataError for a row of the wrong shape, and for more
    rows without a prompt than `section.max_failures`.
    """
    found, failures, rows = _different(section.sources, "prompts")
    check_share("prompts", len(failures), rows, failures, "prompts.max_failures", section.max_failures)
    filters = section.filters
    every = tuple(found.values())
    kept = Screening(every) if filters is None else screened(filters, every)
    if len(kept.kept) <= section.heldout:
        left = f" that prompts.filters keep ({told(kept.dropped)})" if kept.dropped else ""
        if not kept.kept:
            names = ", ".join(s.path if isinstance(s, FileSource) else s.dataset for s in section.sources)
            raise ConfigError(f"prompts: no prompts{left} in {names}{f': {told(failures)}' if failures else ''}")
        raise ConfigError(
            f"prompts.heldout: {section.heldout} prompts are to be held out, but the sources have only "
            f"{len(kept.kept)} different ones{left} and training needs some; lower prompts.heldout or add prompts"
        )
    by_hash = sorted(kept.kept, key=lambda row: content_id("heldout", row.prompt.id))
    heldout, free = by_hash[: section.heldout], Screening(tuple(by_hash[section.heldout :]))
    if filters is not None:
        against = [] if filters.decontaminate is None else _texts(filters.decontaminate.against)
        free = for_training(filters, free.kept, (*(row.prompt.messages for row in heldout), *against))
        if not free.kept:
            raise ConfigError(f"prompts.filters: nothing is left to train on: {told(free.dropped)}")
    heldout_ids, train_ids = ({row.prompt.id for row in rows} for rows in (heldout, free.kept[: section.limit]))
    prompts = [with_system(row.prompt, section.system) for row in kept.kept]
    return PromptSplit(
        train=tuple(prompt for prompt in prompts if prompt.id in train_ids),
        heldout=tuple(prompt for prompt in prompts if prompt.id in heldout_ids),
        failures=tuple(failures),
        dropped=(*kept.dropped, *free.dropped),
        masked=kept.masked,
        repeats=rows - len(failures) - len(found),
    )


def read_set(source: FileSource, section: PromptsSection) -> tuple[list[Prompt], int, list[Failure]]:
    """The different prompts of a file that `section` neither trains on nor holds out; how many it does, and the rows
    that hold none."""
    split = read_prompts(section)
    known = {prompt.id for prompt in (*split.train, *split.heldout)}
    found, failures, _ = _different((source,), "evaluate")
    left = [with_system(row.prompt, section.system) for row in found.values() if row.prompt.id not in known]
    return left, len(found) - len(left), failures


def _different(sources: Sequence[DataSource], stage: str) -> tuple[dict[str, Placed], list[Failure], int]:
    """The different prompts by id, tags of repeats joined; the rows that hold none; how many rows there are."""
    found: dict[str, Placed] = {}
    failures, rows = [], 0
    for source in sources:
        for row, messages in _conversations(source):
            rows += 1
            if isinstance(messages, Unusable):
                failures.append(Failure(stage=stage, id=row.place, reason=messages.reason, detail=messages.detail))
                continue
            prompt = prompt_from(row, messages, source)
            known = found.get(prompt.id)
            found[prompt.id] = Placed(joined(known and known.prompt, prompt), known.place if known else row.place)
    return found, failures, rows


def joined(known: Prompt | None, prompt: Prompt) -> Prompt:
    """The prompt with the tags of the one that is known already, if one is, before its own."""
    tags = (*known.tags, *prompt.tags) if known else prompt.tags
    return prompt.model_copy(update={"tags": tuple(dict.fromkeys(tags))})


def not_to_train_on(section: PromptsSection, split: PromptSplit, asked: Mapping[str, Messages]) -> set[str]:
    """The ids of the held-out prompts, and those of `asked` that overlap with one, as `filters.decontaminate` says."""
    heldout = {prompt.id for prompt in split.heldout}
    rule = section.filters.decontaminate if section.filters else None
    if rule is None:
        return heldout
    against = (*(prompt.messages for prompt in split.heldout), *_texts(rule.against))
    ids = list(asked)
    return heldout | {ids[place] for place in overlaps(list(asked.values()), against, rule)}


def _texts(sources: Sequence[DataSource]) -> Iterator[Messages]:
    """The conversations of other sets; a row that holds none overlaps with nothing."""
    for source in sources:
        yield from (messages for _, messages in _conversations(source) if not isinstance(messages, Unusable))


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


def read_demonstrations(
    source: FileSource, system: str | None, max_failures: float = 1.0
) -> tuple[list[DemonstrationText], list[Failure]]:
    """The rows of a JSONL file: `prompt` and `completion`, each a text or a message list (as TRL has them); and those
    that hold nothing to imitate: a tool's turn or call, a blank text.

    Also our own demonstrations.jsonl. `finished: false` marks a completion that was cut off. `system` goes before
    every prompt without a system turn. Raises DataError for a row of another shape, naming file and line, and for more
    rows that cannot be used than `max_failures`.
    """
    shown: list[DemonstrationText] = []
    failures: list[Failure] = []
    for row in read_rows(source):
        row.require("prompt", "completion")
        try:
            messages = after_system(row, prompt_value(row.value["prompt"], row.place, "prompt"))
            text = response_text(row, "completion")
            marks = _Marks.model_validate(row.value)
        except Unusable as bad:
            failures.append(Failure(stage="optimise", id=row.place, reason=bad.reason, detail=bad.detail))
            continue
        except ValidationError as error:
            raise DataError(f"{row.place}: {first_problem(error)}") from None
        prompt = Prompt.of(messages, source.tags)
        if marks.prompt_id is not None:
            prompt = prompt.model_copy(update={"id": marks.prompt_id})
        shown.append(DemonstrationText(with_system(prompt, system), text, marks.finished))
    rows = len(shown) + len(failures)
    check_share("demonstrations", len(failures), rows, failures, "prompts.max_failures", max_failures)
    if rows and not shown:
        raise DataError(f"{source.path}: nothing to imitate: {told(failures)}")
    return shown, failures
