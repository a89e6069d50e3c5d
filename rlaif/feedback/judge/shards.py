"""Work that does not fit into memory: pairs are judged shard by shard, and results kept in a file."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO

from rlaif.feedback.judge.result import JudgeResult
from rlaif.records import Pair

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
