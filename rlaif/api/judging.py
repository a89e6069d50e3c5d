"""The judge from Python: pairs to judgments, responses to scores, judgments to preferences."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

from rlaif.api.inputs import (
    ModelLike,
    PairLike,
    ResponseLike,
    as_reply,
    constitution_of,
    label_of,
    open_engine,
    pair_of,
    responses_of,
    section_of,
)
from rlaif.config.base import Section
from rlaif.config.feedback import LabelSection, PreferencesSection
from rlaif.config.judging import ContrastMode, RateMode, ReviseMode
from rlaif.config.models import JudgeModel
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError, DataError, shown
from rlaif.feedback.judge import JudgeResult, judge_by_mode
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.judge.score import score_responses
from rlaif.feedback.pairs import WeightedJudgment, to_preferences
from rlaif.feedback.sample import Progress
from rlaif.models.engine import ChatRequest, Engine, Reply
from rlaif.records import Failure, Judgment, Pair, Preference, Score

ConstitutionLike = str | os.PathLike[str] | Constitution
ModeLike = str | Mapping[str, Any] | Section


class ScoreResult(NamedTuple):
    """What came of each response, in input order."""

    scores: tuple[Score | None, ...]
    """None where a question failed."""
    failures: tuple[Failure, ...]
    """`id` is that of the response: the hash of its prompt's conversation and its text."""
    cost: Cost

    @property
    def values(self) -> list[float | None]:
        """The scores' numbers: from -1 to 1 (`score`), 0 to 1 (`checklist`) or a log density ratio (`contrast`)."""
        return [None if score is None else score.value for score in self.scores]


class Preferences(list[Preference]):
    """Training rows, and how the judgments became that many."""

    counts: dict[str, int]
    """judgments = repeats + ties_dropped + rows; ties_kept, train and heldout are parts of rows."""


def judge(
    pairs: Iterable[PairLike],
    constitution: ConstitutionLike,
    model: ModelLike,
    *,
    mode: ModeLike = "compare",
    seed: int = 0,
    progress: Progress | None = None,
    **knobs: Any,
) -> JudgeResult:
    """Which response of each pair is better by the constitution, as a judge says.

    A pair has a judgment or failures, never both: `judgments` and `failures` are in input order, `cost` counts calls
    and tokens. `mode` is a kind of `label.mode`, or its section; `knobs` are further keys of the recipe's section
    `label`. `progress` is called with the number of pairs finished since the last call. ConfigError for what cannot
    be asked, DataError for a pair that is none, ModelError where the model cannot be reached.
    """
    section, found = _comparing(mode, knobs), constitution_of(constitution)
    given = [pair_of(pair, f"pairs[{place}]") for place, pair in enumerate(pairs)]
    with open_engine(model) as engine:
        return _judged(engine, given, found, section, seed, progress)


def score(
    responses: Iterable[ResponseLike],
    constitution: ConstitutionLike,
    model: ModelLike,
    *,
    mode: ModeLike = "score",
    seed: int = 0,
    progress: Progress | None = None,
    **knobs: Any,
) -> ScoreResult:
    """What each response is worth by the constitution, as a judge says; see `judge` for the parameters.

    `mode` is score, checklist, contrast, reference or turns: the others compare.
    """
    section, found = scoring_of(mode, knobs), constitution_of(constitution)
    given = responses_of(responses)
    with open_engine(model) as engine:
        rated = score_responses(engine, cast("RateMode", section.mode), given, found, section, seed, progress)
    failures = {failure: None for each in rated.failures for failure in each}  # equal responses fail together
    return ScoreResult(tuple(rated.scores), tuple(failures), rated.cost)


def scoring_of(mode: ModeLike, knobs: Mapping[str, Any]) -> LabelSection:
    """The section `label` of a mode that looks at one response. ConfigError for one that does not."""
    section = label_of(mode, knobs)
    if not isinstance(section.mode, RateMode):
        raise ConfigError(
            f"mode {section.mode.kind!r} looks at two responses; valid choices: checklist, contrast, score, reference, "
            "turns"
        )
    if isinstance(section.mode, ContrastMode) and section.mode.against is not None:
        raise ConfigError("mode.against: a second model reads it in recipes only")
    return section


