"""Judges that are code, for recipes in tests: `judge.backend=scripted judge.model=tests.scripted_judge:NAME`.

Each reads the two responses where compare.jinja puts them and gives the log-probabilities of the labels A and B.
"""

from __future__ import annotations

import math
import re

from rlaif.models.chat import ChatRequest

SHOWN = re.compile(r"<response_([ab])>\n(.*?)\n</response_\1>", re.DOTALL)
RESPONSE = re.compile(r"<response>\n(.*?)\n</response>", re.DOTALL)
LABEL_MASS = 0.95
"""How much probability the two labels have together, as with a real model."""


def likes_letters(request: ChatRequest) -> dict[str, float]:
    """The response with more ASCII letters, with a little too much love for whatever stands first."""
    first, second = (letters(text) for text in shown(request))
    return choose(0.8 * (first - second) + 0.3)


def likes_short(request: ChatRequest) -> dict[str, float]:
    """The response with fewer characters."""
    first, second = (len(text) for text in shown(request))
    return choose(0.1 * (second - first))


def says_nothing(request: ChatRequest) -> dict[str, float]:
    """Neither label has any probability: every question is a failure."""
    return {"A": -50.0, "B": -50.0}


def shown(request: ChatRequest) -> tuple[str, str]:
    """The two responses, first and second as the judge sees them."""
    found = dict(SHOWN.findall(request.messages[-1].content))
    return found["a"], found["b"]


def letters(text: str) -> int:
    """How many of the characters are ASCII letters."""
    return sum(c.isascii() and c.isalpha() for c in text)


def choose(log_odds: float) -> dict[str, float]:
    """Log-probabilities of the labels where the first is better by these log-odds."""
    return {"A": math.log(LABEL_MASS) - soft(-log_odds), "B": math.log(LABEL_MASS) - soft(log_odds)}


def soft(x: float) -> float:
    """log(1 + e^x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def every_part(request: ChatRequest) -> dict[str, float] | str:
    """Plays each role that a mode may ask for, always in favour of letters: letter, rating, yes or no, or a text."""
    if request.labels == ("A", "B"):
        first, second = (letters(text) for text in shown(first_turn(request)))
        return choose(0.8 * (first - second) + 0.3)
    if not request.labels:
        return "It could have more letters." if len(request.messages) == 1 else "plenty of letters"
    share = letters(RESPONSE.findall(request.messages[-1].content)[0]) / 16
    if request.labels == ("Yes", "No", "Unknown"):
        weights = [0.1 + share, 1.1 - share, 0.2]
    else:
        weights = [math.exp((share - 0.5) * number) for number in range(10)]
    return {label: math.log(LABEL_MASS * w / sum(weights)) for label, w in zip(request.labels, weights, strict=True)}


def first_turn(request: ChatRequest) -> ChatRequest:
    """The request as it was before the judge replied to it."""
    return request.model_copy(update={"messages": request.messages[:1]})
