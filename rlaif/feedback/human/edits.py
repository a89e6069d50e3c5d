"""What a person made of a response: the edited text over the original, the difference, and a demonstration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rlaif.config.human import Edits
from rlaif.feedback.human.sheet import Said, Sheet, require, response_text, said_by
from rlaif.feedback.messages import Unusable
from rlaif.feedback.sources import SourceRow
from rlaif.records import Demonstration, Edit, Message, Prompt


def read_edits(rows: Iterable[SourceRow], form: Edits, sheet: Sheet) -> None:
    """`prompt`, `original`, `edited`."""
    for row in rows:
        require(row, form.kind, "prompt", "original", "edited")
        with sheet.attempt(row.place):
            original, edited = response_text(row, "original"), response_text(row, "edited")
            keep_edit(sheet.prompt(row, "prompt"), original, edited, said_by(row), sheet)


def keep_edit(prompt: Prompt, original: str, edited: str, said: Said, sheet: Sheet) -> None:
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
