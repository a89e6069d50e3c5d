"""The judge: pairs and a constitution in, judgments with provenance and failures out. The one place that knows all
modes of the recipe's `label.mode`.

`compare.py` is the plain way to ask, `drive.py` runs what asks against a model, `asking.py` is what all ways share,
`result.py` what comes out. The mathematics of the replies is in `feedback/verdict.py`.

A new mode is a file beside this one with its `Way`, a line in `WAYS`, and a section in `config/judging.py`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from itertools import chain, groupby
from typing import Any

from rlaif.config import Recipe
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode, ContrastMode, MemberMode, Mode, PanelMode, RankMode, ReviseMode
from rlaif.config.models import JudgeModel
from rlaif.config.scoring import JudgeScore, Scored
from rlaif.constitution import Constitution, load_constitution, read_ahead
from rlaif.feedback.judge import compare, rank, score
from rlaif.feedback.judge.asking import Bench, Way, check_texts
from rlaif.feedback.judge.contrast import Versus
from rlaif.feedback.judge.drive import driven
from rlaif.feedback.judge.panel import combined
from rlaif.feedback.judge.result import Cost, JudgeResult, Piece, Results, UnitResult, check_failure_cap
from rlaif.feedback.judge.shards import PIECE, SHARD, Spool, shards, written
from rlaif.feedback.sample import Progress
from rlaif.models.engine import Elsewhere, Engine
from rlaif.records import Pair, grouped
from rlaif.templates import JudgeTemplate, load_template

__all__ = [
    "JudgeResult",
    "OpenJudge",
    "SingleJudge",
    "check_failure_cap",
    "check_modes",
    "judge_by_mode",
    "judge_shards",
    "modes_of",
    "passes",
]
WAYS: dict[str, Way] = {"compare": compare.COMPARE, "reasoned": compare.REASONED, "rank": rank.WAY, **score.WAYS}
OpenJudge = Callable[[JudgeModel | None], AbstractContextManager[Engine]]
"""Opens a judge for a while; None means the recipe's own. One at a time: two may not fit the GPU. Members of a panel
that follow each other with one model share its opening: starting a judge can take a minute."""


def judge_by_mode(
    open_judge: OpenJudge,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """The pairs judged as `section.mode` says. `revise` compares nothing, so given pairs are judged by `compare`.

    `progress` counts pairs, each as often as `passes` says.
    """
    return JudgeResult.total(judge_shards(open_judge, pairs, constitution, section, seed, progress))


def judge_shards(
    open_judge: OpenJudge,
    pairs: Iterable[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> Results:
    """As `judge_by_mode`, a result for each shard of the pairs, or for each piece of a shard that is ready: what is in
    memory does not grow with their number.

    `pairs` may be gone through several times. Those of a prompt follow each other, unless they are a list. Two models
    that take turns (a contrast `against` another model) judge everything in one shard: each opens once.
    """
    mode = section.mode
    members = mode.members if isinstance(mode, PanelMode) else ()
    weaker = any(_weaker(one) for one in (mode, *(member.mode for member in members)))
    size = sys.maxsize if weaker else SHARD

    def judged(model: Engine, single: MemberMode | RankMode, *, whole: bool) -> Iterator[JudgeResult]:
        judge = SingleJudge(single, constitution, section, seed)
        elsewhere: Elsewhere | None = getattr(model, "elsewhere", None)
        cut = shards(pairs, size if whole else size * getattr(model, "shards", 1))
        parts: Iterable[Any] = [pairs] if elsewhere is not None and not whole else cut
        for shard in parts:
            pieces = _sent(elsewhere, judge, shard, progress) if elsewhere else judge.pieces(model, shard, progress)
            yield from [JudgeResult.total(pieces)] if whole else pieces

    if isinstance(mode, PanelMode):
        with ExitStack() as files:
            results = []
            for which, group in groupby(members, key=lambda member: (member.model, _weaker(member.mode))):
                with _opened(open_judge, *which) as model:
                    for member in group:
                        file = files.enter_context(tempfile.TemporaryFile())
                        results.append(Spool(judged(model, member.mode, whole=True), file))
            yield from combined(mode, shards(pairs, size), results)
        return
    with _opened(open_judge, None, _weaker(mode)) as model:
        yield from judged(model, CompareMode() if isinstance(mode, ReviseMode) else mode, whole=False)


def modes_of(recipe: Recipe) -> list[MemberMode | RankMode | ReviseMode]:
    """Every single mode in which the recipe's judges judge: labelling's, a panel's members', and those that score
    rollouts."""
    mode = recipe.label.mode
    labelling = [member.mode for member in mode.members] if isinstance(mode, PanelMode) else [mode]
    sources = recipe.optimise.sources if isinstance(recipe.optimise, Scored) else ()
    return [*labelling, *(source.mode for source in sources if isinstance(source, JudgeScore))]


def check_modes(recipe: Recipe) -> None:
    """ConfigError, before any work, for a principle that some judge of the recipe could not be asked about."""
    constitution = load_constitution(recipe.constitution)
    for mode in modes_of(recipe):
        if not isinstance(mode, ReviseMode):
            check_texts(constitution, mode.kind)


def _weaker(mode: Mode) -> JudgeModel | None:
    """The model that reads the other side of a contrast, where it is another one."""
    return mode.against if isinstance(mode, ContrastMode) else None


def _opened(
    open_judge: OpenJudge, judge: JudgeModel | None, weaker: JudgeModel | None
) -> AbstractContextManager[Engine]:
    if weaker is None:
        return open_judge(judge)
    return nullcontext(Versus(lambda: open_judge(judge), lambda: open_judge(weaker)))


def passes(mode: Mode) -> int:
    """How many times each pair is judged: once, or by every member of a panel."""
    return len(mode.members) if isinstance(mode, PanelMode) else 1


class SingleJudge:
    """One mode, with all that it needs but the model: it can be pickled, and sent to where that is. ConfigError for a
    principle that it could not be asked about."""

    def __init__(
        self,
        mode: MemberMode | RankMode,
        constitution: Constitution,
        section: LabelSection,
        seed: int,
        template: JudgeTemplate | None = None,
    ) -> None:
        check_texts(constitution, mode.kind)
        self._way = WAYS[mode.kind]
        self._given = mode, constitution, section, seed, template or load_template(mode.template, self._way.template)
        self._benches: dict[int, tuple[Engine, Bench[Any]]] = {}
        """By the model's identity, with the model."""
        self.asks = 2 * len(constitution.principles)
        """About so many requests about a pair."""

    def __reduce__(self) -> tuple[Any, ...]:
        return SingleJudge, self._given

    def __call__(self, model: Engine, pairs: Sequence[Pair], progress: Progress | None = None) -> JudgeResult:
        """The pairs judged by this model. `progress` counts pairs."""
        return JudgeResult.total(self.pieces(model, pairs, progress))

    def pieces(self, model: Engine, pairs: Sequence[Pair], progress: Progress | None) -> Results:
        """The pairs in order, in pieces as they are ready; the last, perhaps empty, is no `Piece`."""
        if id(model) not in self._benches:
            self._benches[id(model)] = model, self._way.bench(model, *self._given)
        answers = [(text, pair.prompt, pair.tags) for pair in pairs for text in (pair.a, pair.b)]
        read_ahead(self._given[1].principles, answers)
        return _judge(self._way, self._benches[id(model)][1], model, pairs, progress)


