"""Look at one response at a time: rate it by each principle (`score`), ask each principle's question (`checklist`), or
read it under each principle's two instructions (`contrast`, contrast.py).

`score_responses` is also the reward of direct RLAIF. Its mathematics is in `feedback/rating.py`; `rate.py` makes
judgments of pairs from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode, ContrastMode, ScoreMode
from rlaif.constitution import Constitution, Principle
from rlaif.feedback.judge.asking import (
    Asking,
    NoVerdict,
    ask,
    check_texts,
    choice_sampling,
    label_logprobs,
    no_end,
    no_principle,
    provenance,
    with_shared_prefix,
)
from rlaif.feedback.judge.contrast import by_ratio
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.rating import CHECKLIST, RATING, Scale, answer, by_code, overall, rate
from rlaif.feedback.ratio import ratio_scale
from rlaif.feedback.sample import Progress
from rlaif.models.chat import ChatModel, ChatRequest, Reply
from rlaif.patterns import Endless
from rlaif.records import Failure, PrincipleScore, Prompt, Provenance, Score, content_id, plain
from rlaif.templates import SHAPES, load_template

RateMode = ScoreMode | ChecklistMode | ContrastMode


class Rated(NamedTuple):
    """What came of each response, in the order given: a score and no failures, or None and why."""

    scores: tuple[Score | None, ...]
    failures: tuple[tuple[Failure, ...], ...]
    cost: Cost


class _Subject(NamedTuple):
    """A distinct response, the principles for its prompt's tags, and which of them code or the judge decides."""

    id: str
    prompt: Prompt
    text: str
    principles: tuple[Principle, ...]
    settled: dict[str, PrincipleScore]
    asked: tuple[Principle, ...]
    failure: Failure | None
    """Why there is nothing to ask."""


