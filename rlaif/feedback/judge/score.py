"""Look at one response at a time: rate it by each principle (`score`), ask each principle's question (`checklist`), or
read it under each principle's two instructions (`contrast`).

A response that stands in several pairs is asked about once, and no order can bias the judge. `score_responses` is also
the reward of direct RLAIF. The mathematics is in `feedback/rating.py` and `contrast.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode, ContrastMode, ScoreMode
from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge import contrast
from rlaif.feedback.judge.asking import (
    Bench,
    NoVerdict,
    Sampling,
    Way,
    check_texts,
    choice_sampling,
    failed,
    label_logprobs,
    no_end,
    no_principle,
)
from rlaif.feedback.judge.compare import judgment, plan
from rlaif.feedback.judge.drive import Work, drive, sharing, sharing_turns, together
from rlaif.feedback.judge.result import Cost, Outcome, UnitResult
from rlaif.feedback.rating import CHECKLIST, RATING, RatingScale, answer, by_code, compared, overall, rate
from rlaif.feedback.sample import Progress
from rlaif.models.engine import ChatRequest, Engine, Reply
from rlaif.patterns import Endless
from rlaif.records import Failure, Pair, PrincipleScore, Prompt, Score, content_id, grouped, plain
from rlaif.templates import SHAPES, JudgeTemplate

RateMode = ScoreMode | ChecklistMode | ContrastMode
ScoreOutcome = Score | list[Failure]
"""Of a response."""


class ResponseScores(NamedTuple):
    """What came of each response, in the order given: a score and no failures, or None and why."""

    scores: tuple[Score | None, ...]
    failures: tuple[tuple[Failure, ...], ...]
    cost: Cost


def score_responses(
    model: Engine,
    mode: RateMode,
    responses: Sequence[tuple[Prompt, str]],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> ResponseScores:
    """Score each response to its prompt, by every principle for the prompt's tags: a reward without a reward model.

    `score` gives -1 to 1, `checklist` 0 to 1, `contrast` a log density ratio over tau: the mean by weight, or the low
    end where a veto principle is gone against (its check fails, or its own value is below the middle). A principle with
    a check is decided by code; if it has the text that the mode asks by too, the judge is asked about the responses
    that pass. Equal responses are asked about once. A response with any failed question has no score; its failures
    carry its id. `progress` counts responses. Raises ConfigError, before anything is asked, for a principle without
    check that lacks that text.
    """
    check_texts(constitution, mode.kind)
    bench = WAYS[mode.kind].bench(model, mode, constitution, section, seed)
    places = range(len(responses))
    units = list(grouped(places, lambda place: responses[place][0].id).values())
    works = (score_together(bench, [responses[place] for place in unit]) for unit in units)
    found, cost = drive(model, works, lambda number: progress(len(units[number])) if progress else None)
    by_place: dict[int, ScoreOutcome] = {}
    for unit, scored in zip(units, found, strict=True):
        by_place |= dict(zip(unit, scored, strict=True))
    in_order = [by_place[place] for place in places]
    return ResponseScores(
        scores=tuple(one if isinstance(one, Score) else None for one in in_order),
        failures=tuple(() if isinstance(one, Score) else tuple(one) for one in in_order),
        cost=cost,
    )


def score_together(bench: Bench[RateMode], responses: Sequence[tuple[Prompt, str]]) -> Work[list[ScoreOutcome]]:
    """What comes of each of these responses to one prompt; equal ones are asked about once."""
    distinct = list(dict.fromkeys((prompt.tags, text) for prompt, text in responses))
    prompts = {prompt.tags: prompt for prompt, _ in reversed(responses)}
    work = together(score(bench, prompts[tags], text) for tags, text in distinct)
    # A judge reads a response once for all questions; who only reads likelihoods, a prompt once for all responses.
    found = yield from (sharing_turns(work) if isinstance(bench.mode, ContrastMode) else work)
    scored = dict(zip(distinct, found, strict=True))
    return [scored[prompt.tags, text] for prompt, text in responses]


def score(bench: Bench[RateMode], prompt: Prompt, text: str) -> Work[ScoreOutcome]:
    """The response by each principle for the prompt's tags: by those with a check as code says, and by those that the
    judge is asked about."""
    identity, scale = content_id(plain(prompt.messages), text), scale_of(bench.mode, bench.section)
    principles = bench.constitution.for_tags(prompt.tags)
    if not principles:
        return [no_principle(identity, prompt.tags)]
    scored: dict[str, PrincipleScore] = {}
    for p in principles:
        try:
            scored |= {p.id: by_code(p, text, scale)} if p.check is not None else {}
        except Endless as error:
            return [no_end(identity, p.id, error)]
    asked = [
        p for p in principles if p.asked_in(bench.mode.kind) and not (p.id in scored and scale.against(scored[p.id]))
    ]
    requests = [requests_of(bench.mode, bench.template, bench.constitution, prompt, text, p) for p in asked]
    flat = [request for each in requests for request in each]
    replies = iter((yield flat if isinstance(bench.mode, ContrastMode) else sharing(flat)))
    values = [read(bench, p, list(islice(replies, len(each)))) for p, each in zip(asked, requests, strict=True)]
    failures = []
    for p, one in zip(asked, values, strict=True):
        if isinstance(one, NoVerdict):
            failures.append(failed(identity, p, one))
        else:
            scored[p.id] = one
    if failures:
        return failures
    value, vetoed = overall([(p, scored[p.id]) for p in principles], scale)
    return Score(
        id=identity,
        prompt_id=prompt.id,
        prompt=prompt.messages,
        tags=prompt.tags,
        text=text,
        value=value,
        vetoed=vetoed,
        principles=tuple(scored[p.id] for p in principles),
        annotator=bench.annotator(),
        provenance=bench.provenance(),
    )


def rate_pairs(bench: Bench[RateMode], pairs: Sequence[Pair]) -> Work[UnitResult]:
    """Judge pairs of one prompt by what is said of their two responses alone, by each principle.

    Per principle p(a) is P(a is rated higher) + P(both are rated the same)/2 with `score`, P(only a follows it) +
    P(both or neither do)/2 with `checklist`, and what `contrast.py` says with `contrast`. With `sample` the drawn
    principle counts for the pair as in `compare`, but all are asked about: a response's score is made of all. A pair
    of which a question failed, or to which no principle applies, stays unlabelled.
    """
    prompts = [Prompt(id=pair.prompt_id, messages=pair.prompt, tags=pair.tags) for pair in pairs]
    responses = [(prompt, text) for prompt, pair in zip(prompts, pairs, strict=True) for text in (pair.a, pair.b)]
    scored = yield from score_together(bench, responses)
    outcomes = [_outcome(bench, pair, *scored[2 * index : 2 * index + 2]) for index, pair in enumerate(pairs)]
    scores = {(one.id, one.tags): one for one in scored if isinstance(one, Score)}
    return UnitResult(outcomes, scores=tuple(scores.values()))


def _outcome(bench: Bench[RateMode], pair: Pair, a: ScoreOutcome, b: ScoreOutcome) -> Outcome:
    needs = plan(pair, bench.constitution, bench.section, bench.seed, bench.mode.kind)
    if needs.failure:
        return [needs.failure]
    if not isinstance(a, Score) or not isinstance(b, Score):
        rows = [row for scored in (a, b) if not isinstance(scored, Score) for row in scored]
        return [row.model_copy(update={"id": pair.id, "detail": f"response {row.id}: {row.detail}"}) for row in rows]
    scale, margin = scale_of(bench.mode, bench.section), bench.section.check_margin
    by_a, by_b = ({score.principle: score for score in response.principles} for response in (a, b))
    decided = [
        (p, needs.checked.get(p.id) or compared(p, by_a[p.id], by_b[p.id], scale, margin)) for p in needs.principles
    ]
    return judgment(bench, pair, decided)


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
        return contrast.ratio_scale(section.check_margin)
    return CHECKLIST if isinstance(mode, ChecklistMode) else RATING


def sampling(bench: Bench[Any]) -> Sampling:
    """For the provenance."""
    mode: RateMode = bench.mode
    return contrast.sampling(mode) if isinstance(mode, ContrastMode) else choice_sampling(bench)


WAYS = {kind: Way(rate_pairs, kind, sampling, by_prompt=True) for kind in ("score", "checklist", "contrast")}
