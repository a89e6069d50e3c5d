"""Several modes of judging on the same human labels: which of them to propose for this judge and constitution.

Each mode judges every pair; `choice.py` picks on one half of the prompts, and the audit that follows is of the mode
picked, on the other half. The words are in `proposal.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlaif.audits.choice import (
    Choice,
    ModeTrial,
    Prompts,
    agreement_on,
    beats_a_coin,
    choose,
    chooses,
    difference_on,
)
from rlaif.audits.gold import GoldLabels
from rlaif.audits.judges import Judges, judge_gold
from rlaif.audits.metrics import as_asked, cost_per_pair
from rlaif.audits.named_modes import mode_name
from rlaif.audits.proposal import reason, said
from rlaif.config import Recipe
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ContrastMode, Mode, PanelMode
from rlaif.config.load import ModeChoice
from rlaif.console import say
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, DataError, JudgeError, ModelError
from rlaif.evaluation.agreement import coverage, order_consistency
from rlaif.feedback.judge import JudgeResult, check_failure_cap
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.labelled import decided, match
from rlaif.stats import Bootstrap, Estimate


class Trial(NamedTuple):
    """What `try_modes` leaves for the audit that follows."""

    block: dict[str, Any]
    """The audit's `modes`, ready for JSON."""
    recipe: Recipe
    """With the mode that is proposed; its own where none is."""
    gold: GoldLabels
    """The half that did not choose."""
    result: JudgeResult
    """Of this recipe on this half."""
    cost: Cost
    """Of all modes on both halves."""


class _Judged(NamedTuple):
    """One mode on both halves; `problem` says why it may not be chosen."""

    mode: Mode
    choosing: JudgeResult | None
    reporting: JudgeResult | None
    problem: str | None


# --------------------------------------------------------------------------------------------- how it is tried


def try_modes(recipe: Recipe, gold: GoldLabels, judges: Judges, modes: Sequence[Mode]) -> Trial:
    """Judge the gold in every mode, choose on one half of its prompts, and say what the other half shows.

    A mode that this judge or constitution cannot serve, and one of whose pairs more fail than the recipe allows, is
    listed with its reason and never chosen. DataError, before anything is asked, where a half has no pair on which
    people have a preference.
    """
    constitution, bootstrap = load_constitution(recipe.constitution), Bootstrap.of(recipe.evaluate, recipe.seed)
    halves = _halves(gold)
    judged: dict[str, _Judged] = {}
    # Those that open other models first: the recipe's own judge then stays open for what follows.
    for number, mode in enumerate(sorted(modes, key=lambda mode: (not _opens_others(mode), mode_name(mode))), start=1):
        say(f"mode {mode_name(mode)} ({number} of {len(modes)})")
        judged[mode_name(mode)] = _judge(mode, recipe, halves, judges, constitution)
    prompts = tuple(_with_preference(half) for half in halves)
    tried = [_tried(name, one, halves) for name, one in sorted(judged.items()) if one.problem is None]
    choice = choose(tried, prompts[0], bootstrap) if tried else None
    block = _block(judged, tried, choice, prompts, bootstrap)
    cost = sum_of([result for one in judged.values() for result in _results(one)])
    mode = recipe.label.mode if block["chosen"] is None else judged[block["chosen"]["name"]].mode
    section = _label(recipe, mode)
    result = next((one.reporting for one in judged.values() if one.mode == mode), None)
    if result is None:
        result = judge_gold(judges.cached, halves[1], constitution, section, recipe.seed)
        cost = cost.plus(result.cost)
    return Trial(block, recipe.model_copy(update={"label": section}), halves[1], result, cost)


def sum_of(results: Sequence[JudgeResult]) -> Cost:
    """What they cost together."""
    total = Cost()
    for result in results:
        total = total.plus(result.cost)
    return total


def _halves(gold: GoldLabels) -> tuple[GoldLabels, GoldLabels]:
    """The pairs that choose, and those that do not."""
    first = {label.pair.id for label in gold.judgments if chooses(label.pair.prompt_id)}
    halves = gold.without({label.pair.id for label in gold.judgments} - first), gold.without(first)
    chose, reported = (len(set(_with_preference(half).values())) for half in halves)
    if not chose or not reported:
        raise DataError(
            "--modes: a mode is chosen on one half of the prompts and reported on the other, and people have a "
            f"preference on {chose} prompts of the one and {reported} of the other; give more --gold"
        )
    return halves


