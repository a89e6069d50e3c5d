"""Warnings about principles that a judge will find hard to apply: word patterns, hints to reread.

Mistakes that make a constitution unusable are errors and belong to `load.py`.
"""

from __future__ import annotations

import difflib
import re
from itertools import combinations

from rlaif.constitution.schema import Constitution, Principle

_VAGUE = re.compile(
    r"\b(good|better|best|bad|worse|worst|nice|nicer|appropriate|appropriately|proper|properly|suitable|ideal"
    r"|reasonable|quality|overall|great|ethical)\b",
    re.I,
)
# A second criterion shows itself after "and"/"or": a comparison of its own, or a verb of its own.
_SECOND = (
    r"(?:more|less|fewer|most|least|better|worse|not|also|is|are|does|has|avoids?|gives?|uses?|stays?|shows?"
    r"|offers?|asks?|keeps?|explains?|refuses?|respects?|admits?|follows?|includes?|contains?|sounds?"
    r"|clearer|shorter|longer|safer|simpler|kinder|warmer|easier|politer|plainer|calmer|fairer|friendlier)"
)
_DOUBLE = re.compile(
    rf"\b(?:and|or|and/or|but|while)\s+{_SECOND}\b"
    r"|\b(?:is|more|less|most|least)\s+(?!likely\b)\w+\s+(?:and|or)\s+\w+\s*\?"
    r"|^Is the response \w+(?:,? \w+)* (?:and|or) \w+\s*\?",
    re.I,
)
_FORBIDS = re.compile(r"\b(less|least|fewer|fewest|avoids?|refuses?|declines?|without|not|never)\b", re.I)
_ALLOWS = re.compile(
    r"\b(over-?cautious|preach\w*|lectur\w*|moralis\w*|moraliz\w*|harmless"
    r"|(?:needless\w*|unnecessar\w*|over-?)\s*-?refus\w*"
    r"|refus\w* (?:a |an )?(?:harmless|ordinary|innocent))\b",
    re.I,
)
_OPENING = re.compile(r"^which response (?:is |does |would )?(?:the )?(?:less|more|least|most)?(?: likely to)?", re.I)
_NEAR = 0.75


def lint(constitution: Constitution) -> list[str]:
    """Warnings, each one line that begins with the principle's id; an empty list for a clean constitution."""
    judged = [principle for principle in constitution.principles if principle.judged]
    warnings = [warning for principle in judged for warning in _lint_principle(principle)]
    for one, other in combinations(judged, 2):
        if _similarity(one, other) >= _NEAR:
            warnings.append(f"{other.id}: nearly the same as {one.id}; it counts twice")
    if judged and all(_only_forbids(principle) for principle in judged):
        warnings.append(
            "no harmless counterpart: every judged principle forbids something, so refusing everything wins; "
            "add one against needless refusal"
        )
    return warnings


def _lint_principle(principle: Principle) -> list[str]:
    warnings = []
    for field in ("compare", "question"):
        text = getattr(principle, field) or ""
        if vague := _VAGUE.search(text):
            warnings.append(f"{principle.id}: {vague[0]!r} in {field} is vague; say what to look for")
        if double := _DOUBLE.search(text):
            warnings.append(f"{principle.id}: {field} asks two things at once ({double[0]!r}); make two principles")
    missing = [field for field in ("critique", "revise") if not getattr(principle, field)]
    if missing:
        warnings.append(f"{principle.id}: no {' or '.join(missing)} text, so critique-and-revise cannot use it")
    return warnings


def _similarity(one: Principle, other: Principle) -> float:
    """Share of words that the two compare texts have in common and in order, their usual opening aside."""
    mine, theirs = (_OPENING.sub("", p.compare or "").casefold().split() for p in (one, other))
    return difflib.SequenceMatcher(None, mine, theirs, autojunk=False).ratio()


def _only_forbids(principle: Principle) -> bool:
    text = f"{principle.compare} {principle.question or ''}"
    forbids = principle.desired == "no" or _FORBIDS.search(principle.compare or "") is not None
    return forbids and not _ALLOWS.search(text)
