"""judge.json, beside the weights of a trained judge: what it came from, and which prompts it must not be audited on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from rlaif.audits.judge_training.split import prompt_key
from rlaif.config import Recipe
from rlaif.config.judging import Mode, PanelMode
from rlaif.config.models import JudgeModel, LocalModel, VllmModel
from rlaif.errors import DataError
from rlaif.jsonl import read_json
from rlaif.records import Pair

Number = Annotated[int, Field(ge=0)]
FILE = "judge.json"
SCHEMA = "rlaif/trained-judge/v1"


class EpochRecord(TypedDict):
    """How the judge did on held-out labels, before the first epoch or after one."""

    agreement: float
    loss: float
    failed: Number


class JudgeTrainRecord(TypedDict):
    """As much of the file as is read back."""

    schema: str
    subject: str
    prompts: list[str]
    best_epoch: Number
    epochs: list[EpochRecord]
    heldout: Number
    audit: dict[str, Any] | None
    confidence: float


RECORD: TypeAdapter[Any] = TypeAdapter(JudgeTrainRecord)


def read_record(folder: Path) -> dict[str, Any] | None:
    """What judge.json in a model's folder says; None where there is none. DataError for one that is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path, RECORD)
    if record["schema"] != SCHEMA:
        raise DataError(f"{path}: schema: must be {SCHEMA} (got {record['schema']!r})")
    return record


def prompts_of(judge: JudgeModel) -> frozenset[str]:
    """The prompts, by `prompt_key`, that trained or chose this judge; none of a model that was not trained here."""
    if not isinstance(judge, LocalModel | VllmModel):
        return frozenset()
    record = read_record(Path(os.path.expanduser(judge.model)))
    return frozenset(record["prompts"]) if record else frozenset()


def refuse_seen(recipe: Recipe, pairs: Iterable[Pair], modes: Sequence[Mode] = ()) -> None:
    """DataError where the recipe's judge, or a panel's (also of these modes), was trained on prompts of these pairs: it
    knows the answers."""
    pairs = list(pairs)
    for judge in _judges(recipe, modes):
        seen = prompts_of(judge)
        shared = [pair for pair in pairs if prompt_key(pair.prompt) in seen]
        if shared:
            count = len({prompt_key(pair.prompt) for pair in shared})
            raise DataError(
                f"gold: {judge.model} was trained on {count} of its prompts (first: {shared[0].prompt_id}, pair "
                f"{shared[0].id}), as its {FILE} says; measure it on other prompts"
            )


def _judges(recipe: Recipe, modes: Sequence[Mode]) -> Iterator[JudgeModel]:
    yield recipe.judge
    for mode in (recipe.label.mode, *modes):
        if isinstance(mode, PanelMode):
            yield from (member.model for member in mode.members if member.model is not None)
