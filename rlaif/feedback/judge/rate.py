"""How one response is asked about by one principle in `score`, `checklist` and `contrast`, and how replies are read.

The mathematics is in `feedback/rating.py` and `feedback/ratio.py`. Next: `score.py`, which asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode, ContrastMode, ScoreMode
from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge import contrast
from rlaif.feedback.judge.asking import Bench, NoVerdict, Sampling, choice_sampling, label_logprobs
from rlaif.feedback.rating import CHECKLIST, RATING, RatingScale, answer, rate
from rlaif.feedback.ratio import ratio_scale
from rlaif.models.chat import ChatRequest, Reply
from rlaif.records import PrincipleScore, Prompt
from rlaif.templates import SHAPES, JudgeTemplate

RateMode = ScoreMode | ChecklistMode | ContrastMode


def requests_of(
    mode: RateMode, template: JudgeTemplate, constitution: Constitution, prompt: Prompt, text: str, by: Principle
) -> list[ChatRequest]:
    """What is asked about the response by the principle: one choice, or with `contrast` two likelihoods."""
    if isinstance(mode, ContrastMode):
        return contrast.requests(mode, template, prompt, text, by)
    # To rate by a question, the judge is also told the reply to wish for.
    wish = "" if isinstance(mode, ChecklistMode) else f" The desired reply is {(by.desired or '').capitalize()}."
    messages = template.render(
        prompt=prompt.messages,
        responses=(text,),
        preamble=constitution.preamble,
        principle=f"{by.question or ''}{wish}",
    )
    return [ChatRequest(messages=messages, labels=template.labels)]


def read(bench: Bench[Any], principle: Principle, replies: Sequence[Reply]) -> PrincipleScore | NoVerdict:
    """From the replies to these requests."""
    mode: RateMode = bench.mode
    if isinstance(mode, ContrastMode):
        return contrast.read(mode, principle, replies)
    found = label_logprobs(replies[0], bench.template.labels, bench.section.min_label_mass)
    if isinstance(found, NoVerdict):
        return found
    # A template may bring its own labels, in the usual order; records hold the usual ones.
    usual = dict(zip(SHAPES[mode.kind].labels, found.values(), strict=True))
    return answer(principle, usual) if isinstance(mode, ChecklistMode) else rate(principle, usual)


def scale_of(mode: RateMode, section: LabelSection) -> RatingScale:
    """How this mode values a response by a principle."""
    if isinstance(mode, ContrastMode):
        return ratio_scale(section.check_margin)
    return CHECKLIST if isinstance(mode, ChecklistMode) else RATING


def sampling(bench: Bench[Any]) -> Sampling:
    """For the provenance."""
    mode: RateMode = bench.mode
    return contrast.sampling(mode) if isinstance(mode, ContrastMode) else choice_sampling(bench)
