"""Judges that are code, for recipes in tests: `judge.backend=scripted judge.model=tests.scripted_judge:NAME`.

Each reads the two responses where compare.jinja puts them and gives the log-probabilities of the labels A and B.
"""

from __future__ import annotations

import math
import re

from rlaif.models.engine import ChatRequest
from rlaif.testing import LABEL_MASS, SHOWN, choose, letters, shown

RESPONSE = re.compile(r"<response>\n(.*?)\n</response>", re.DOTALL)


def likes_short(request: ChatRequest) -> dict[str, float]:
    """The response with fewer characters."""
    first, second = (len(text) for text in shown(request))
    return choose(0.1 * (second - first))


def says_nothing(request: ChatRequest) -> dict[str, float]:
    """Neither label has any probability: every question is a failure."""
    return {"A": -50.0, "B": -50.0}


def every_part(request: ChatRequest) -> dict[str, float] | str:
    """Plays each role that a mode may ask for, always in favour of letters: letter, rating, yes or no, or a text."""
    if request.labels == ("A", "B"):
        first, second = (letters(text) for text in shown(first_turn(request)))
        return choose(0.8 * (first - second) + 0.3)
    if not request.labels:
        return "It could have more letters." if len(request.messages) == 1 else "plenty of letters"
    share = min(letters(RESPONSE.findall(request.messages[-1].content)[0]) / 16, 1.0)
    if request.labels == ("Yes", "No", "Unknown"):
        weights = [0.1 + share, 1.1 - share, 0.2]
    else:
        weights = [math.exp((share - 0.5) * number) for number in range(10)]
    return {label: math.log(LABEL_MASS * w / sum(weights)) for label, w in zip(request.labels, weights, strict=True)}


def likes_letters_anyhow(request: ChatRequest) -> dict[str, float] | str | float:
    """`every_part`, by whatever template it is asked; and how likely a response is: the likelier the more letters,
    under one instruction more than under another."""
    if request.labels == ("A", "B") and not SHOWN.search(first_turn(request).messages[-1].content):
        return choose(0.3)
    text = request.messages[-1].content
    if "<claim>" in text:
        return "NONE"
    if request.labels == ("Yes", "No"):
        return {"Yes": -1.0, "No": -0.6}
    if request.answer is None:
        return every_part(request)
    care = 1 + len(request.messages[0].content) % 7
    return -20.0 - care * (1 - letters(request.answer) / max(1, len(request.answer)))


def first_turn(request: ChatRequest) -> ChatRequest:
    """The request as it was before the judge replied to it."""
    return request.model_copy(update={"messages": request.messages[:1]})
