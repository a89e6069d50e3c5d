"""Prompts that are nearly the same, and training prompts that overlap with held-out ones.

MinHash (Broder 1997) with banding finds candidates (datasketch); each is then compared exactly, so that what is
reported is true whatever the hashing. Next: `__init__.py` for what is done with them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, NamedTuple

from rlaif.config.filters import Decontaminate
from rlaif.records import Messages
from rlaif.signals import needs
from rlaif.signals.tally import TERMINALS, runs, words

SHINGLE = 5
"""Letters in a row: in a question of ten words, five words in a row would all change with two of them."""
PERMUTATIONS, SEED = 128, 1
_MARKS = re.compile(
    f"[{re.escape(''.join(sorted(TERMINALS)))}"
    r"""\s,;:'"()\[\]{}\u00a1\u00ab\u00bb\u00bf\u060c\u061b\u2018-\u201f\u3001\u3008-\u3011\uff08\uff09\uff0c\uff1a\uff1b]+"""
    r"|(?<=[^\W\d_])[*_`]+|[*_`]+(?=[^\W\d_])"
)
MISSED = 1e-3
"""Of pairs at the threshold, those that are no candidates."""
SHORTEST = 8
"""Words of a held-out text that counts whole inside another; GPT-3's lowest n."""


class Match(NamedTuple):
    """The earlier prompt, by its place in the order given, and how alike they are."""

    place: int
    jaccard: float


class Index:
    """Conversations that later ones are compared with. ConfigError where datasketch is not installed."""

    def __init__(self, threshold: float) -> None:
        needs("near-duplicates", ["datasketch"])
        import datasketch  # noqa: PLC0415 (an extra)

        self._minhash = datasketch.MinHash
        self.threshold = threshold
        self._lsh = datasketch.MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
        self._known: dict[int, Messages] = {}

    def closest(self, messages: Messages) -> Match | None:
        """The most alike of those that are alike enough, the earliest of several."""
        found = (Match(place, alike(messages, self._known[place])) for place in self._lsh.query(self._hash(messages)))
        close = [match for match in found if match.jaccard >= self.threshold - 1e-12]
        return min(close, key=lambda match: (-match.jaccard, match.place)) if close else None

    def add(self, place: int, messages: Messages) -> None:
        """Under this place."""
        self._lsh.insert(place, self._hash(messages))
        self._known[place] = messages

    def _hash(self, messages: Messages) -> Any:
        found = self._minhash(num_perm=PERMUTATIONS, seed=SEED)
        found.update_batch([shingle.encode() for shingle in shingles(_said(messages))])
        return found


def bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of the hashes: as many rows as miss no more than MISSED of the pairs at the threshold."""
    enough = [n for n in range(1, PERMUTATIONS // 2 + 1) if (1 - threshold**n) ** (PERMUTATIONS // n) <= MISSED]
    rows = max(enough, default=1)
    return PERMUTATIONS // rows, rows


def shingles(text: str) -> set[str]:
    """Runs of SHINGLE letters, words joined by single spaces; a shorter text is one. Marks between sentences, brackets
    and emphasis are left out; signs (+ - * / # and emoji) say something else in each place, and stay."""
    plain = " ".join(_MARKS.sub(" ", text.casefold()).split()) or " ".join(text.split())
    return {plain[i : i + SHINGLE] for i in range(max(1, len(plain) - SHINGLE + 1))}


def jaccard(one: Set[Any], other: Set[Any]) -> float:
    """Shared over all."""
    return len(one & other) / len(one | other)


def alike(one: Messages, other: Messages) -> float:
    """The lower of what whole conversations and last turns share; 0 under different system turns. So a long history
    does not make two questions the same."""
    systems = ([turn.content for turn in messages if turn.role == "system"] for messages in (one, other))
    if next(systems) != next(systems):
        return 0.0
    texts = ((_said(one), _said(other)), (one[-1].content, other[-1].content))
    return min(jaccard(shingles(a), shingles(b)) for a, b in texts)


def _said(messages: Messages) -> str:
    return "\n".join(turn.content for turn in messages if turn.role != "system")


def near_duplicates(conversations: Iterable[Messages], threshold: float) -> Iterator[tuple[int, Match]]:
    """Each that is nearly the same as an earlier one that stays, and which that is."""
    index = Index(threshold)
    for place, messages in enumerate(conversations):
        if match := index.closest(messages):
            yield place, match
        else:
            index.add(place, messages)


def overlaps(train: Sequence[Messages], heldout: Sequence[Messages], section: Decontaminate) -> dict[int, str]:
    """What each of the training prompts, by its place, shares with a held-out one, whatever their system turns."""
    train, heldout = ([messages[messages[0].role == "system" :] for messages in part] for part in (train, heldout))
    index = Index(section.threshold)
    wanted: dict[int, set[tuple[str, ...]]] = {}
    for place, messages in enumerate(heldout):
        index.add(place, messages)
        spoken = _words(messages)
        if len(spoken) >= min(SHORTEST, section.ngram):
            length = min(len(spoken), section.ngram)
            wanted.setdefault(length, set()).update(runs(spoken, length))
    shared = [
        {run for n, known in wanted.items() for run in runs(spoken, n) if run in known} for spoken in map(_words, train)
    ]
    often = Counter(run for found in shared for run in found)
    found = {}
    for place, messages in enumerate(train):
        rare = sorted(run for run in shared[place] if often[run] <= section.common)
        if rare:
            found[place] = f"shares {len(rare[0])} words in a row"
        elif match := index.closest(messages):
            found[place] = f"nearly the same, Jaccard {match.jaccard:.2f}"
    return found


def _words(messages: Messages) -> list[str]:
    return [word.casefold() for word in words(_said(messages))]
