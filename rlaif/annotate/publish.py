"""From answers.sqlite to annotations.jsonl and annotation_edits.jsonl, which the stage `pairs` reads.

The same answers make the same bytes, whatever the order in which they were given. Answers that were taken back, and
skipped pairs, are left out; answers to gold questions are not: they test annotators.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from rlaif.annotate.questions import prompt_of
from rlaif.annotate.store import AnswerStore, PageAnswer
from rlaif.formats.judgments import edit_of
from rlaif.jsonl import dumps, write_atomic
from rlaif.records import Answer, Edit, Judgment, Pair, PrincipleJudgment, Record
from rlaif.run_folder import Run

P_A = {"a": 1.0, "tie": 0.5, "b": 0.0}
LOCK_S = 60.0


class Publication(NamedTuple):
    """What lies in the run folder now."""

    answers: int
    annotators: int
    edits: int


def publish(run: Run) -> Publication:
    """Bring both files up to date with what people have answered; nothing is written where nothing changed.

    Without answers.sqlite nothing happens. May be called at any time, also while the page is served.
    """
    if not run.answers.exists():
        return Publication(0, 0, 0)
    # Server and pipeline may both come here, and an atomic write is for one writer at a time.
    with FileLock(run.folder / ".publish.lock", timeout=LOCK_S):
        store = AnswerStore(run.answers)
        try:
            pairs, standing = store.pairs(), store.standing()
        finally:
            store.close()
        labels = [answer for answer in standing if answer.choice != "skip"]
        labels.sort(key=lambda answer: (answer.pair_id, answer.annotator))
        judgments = [_judgment(pairs[answer.pair_id], answer) for answer in labels]
        edits = [edit for answer in labels if (edit := _edit(pairs[answer.pair_id], answer))]
        _write_changed(run.annotations, judgments)
        _write_changed(run.annotation_edits, edits)
    return Publication(len(judgments), len({answer.annotator for answer in labels}), len(edits))


def _judgment(pair: Pair, answer: PageAnswer) -> Judgment:
    return Judgment(
        pair=pair,
        source="human",
        annotator=answer.annotator,
        p_a=P_A[answer.choice],
        principles=tuple(
            PrincipleJudgment(principle=name, checked=False, p_a=P_A[side])
            for name, side in sorted(answer.principles.items())
        ),
        answer=Answer(shown_first=answer.shown_first, seconds=answer.seconds, reason=answer.reason),
    )


def _edit(pair: Pair, answer: PageAnswer) -> Edit | None:
    original = pair.a if answer.choice == "a" else pair.b
    if answer.edited is None or answer.edited == original:
        return None
    return edit_of(prompt_of(pair), original, answer.edited, answer.annotator)


def _write_changed(path: Path, rows: Iterable[Record]) -> None:
    data = "".join(dumps(row) + "\n" for row in rows).encode()
    if (path.read_bytes() if path.exists() else b"") != data:
        write_atomic(path, data)
