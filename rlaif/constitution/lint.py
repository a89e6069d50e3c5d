"""Warnings about principles that a judge will find hard to apply: word patterns, hints to reread.

Mistakes that make a constitution unusable are errors of `load_constitution`. The patterns know English only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from itertools import combinations

from rlaif.constitution.checks import MaxWords, MinWords
from rlaif.constitution.diff import is_semver
from rlaif.constitution.schema import Constitution, Principle
from rlaif.constitution.wording import NEAR, contrast_problems, opposed, similarity, vague, words
from rlaif.patterns import Endless, search
from rlaif.signals.classifier import check_config
from rlaif.signals.kinds import Model

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
_NOT_YES_NO = re.compile(r"(what|which|who|whom|whose|when|where|why|how)\b", re.I)
_FAINT = 50
"""A principle that weighs this many times less than another one does not turn a mean."""


_PROBE, _PROBE_S, _PIECES = 1000, 0.2, 40
"""Characters of a text that patterns are tried on, seconds of computing for each, and how many texts at most."""


def lint(constitution: Constitution) -> list[str]:
    """Warnings, each one line that begins with the principle's id; an empty list for a clean constitution."""
    principles = constitution.principles
    judged = [principle for principle in principles if principle.judged]
    warnings = [warning for principle in judged for warning in _lint_principle(principle)]
    warnings += [warning for principle in principles for warning in _lint_pattern(principle)]
    warnings += [
        f"{p.id}: no folder {p.classifier.model}, and no such model of the hub on this machine; a run asks the hub for "
        "it as it begins"
        for p in principles
        if isinstance(p.classifier, Model) and not check_config(p.classifier.model, p.classifier.revision, ())
    ]
    warnings += [*_lint_pairs(principles), *_lint_contrasts(principles), *_lint_weights(principles)]
    if judged and all(_only_forbids(principle) for principle in judged):
        warnings.append(
            "no harmless counterpart: every judged principle forbids something, so refusing everything wins; "
            "add one against needless refusal"
        )
    if not is_semver(constitution.version):
        warnings.append(
            f"version {constitution.version!r} is not MAJOR.MINOR.PATCH, so `rlaif constitution diff` cannot tell "
            "whether a new one follows its changes"
        )
    return warnings


def _lint_pattern(principle: Principle) -> list[str]:
    """Whether the check's pattern comes to no end on a text of a few of its own characters over and over."""
    pattern = getattr(principle.check, "pattern", None)
    if pattern is None:
        return []
    letters = dict.fromkeys(c for c in pattern if c.isalnum())
    pieces = [*letters, "a", "0", " ", "word ", "0,", pattern, "".join(letters) or "a"]
    for piece in pieces[-_PIECES:]:
        text = piece * (_PROBE // len(piece)) + "\0"
        try:
            with contextlib.suppress(Endless):
                search(pattern, text, _PROBE_S)
                continue
            search(pattern, text)  # slow: only what is not decided in a run either is worth a warning
        except Endless:
            return [
                f"{principle.id}: the check's pattern comes to no end on {piece[:20]!r} over and over, and responses "
                "like it are not decided; let no repeated part match a text in two ways"
            ]
    return []


def _lint_principle(principle: Principle) -> list[str]:
    warnings = []
    for field in ("compare", "question"):
        text = getattr(principle, field) or ""
        if word := vague(text):
            warnings.append(f"{principle.id}: {word!r} in {field} is vague; say what to look for")
        if double := _DOUBLE.search(text):
            warnings.append(f"{principle.id}: {field} asks two things at once ({double[0]!r}); make two principles")
    if principle.question and _NOT_YES_NO.match(principle.question):
        warnings.append(f"{principle.id}: question cannot be answered yes or no; begin it with Does or Is")
    missing = [field for field in ("critique", "revise") if not getattr(principle, field)]
    if missing:
        warnings.append(f"{principle.id}: no {' or '.join(missing)} text, so critique-and-revise cannot use it")
    if not principle.question and not principle.coded:
        warnings.append(f"{principle.id}: no question, so the score and checklist modes cannot use it")
    return warnings


def _meeting(principles: Sequence[Principle]) -> Iterator[tuple[Principle, Principle]]:
    """Two principles each that both apply to some prompts."""
    for one, other in combinations(principles, 2):
        if not one.tags or not other.tags or set(one.tags) & set(other.tags):
            yield one, other


def _lint_pairs(principles: Sequence[Principle]) -> Iterator[str]:
    """Principles that say the same, or the opposite."""
    for one, other in _meeting(principles):
        if one.compare and other.compare and similarity(one.compare, other.compare) >= NEAR:
            if opposed(one.compare, other.compare):
                yield f"{other.id}: nearly the opposite of {one.id}; they cancel"
            else:
                yield f"{other.id}: nearly the same as {one.id}; it counts twice"
        if one.check is not None and one.check == other.check:
            yield f"{other.id}: the same check as {one.id}; it counts twice"
        if one.classifier is not None and one.classifier == other.classifier:
            yield f"{other.id}: the same classifier as {one.id}; it counts twice"
        limits = {type(p.check): p.check.limit for p in (one, other) if isinstance(p.check, MinWords | MaxWords)}
        if len(limits) == 2 and limits[MinWords] > limits[MaxWords]:
            yield f"{other.id}: no response can pass both it and {one.id}"


def _lint_contrasts(principles: Sequence[Principle]) -> Iterator[str]:
    """Contrasts that a mode cannot use, or that say the same as another one, or its opposite."""
    contrasts = any(principle.contrast for principle in principles)
    compares = any(principle.compare for principle in principles)
    for principle in principles:
        if principle.contrast:
            yield from (f"{principle.id}: {problem}" for problem in contrast_problems(principle.contrast))
        if principle.judged and not principle.coded:
            if contrasts and not principle.contrast:
                yield f"{principle.id}: no contrast, so the contrast mode cannot use it"
            if compares and not principle.compare:
                yield f"{principle.id}: no compare text, so the compare, reasoned and rank modes cannot use it"
    texts = {p.id: [words(p.contrast.for_), words(p.contrast.against)] for p in principles if p.contrast}
    for one, other in _meeting([principle for principle in principles if principle.contrast]):
        if texts[one.id] == texts[other.id]:
            yield f"{other.id}: the same contrast as {one.id}; it counts twice"
        elif texts[one.id] == texts[other.id][::-1]:
            yield f"{other.id}: the contrast of {one.id} turned round; they cancel"


def _lint_weights(principles: Sequence[Principle]) -> Iterator[str]:
    heaviest = max(principles, key=lambda principle: principle.weight)
    for principle in principles:
        if principle.weight * _FAINT < heaviest.weight and not principle.veto:
            yield (
                f"{principle.id}: weight {principle.weight:g} beside {heaviest.weight:g} of {heaviest.id} decides "
                "nothing; leave the principle out or raise its weight"
            )


def _only_forbids(principle: Principle) -> bool:
    asks = principle.compare or (principle.contrast.for_ if principle.contrast else "")
    forbids = principle.desired == "no" or _FORBIDS.search(asks) is not None
    return forbids and not _ALLOWS.search(f"{asks} {principle.question or ''}")
