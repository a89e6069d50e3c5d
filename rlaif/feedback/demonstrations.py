"""Demonstrations for supervised fine-tuning: rows of files, and answers of the judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from rlaif.config.feedback import SampleSection
from rlaif.config.optimise import JudgeDemonstrations
from rlaif.config.sources import FileSource
from rlaif.errors import DataError
from rlaif.feedback.sample import Progress, SampleResult, sample_responses
from rlaif.formats.messages import Unusable, message_list
from rlaif.formats.rows import SourceRow, after_system, prompt_value, read_rows, with_system
from rlaif.jsonl import first_problem
from rlaif.models.chat import ChatModel
from rlaif.records import Failure, Prompt


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
    model: ChatModel,
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
