"""Principles that the judge proposes, and the candidates they become: the first half of a distillation.

The judge says which principle would have chosen what people preferred. Its reply is a model's text about untrusted
text: it becomes a principle, which later prompts trust, only if it is one short question without markup. All others
are counted with their fault. Wordings that say nearly the same (what the lint calls near-duplicates) then become one
candidate, with all their supporters; a text that turns another round ("less" for "more") is not near it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rlaif.config.base import Count, Positive, Section
from rlaif.constitution.wording import NEAR, opposed, similarity, vague
from rlaif.feedback.judge.drive import Work, drive
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.sample import Progress
from rlaif.models.engine import ChatRequest, Engine
from rlaif.records import Judgment, derive_seed
from rlaif.templates import JudgeTemplate

OPENING = "Which response"
MOST_WORDS = 30
_BEFORE = re.compile(r"^(?:[\s\"'`*#>\u201c\u2018\u2022-]|\d{1,2}[.)]\s|(?:principle|rule|question|answer)\s*:)+", re.I)
_AFTER = re.compile(r"[\s\"'`*\u201d\u2019]+$")
_MARKUP = re.compile(r"[<>{}|\\\uff1c\uff5c]")
_POSITION = re.compile(r"\bresponses? (?:[12ab]|one|two)\b|\b(?:first|second|preferred|former|latter) response\b", re.I)
_EMPTY = re.compile(
    r"an?|and|any|are|as|at|be|by|can|could|do|does|for|from|gives?|has|have|in|into|is|it|its|likely|more|most|of|on|or"
    r"|shows?|that|the|their|them|there|they|this|to|user|user's|what|when|with|would"
)
"""Words that an id does without."""
_ID_WORDS = 4


class DistillSettings(Section):
    """How many pairs and candidates, and what a candidate must show. The judge is asked at most
    `proposals * per_pair + 2 * candidates * votes` times."""

    proposals: Count = 100
    """At most so many pairs for which the judge proposes principles."""
    per_pair: Count = 1
    """Proposals per pair. One is greedy; several are sampled at `temperature`."""
    temperature: Positive = 0.7
    max_tokens: Count = 60
    """Of a proposal: 30 words and their marks."""
    candidates: Count = 24
    """At most so many are tested, those proposed for the most pairs."""
    votes: Count = 100
    """At most so many pairs, of other prompts, on which each candidate is tested."""
    decided: float = Field(default=0.05, ge=0, lt=0.5)
    """A candidate says nothing of a pair where its |p - 0.5| is at most this."""
    least_prompts: Count = 10
    """A candidate that decides pairs of fewer prompts is not believed, however right it is."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance that any candidate without merit survives: the level of the test after Holm's correction."""
    redundant: float = Field(default=0.9, gt=0, le=1)
    """A candidate that votes as a better one does on more than this share of the pairs is left out."""
    keep: Count = 8
    """At most so many principles."""


class Proposal(NamedTuple):
    """What the judge proposed for one pair. With a fault it is no principle, and `text` is the reply as it came."""

    pair_id: str
    text: str
    fault: str | None = None


class ProposalResult(NamedTuple):
    """All proposals in the order of the pairs, and what they cost."""

    proposals: tuple[Proposal, ...]
    cost: Cost

    @property
    def faults(self) -> Counter[str]:
        """How many proposals have each fault."""
        return Counter(proposal.fault for proposal in self.proposals if proposal.fault)


class Candidate(NamedTuple):
    """One principle to test."""

    id: str
    text: str
    """The wording nearest to all others of its group."""
    supporters: tuple[str, ...]
    """Ids of the pairs for which it was proposed."""
    wordings: tuple[str, ...]
    """All wordings of the group, the text among them, sorted."""


def propose(
    model: Engine,
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
    faults = {
        "does not end with '?'": not text.endswith("?"),
        "several questions": text.count("?") > 1,
        f"more than {MOST_WORDS} words": len(text.split()) > MOST_WORDS,
        "holds markup": not text.isprintable() or _MARKUP.search(text) is not None,
        "names a position, not a quality": _POSITION.search(text) is not None,
        "asks nothing": not any(c.isalnum() for c in text[len(OPENING) :]),
        "vague": vague(text) is not None,
    }
    found = next((fault for fault, there in faults.items() if there), None)
    return (reply, found) if found else (text, None)


# --------------------------------------------------------------------------------------------- candidates


def merge(proposals: Sequence[Proposal]) -> list[Candidate]:
    """The candidates, those with most supporters first. Proposals with a fault are passed over."""
    supporters: dict[str, set[str]] = {}
    for proposal in proposals:
        if proposal.fault is None:
            supporters.setdefault(proposal.text, set()).add(proposal.pair_id)
    merged = [_merged(group, supporters) for group in _groups(sorted(supporters))]
    merged.sort(key=lambda candidate: (-len(candidate.supporters), candidate.text))
    ids = _ids([candidate.text for candidate in merged])
    return [candidate._replace(id=name) for name, candidate in zip(ids, merged, strict=True)]


def _merged(group: list[str], supporters: Mapping[str, set[str]]) -> Candidate:
    """Still without its id. Its text is the wording most like all that was proposed; of equals the first."""
    text = max(group, key=lambda one: sum(similarity(one, other) * len(supporters[other]) for other in group))
    pairs = set().union(*(supporters[one] for one in group))
    return Candidate("", text, tuple(sorted(pairs)), tuple(group))


def _groups(texts: list[str]) -> list[list[str]]:
    """The texts joined wherever two are near, sorted within each group."""
    near = [
        (i, j)
        for (i, one), (j, other) in combinations(enumerate(texts), 2)
        if similarity(one, other) >= NEAR and not opposed(one, other)
    ]
    rows, columns = np.array(near, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(near)), (rows, columns)), shape=(len(texts), len(texts)))
    count, group_of = connected_components(graph, directed=False) if texts else (0, [])
    return [[text for text, group in zip(texts, group_of, strict=True) if group == number] for number in range(count)]


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
