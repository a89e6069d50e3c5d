"""The files that answers.sqlite becomes, which the stage `pairs` reads: annotations.jsonl, annotation_edits.jsonl, and
annotation_thumbs.jsonl where a served policy was given any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from rlaif.annotate.store import AnswerStore, PageAnswer, Thumb
from rlaif.formats.judgments import edit_of
from rlaif.jsonl import dumps, write_atomic
from rlaif.records import Answer, Edit, Judgment, Pair, PrincipleJudgment, Record, content_id, plain, prompt_of
from rlaif.run_folder import Run

PUBLISH_LOCK_S = 60.0
P_A = {"a": 1.0, "tie": 0.5, "b": 0.0}


class Labels(NamedTuple):
    """What people said, in an order that does not depend on when they said it."""

    judgments: list[Judgment]
    edits: list[Edit]
    thumbs: list[Thumb]
    ids: tuple[str, ...]
    """Of everything that is in these and was not known."""


class Publication(NamedTuple):
    """What lies in the run folder now."""

    answers: int
    annotators: int
    edits: int


def publish(run: Run) -> Publication:
    """Bring these files of the run up to date with answers.sqlite, if there is one.

    The same answers make the same bytes, whatever the order in which they were given, and nothing is written where
    nothing changed. Answers that were taken back, and skipped pairs, are left out; answers to gold questions are not:
    they test annotators. May be called at any time, also while the page is served.
    """
    if not run.answers.exists():
        return Publication(0, 0, 0)
    # Server and pipeline may both come here, and an atomic write is for one writer at a time.
    with FileLock(run.folder / ".publish.lock", timeout=PUBLISH_LOCK_S):
        labels = labels_of(run)
        write_labels(run, labels)
    people = {judgment.annotator for judgment in labels.judgments}
    return Publication(len(labels.judgments), len(people), len(labels.edits))


def labels_of(run: Run, known: Collection[str] = ()) -> Labels:
    """What the run's answers.sqlite holds, less what has one of these ids.

    A thumb says something beside others: those that its annotator gave on its prompt stay, known or not.
    """
    with closing(AnswerStore(run.answers)) as store:
        standing, pairs = store.standing(), store.pairs()  # in this order: no answer without its pair
        edited, thumbed, compared = store.kept("edit"), store.kept("thumb"), store.kept("pair")
    fresh = [answer for answer in standing if answer.choice != "skip" and answer.id not in known]
    fresh.sort(key=lambda answer: (answer.pair_id, answer.annotator))
    edits = [edit for answer in fresh if (edit := _edit(pairs[answer.pair_id], answer))]
    rows = {identity: row for identity, row in edited if identity not in known}
    edits += [Edit.model_validate_json(row) for row in sorted(set(rows.values()))]
    thumbs = {identity: Thumb.model_validate_json(row) for identity, row in thumbed}
    new = {_beside(thumb) for identity, thumb in thumbs.items() if identity not in known}
    latest = {(_beside(thumb), thumb.completion): thumb for thumb in thumbs.values() if _beside(thumb) in new}
    said = {identity: Judgment.model_validate_json(row) for identity, row in compared if identity not in known}
    judgments = {(one.pair.id, one.annotator): one for one in said.values()}
    return Labels(
        judgments=[
            *(_judgment(pairs[answer.pair_id], answer) for answer in fresh),
            *(judgments[key] for key in sorted(judgments)),
        ],
        edits=edits,
        thumbs=[latest[key] for key in sorted(latest)],
        ids=tuple(sorted({*(answer.id for answer in fresh), *rows, *said, *(thumbs.keys() - set(known))})),
    )


def write_labels(run: Run, labels: Labels) -> None:
    """Make these the labels of the run's page."""
    _write_changed(run.annotations, labels.judgments)
    _write_changed(run.annotation_edits, labels.edits)
    _write_changed(run.annotation_thumbs, labels.thumbs)


def _beside(thumb: Thumb) -> tuple[str, str]:
    return content_id(plain(thumb.prompt)), thumb.annotator


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
