"""Work that does not fit into memory: pairs are judged shard by shard, and results kept in a file. What is judged
beside an engine that is elsewhere comes back as lines."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Any

from rlaif.feedback.judge.result import JudgeResult
from rlaif.jsonl import Row, lines_of
from rlaif.models.engine import Engine
from rlaif.records import Judgment, Pair, Score

SHARD = 2000
"""Pairs that are judged at a time."""
PIECE = 5
"""Pairs whose results are handed on, and written, at a time. The fewer results stay in memory, the less Python's
collector goes through: a tenth more pairs per second than with 20."""


def shards(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """The pairs in order, about `size` at a time, all pairs of a prompt together."""
    last = {pair.prompt_id: place for place, pair in enumerate(pairs)} if isinstance(pairs, Sequence) else {}
    shard: list[Pair] = []
    open_until = -1
    for place, pair in enumerate(pairs):
        if len(shard) >= size and pair.prompt_id != shard[-1].prompt_id and place > open_until:
            yield shard
            shard = []
        shard.append(pair)
        open_until = max(open_until, last.get(pair.prompt_id, -1))
    if shard:
        yield shard


class Spool(Iterable[JudgeResult]):
    """Results to be gone through again: the first in memory, the others in a file."""

    def __init__(self, results: Iterator[JudgeResult], file: IO[bytes]) -> None:
        self._first = list(islice(results, 1))
        self._file = file
        self._more = 0
        for result in results:
            pickle.dump(result, self._file)
            self._more += 1

    def __iter__(self) -> Iterator[JudgeResult]:
        yield from self._first
        self._file.seek(0)
        for _ in range(self._more):
            yield pickle.load(self._file)


class WrittenRows(Sequence[Row]):
    """Rows of one kind as their lines, which become records when they are looked at."""

    def __init__(self, kind: type[Row], rows: Sequence[Row]) -> None:
        self.lines = lines_of(rows)
        self._kind, self._number = kind, len(rows)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, place: Any) -> Any:
        return list(self)[place]

    def __iter__(self) -> Iterator[Row]:
        return (self._kind.model_validate_json(line) for line in self.lines.split(b"\n")[:-1])


def written(judge: Callable[..., JudgeResult], model: Engine, pairs: Sequence[Pair]) -> JudgeResult:
    """What `judge` says; of what there is most of, the lines alone."""
    found = judge(model, pairs)
    judgments = WrittenRows(Judgment, found.judgments)
    return found._replace(judgments=judgments, scores=WrittenRows(Score, found.scores))
