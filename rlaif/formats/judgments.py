"""Our own records of what people said: judgments, and the edits of the annotation page. Also edits as other files have
them: the edited text over the original, the difference, and a demonstration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

from pydantic import ValidationError

from rlaif.formats.format import Format
from rlaif.formats.rows import SourceRow, Unusable
from rlaif.formats.sheet import Attribution, Sheet, response_text, said_by
from rlaif.jsonl import first_problem
from rlaif.records import Demonstration, Edit, Judgment, Message, Pair, Prompt, oriented, prompt_of


class Judgments(Format):
    """Our own records of what people said: annotations.jsonl, or the human rows of a judgments.jsonl."""

    kind: Literal["judgments"] = "judgments"
    KEYS = ({"pair", "p_a"},)

    def read(self, rows: Iterable[SourceRow], sheet: Sheet) -> None:
        """The judgments as they are, oriented by hash. A judge's is no human label: it is a failure, or is kept as it
        is where the sheet takes judges, too."""
        for row in rows:
            self.require(row, "pair", "p_a")
            with sheet.attempt(row.place):
                judgment = row.record(Judgment)
                if judgment.source == "ai":
                    if not sheet.judges:
                        raise Unusable("labelled by a judge, not by a human")
                    sheet.data.judgments.append(judgment)
                    continue
                if judgment.pair.a == judgment.pair.b:
                    raise Unusable("a and b are the same text", judgment.pair.a)
                pair = judgment.pair
                prompt = _prompt(pair, sheet)
                turned = oriented(prompt, pair.a, pair.b)
                judgment = judgment.model_copy(update={"pair": Pair.of(prompt, pair.a, pair.b)})
                sheet.data.judgments.append(judgment if turned.a == pair.a else _flipped(judgment))


def read_own_edits(rows: Iterable[SourceRow], sheet: Sheet) -> None:
    """Edits as judgments and demonstrations."""
    for row in rows:
        with sheet.attempt(row.place):
            edit = row.record(Edit)
            keep_edit(_prompt(edit, sheet), edit.original, edit.edited, Attribution(edit.annotator), sheet)


def _prompt(record: Pair | Edit, sheet: Sheet) -> Prompt:
    """Under the id that the record gives it: of the bare prompt, also where a system turn stands before it."""
    tags = tuple(dict.fromkeys([*record.tags, *sheet.source.tags]))
    try:
        return sheet.addressed(prompt_of(record).model_copy(update={"tags": tags}))
    except ValidationError as error:
        raise Unusable("the prompt is none", first_problem(error)) from None


def _flipped(judgment: Judgment) -> Judgment:
    """The same judgment with a and b exchanged."""
    answer = judgment.answer
    if answer is not None and answer.shown_first is not None:
        answer = answer.model_copy(update={"shown_first": "b" if answer.shown_first == "a" else "a"})
    principles = tuple(one.model_copy(update={"p_a": 1 - one.p_a}) for one in judgment.principles)
    return judgment.model_copy(
        update={"pair": judgment.pair.swapped(), "p_a": 1 - judgment.p_a, "principles": principles, "answer": answer}
    )


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
    sheet.data.demonstrations.append(
        Demonstration(
            prompt=edit.prompt,
            completion=(Message(role="assistant", content=edited),),
            source="human",
            prompt_id=edit.prompt_id,
            round=0,
            tags=edit.tags,
        )
    )


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
