"""Label Studio's JSON export of a `<Pairwise>` control: a list of tasks, each with the annotations of several people.

The left response is what stood first. A task may have been skipped (`was_cancelled`) or wait for its first annotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from rlaif.errors import DataError
from rlaif.formats.format import Format
from rlaif.formats.messages import Unusable
from rlaif.formats.rows import SourceRow, tags_of
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

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """A judgment for each annotation with a selected side."""
        for row in rows:
            self.require(row, "data", "annotations")
            data, annotations = row.value["data"], row.value["annotations"]
            if not isinstance(data, dict) or not isinstance(annotations, list):
                raise DataError(
                    f"{row.place}: data must be an object and annotations a list, as in Label Studio's JSON"
                )
            fields = SourceRow(f"{row.place}: data", data)
            fields.require(self.prompt, self.left, self.right)
            if not annotations:
                sheet.tally("unanswered")
                continue
            with sheet.attempt(row.place):
                prompt = sheet.prompt(fields, self.prompt)
                prompt = prompt.model_copy(update={"tags": tags_of(row, sheet.source)})
                texts = response_text(fields, self.left), response_text(fields, self.right)
                for number, annotation in enumerate(annotations, start=1):
                    place = f"{row.place} annotation {number}"
                    with sheet.attempt(place):
                        _label(prompt, texts, annotation, place, sheet)


def _label(prompt: Prompt, texts: tuple[str, str], annotation: Any, place: str, sheet: Sheet) -> None:
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
    sheet.label(prompt, *texts, float(side == "left"), said)


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
