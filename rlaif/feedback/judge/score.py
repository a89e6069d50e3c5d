"""Look at one response at a time: rate it by each principle (`score`), ask each principle's question (`checklist`), or
read it under each principle's two instructions (`contrast`); or ask about each of its turns (`turns`).

A response that stands in several pairs is asked about once, and no order can bias the judge. `score_responses` is also
the reward of direct RLAIF. The mathematics is in `feedback/rating.py` and `contrast.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode, ContrastMode, RateMode, ReferenceMode, ScoreMode, TurnsMode
from rlaif.constitution import Constitution, Principle, read_ahead
from rlaif.constitution.persona import Unfilled
from rlaif.feedback.judge import contrast, reference
from rlaif.feedback.judge.asking import (
    Bench,
    NoVerdict,
    Sampling,
    Way,
    check_texts,
    choice_sampling,
    failed,
    label_logprobs,
    no_principle,
    not_decided,
    unfilled,
)
from rlaif.feedback.judge.compare import judgment, plan
from rlaif.feedback.judge.drive import Work, drive, sharing_turns, together
from rlaif.feedback.judge.result import Cost, Outcome, UnitResult
from rlaif.feedback.rating import CHECKLIST, RATING, RatingScale, answer, answer_lead, by_code, compared, overall, rate
from rlaif.feedback.sample import Progress
from rlaif.formats.turns import turns_of
from rlaif.models.engine import ChatRequest, Engine, Reply
from rlaif.patterns import Undecided
from rlaif.records import Failure, Pair, PrincipleScore, Prompt, Score, TurnVerdict, content_id, grouped, prompt_of
from rlaif.records import identity as identity_of
from rlaif.templates import SHAPES, JudgeTemplate, Kind

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
    end where a veto principle is gone against (its check fails, or its own value is below the middle). `reference`
    gives -1 to 0 and `turns` 0 to 1. A principle with
    a check is decided by code; if it has the text that the mode asks by too, the judge is asked about the responses
    that pass. Equal responses are asked about once. A response with any failed question has no score; its failures
    carry its id. `progress` counts responses. Raises ConfigError, before anything is asked, for a principle without
    check that lacks that text.
    """
    check_texts(constitution, mode.kind)
    bench = WAYS[mode.kind].bench(model, mode, constitution, section, seed)
    read_ahead(constitution.principles, [(text, prompt.messages, prompt.tags) for prompt, text in responses])
    places = range(len(responses))
    units = list(grouped(places, lambda place: responses[place][0].id).values())
    works = (score_together(bench, [responses[place] for place in unit]) for unit in units)
    found, cost = drive(model, works, lambda number: progress(len(units[number])) if progress else None)
    by_place = dict(zip(chain(*units), chain(*found), strict=True))
    in_order = [by_place[place] for place in places]
    return ResponseScores(
        scores=tuple(one if isinstance(one, Score) else None for one in in_order),
        failures=tuple(() if isinstance(one, Score) else tuple(one) for one in in_order),
        cost=cost,
    )


def score_together(
    bench: Bench[RateMode], responses: Sequence[tuple[Prompt, str]], *, each_counts: bool = True
) -> Work[list[ScoreOutcome]]:
    """What comes of each of these responses to one prompt; equal ones are asked about once. As samples that a response
    is held against equal ones count as often as they come, if `each_counts`."""
    distinct = list(dict.fromkeys((prompt.tags, text) for prompt, text in responses))
    prompts = {prompt.tags: prompt for prompt, _ in reversed(responses)}
    samples = [text for _, text in (responses if each_counts else distinct)]
    work = together(score(bench, prompts[tags], text, _others(samples, text)) for tags, text in distinct)
    # A judge reads a response once for all questions; who only reads likelihoods, a prompt once for all responses.
    found = yield from (sharing_turns(work) if isinstance(bench.mode, ContrastMode) else work)
    scored = dict(zip(distinct, found, strict=True))
    return [scored[prompt.tags, text] for prompt, text in responses]


def _others(samples: Sequence[str], text: str) -> list[str]:
    """The samples without this one, once."""
    place = samples.index(text)
    return [*samples[:place], *samples[place + 1 :]]


def score(bench: Bench[RateMode], prompt: Prompt, text: str, others: Sequence[str] = ()) -> Work[ScoreOutcome]:
    """The response by each principle for the prompt's tags: by those with a check as code says, and by those that the
    judge is asked about. `others` are other samples of the prompt."""
    identity, scale = content_id(*identity_of(prompt.messages, prompt.given), text), scale_of(bench.mode, bench.section)
    try:
        principles = bench.constitution.asked_of(bench.mode.kind, prompt.tags, prompt.given)
    except Unfilled as error:
        return [unfilled(identity, error)]
    if not principles:
        return [no_principle(identity, prompt.tags)]
    scored: dict[str, PrincipleScore] = {}
    by_turn = isinstance(bench.mode, TurnsMode)  # which asks code about each turn by itself
    for p in () if by_turn else principles:
        try:
            scored |= {p.id: by_code(p, text, scale, prompt.messages)} if p.coded else {}
        except Undecided as error:
            return [not_decided(identity, p.id, error)]
    against = {name for name, one in scored.items() if scale.against(one)}
    asked = [p for p in principles if by_turn or (p.asked_in(bench.mode.kind) and p.id not in against)]
    decide = DECIDERS.get(bench.mode.kind, by_reply)
    work = together(decide(bench, prompt, text, others, p) for p in asked)
    values = yield from (sharing_turns(work) if isinstance(bench.mode, ScoreMode | ChecklistMode) else work)
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
    prompts = [prompt_of(pair) for pair in pairs]
    responses = [(prompt, text) for prompt, pair in zip(prompts, pairs, strict=True) for text in (pair.a, pair.b)]
    scored = yield from score_together(bench, responses, each_counts=False)
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


