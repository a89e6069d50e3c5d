"""Judge by reading alone: how much likelier a response is under a principle's instruction than under its opposite.

Nothing is chosen, so there is no order to be biased by, and nothing must be followed but the instruction itself.

With i+ and i- a principle's two instructions and x the conversation, s(y) = log p(y | i+, x) - log p(y | i-, x) is a
log density ratio: how much likelier the first instruction makes the response (arXiv 2411.02481, with two models in
place of two instructions). By Bayes' rule it is the log-odds that y was written under i+, but for a term without y.
Exchanging the instructions negates s; exchanging a and b maps p(a) to 1 - p(a).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from rlaif.config.judging import ContrastMode
from rlaif.constitution import Principle
from rlaif.feedback.judge.asking import NoVerdict, Sampling
from rlaif.feedback.rating import RatingScale
from rlaif.models.engine import ChatRequest, Engine, InLots, Lot, Reply, answers, lots_of
from rlaif.records import DensityRatio, PrincipleScore, Prompt, content_id
from rlaif.templates import JudgeTemplate

Length = Literal["sum", "mean", "root"]
TAU: dict[Length, float] = {"sum": 8.0, "mean": 0.1, "root": 1.0}
"""The s at which odds are e to 1, where a recipe names none."""


def log_ratio(ratio: DensityRatio, length: Length) -> float:
    """s in nats: summed over the response's n tokens, their mean, or the sum over the root of n. 0 of no tokens."""
    whole, n = ratio.logprob_for - ratio.logprob_against, max(1, ratio.tokens)
    return whole / {"sum": 1.0, "mean": n, "root": math.sqrt(n)}[length]


def rated(principle: Principle, ratio: DensityRatio, length: Length, tau: float) -> PrincipleScore:
    """The value of a response: s / tau."""
    return PrincipleScore(principle=principle.id, checked=False, value=log_ratio(ratio, length) / tau, ratio=ratio)


def ratio_lead(a: PrincipleScore, b: PrincipleScore) -> float:
    """P(a follows the principle better) - P(b does): with p(a) = sigma((s_a - s_b) / tau), 2 p(a) - 1."""
    return math.tanh((a.value - b.value) / 2)


def ratio_scale(margin: float) -> RatingScale:
    """Of `contrast`, where a check that one of two responses passes gives `margin` log-odds, as in `verdict.checked`.
    A value is below the middle where the opposite instruction makes the response likelier."""
    return RatingScale(-margin / 2, margin / 2, ratio_lead)


def requests(
    mode: ContrastMode, template: JudgeTemplate, prompt: Prompt, text: str, principle: Principle
) -> list[ChatRequest]:
    """How likely the response is under `for`, and under `against`."""
    assert principle.contrast is not None, "a principle without instructions is not asked about"
    told, opposite = (
        ChatRequest(messages=template.instructed(prompt.messages, instruction), answer=template.defused(text))
        for instruction in (principle.contrast.for_, principle.contrast.against)
    )
    return [told, opposite.model_copy(update={"second": mode.against is not None})]


def read(mode: ContrastMode, principle: Principle, replies: Sequence[Reply]) -> PrincipleScore | NoVerdict:
    """From the replies to these requests."""
    for reply in replies:
        if (problem := _unread(reply)) is not None:
            return problem
    told, opposite = (reply.likelihood for reply in replies)
    assert told is not None and opposite is not None
    ratio = DensityRatio(logprob_for=told.logprob, logprob_against=opposite.logprob, tokens=told.tokens)
    return rated(principle, ratio, mode.length, tau_of(mode))


def tau_of(mode: ContrastMode) -> float:
    """The mode's own, or the usual one of its length."""
    return mode.tau or TAU[mode.length]


def sampling(mode: ContrastMode) -> Sampling:
    """For the provenance."""
    return {"length": mode.length, "tau": tau_of(mode)}


def _unread(reply: Reply) -> NoVerdict | None:
    """Why a reply says no likelihood to trust."""
    if reply.error is not None:
        return NoVerdict("model error", reply.error, reply.refused == "length")
    if not answers(ChatRequest(messages=(), answer=""), reply):
        return NoVerdict("no likelihood of the response", f"got {reply.likelihood}")
    return None


Opener = Callable[[], AbstractContextManager[Engine]]


class Versus(InLots):
    """Two models as one judge: requests that are marked `second` go to the second. One at a time is open, since two may
    not fit the GPU; name and revision are known once both are asked."""

    def __init__(self, first: Opener, second: Opener) -> None:
        self._opened = (first, second)
        self._known = [("", ""), ("", "")]

    @property
    def name(self) -> str:
        return " over ".join(name for name, _ in self._known)

    @property
    def revision(self) -> str:
        revisions = [revision for _, revision in self._known]
        return "unknown" if "unknown" in revisions else content_id(*revisions)

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """First the replies of the first model, then those of the second."""
        later: list[tuple[int, ChatRequest]] = []
        for which, opened in enumerate(self._opened):
            numbers: list[int] = []

            def own(numbers: list[int] = numbers, which: int = which) -> Iterator[ChatRequest]:
                for number, request in enumerate(requests) if not which else later:
                    if request.second and not which:
                        later.append((number, request))
                        continue
                    numbers.append(number)
                    yield request

            with opened() as model:
                self._known[which] = model.name, model.revision
                for lot in lots_of(model, own()):
                    yield [(numbers[at], reply) for at, reply in lot]

    def close(self) -> None:
        """Whoever opens a model closes it."""
