"""Judges that are code, for recipes in tests: `judge.backend=scripted judge.model=tests.scripted_judge:NAME`.

Each reads the two responses where compare.jinja puts them and gives the log-probabilities of the labels A and B.
"""

from __future__ import annotations

import math
import re

from rlaif.models.chat import ChatRequest

SHOWN = re.compile(r"<response_([ab])>\n(.*?)\n</response_\1>", re.DOTALL)
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
