"""Ask the judge which principle would have chosen what people preferred, and keep the replies that are one.

A reply is a model's text about untrusted text: it becomes a principle, which later prompts trust, only if it is one
short question without markup. All others are counted with their fault. Next: `merge.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rlaif.audits.distill.settings import DistillSettings
from rlaif.constitution.wording import vague
from rlaif.feedback.judge.drive import Work, drive
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.sample import Progress
from rlaif.models.chat import ChatModel, ChatRequest
from rlaif.records import Judgment, derive_seed
from rlaif.templates import JudgeTemplate

OPENING = "Which response"
MOST_WORDS = 30
_BEFORE = re.compile(r"^(?:[\s\"'`*#>\u201c\u2018\u2022-]|\d{1,2}[.)]\s|(?:principle|rule|question|answer)\s*:)+", re.I)
_AFTER = re.compile(r"[\s\"'`*\u201d\u2019]+$")
_MARKUP = re.compile(r"[<>{}|\\\uff1c\uff5c]")
_POSITION = re.compile(r"\bresponses? (?:[12ab]|one|two)\b|\b(?:first|second|preferred|former|latter) response\b", re.I)


class Proposal(NamedTuple):
    """What the judge proposed for one pair. With a fault it is no principle, and `text` is the reply as it came."""

    pair_id: str
    text: str
    fault: str | None = None


class ProposalResult(NamedTuple):
    """All proposals in the order of the pairs, and what they cost."""

    proposals: tuple[Proposal, ...]
    cost: Cost


def propose(
    model: ChatModel,
    labels: Sequence[Judgment],
    template: JudgeTemplate,
    settings: DistillSettings,
    seed: int,
    progress: Progress | None = None,
) -> ProposalResult:
    """`settings.per_pair` proposals for each labelled pair. `progress` counts pairs."""
    works = (_propose(label, template, settings, seed) for label in labels)
    found, cost = drive(model, works, lambda _: progress(1) if progress else None)
    return ProposalResult(tuple(proposal for each in found for proposal in each), cost)


def _propose(label: Judgment, template: JudgeTemplate, settings: DistillSettings, seed: int) -> Work[list[Proposal]]:
    messages = template.render(prompt=label.pair.prompt, responses=preferred_first(label))
    replies = yield [
        ChatRequest(
            messages=messages,
            max_tokens=settings.max_tokens,
            temperature=0.0 if settings.per_pair == 1 else settings.temperature,
            seed=derive_seed(seed, "distill", label.pair.id, number),
        )
        for number in range(settings.per_pair)
    ]
    read = [(reply.error, "model error") if reply.error is not None else cleaned(reply.text) for reply in replies]
    return [Proposal(label.pair.id, text, fault) for text, fault in read]


def preferred_first(label: Judgment) -> tuple[str, str]:
    """The response that people preferred, then the other one. Only of labels that are no tie."""
    pair = label.pair
    return (pair.a, pair.b) if label.p_a > 0.5 else (pair.b, pair.a)


def cleaned(reply: str) -> tuple[str, str | None]:
    """The principle in a reply and None, or the reply and what keeps it from being one.

    Quotes, list marks and words such as "Principle:" around the question are dropped, and so are other lines where
    exactly one line is a question of the wanted form.
    """
    lines = [_AFTER.sub("", _BEFORE.sub("", line)) for line in reply.splitlines()]
    begun = [" ".join(line.split()) for line in lines if line.lower().startswith(OPENING.lower())]
    if len(begun) != 1:
        fault = "several questions" if begun else f"does not begin with {OPENING!r}"
        return reply, fault if reply.strip() else "empty"
    text = OPENING + begun[0][len(OPENING) :]
    found = _fault(text)
    return (reply, found) if found else (text, None)


def _fault(text: str) -> str | None:
    """What keeps a question that begins as it should from being a principle."""
    faults = {
        "does not end with '?'": not text.endswith("?"),
        "several questions": text.count("?") > 1,
        f"more than {MOST_WORDS} words": len(text.split()) > MOST_WORDS,
        "holds markup": not text.isprintable() or _MARKUP.search(text) is not None,
        "names a position, not a quality": _POSITION.search(text) is not None,
        "asks nothing": not any(c.isalnum() for c in text[len(OPENING) :]),
        "vague": vague(text) is not None,
    }
    return next((fault for fault, found in faults.items() if found), None)