def by_reply(
    bench: Bench[Any], prompt: Prompt, text: str, others: Sequence[str], by: Principle
) -> Work[PrincipleScore | NoVerdict]:
    """What the principle says of the response by the replies to `requests_of`."""
    replies = yield requests_of(bench.mode, bench.template, bench.constitution, prompt, text, by)
    return read(bench, by, replies)


def by_turns(
    bench: Bench[TurnsMode], prompt: Prompt, text: str, others: Sequence[str], by: Principle
) -> Work[PrincipleScore | NoVerdict]:
    """The principle's value over the turns: each by code where it has a check or a classifier, and else or besides by
    the judge. A turn that code fails is not asked about."""
    whole = (*prompt.messages, *turns_of(text))
    begins = len(prompt.messages) if bench.mode.turns == "new" else 0
    places = [place for place, turn in enumerate(whole) if turn.role == "assistant" and place >= begins]
    try:
        passed = {place: not by.coded or by.passes(whole[place].content, whole[:place]) for place in places}
    except Undecided as error:
        return NoVerdict(error.reason, str(error))
    asked = [place for place in places if passed[place] and by.question is not None]
    so_far = [prompt.model_copy(update={"messages": whole[:place]}) for place in asked]
    works = (by_reply(bench, told, whole[place].content, (), by) for told, place in zip(so_far, asked, strict=True))
    found = yield from together(works)
    verdicts = {place: TurnVerdict(turn=place, value=float(passed[place])) for place in places}
    for place, one in zip(asked, found, strict=True):
        if isinstance(one, NoVerdict):
            return one._replace(detail=f"turn {place}: {one.detail}")
        verdicts[place] = TurnVerdict(turn=place, value=one.value, unknown=one.unknown)
    values = [verdict.value for verdict in verdicts.values()]
    value = min(values) if bench.mode.reduce == "min" else fmean(values)
    turns = tuple(verdicts.values())
    return PrincipleScore(principle=by.id, checked=by.question is None, value=value, turns=turns)


def requests_of(
    mode: RateMode, template: JudgeTemplate, constitution: Constitution, prompt: Prompt, text: str, by: Principle
) -> list[ChatRequest]:
    """What is asked about the response by the principle: one choice, or with `contrast` two likelihoods."""
    if isinstance(mode, ContrastMode):
        return contrast.requests(mode, template, prompt, text, by)
    # To rate by a question, the judge is also told the reply to wish for.
    wish = f" The desired reply is {(by.desired or '').capitalize()}." if isinstance(mode, ScoreMode) else ""
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
    usual = dict(zip(SHAPES[bench.template.kind].labels, found.values(), strict=True))
    return rate(principle, usual) if isinstance(mode, ScoreMode) else answer(principle, usual)


def scale_of(mode: RateMode, section: LabelSection) -> RatingScale:
    """How this mode values a response by a principle."""
    if isinstance(mode, ReferenceMode):
        return RatingScale(-1.0, 0.0, answer_lead, -mode.veto_above)
    if isinstance(mode, ContrastMode):
        return contrast.ratio_scale(section.check_margin)
    return CHECKLIST if isinstance(mode, ChecklistMode | TurnsMode) else RATING


def sampling(bench: Bench[Any]) -> Sampling:
    """For the provenance."""
    mode: RateMode = bench.mode
    if isinstance(mode, ReferenceMode):
        return reference.sampling(bench)
    if isinstance(mode, TurnsMode):
        return choice_sampling(bench) | {"reduce": mode.reduce, "turns": mode.turns}
    return contrast.sampling(mode) if isinstance(mode, ContrastMode) else choice_sampling(bench)


Decide = Callable[[Bench[Any], Prompt, str, Sequence[str], Principle], Work[PrincipleScore | NoVerdict]]
DECIDERS: dict[str, Decide] = {"reference": reference.decide, "turns": by_turns}
"""Modes that ask by more than one question or read more than the response."""
KINDS: tuple[Kind, ...] = ("score", "checklist", "contrast", "reference")
WAYS: dict[str, Way] = {kind: Way(rate_pairs, kind, sampling, by_prompt=True) for kind in KINDS}
WAYS["turns"] = WAYS["checklist"]  # by the same questions
