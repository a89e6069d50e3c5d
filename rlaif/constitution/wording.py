"""What the words of two texts tell without understanding them: vague ones, shared ones, ones that turn a text round.

English only, as hints to reread. `lint.py`, `lint_contrast.py` and the merging of distilled principles read by it.
"""

from __future__ import annotations

import difflib
import re

_VAGUE = re.compile(
    r"\b(good|better|best|bad|worse|worst|nice|nicer|appropriate|appropriately|proper|properly|suitable|ideal"
    r"|reasonable|quality|overall|great|ethical)\b",
    re.I,
)
_OPENING = re.compile(
    r"^(?:in )?which response (?:is |does |would )?(?:the )?(?:less|more|least|most)?(?: likely to)?", re.I
)
# Words that turn a comparison round: an odd number more of them in one of two like texts makes it the opposite.
_TURNS = re.compile(
    r"\b(less|least|fewer|fewest|lower|shorter|briefer|weaker|not|no|never|without|avoids?|lacks?|refuses?|declines?)\b",
    re.I,
)
NEAR = 0.75
"""Two texts with at least this share of words in common are near-duplicates."""


def words(text: str) -> list[str]:
    """The words of a text in order, without case and signs."""
    return re.findall(r"[\w'-]+", text.casefold().replace("\u2019", "'"))


def shared(one: list[str], other: list[str]) -> float:
    """Share of words in common and in order; symmetric."""
    first, second = sorted((one, other))
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


def vague(text: str) -> str | None:
    """The first word that leaves the reader to choose a standard of their own, if there is one."""
    found = _VAGUE.search(text)
    return found[0] if found else None


def similarity(one: str, other: str) -> float:
    """Share of words that two compare texts have in common and in order, their usual opening aside; symmetric."""
    return shared(*(words(_OPENING.sub("", text)) for text in (one, other)))


def opposed(one: str, other: str) -> bool:
    """Whether one text turns round what the other asks ("less" for "more"), as far as single words show it."""
    return (len(_TURNS.findall(one)) - len(_TURNS.findall(other))) % 2 == 1
