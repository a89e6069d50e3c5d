"""Scripted judges whose truth is known, for tests of truth and dialogue."""

from __future__ import annotations

import math
import re
from typing import Any

from rlaif.constitution import Constitution
from rlaif.models.engine import ChatRequest
from rlaif.records import Given, Message, Prompt

FACTS = "The Seine flows through Paris. The tower was finished in 1889. It is 330 metres tall."


def between(tag: str, request: ChatRequest) -> str:
    found = re.search(rf"<{tag}>\n(.*?)\n</{tag}>", request.messages[-1].content, re.S)
    assert found
    return found[1]


def constitution(*principles: dict[str, Any], **head: Any) -> Constitution:
    top = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "C"}
    return Constitution.model_validate(top | head | {"principles": principles})


def prompt(text: str = "Tell me.", *before: Message, **given: Any) -> Prompt:
    return Prompt.of((*before, Message(role="user", content=text)), given=Given(**given) if given else None)


def quotes(request: ChatRequest) -> str:
    """The document's sentence that is the claim, as support; the one of the same subject, as refutation; else none. To
    a claim about the moon it quotes what stands nowhere."""
    claim, documents = between("claim", request), between("documents", request)
    if "moon" in claim:
        return 'SUPPORTS "The moon is made of cheese."'
    for sentence in re.findall(r"[^.]+\.", documents):
        if claim.startswith(sentence.strip()):  # it may say how sure it is
            return f'SUPPORTS "{sentence.strip()}"'
        if sentence.split()[:2] == claim.split()[:2]:
            return f'REFUTES "{sentence.strip()}"'
    return "NONE"


def yes(p: float, *labels: str) -> dict[str, float]:
    """Log-probabilities of Yes, No and, if asked for, Unknown."""
    found = {"Yes": math.log(0.99 * p + 1e-9), "No": math.log(0.99 * (1 - p) + 1e-9)}
    return found | {"Unknown": math.log(1e-6)} if "Unknown" in labels else found


def number(text: str) -> str:
    found = re.search(r"\d+", text)
    return found[0] if found else ""


def contradicts(request: ChatRequest) -> dict[str, float]:
    """Two texts contradict each other where both have a number and these differ."""
    one, other = (number(between(tag, request)) for tag in ("first", "second"))
    return yes(0.9 if one and other and one != other else 0.1)


def polite(request: ChatRequest) -> dict[str, float]:
    """To "Does the response ... WORD?": whether the response has the word."""
    question = request.messages[-1].content.split("Question: ")[1]
    word = question.split("?")[0].split()[-1]
    return yes(0.95 if word in between("response", request) else 0.05, "Unknown")