def score_responses(
    model: ChatModel,
    mode: RateMode,
    responses: Sequence[tuple[Prompt, str]],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> Rated:
    """Score each response to its prompt, by every principle for the prompt's tags: a reward without a reward model.

    `score` gives -1 to 1, `checklist` 0 to 1, `contrast` a log density ratio over tau: the mean by weight, or the low
    end where a veto principle is gone against (its check fails, or its own value is below the middle). A principle with
    a check is decided by code; if it has the text that the mode asks by too, the judge is asked about the responses
    that pass. Equal responses are asked about once. A response with any failed question has no score; its failures
    carry its id. `progress` counts responses. Raises ConfigError, before anything is asked, for a principle without
    check that lacks that text.
    """
    asking = by_ratio(mode, section) if isinstance(mode, ContrastMode) else _by_labels(mode, section, seed)
    check_texts(constitution, mode.kind)
    subjects, place_of = _distinct(responses, constitution, mode, asking.scale)
    questions = [(place, principle) for place, subject in enumerate(subjects) for principle in subject.asked]
    asked = [asking.requests(subjects[at].prompt, subjects[at].text, by, constitution) for at, by in questions]
    places = [place for (place, _), each in zip(questions, asked, strict=True) for _ in each]
    # A judge reads a response once for all questions; who only reads likelihoods, a prompt once for all responses.
    groups = [subjects[place].prompt.id if isinstance(mode, ContrastMode) else place for place in places]
    requests = with_shared_prefix([request for each in asked for request in each], groups)
    counted = paced(progress, len(subjects), len(responses))
    replies = iter(answered := ask(model, requests, places, len(subjects), counted))

    scored = [dict(subject.settled) for subject in subjects]
    failures = [[s.failure] if s.failure else [] for s in subjects]
    for (place, principle), each in zip(questions, asked, strict=True):
        found = asking.read(principle, tuple(islice(replies, len(each))))
        if isinstance(found, NoVerdict):
            failures[place].append(_failure(subjects[place].id, found, principle))
        else:
            scored[place][principle.id] = found

    origin = provenance(model, constitution, asking.template, section, asking.sampling)
    annotator = f"{model.name}:{asking.template.name}"
    scores = [
        None if failed else _score(subject, by_principle, asking.scale, annotator, origin)
        for subject, by_principle, failed in zip(subjects, scored, failures, strict=True)
    ]
    return Rated(
        scores=tuple(scores[place] for place in place_of),
        failures=tuple(tuple(failures[place]) for place in place_of),
        cost=Cost.of(answered),
    )


def _by_labels(mode: ScoreMode | ChecklistMode, section: LabelSection, seed: int) -> Asking:
    template = load_template(mode.template, mode.kind)
    scale, read_labels = (CHECKLIST, answer) if isinstance(mode, ChecklistMode) else (RATING, rate)

    def requests(prompt: Prompt, text: str, principle: Principle, constitution: Constitution) -> tuple[ChatRequest]:
        messages = template.render(
            prompt=prompt.messages,
            responses=(text,),
            preamble=constitution.preamble,
            principle=question_text(principle, mode),
        )
        return (ChatRequest(messages=messages, labels=template.labels),)

    def read(principle: Principle, replies: Sequence[Reply]) -> PrincipleScore | NoVerdict:
        found = label_logprobs(replies[0], template.labels, section.min_label_mass)
        if isinstance(found, NoVerdict):
            return found
        # A template may bring its own labels, in the usual order; records hold the usual ones.
        return read_labels(principle, dict(zip(SHAPES[mode.kind].labels, found.values(), strict=True)))

    return Asking(template, scale, requests, read, choice_sampling(template, seed))


def question_text(principle: Principle, mode: ScoreMode | ChecklistMode) -> str:
    """What the template is given of a principle that has a `question`; to rate by it, also the reply to wish for."""
    if isinstance(mode, ChecklistMode):
        return principle.question or ""
    return f"{principle.question} The desired reply is {(principle.desired or '').capitalize()}."


def scale_of(mode: RateMode, section: LabelSection) -> Scale:
    """How this mode values a response by a principle."""
    if isinstance(mode, ContrastMode):
        return ratio_scale(section.check_margin)
    return CHECKLIST if isinstance(mode, ChecklistMode) else RATING


def paced(progress: Progress | None, steps: int, total: int) -> Progress | None:
    """A progress that takes `steps` in all and passes them on as even shares of `total`."""
    if progress is None:
        return None
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        before, done = done, done + n
        if moved := done * total // steps - before * total // steps:
            progress(moved)

    return advance


def _distinct(
    responses: Sequence[tuple[Prompt, str]], constitution: Constitution, mode: RateMode, scale: Scale
) -> tuple[list[_Subject], list[int]]:
    """The distinct responses in first-seen order, and for each one given its place among them."""
    places: dict[tuple[str, tuple[str, ...]], int] = {}
    subjects: list[_Subject] = []
    place_of = []
    for prompt, text in responses:
        identity = content_id(plain(prompt.messages), text)
        place = places.setdefault((identity, prompt.tags), len(places))
        place_of.append(place)
        if place == len(subjects):
            subjects.append(_subject(identity, prompt, text, constitution, mode, scale))
    return subjects, place_of


def _subject(
    identity: str, prompt: Prompt, text: str, constitution: Constitution, mode: RateMode, scale: Scale
) -> _Subject:
    principles = constitution.for_tags(prompt.tags)
    checked: dict[str, PrincipleScore] = {}
    for p in principles:
        try:
            checked |= {p.id: by_code(p, text, scale)} if p.check is not None else {}
        except Endless as error:
            return _Subject(identity, prompt, text, principles, {}, (), no_end(identity, p.id, error))
    asked = tuple(
        p for p in principles if p.asked_in(mode.kind) and not (p.id in checked and scale.against(checked[p.id]))
    )
    settled = {key: score for key, score in checked.items() if key not in {p.id for p in asked}}
    failure = None if principles else no_principle(identity, prompt.tags)
    return _Subject(identity, prompt, text, principles, settled, asked, failure)


def _score(
    subject: _Subject, scored: dict[str, PrincipleScore], scale: Scale, annotator: str, origin: Provenance
) -> Score:
    by_principle = [(principle, scored[principle.id]) for principle in subject.principles]
    value, vetoed = overall(by_principle, scale)
    return Score(
        id=subject.id,
        prompt_id=subject.prompt.id,
        prompt=subject.prompt.messages,
        tags=subject.prompt.tags,
        text=subject.text,
        value=value,
        vetoed=vetoed,
        principles=tuple(score for _, score in by_principle),
        annotator=annotator,
        provenance=origin,
    )


def _failure(identity: str, why: NoVerdict, principle: Principle) -> Failure:
    return Failure(stage="label", id=identity, reason=why.reason, detail=why.detail, principle=principle.id)
