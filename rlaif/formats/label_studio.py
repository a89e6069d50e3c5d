"""Label Studio's JSON export of a `<Pairwise>` control. Every annotation is one person's.

A task may have been skipped (`was_cancelled`) or wait for its first annotation; the left response is what stood first.
Predictions are labels of judges, read where somebody asks for those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from rlaif.errors import DataError
from rlaif.formats.argilla import AGENT, SOMETHING
from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow, Unusable, tags_of
from rlaif.formats.sheet import Attribution, Sheet, as_number, name_of, response_text
from rlaif.records import Prompt


class LabelStudio(Format):
    """Label Studio's JSON export of a `<Pairwise>` control."""

    kind: Literal["label_studio"] = "label_studio"
    KEYS = ({"data", "annotations"},)
    prompt: str = "prompt"
    """The data field of the prompt."""
    left: str = "text1"
    """The data field of the response on the left."""
    right: str = "text2"
    """The data field of the response on the right."""
    judges: bool = Field(default=False, exclude_if=lambda on: not on)  # else older runs would be out of date
    """Whether predictions count, too, as labels of the judge that their `model_version` names."""

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """A judgment for each annotation, and where judges count each prediction, with a selected side."""
        for row in rows:
            self.require(row, "data", "annotations")
            data, annotations = row.value["data"], row.value["annotations"]
            if not isinstance(data, dict) or not isinstance(annotations, list):
                raise DataError(
                    f"{row.place}: data must be an object and annotations a list, as in Label Studio's JSON"
                )
            fields = SourceRow(f"{row.place}: data", data)
            fields.require(self.prompt, self.left, self.right)
            predictions = row.value.get("predictions")
            predictions = predictions if isinstance(predictions, list) else []
            if not annotations and not (predictions and (self.judges or sheet.judges)):
                sheet.tally("unanswered")
                sheet.tally("suggested", bool(predictions))
                continue
            with sheet.attempt(row.place):
                prompt = sheet.prompt(fields, self.prompt)
                prompt = prompt.model_copy(update={"tags": tags_of(row, sheet.source)})
                texts = response_text(fields, self.left), response_text(fields, self.right)
                for number, annotation in enumerate(annotations, start=1):
                    place = f"{row.place} annotation {number}"
                    with sheet.attempt(place):
                        _label(prompt, texts, annotation, place, sheet, data)
                for number, prediction in enumerate(predictions if self.judges or sheet.judges else [], start=1):
                    place = f"{row.place} prediction {number}"
                    with sheet.attempt(place):
                        _predict(prompt, texts, prediction, place, sheet, data)


def _predict(
    prompt: Prompt, texts: tuple[str, str], prediction: Any, place: str, sheet: Sheet, data: Mapping[str, Any]
) -> None:
    """A judge's label. How sure one of our own export is, the task says; what another's score means is not known."""
    if not isinstance(prediction, dict):
        raise DataError(f"{place}: must be an object (got {prediction!r})")
    judge = prediction.get("model_version") or SOMETHING
    p = data.get("p_chosen") if judge == AGENT else None
    p = 1.0 if p is None else as_number(p, place, "data.p_chosen", 0.5, 1)
    said = Attribution(name_of(judge, place, "model_version"), source="ai")
    sheet.label(prompt, *texts, p if _selected(prediction, place) == "left" else 1 - p, said)


def _label(
    prompt: Prompt, texts: tuple[str, str], annotation: Any, place: str, sheet: Sheet, data: Mapping[str, Any]
) -> None:
    if not isinstance(annotation, dict):
        raise DataError(f"{place}: must be an object (got {annotation!r})")
    if annotation.get("was_cancelled"):
        sheet.tally("cancelled")
        return
    side = _selected(annotation, place)
    seconds = annotation.get("lead_time")
    said = Attribution(
        annotator=_annotator(annotation.get("completed_by"), place),
        seconds=None if seconds is None else as_number(seconds, place, "lead_time", low=0),
        shown_first=texts[0],
    )
    # Nobody's answer is one of our own export, whose task says how sure it is.
    p = data.get("p_chosen") if annotation.get("completed_by") is None else None
    p = 1.0 if p is None else as_number(p, place, "data.p_chosen", 0.5, 1)
    sheet.label(prompt, *texts, p if side == "left" else 1 - p, said)


def _selected(annotation: Mapping[str, Any], place: str) -> str:
    """`left` or `right`. Unusable without either, and with both (two Pairwise controls)."""
    result = annotation.get("result") or []
    if not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
        raise DataError(f"{place}: result: must be a list of objects")
    values = [item.get("value") for item in result if item.get("type") == "pairwise"]
    selected = [value.get("selected") for value in values if isinstance(value, dict)]
    sides = [side for side in ("left", "right") if side in selected]
    if len(sides) != 1:
        raise Unusable("both sides are selected" if sides else "no side is selected")
    return sides[0]


def _annotator(value: Any, place: str) -> str:
    """A user's number; some exports give the user as an object."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return name_of(value, place, "completed_by")
