"""What a judge or a person said of texts: verdicts, judgments, scores, rankings, revisions, edits."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, FiniteFloat

from rlaif.records.core import Messages, Pair, Record, Side, Source, absent


class Verdict(Record):
    """One reply of the judge about one principle in one order.

    `logprob_first` and `logprob_second` are the natural-log probabilities of the two labels, as the model gave them
    (not normalised over the two); of a label that a server left out of its likeliest tokens, the highest it can have.
    """

    model_config = ConfigDict(allow_inf_nan=True)  # a label may be impossible

    first: Side
    logprob_first: float
    logprob_second: float
    reason: str = ""
    """The chain of thought that the judge wrote before it; empty where none was asked for."""


class DensityRatio(Record):
    """How likely a principle's two instructions make one response: `feedback/judge/contrast.py` says what follows."""

    logprob_for: float
    """Natural log, summed over the response's tokens, under the instruction that asks for what the principle wants."""
    logprob_against: float
    """Under its opposite."""
    tokens: int = Field(ge=0)


class PrincipleJudgment(Record):
    """What one principle says about a pair: judged (two verdicts, one an order) or checked (by code, no verdicts)."""

    principle: str
    checked: bool
    p_a: float = Field(ge=0, le=1)
    swap_gap: float | None = None
    """|p1 - p2| over the two orders; None where nothing was judged in both."""
    verdicts: tuple[Verdict, ...] = ()
    """a first, then b first; with several reasons, that many times over."""
    ratios: tuple[DensityRatio, ...] = ()
    """`contrast`: of a and of b."""


class Provenance(Record):
    """Where an AI judgment came from, enough to make it again."""

    constitution: str
    constitution_version: str
    constitution_hash: str
    judge: str
    judge_revision: str
    template: str
    template_hash: str
    sampling: dict[str, float | int | str]
    aggregation: str


class MemberJudgment(Record):
    """What one member of a panel says about the panel's pair, oriented as the panel's judgment is."""

    member: str
    annotator: str
    p_a: float = Field(ge=0, le=1)
    principles: tuple[PrincipleJudgment, ...] = ()
    provenance: Provenance


class Answer(Record):
    """How a person gave a label, as far as it was recorded."""

    shown_first: Side | None = None
    """Which response stood first; None where nobody knows."""
    seconds: float | None = Field(default=None, ge=0)
    reason: str = ""
    simulated: bool = False
    """Whether the person is one of `feedback/annotators/simulate.py`."""


class Judgment(Record):
    """A pair's verdicts, aggregated; or one person's label of it.

    A person's p_a is 1, 0.5 or 0, or between them where the form of the label says how strongly; `principles` then
    holds what the person said by principle, without verdicts.
    """

    pair: Pair
    source: Source
    annotator: str
    p_a: float = Field(ge=0, le=1)
    p_raw: float | None = Field(default=None, ge=0, le=1)
    """p_a before calibration; None where none was applied."""
    principles: tuple[PrincipleJudgment, ...] = ()
    members: tuple[MemberJudgment, ...] = ()
    """Of a panel: every member's own judgment."""
    provenance: Provenance | None = None
    answer: Answer | None = None
    """Of a person."""

    def p_of(self, text: str) -> float:
        """P that this one of the pair's two responses is better, whichever way round the pair is held."""
        return self.p_a if self.pair.a == text else 1 - self.p_a


class Claim(Record):
    """One claim of a response, and what the judge quoted for or against it."""

    text: str
    verdict: Literal["supported", "refuted", "unsupported"]
    quote: str = ""
    """Found in a document, word for word; empty where the judge gave none."""
    misquote: str = Field(default="", exclude_if=lambda text: not text)
    """What the judge gave out as a quote and no document has."""


class AnswerGrade(Record):
    """How a response stands to its prompt's right answers, and how sure it says it is."""

    right: float = Field(ge=0, le=1)
    abstained: float = Field(ge=0, le=1)
    confidence: float = Field(ge=0, le=1)


class TurnVerdict(Record):
    """What a principle says of one turn of a conversation."""

    turn: int = Field(ge=0)
    """Which message of the conversation it is, counted from 0."""
    value: FiniteFloat
    """The probability that the turn follows the principle."""
    unknown: float = Field(default=0.0, ge=0, le=1)


class PrincipleScore(Record):
    """What one principle says about one response."""

    model_config = ConfigDict(allow_inf_nan=True)  # as in `Verdict`

    principle: str
    checked: bool
    value: FiniteFloat
    """`score`: the expected rating, from -1 to 1. `checklist`: the probability that it is followed, from 0 to 1.
    `contrast`: the log density ratio over tau. `reference`: from -1 to 0, less what is wrong. `turns`: as `checklist`,
    of all turns together."""
    logprobs: dict[str, float] = Field(default_factory=dict)
    """Of the labels, as in `Verdict`; empty when checked."""
    unknown: float = Field(default=0.0, ge=0, le=1)
    """`checklist`: the probability of the label that says it cannot be told."""
    ratio: DensityRatio | None = None
    """`contrast`: what the value is made of."""
    claims: tuple[Claim, ...] = Field(default=(), exclude_if=absent)
    """`reference`: the response's claims, in order."""
    grade: AnswerGrade | None = Field(default=None, exclude_if=absent)
    """`reference`, by right answers."""
    turns: tuple[TurnVerdict, ...] = Field(default=(), exclude_if=absent)
    """`turns`: the assistant's turns, in order."""


class Score(Record):
    """One response by every principle. `value` is the weighted mean, or the veto's floor."""

    id: str
    """Of the prompt's conversation and the text."""
    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    text: str
    value: float
    vetoed: bool = False
    principles: tuple[PrincipleScore, ...]
    annotator: str
    provenance: Provenance


class Ranking(Record):
    """The responses to one prompt in order of Bradley-Terry strength, best first."""

    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    responses: tuple[str, ...] = Field(min_length=2)
    strengths: tuple[float, ...]
    """Log-odds, with mean 0: P(i over j) is the sigma of their difference."""
    compared: int = Field(ge=1)
    """How many of the pairs were judged."""


class Round(Record):
    """One critique and the revision that followed it."""

    principle: str
    critique: str
    revision: str


class Revision(Record):
    """A response and its revisions, first to last."""

    id: str
    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    original: str
    rounds: tuple[Round, ...] = Field(min_length=1)
    annotator: str
    provenance: Provenance


class Reliability(Record):
    """How far a panel's member can be relied on, as estimated without human labels."""

    member: str
    accuracy: float | None = None
    """Chance of agreeing with the latent true label (Dawid-Skene); None where nothing estimates it."""
    agreement: float | None = None
    """Share of pairs on which it prefers what the panel prefers; None where it judged none."""
    pairs: int = Field(ge=0)


class Edit(Record):
    """A response and what a person made of it. The edited text is preferred, and is a demonstration."""

    prompt_id: str
    prompt: Messages
    tags: tuple[str, ...] = ()
    original: str
    edited: str
    diff: tuple[str, ...]
    """Line by line, as `difflib.unified_diff` without its header writes it."""
    annotator: str
