"""Judge by reading alone: how much likelier a response is under a principle's instruction than under its opposite.

Nothing is chosen, so there is no order to be biased by, and nothing must be followed but the instruction itself. The
mathematics is in `feedback/ratio.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from rlaif.config.judging import ContrastMode
from rlaif.constitution import Principle
from rlaif.feedback.judge.asking import NoVerdict, Sampling
from rlaif.feedback.ratio import TAU, rated
from rlaif.models.chat import ChatModel, ChatRequest, InLots, Lot, Reply, answers, lots_of
from rlaif.records import DensityRatio, PrincipleScore, Prompt, content_id
from rlaif.templates import JudgeTemplate


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
        return NoVerdict("model error", reply.error)
    if not answers(ChatRequest(messages=(), answer=""), reply):
        return NoVerdict("no likelihood of the response", f"got {reply.likelihood}")
    return None


Opened = Callable[[], AbstractContextManager[ChatModel]]


class Versus(InLots):
    """Two models as one judge: requests that are marked `second` go to the second. One at a time is open, since two may
    not fit the GPU; name and revision are known once both are asked."""

    def __init__(self, first: Opened, second: Opened) -> None:
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
