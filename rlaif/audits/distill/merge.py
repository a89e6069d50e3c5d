"""From proposals to candidates: wordings that say nearly the same become one, with all their supporters.

Near is what the lint calls near-duplicates, so a distilled constitution has none; a text that turns another round
("less" for "more") is not near it. Likeness that no words show is left to the votes. Next: `vote.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rlaif.audits.distill.propose import OPENING, Proposal
from rlaif.constitution.wording import NEAR, opposed, similarity

_EMPTY = re.compile(
    r"an?|and|any|are|as|at|be|by|can|could|do|does|for|from|gives?|has|have|in|into|is|it|its|likely|more|most|of|on|or"
    r"|shows?|that|the|their|them|there|they|this|to|user|user's|what|when|with|would"
)
"""Words that an id does without."""
_ID_WORDS = 4


class Candidate(NamedTuple):
    """One principle to test."""

    id: str
    text: str
    """The wording nearest to all others of its group."""
    supporters: tuple[str, ...]
    """Ids of the pairs for which it was proposed."""
    wordings: tuple[str, ...]
    """All wordings of the group, the text among them, sorted."""


def merge(proposals: Sequence[Proposal]) -> list[Candidate]:
    """The candidates, those with most supporters first. Proposals with a fault are passed over."""
    supporters: dict[str, set[str]] = {}
    for proposal in proposals:
        if proposal.fault is None:
            supporters.setdefault(proposal.text, set()).add(proposal.pair_id)
    groups = _groups(sorted(supporters))
    merged = [(_central(group, supporters), group) for group in groups]
    merged.sort(key=lambda item: (-len(_union(item[1], supporters)), item[0]))
    ids = _ids([text for text, _ in merged])
    return [
        Candidate(name, text, tuple(sorted(_union(group, supporters))), tuple(group))
        for name, (text, group) in zip(ids, merged, strict=True)
    ]


def _groups(texts: list[str]) -> list[list[str]]:
    """The texts joined wherever two are near, sorted within each group."""
    near = [(i, j) for i, j in combinations(range(len(texts)), 2) if _near(texts[i], texts[j])]
    rows, columns = np.array(near, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(near)), (rows, columns)), shape=(len(texts), len(texts)))
    count, group_of = connected_components(graph, directed=False) if texts else (0, [])
    return [[text for text, group in zip(texts, group_of, strict=True) if group == number] for number in range(count)]


def _near(one: str, other: str) -> bool:
    return similarity(one, other) >= NEAR and not opposed(one, other)


def _central(group: list[str], supporters: dict[str, set[str]]) -> str:
    """The wording most like all that was proposed; of equals the first."""
    return max(group, key=lambda text: sum(similarity(text, other) * len(supporters[other]) for other in group))


def _union(group: list[str], supporters: dict[str, set[str]]) -> set[str]:
    return set().union(*(supporters[text] for text in group))


def _ids(texts: Sequence[str]) -> list[str]:
    """A short name for each, made of its first telling words; a number where two would be the same."""
    found: list[str] = []
    for text in texts:
        words = re.findall(r"[a-z0-9']+", text[len(OPENING) :].lower())
        telling = [word for word in words if not _EMPTY.fullmatch(word)][:_ID_WORDS]
        name = "-".join(telling).replace("'", "") or "principle"
        number, unique = 1, name
        while unique in found:
            number += 1
            unique = f"{name}-{number}"
        found.append(unique)
    return found