def _with_preference(gold: GoldLabels) -> Prompts:
    return {label.pair.id: label.pair.prompt_id for label in gold.judgments if label.p_a != 0.5}


def _opens_others(mode: Mode) -> bool:
    if isinstance(mode, PanelMode):
        return any(member.model is not None or _opens_others(member.mode) for member in mode.members)
    return isinstance(mode, ContrastMode) and mode.against is not None


def _label(recipe: Recipe, mode: Mode) -> LabelSection:
    return recipe.label.model_copy(update={"mode": mode})


def _judge(
    mode: Mode, recipe: Recipe, halves: tuple[GoldLabels, GoldLabels], judges: Judges, constitution: Constitution
) -> _Judged:
    section = _label(recipe, mode)
    try:
        one, other = (judge_gold(judges.cached, half, constitution, section, recipe.seed) for half in halves)
    except (ConfigError, ModelError) as error:
        return _Judged(mode, None, None, str(error))
    whole = JudgeResult(one.judgments + other.judgments, one.failures + other.failures)
    try:
        check_failure_cap(whole, sum(len(half.judgments) for half in halves), section)
    except JudgeError as error:
        return _Judged(mode, one, other, str(error).removeprefix("label: "))
    return _Judged(mode, one, other, None)


def _results(judged: _Judged) -> list[JudgeResult]:
    return [result for result in (judged.choosing, judged.reporting) if result is not None]


def _tried(name: str, judged: _Judged, halves: tuple[GoldLabels, GoldLabels]) -> ModeTrial:
    choosing, reporting = (
        {item.judgment.pair.id: item.right for item in decided(match(result.judgments, half.judgments))}
        for result, half in zip(_results(judged), halves, strict=True)
    )
    return ModeTrial(name, choosing, reporting, sum_of(_results(judged)))


# ------------------------------------------------------------------------------------------------ what it says


def _block(
    judged: Mapping[str, _Judged],
    tried: Sequence[ModeTrial],
    choice: Choice | None,
    prompts: Sequence[Prompts],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """`modes` of the audit: what was tried, best where it was chosen first, and what is proposed."""
    reported = {one.name: one.reporting for one in tried}
    agreement = {name: agreement_on(hits, prompts[1], bootstrap) for name, hits in reported.items()}
    picked = choice.picked if choice else None
    beats = picked is not None and beats_a_coin(agreement[picked])
    order = [*(choice.ranked if choice else ()), *sorted(name for name in judged if name not in reported)]
    rows = []
    for name in order:
        one, other = judged[name], picked is not None and name in reported and name != picked
        difference = difference_on(reported[picked or ""], reported[name], prompts[1], bootstrap) if other else None
        results = _results(one)
        judgments = [judgment for result in results for judgment in result.judgments]
        failures = [failure for result in results for failure in result.failures]
        rows.append(
            {
                "name": name,
                "mode": one.mode.model_dump(mode="json"),
                "problem": one.problem,
                "choosing": _dump(choice.agreement.get(name)) if choice else None,
                "agreement": _dump(agreement.get(name)),
                "difference": _dump(difference),
                "consistency": _consistency(one.reporting, bootstrap),
                "coverage": coverage(judgments, failures)["value"],
                "cost": cost_per_pair(sum_of(results), len(judgments)),
            }
        )
    block: dict[str, Any] = {
        "picked": picked,
        "beats_a_coin": beats,
        "close": choice is not None and choice.close,
        "rivals": choice is not None and choice.rivals,
        "lead": _dump(choice.lead) if choice else None,
        "flattery": choice.flattery if choice else None,
        "choosing": {"pairs": len(prompts[0]), "prompts": len(set(prompts[0].values()))},
        "reporting": {"pairs": len(prompts[1]), "prompts": len(set(prompts[1].values()))},
        "rows": rows,
    }
    chosen = None
    if picked is not None and beats:
        chosen = ModeChoice(name=picked, mode=judged[picked].mode, reason=reason(agreement[picked]))
    block["chosen"] = chosen.model_dump(mode="json") if chosen else None
    return said(block) | block


def _dump(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.model_dump()


def _consistency(result: JudgeResult | None, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """How often a principle's choice was the same in both orders; None for modes that have no orders."""
    judgments = [part for judgment in result.judgments for part in as_asked(judgment)] if result else []
    found = order_consistency(judgments, *bootstrap)
    return None if found is None else {key: found[key] for key in ("value", "low", "high", "n")}