def _sent(elsewhere: Elsewhere, judge: SingleJudge, pairs: Iterable[Pair], progress: Progress | None) -> Results:
    """The pairs judged there, in order, a result for each part that was sent."""
    for result in elsewhere.each(partial(written, judge), shards(pairs, max(1, elsewhere.requests // judge.asks))):
        if progress is not None:
            progress(len(result.judgments) + len({failure.id for failure in result.failures}))
        yield result


def _judge(way: Way, bench: Bench[Any], model: Engine, pairs: Sequence[Pair], progress: Progress | None) -> Results:
    places = range(len(pairs))
    units = list(grouped(places, lambda place: pairs[place].prompt_id if way.by_prompt else str(place)).values())
    piece = len(units) if way.by_prompt else PIECE  # a prompt's pairs may lie apart
    works = (way.work(bench, [pairs[place] for place in unit]) for unit in units)
    ended: dict[int, UnitResult] = {}
    first, cost = 0, Cost()
    for number, result, own in driven(model, works):
        ended[number], cost = result, cost.plus(own)
        if progress is not None:
            progress(len(units[number]))
        while len(ended) >= piece and all(place in ended for place in range(first, first + piece)):
            some = _joined(units[first : first + piece], [ended.pop(first + place) for place in range(piece)], cost)
            yield Piece(*some)
            first, cost = first + piece, Cost()
    rest = units[first:]
    yield _joined(rest, [ended.pop(first + place) for place in range(len(rest))], cost)


def _joined(units: Sequence[Sequence[int]], parts: Sequence[UnitResult], cost: Cost) -> JudgeResult:
    outcomes = dict(zip(chain(*units), chain(*(part.outcomes for part in parts)), strict=True))
    return JudgeResult.of(parts, (outcomes[place] for place in sorted(outcomes)), cost)
