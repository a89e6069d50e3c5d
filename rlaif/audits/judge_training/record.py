"""judge.json, beside the weights of a trained judge: what it came from, which prompts it must not be audited on, and
what of it is printed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from rlaif import __version__
from rlaif.audits.judge_training import worth
from rlaif.audits.judge_training.labels import PairLabels, Split, decided, key_of, keys_of, prompt_key
from rlaif.audits.judge_training.material import JudgeTrainMaterial
from rlaif.audits.requirement import identity
from rlaif.config import Recipe
from rlaif.config.judging import Mode, PanelMode
from rlaif.config.models import JudgeModel, LocalModel, VllmModel, engine_of
from rlaif.console import say
from rlaif.constitution import Constitution
from rlaif.errors import DataError
from rlaif.jsonl import read_json
from rlaif.records import Pair, content_id
from rlaif.run_folder import versions
from rlaif.words import percent

if TYPE_CHECKING:
    from rlaif.training.judge.loop import JudgeTrainResult

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
    judge = engine_of(judge)
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


# ---------------------------------------------------------------------------------------------------------- making


def beginning(
    recipe: Recipe, constitution: Constitution, labels: PairLabels, apart: PairLabels | None
) -> dict[str, Any]:
    """Of judge.json what is known beforehand: what is trained, by what, from which labels."""
    sections = {"label", "judge_training", "compute", "evaluate", "seed"}
    about = {
        "recipe": recipe.name,
        "base": identity(recipe, constitution),
        "sections": recipe.model_dump(mode="json", include=sections),
        "gold": _labels(labels),
        "audit_gold": _labels(apart) if apart is not None else None,
        "rlaif": __version__,
    }
    return {"schema": SCHEMA, "subject": content_id(about), **about, "confidence": recipe.evaluate.confidence}


def _labels(labels: PairLabels) -> dict[str, Any]:
    return {
        "files": [file._asdict() for file in labels.files],
        "pairs": len(labels.labels),
        "unusable": len(labels.failures),
        "first_unusable": [f"{row.id}: {row.reason}" for row in labels.failures[:20]],
        "repeated": labels.repeated,
        "contradicted": labels.contradicted,
        "other_constitution": labels.other_constitution,
    }


def outcome(
    trained: JudgeTrainResult,
    material: JudgeTrainMaterial,
    parts: Split,
    judge: JudgeModel,
    audit: dict[str, Any] | None,
    **models: Any,
) -> dict[str, Any]:
    """Of judge.json what came of the training of this judge."""
    taught = [subject.label for subject in material.subjects]
    return {
        **models,
        "pairs": {"train": len(taught), "heldout": len(parts.heldout), "audit": len(parts.audit)},
        "left_out": dict(sorted(material.dropped.items())),
        "steps": trained.steps,
        "epochs": [seen._asdict() for seen in trained.epochs],
        "best_epoch": trained.best,
        "heldout": len(decided(parts.heldout)),
        "audit": audit,
        "versions": versions(),
        "prompts": sorted({key_of(label) for label in (*taught, *parts.heldout)} | prompts_of(judge)),
    }


def say_counts(labels: PairLabels, apart: PairLabels | None, parts: Split) -> None:
    """How many labels there are, and for what."""
    for name, some in (("gold", labels), ("audit", apart)):
        if some is None:
            continue
        counts = {
            "rows without a usable label": len(some.failures),
            "rows about a pair that has a label": some.repeated,
            "pairs labelled both ways": some.contradicted,
            "judgments by another constitution, used as a whole": some.other_constitution,
        }
        said = "".join(f", {what} {count}" for what, count in counts.items() if count)
        first = f" (first: {some.failures[0].id}: {some.failures[0].reason})" if some.failures else ""
        say(f"{name}: {len(some.labels)} labelled pairs{said}{first}")
    uses = zip(("train", "say when to stop", "audit"), parts, strict=True)
    shares = [f"{len(part)} of {len(keys_of(part))} prompts {use}" for use, part in uses if part]
    say(f"pairs: {', '.join(shares)}")


def lines(record: Mapping[str, Any], target: Path) -> list[str]:
    """What to print in the end."""
    epochs, best, count = record["epochs"], record["best_epoch"], record["heldout"]
    untrained = percent(epochs[0]["agreement"])
    if not best:
        return [
            f"No epoch agreed more with the held-out labels of {count} pairs than the untrained judge ({untrained}): "
            "no model was written; more labels, or another judge_training.learning_rate, may help"
        ]
    ends = f"After epoch {best} it agrees with {percent(epochs[best]['agreement'])} of the held-out labels"
    audited = worth.table(record["audit"], record["confidence"]) if record["audit"] else ["No audit: no labels for one"]
    return [
        *audited,
        f"{ends} of {count} pairs, by which that epoch was chosen; untrained with {untrained}",
        f"judge: {target} (judge.model={target}; {FILE} in it says what it came from)",
    ]