def preferences(judgments: JudgeResult | Iterable[Judgment], **knobs: Any) -> Preferences:
    """Training rows: the likelier response is chosen, its probability is the soft label.

    `knobs` are keys of the recipe's section `preferences`: tie_margin, ties, heldout_share. A pair that was judged
    several times is one row. The `counts` of the list say what became of ties and repeats; DataError where nothing is
    left.
    """
    section = section_of(PreferencesSection, knobs, "preferences")
    given = judgments.judgments if isinstance(judgments, JudgeResult) else judgments
    rows, counts = to_preferences([WeightedJudgment(judgment, 1.0) for judgment in given], section)
    if not rows:
        raise DataError(
            f"preferences: {counts['judgments']} judgments, {counts['ties_dropped']} of them ties, and no row"
        )
    found = Preferences(rows)
    found.counts = counts
    return found


def requests_of(
    pair: PairLike,
    constitution: ConstitutionLike,
    replies: Sequence[Any] = (),
    *,
    mode: ModeLike = "compare",
    seed: int = 0,
    **knobs: Any,
) -> list[ChatRequest]:
    """What a judge is asked about one pair: for Ray, Spark and batch APIs, which answer elsewhere.

    A mode of several rounds (`reasoned`) asks again: give the replies so far, until the list is empty.
    """
    try:
        _alone(_Replay(replies), pair, constitution, mode, seed, knobs)
    except _Unanswered as more:
        return more.requests
    return []


def judgment_of(
    pair: PairLike,
    constitution: ConstitutionLike,
    replies: Sequence[Any],
    *,
    mode: ModeLike = "compare",
    seed: int = 0,
    model: str = "unknown",
    **knobs: Any,
) -> JudgeResult:
    """What the replies to `requests_of` mean: one judgment, or failures.

    A reply is a Reply; a text; or, to a request with labels, a probability for each label. They are in the requests'
    order, all rounds in one list; what is none of these (None, where a batch API gave no answer) is a failure. `model`
    is the name that provenance records. ConfigError where replies are missing, or are left over.
    """
    try:
        return _alone(_Replay(replies, model), pair, constitution, mode, seed, knobs)
    except _Unanswered as more:
        raise ConfigError(f"replies: {len(replies)} given, and {len(more.requests)} requests are unanswered") from None


def _alone(
    engine: _Replay, pair: PairLike, constitution: ConstitutionLike, mode: ModeLike, seed: int, knobs: Mapping[str, Any]
) -> JudgeResult:
    section = _comparing(mode, knobs)
    result = _judged(engine, [pair_of(pair)], constitution_of(constitution), section, seed, None)
    if engine.left:
        raise ConfigError(
            f"replies: {len(engine.left)} more are given than this pair has requests; they are of one pair"
        )
    return result


def _comparing(mode: ModeLike, knobs: Mapping[str, Any]) -> LabelSection:
    section = label_of(mode, knobs)
    if isinstance(section.mode, ReviseMode):
        raise ConfigError("mode 'revise' compares nothing: it revises sampled responses, in recipes")
    return section


class _Unanswered(Exception):
    """The replies end here."""

    def __init__(self, requests: list[ChatRequest]) -> None:
        super().__init__()
        self.requests = requests


class _Replay:
    """An engine that gives these replies, one after the other."""

    revision = "unknown"

    def __init__(self, replies: Sequence[Any], name: str = "unknown") -> None:
        self.name = name
        self.left = list(replies)
        """Replies that nobody has asked for yet."""

    def stream(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[int, Reply]]:
        """The next replies. _Unanswered where there are too few."""
        asked = list(requests)
        if len(asked) > len(self.left):
            raise _Unanswered(asked)
        for number, request in enumerate(asked):
            reply = as_reply(self.left.pop(0), request.labels)
            if not isinstance(reply, Reply):
                reply = Reply(text=reply) if isinstance(reply, str) else Reply(error=f"{shown(reply)} is no reply")
            yield number, reply

    def close(self) -> None:
        """Nothing to free."""


def _judged(
    engine: Engine,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None,
) -> JudgeResult:
    """The one way from here into the judge. A pair of one text is a failure, and nobody is asked about it."""

    def open_judge(model: JudgeModel | None) -> AbstractContextManager[Engine]:
        return nullcontext(engine) if model is None else open_engine(model)

    different = [pair for pair in pairs if pair.a != pair.b]
    result = judge_by_mode(open_judge, different, constitution, section, seed, progress)
    same = [pair for pair in pairs if pair.a == pair.b]
    failures = [Failure(stage="label", id=pair.id, reason="a and b are the same text") for pair in same]
    place = {pair.id: number for number, pair in reversed(list(enumerate(pairs)))}
    in_order = sorted((*result.failures, *failures), key=lambda row: place.get(row.id, len(place)))
    return result._replace(failures=tuple(in_order))
