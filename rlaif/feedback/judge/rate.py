"""Judge pairs by what is said of each response alone (`score`, `checklist`, `contrast`).

A response that stands in several pairs is asked about once, and no order can bias the judge. `score.py` asks; the
mathematics is in `feedback/rating.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config.feedback import LabelSection
from rlaif.constitution import Constitution
from rlaif.feedback.judge.compare import Plan, judgments_of, plan, undecidable
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.judge.score import RateMode, paced, scale_of, score_responses
from rlaif.feedback.rating import Scale, compared
from rlaif.feedback.sample import Progress
from rlaif.feedback.verdict import Decided
from rlaif.models.chat import ChatModel
from rlaif.records import Failure, Pair, Prompt, Score


def judge_by_rating(
    model: ChatModel,
    mode: RateMode,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """Judge each pair by what is said of its two responses alone, by each principle; see `score_responses`.

    Per principle p(a) is P(a is rated higher) + P(both are rated the same)/2 with `score`, P(only a follows it) +
    P(both or neither do)/2 with `checklist`, and what `ratio.py` says with `contrast`. With `sample` the drawn
    principle counts for the pair as in `judge_pairs`, but all are asked about: a response's score is made of all. A
    pair of which a question failed, or to which no principle applies, stays unlabelled. `progress` counts pairs.
    """
    plans = [plan(pair, constitution, section, seed, mode.kind) for pair in pairs]
    prompts = [Prompt(id=pair.prompt_id, messages=pair.prompt, tags=pair.tags) for pair in pairs]
    responses = [(prompt, text) for prompt, pair in zip(prompts, pairs, strict=True) for text in (pair.a, pair.b)]
    counted = paced(progress, len(responses), len(pairs))
    rated = score_responses(model, mode, responses, constitution, section, seed, counted)

    failures = undecidable(plans)
    decided: list[list[Decided] | None] = []
    for index, (pair, needs) in enumerate(zip(pairs, plans, strict=True)):
        a, b = rated.scores[2 * index : 2 * index + 2]
        if a is None or b is None or needs.failure:
            rows = [row for failed in rated.failures[2 * index : 2 * index + 2] for row in failed]
            failures.setdefault(index, [_of_pair(pair, row) for row in rows])
            decided.append(None)
        else:
            decided.append(_decided(needs, a, b, scale_of(mode, section), section.check_margin))
    distinct = {(score.id, score.tags): score for score in rated.scores if score is not None}
    first = next(iter(distinct.values()), None)
    return JudgeResult(
        judgments=judgments_of(pairs, decided, section, seed, first.annotator, first.provenance) if first else (),
        failures=tuple(row for index in sorted(failures) for row in failures[index]),
        cost=rated.cost,
        scores=tuple(distinct.values()),
    )


def _decided(needs: Plan, a: Score, b: Score, scale: Scale, margin: float) -> list[Decided]:
    by_a, by_b = ({score.principle: score for score in response.principles} for response in (a, b))
    return [
        (p, needs.checked.get(p.id) or compared(p, by_a[p.id], by_b[p.id], scale, margin)) for p in needs.principles
    ]


def _of_pair(pair: Pair, failed: Failure) -> Failure:
    """The failure of one of its responses, as the pair's."""
    return failed.model_copy(update={"id": pair.id, "detail": f"response {failed.id}: {failed.detail}"})
