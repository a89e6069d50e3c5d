"""Which tokens say a label, and what the likeliest first tokens of a reply make each label's probability.

A token says a label if its text is the label but for white space around it and for case: "A", " A" and "a" all say A.
Tokens of the same label are added up, also where two of them read alike. A token that only begins like a label
("Ye", "Yesterday") says none.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from functools import lru_cache

from rlaif.models.engine import excess, is_logprob

BLANK = string.whitespace + "\u2581\u0120\u010a"
"""White space, also as tokenizers write it."""
ROUNDING = 1e-6
"""What rounded log-probabilities leave of 1 is known no better than this."""

NOTHING = -9999.0
"""The log-probability of what cannot be, as vLLM writes it."""

Reader = Callable[[str], str | None]


@lru_cache(maxsize=64)
def speaker(labels: tuple[str, ...]) -> Reader:
    """A function from a token's text to the label that it says, or None. Labels that differ in case alone are told
    apart by it."""
    by_word = {label.casefold(): label for label in labels}
    if len(by_word) == len(labels):
        return lambda text: by_word.get(text.strip(BLANK).casefold())
    exact = {label: label for label in labels}
    return lambda text: exact.get(text.strip(BLANK))


def ways_to_write(label: str) -> list[str]:
    """The spellings of a label that tokenizers tend to have a token for."""
    cases = dict.fromkeys((label, label.lower(), label.upper(), label.capitalize()))
    return [lead + word for word in cases for lead in ("", " ")]


def from_likeliest(
    tokens: Sequence[tuple[str, float]], labels: tuple[str, ...], taken: tuple[str, float] | None = None
) -> dict[str, float]:
    """The labels' log-probabilities from the (text, log-probability) of a reply's likeliest first tokens.

    A label that no token says is as probable as it can be at most, which is the value nearest to even: less than the
    least likely token that was told, and together with the others that were not told what the told ones leave of 1.
    `taken` is the first token itself: one that says a label counts also where it is not among the likeliest.
    ValueError where no label was told, where those that were not might outweigh those that were, or where those that
    were have more than all of the probability.
    """
    said = speaker(labels)
    told = [(said(text), max(logprob, NOTHING)) for text, logprob in tokens]
    least = min((logprob for _, logprob in told if not math.isnan(logprob)), default=0.0)
    if taken is not None and said(taken[0]) and taken[1] > NOTHING and taken[0] not in dict(tokens):
        told.append((said(taken[0]), taken[1]))
    for label, logprob in told:
        if label is not None and not is_logprob(logprob):
            raise ValueError(f"label token {label!r} has log-probability {logprob}")
    known = [(label, min(logprob, 0.0)) for label, logprob in told if not math.isnan(logprob)]
    if too_much := excess(logprob for label, logprob in known if label is not None):
        raise ValueError(too_much)
    found = {}
    for label in labels:
        if spellings := [logprob for its, logprob in known if its == label]:
            found[label] = total(spellings)
    missing = [label for label in labels if label not in found]
    if not missing:
        return found
    among = f"among the {len(known)} likeliest first tokens"
    if not found:
        first = repr(tokens[0][0]) if tokens else "none"
        raise ValueError(f"none of the labels {' '.join(labels)} is {among} (first: {first})")
    rest = 1 - math.fsum(math.exp(logprob) for _, logprob in known)
    most = min(least, math.log(max(rest, ROUNDING) / len(missing)))
    if math.log(len(missing)) + most >= total(list(found.values())):
        raise ValueError(f"label token {missing[0]!r} is not {among}, and may be as probable as one that is")
    return {label: found.get(label, most) for label in labels}


def total(logprobs: Sequence[float]) -> float:
    """The log-probability of one or another of several tokens, never above 0."""
    highest = max(logprobs)
    return min(0.0, highest + math.log(math.fsum(math.exp(logprob - highest) for logprob in logprobs)))
