"""evaluation.json: everything that was measured about a run, each figure with its interval.

Every comparison of before and after is paired: the same prompt and sample index. The statistics are in
`rlaif/stats.py`, the page for a person in `report.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlaif.config.judging import ReferenceMode
from rlaif.config.recipe import EvaluateSection
from rlaif.constitution import Constitution, Principle, read_ahead
from rlaif.errors import DataError
from rlaif.evaluation.agreement import coverage, labels_by_principle, order_consistency
from rlaif.evaluation.measures import Instrument, measure_changes, signal_changes
from rlaif.evaluation.reward_worth import heldout_accuracy, reward_worth
from rlaif.evaluation.truth import Flips, truth
from rlaif.evaluation.winrate import Match, matches, principle_win_rate, win_rate
from rlaif.formats.turns import own_text, own_words, spoken
from rlaif.records import Failure, Judgment, Response, Score, plain
from rlaif.signals.tally import repetition_rate
from rlaif.stats import Bootstrap, Bounds, change, clustered_mean

SHARE: Bounds = (0.0, 1.0)
NO_REWARD_MODEL = "no reward model"
BEST_OF_N_BOUND = "at most: log n - (n - 1) / n for the best of n samples (arXiv 2009.01325; 2401.01879)"


@dataclass(frozen=True)
class EvaluationInputs:
    """All that an evaluation looks at; `kl` and scores are one number a response, in the order of `after`."""

    constitution: Constitution
    before: Sequence[Response]
    """The reference's samples."""
    after: Sequence[Response]
    """The policy's, for the same prompts and indices."""
    judgments: Sequence[Judgment] = ()
    """Of `evaluation_pairs(before, after)`; empty when no judge was asked."""
    label_judgments: Sequence[Judgment] = ()
    """The judge's judgments that preferences were made of."""
    failures: Sequence[Failure] = ()
    """The judge's, from labelling and evaluation."""
    has_reward_model: bool = True
    """Whether the recipe trains one."""
    heldout_rows: Sequence[Mapping[str, Any]] = ()
    """The reward model on held-out preferences; see `reward_worth.heldout_accuracy`."""
    heldout_ratings: Sequence[Mapping[str, Any]] = ()
    """The reward model on held-out ratings, where it learnt from ratings."""
    kl: Sequence[float] = ()
    """Estimates of KL(policy || reference) in nats, one a response."""
    kl_bound: float | None = None
    """Where KL cannot be estimated: what it is at most (best-of-n)."""
    scores_before: Sequence[float] = ()
    scores_after: Sequence[float] = ()
    instruments: Sequence[Instrument] = ()
    """Measures of `evaluate.measures`, beside the checks and the judge."""
    hacking: Mapping[str, Any] | None = None
    """What the score can be moved by (`audits/hacking.py: hacking_change`); None where it was not tried."""
    judge_scores: Sequence[Score] = ()
    """What the judge said of each response, held against a `reference`; of another mode none."""
    flips: Flips = field(default_factory=dict)
    """Of the prompts with an opposite; see `stages/truth.py`."""
    grading: ReferenceMode = field(default_factory=ReferenceMode)
    """How answers are graded where prompts have right ones."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    """judge_calls, prompt_tokens, completion_tokens, seconds (by stage)."""


def _before_after(
    matched: Sequence[Match], measure: Callable[[Response], float], bootstrap: Bootstrap, bounds: Bounds | None = SHARE
) -> dict[str, Any]:
    before, after = [measure(m.before) for m in matched], [measure(m.after) for m in matched]
    return change(before, after, [m.after.prompt_id for m in matched], bootstrap, bounds)


def _passes(constitution: Constitution, response: Response) -> dict[str, bool | None]:
    """Whether the response passes each checked principle that applies to its prompt; None where the check comes to no
    end."""
    return {p.id: passed(p, response) for p in constitution.for_tags(response.tags) if p.coded}


def passed(principle: Principle, response: Response) -> bool | None:
    """Whether code passes the response, a conversation if it passes each of the policy's turns; None where it cannot
    tell."""
    found = [principle.passed(text, before) for text, before in spoken(response)]
    return False if False in found else None if None in found else True


def _principle(
    principle: Principle, inputs: EvaluationInputs, matched: Sequence[Match], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Code gives a checked principle exact pass rates; a judged one only says which response it prefers."""
    applies = [m for m in matched if principle in inputs.constitution.for_tags(m.after.tags)]
    here = applies
    if principle.coded:
        here = [m for m in applies if None not in [passed(principle, r) for r in (m.before, m.after)]]
    entry: dict[str, Any] = {"checked": principle.coded, "judged": principle.judged}
    if not principle.coded:
        entry["pass_rate"] = {"before": None, "after": None, "difference": None}
        entry["note"] = "judged by comparison only, so there is no pass rate; see win_rate"
    elif not here:
        entry["pass_rate"] = {"before": None, "after": None, "difference": None}
        entry["note"] = (
            "applies to none of the held-out prompts"
            if not applies
            else "its check came to no end, or its classifier gave no number"
        )
    else:
        entry["pass_rate"] = _before_after(here, lambda r: float(bool(passed(principle, r))), bootstrap)
    if len(here) < len(applies):
        entry["undecided"] = len(applies) - len(here)
    entry["win_rate"] = principle_win_rate(principle.id, applies, inputs.judgments, bootstrap)
    return entry


