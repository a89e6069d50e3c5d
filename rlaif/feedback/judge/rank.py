"""Rank the responses to a prompt: compare all pairs or those of a tournament, then read every pair off the strengths.

How a pair is compared is `compare.py`'s, and the mathematics of the ranking is `rlaif/feedback/ranking.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import RankMode
from rlaif.constitution import Constitution
from rlaif.feedback.judge.asking import provenance
from rlaif.feedback.judge.compare import judge_pairs
from rlaif.feedback.judge.result import Cost, JudgeResult
from rlaif.feedback.ranking import Meeting, groups, order, pair_up, strengths
from rlaif.feedback.sample import Progress
from rlaif.feedback.verdict import sigma
from rlaif.models.chat import ChatModel
from rlaif.records import Failure, Judgment, Pair, PrincipleJudgment, Provenance, Ranking, Side, content_id
from rlaif.templates import load_template

OTHER: dict[Side, Side] = {"a": "b", "b": "a"}


class _Contest:
    """The responses to one prompt, numbered by seeded hash, and what their comparisons have said so far.

    Neither the order of the pairs nor which response is called a leaves a trace: a is the one with the smaller number.
    """

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        prompt_id = pairs[0].prompt_id
        texts = {text for pair in pairs for text in (pair.a, pair.b)}
        self.texts = sorted(texts, key=lambda text: (content_id("rank", seed, prompt_id, text), text))
        self.number = {text: number for number, text in enumerate(self.texts)}
        self.unmet = {self.meeting(pair): pair if self.upright(pair) else pair.swapped() for pair in pairs}
        self.judged: dict[str, Judgment] = {}
        self.failed: dict[str, list[Failure]] = {}
        self.wins = np.zeros((len(texts), len(texts)))
        self.theta = strengths(self.wins)
        self.groups = groups(self.wins)

    def meeting(self, pair: Pair) -> Meeting:
        i, j = sorted((self.number[pair.a], self.number[pair.b]))
        return i, j

    def upright(self, pair: Pair) -> bool:
        return self.number[pair.a] < self.number[pair.b]

    def next_round(self, everyone: bool) -> list[Pair]:
        """The pairs to compare now, each once and never again: all, or those of one round of a tournament."""
        due = sorted(self.unmet) if everyone else pair_up(order(self.theta), self.unmet, self.wins)
        return [self.unmet.pop(meeting) for meeting in due]

    def enter(self, judgments: Sequence[Judgment]) -> None:
        """What the judge said of pairs of this prompt."""
        for judgment in judgments:
            i, j = self.meeting(judgment.pair)
            self.wins[i, j] += judgment.p_a
            self.wins[j, i] += 1 - judgment.p_a
            self.judged[judgment.pair.id] = judgment
        self.theta = strengths(self.wins)
        self.groups = groups(self.wins)

    def p_a(self, pair: Pair) -> float | None:
        """By strength; None where no chain of comparisons joins the two responses."""
        i, j = self.number[pair.a], self.number[pair.b]
        joined = any(i in group and j in group for group in self.groups)
        return sigma(float(self.theta[i] - self.theta[j])) if joined else None

    def ranking(self, pair: Pair) -> Ranking | None:
        """All responses, best first; None where the comparisons do not join them all."""
        if len(self.groups) > 1:
            return None
        best_first = order(self.theta)
        return Ranking(
            prompt_id=pair.prompt_id,
            prompt=pair.prompt,
            tags=pair.tags,
            responses=tuple(self.texts[i] for i in best_first),
            strengths=tuple(float(self.theta[i]) for i in best_first),
            compared=len(self.judged),
        )


def judge_by_rank(
    model: ChatModel,
    mode: RankMode,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """The pairs of each prompt by the Bradley-Terry strengths of its responses, those never compared too.

    Compared are all pairs given, or, with `mode.rounds`, those that so many rounds of a Swiss tournament choose among
    them (see `ranking.pair_up`); a round of all prompts is one call of the model. No pair is compared twice: when
    none is left, later rounds are empty. A judgment's p_a is that of the strengths; its principles are those of the
    pair's own comparison, if there was one.

    A pair whose own comparison failed is a failure even where the others would tell its p_a: what the judge did not
    answer is never a label. A pair that no chain of comparisons joins is a failure too, and a prompt whose responses
    are not all joined has no ranking. `progress` counts pairs.
    """
    template = load_template(mode.template, "compare")
    of_prompt: dict[str, list[Pair]] = {}
    for pair in pairs:
        of_prompt.setdefault(pair.prompt_id, []).append(pair)
    contests = {prompt_id: _Contest(group, seed) for prompt_id, group in of_prompt.items()}
    # A prompt to which no principle applies asks nothing, and all its pairs fail with that reason at once.
    everyone = {
        prompt_id: mode.rounds is None or not constitution.for_tags(group[0].tags)
        for prompt_id, group in of_prompt.items()
    }
    cost, compared = Cost(), 0
    for _ in range(mode.rounds or 1):
        due = {prompt_id: contest.next_round(everyone[prompt_id]) for prompt_id, contest in contests.items()}
        asked = [pair for group in due.values() for pair in group]
        if not asked:
            break
        result = judge_pairs(model, asked, constitution, template, section, seed, progress)
        _enter(contests, asked, result)
        cost, compared = cost.plus(result.cost), compared + len(asked)
    if progress is not None and compared < len(pairs):
        progress(len(pairs) - compared)
    rounds = mode.rounds or "all"
    sampling = {"labels": " ".join(template.labels), "rounds": rounds, "seed": seed}
    origin = provenance(model, constitution, template, section, sampling | {"temperature": 0.0, "max_tokens": 1})
    return _result(pairs, contests, f"{model.name}:rank", origin, cost)


def _enter(contests: dict[str, _Contest], asked: Sequence[Pair], result: JudgeResult) -> None:
    prompt_of = {pair.id: pair.prompt_id for pair in asked}
    for row in result.failures:
        contests[prompt_of[row.id]].failed.setdefault(row.id, []).append(row)
    said: dict[str, list[Judgment]] = {}
    for judgment in result.judgments:
        said.setdefault(judgment.pair.prompt_id, []).append(judgment)
    for prompt_id, judgments in said.items():
        contests[prompt_id].enter(judgments)


def _result(
    pairs: Sequence[Pair], contests: dict[str, _Contest], annotator: str, origin: Provenance, cost: Cost
) -> JudgeResult:
    judgments: list[Judgment] = []
    failures: list[Failure] = []
    for pair in pairs:
        contest = contests[pair.prompt_id]
        p_a = contest.p_a(pair)
        if pair.id in contest.failed:
            failures += [row if contest.upright(pair) else _turned_row(row) for row in contest.failed[pair.id]]
        elif p_a is None:
            failures.append(_not_connected(pair, contest, origin))
        else:
            own = contest.judged.get(pair.id)
            principles = own.principles if own else ()
            judgments.append(
                Judgment(
                    pair=pair,
                    source="ai",
                    annotator=annotator,
                    p_a=p_a,
                    principles=principles if contest.upright(pair) else tuple(map(_turned, principles)),
                    provenance=origin,
                )
            )
    first = {pair.prompt_id: pair for pair in reversed(pairs)}
    rankings = [contest.ranking(first[prompt_id]) for prompt_id, contest in contests.items()]
    return JudgeResult(tuple(judgments), tuple(failures), cost, rankings=tuple(filter(None, rankings)))


def _not_connected(pair: Pair, contest: _Contest, origin: Provenance) -> Failure:
    done = f"{len(contest.judged)} judged, {len(contest.failed)} failed"
    return Failure(
        stage="label",
        id=pair.id,
        reason="not connected by comparisons",
        detail=f"of this prompt's comparisons {done}; label.mode.rounds is {origin.sampling['rounds']}",
    )


def _turned(judgment: PrincipleJudgment) -> PrincipleJudgment:
    """The same replies, read for the exchanged pair."""
    verdicts = [verdict.model_copy(update={"first": OTHER[verdict.first]}) for verdict in reversed(judgment.verdicts)]
    return judgment.model_copy(update={"p_a": 1 - judgment.p_a, "verdicts": tuple(verdicts)})


def _turned_row(row: Failure) -> Failure:
    return row.model_copy(update={"first": OTHER[row.first] if row.first else None})
