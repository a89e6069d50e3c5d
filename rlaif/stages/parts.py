"""Labels in parts: each is on disk for good when it is whole, and a stage that was killed goes on after the last one.

While the stage works, a part is a folder in `checkpoints/label` with the files of a label stage and, written last, what
it cost. At the end the judgments become `judgments/part-*.jsonl`, and the other rows one file of each kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from rlaif.config.feedback import LabelSection
from rlaif.feedback.judge import JudgeResult
from rlaif.feedback.judge.result import Cost, FailureCount, Piece
from rlaif.files import remove
from rlaif.jsonl import RowWriter, read_json, read_jsonl, write_json
from rlaif.records import Failure
from rlaif.run_folder import Run
from rlaif.stages.due import copy_file
from rlaif.stages.labels import Again, LabelRows
from rlaif.stages.stage import publishing

T = TypeVar("T")
DONE = TypeAdapter(dict[str, int])


class LabelParts(LabelRows):
    """The rows in parts. What is done already counts from the beginning."""

    def __init__(self, run: Run, stack: ExitStack, pairs: int) -> None:
        self._run, self._pairs = run, pairs
        self._names = [path.name for path in (run.failures, *run.evidence, run.one_judgments)]
        self._files: dict[str, RowWriter] = {}
        """Of the part that is under way."""
        self.done = self.parts = 0
        """Pairs, and parts, that are whole."""
        self.judged = 0
        self.cost, self.failures = Cost(), FailureCount()
        while (mark := self._path("done.json")).exists():
            part = read_json(mark, DONE)
            self.done, self.judged = self.done + part.pop("pairs"), self.judged + part.pop("judged")
            self.cost = self.cost.plus(Cost(**part))
            self.failures.add(read_jsonl(self._path(run.failures.name), Failure))
            self.parts += 1
        self._begin()
        stack.callback(self._begin)  # leaves no half part behind

    def _begin(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {name.removesuffix(".jsonl"): RowWriter(self._path(name)) for name in self._names}
        self._part = Counter({"judged": 0, **Cost()._asdict()})
        self._failed: set[str] = set()

    def _path(self, name: str, part: int | None = None) -> Path:
        return self._run.checkpoints / "label" / f"{self.parts if part is None else part:05}" / name

    def add(self, result: JudgeResult) -> None:
        """What one shard gave. A part ends with a shard: what is asked together stays together."""
        super().add(result)
        self._part.update({"judged": len(result.judgments), **result.cost._asdict()})
        self._failed |= {failure.id for failure in result.failures}
        if not isinstance(result, Piece) and self._pairs_here() >= self._pairs:
            self._end()

    def _pairs_here(self) -> int:
        return self._part["judged"] + len(self._failed)

    def _end(self) -> None:
        for file in self._files.values():
            file.finish()
        mark = {"pairs": self._pairs_here(), **self._part}
        write_json(self._path("done.json"), mark)
        self.done, self.parts = self.done + mark["pairs"], self.parts + 1
        self._begin()

    def finish(self, asked: int, section: LabelSection) -> None:
        """As `LabelRows.finish`."""
        if self._pairs_here() or not self.parts:
            self._end()
        self._join(self._run.failures)
        self.failures.check(asked, section)
        for path in self._run.evidence:
            self._join(path)
        with publishing(self._run.judgment_parts) as folder:
            folder.mkdir(parents=True)
            for part in range(self.parts):
                copy_file(self._path(self._run.one_judgments.name, part), folder / f"part-{part:05}.jsonl")
        remove(self._run.one_judgments)

    def _join(self, path: Path) -> None:
        """The rows of all parts in one file; of evidence that there is none of, no file."""
        files = [self._path(path.name, part) for part in range(self.parts)]
        if path != self._run.failures and not any(file.stat().st_size for file in files):
            return
        with closing(RowWriter(path)) as joined:
            for file in files:
                with file.open("rb") as rows:
                    while data := rows.read(2**20):
                        joined.append(data)
            joined.finish()


def after(items: Iterable[T], done: int) -> Iterable[T]:
    """The items without the first so many; again something to be gone through several times."""
    if isinstance(items, Sequence):
        return items[done:]
    return Again(lambda: islice(iter(items), done, None))
