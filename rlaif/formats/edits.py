"""What a person made of a response: the edited text over the original, the difference, and a demonstration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

from rlaif.formats.format import Format
from rlaif.formats.messages import Unusable
from rlaif.formats.rows import SourceRow
from rlaif.formats.sheet import Attribution, Sheet, response_text, said_by
from rlaif.records import Demonstration, Edit, Message, Prompt


class Edits(Format):
    """`prompt`, `original`, `edited`: the edited response is the better one, and a demonstration."""

    kind: Literal["edits"] = "edits"
    KEYS = ({"original", "edited"},)

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """`prompt`, `original`, `edited`."""
        for row in rows:
            self.require(row, "prompt", "original", "edited")
            with sheet.attempt(row.place):
                original, edited = response_text(row, "original"), response_text(row, "edited")
                keep_edit(sheet.prompt(row, "prompt"), original, edited, said_by(row), sheet)


def keep_edit(prompt: Prompt, original: str, edited: str, said: Attribution, sheet: Sheet) -> None:
    """All three records of one edit. Unusable if nothing was changed."""
    if original == edited:
        raise Unusable("the edit changed nothing", original)
    sheet.label(prompt, edited, original, 1.0, said)
    edit = edit_of(prompt, original, edited, said.annotator)
    sheet.data.edits.append(edit)
    sheet.data.demonstrations.append(demonstration_of(edit))


def edit_of(prompt: Prompt, original: str, edited: str, annotator: str) -> Edit:
    """The edit with its difference, line by line."""
    lines = difflib.unified_diff(original.split("\n"), edited.split("\n"), lineterm="")
    return Edit(
        prompt_id=prompt.id,
        prompt=prompt.messages,
        tags=prompt.tags,
        original=original,
        edited=edited,
        diff=tuple(lines)[2:],  # after two lines of file names
        annotator=annotator,
    )


def demonstration_of(edit: Edit) -> Demonstration:
    """The edited text as a row for supervised fine-tuning."""
    return Demonstration(
        prompt=edit.prompt,
        completion=(Message(role="assistant", content=edit.edited),),
        source="human",
        prompt_id=edit.prompt_id,
        round=0,
        tags=edit.tags,
    )