def evaluate(inputs: EvaluationInputs, section: EvaluateSection, seed: int) -> dict[str, Any]:
    """The content of evaluation.json. A figure that was not measured is None, never a made-up number."""
    bootstrap = Bootstrap.of(section, seed)
    matched = matches(inputs.before, inputs.after)
    if not matched:
        raise DataError("evaluation: no held-out responses to compare; see prompts.heldout")
    constitution = inputs.constitution
    both = [r for m in matched for r in (m.before, m.after)]
    read_ahead(constitution.principles, [(text, before, r.tags) for r in both for text, before in spoken(r)])
    every = [*inputs.label_judgments, *inputs.judgments]
    of_labels = [one.of(own_words) for one in inputs.instruments] if both[0].turns else inputs.instruments
    true = truth(matched, inputs.judge_scores, inputs.flips, inputs.grading, constitution, bootstrap)
    return {
        "confidence": section.confidence,
        "heldout": {"prompts": len({m.after.prompt_id for m in matched}), "responses": len(matched)},
        "constitution": {"id": constitution.id, "version": constitution.version, "hash": constitution.hash},
        "judge": {
            "order_consistency": order_consistency(every, *bootstrap),
            "coverage": coverage(every, inputs.failures),
        },
        "reward_model": _reward_model(inputs, bootstrap),
        "policy": _policy(inputs, matched, bootstrap),
        "principles": {p.id: _principle(p, inputs, matched, bootstrap) for p in constitution.principles},
        "all_checked": all_checked(constitution, matched, bootstrap),
        "measures": [
            *measure_changes(inputs.instruments, matched, bootstrap),
            *signal_changes(constitution, matched, bootstrap),
        ],
        "labels": labels_by_principle(inputs.label_judgments, constitution, of_labels, bootstrap),
        **({"hacking": dict(inputs.hacking)} if inputs.hacking else {}),
        "cost": dict(inputs.cost),
        **({"truth": true} if true else {}),
    }


def _reward_model(inputs: EvaluationInputs, bootstrap: Bootstrap) -> dict[str, Any]:
    if not inputs.has_reward_model:
        return {"heldout_accuracy": None, "note": NO_REWARD_MODEL}
    worth = reward_worth(inputs.heldout_rows, bootstrap, inputs.heldout_ratings)
    return {"heldout_accuracy": heldout_accuracy(inputs.heldout_rows, bootstrap), **worth}


def _policy(inputs: EvaluationInputs, matched: Sequence[Match], bootstrap: Bootstrap) -> dict[str, Any]:
    clusters = [m.after.prompt_id for m in matched]
    kl: dict[str, Any] | None = None
    if inputs.kl:
        kl = clustered_mean(inputs.kl, clusters, *bootstrap, bounds=None).model_dump()
    elif inputs.kl_bound is not None:
        kl = {"value": inputs.kl_bound, "low": None, "high": None, "n": len(matched), "note": BEST_OF_N_BOUND}
    scores = None
    if inputs.scores_after:
        scores = change(inputs.scores_before, inputs.scores_after, clusters, bootstrap, bounds=None)
    return {
        "win_rate_vs_reference": win_rate(matched, inputs.judgments, inputs.constitution, bootstrap),
        "kl": kl,
        "score": scores,
        "response_tokens": _before_after(matched, lambda r: float(r.tokens), bootstrap, bounds=None),
        "finished": _before_after(matched, lambda r: float(r.finished), bootstrap),
        "repetition": _before_after(matched, lambda r: repetition_rate(own_text(r), n=4), bootstrap),
    }


def all_checked(constitution: Constitution, matched: Sequence[Match], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """The share of responses that pass every check that applies to them; None when no check applies."""
    applies = [m for m in matched if any(p.coded for p in constitution.for_tags(m.after.tags))]
    passed = {id(r): _passes(constitution, r).values() for m in applies for r in (m.before, m.after)}
    here = [m for m in applies if None not in (*passed[id(m.before)], *passed[id(m.after)])]
    if not here:
        return None
    change = _before_after(here, lambda r: float(all(passed[id(r)])), bootstrap)
    undecided = {"undecided": len(applies) - len(here)} if len(here) < len(applies) else {}
    return change | {"checks": sum(p.coded for p in constitution.principles)} | undecided


def sample_rows(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    """The rows of evaluation_samples.jsonl: each response before and after, the checks it passes, its measures."""
    rows = []
    for i, (before, after) in enumerate(matches(inputs.before, inputs.after)):
        row: dict[str, Any] = {
            "prompt_id": after.prompt_id,
            "index": after.index,
            "prompt": plain(after.prompt),
        }
        for name, response in (("before", before), ("after", after)):
            row[name] = response.text
            row[f"{name}_tokens"] = response.tokens
            row[f"{name}_finished"] = response.finished
            passed = _passes(inputs.constitution, response)
            row[f"{name}_passes"] = {check: good for check, good in passed.items() if good is not None}
            if inputs.instruments:
                row[f"{name}_measures"] = {one.name: one.value(own_text(response)) for one in inputs.instruments}
        if inputs.scores_after:
            row |= {"score_before": inputs.scores_before[i], "score_after": inputs.scores_after[i]}
        if inputs.kl:
            row["kl"] = inputs.kl[i]
        rows.append(row)
    return rows
