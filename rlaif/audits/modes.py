"""Several modes of judging on the same human labels: which of them to propose for this judge and constitution.

Each mode judges every pair; `choice.py` picks on one half of the prompts, and the audit that follows is of the mode
picked, on the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    reason,
    said,
)
from rlaif.audits.gold import GoldLabels
from rlaif.audits.judges import Judges, judge_gold
from rlaif.audits.metrics import as_asked, cost_per_pair, dumped
from rlaif.config import Recipe
from rlaif.config.base import Section, written
from rlaif.config.judging import (
    ChecklistMode,
    CompareMode,
    ContrastMode,
    Mode,
    PanelMode,
    RankMode,
    ReasonedMode,
    ScoreMode,
)
from rlaif.config.load import ModeChoice
from rlaif.console import say
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, DataError, JudgeError, ModelError, did_you_mean, shown
from rlaif.evaluation.agreement import coverage, order_consistency
from rlaif.feedback.judge import JudgeResult, check_failure_cap
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.labelled import decided, match
from rlaif.stats import Bootstrap

DEFAULTS: dict[str, Mode] = {
    mode.kind: mode
    for mode in (CompareMode(), ReasonedMode(), ScoreMode(), ChecklistMode(), ContrastMode(), RankMode())
}
"""What a name stands for where the recipe's own mode is of another kind."""
NO_NAMES = {
    "revise": "it compares nothing, and its audit is that of compare; name compare",
    "panel": "a panel has members; write it as '{kind: panel, members: [{name: one}, {name: two}]}'",
    "auto": "which mode that is the audit is to find out",
}


class _ModeWord(Section):
    """A mode as the command line has it: what `label.mode` is in a recipe."""

    mode: Mode


class ModeComparison(NamedTuple):
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


class _Attempt(NamedTuple):
    """One mode on both halves; `problem` says why it may not be chosen."""

    mode: Mode
    results: tuple[JudgeResult, ...]
    """Of the half that chooses and of the other; empty where the mode could not judge at all."""
    problem: str | None

    @property
    def whole(self) -> JudgeResult:
        """Both halves together."""
        return JudgeResult.total(self.results)


# ------------------------------------------------------------------------------------------- what they are called


def parse_modes(words: Sequence[str], own: Mode) -> tuple[Mode, ...]:
    """Each `compare,checklist` or `{kind: contrast, length: mean}`, as modes in the order of their names.

    A name stands for the mode `own` where that is of its kind, else for the kind with its defaults. ConfigError for
    what is no mode, for one that is there twice, and for fewer than two.
    """
    found: dict[str, Mode] = {}
    for mode in (mode for text in words for mode in _modes(text, own)):
        name = mode_name(mode)
        if name in found:
            same = found[name] == mode
            raise ConfigError(
                f"--modes: {name} is {'there twice' if same else 'two panels; rename the members of one'}"
            )
        found[name] = mode
    if len(found) < 2:
        raise ConfigError(f"--modes: name at least two, to choose one of them (got {', '.join(found)})")
    return tuple(found[name] for name in sorted(found))


def mode_name(mode: Mode) -> str:
    """The kind, and what is set otherwise than by default: `contrast length=mean`."""
    if isinstance(mode, PanelMode):
        return f"panel {mode.combine} of {', '.join(member.name for member in mode.members)}"
    knobs = mode.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)
    told = {key: value.get("model", value) if isinstance(value, dict) else value for key, value in knobs.items()}
    return " ".join([mode.kind, *(f"{key}={value}" for key, value in told.items())])


def _modes(text: str, own: Mode) -> Iterator[Mode]:
    if text.lstrip().startswith("{"):
        mode: Mode = written(text, _ModeWord, "--modes")
        if mode.kind == "revise":
            raise ConfigError(f"--modes: not revise: {NO_NAMES['revise']}")
        yield mode
        return
    for name in map(str.strip, text.split(",")):
        if name == own.kind == "panel":
            yield own
            continue
        if name in NO_NAMES:
            raise ConfigError(f"--modes: not {name}: {NO_NAMES[name]}")
        if name not in DEFAULTS:
            raise ConfigError(f"--modes: no mode {shown(name)}{did_you_mean(name, DEFAULTS)}")
        yield own if own.kind == name else DEFAULTS[name]


# --------------------------------------------------------------------------------------------- how it is tried


def try_modes(recipe: Recipe, gold: GoldLabels, judges: Judges, modes: Sequence[Mode]) -> ModeComparison:
    """Judge the gold in every mode, choose on one half of its prompts, and say what the other half shows.

    A mode that this judge or constitution cannot serve, and one of whose pairs more fail than the recipe allows, is
    listed with its reason and never chosen. DataError, before anything is asked, where a half has no pair on which
    people have a preference.
    """
    constitution, bootstrap = load_constitution(recipe.constitution), Bootstrap.of(recipe.evaluate, recipe.seed)
    halves = _halves(gold)
    attempts: dict[str, _Attempt] = {}
    # Those that open other models first: the recipe's own judge then stays open for what follows.
    for number, mode in enumerate(sorted(modes, key=lambda mode: (not _opens_others(mode), mode_name(mode))), start=1):
        say(f"mode {mode_name(mode)} ({number} of {len(modes)})")
        attempts[mode_name(mode)] = _attempt(mode, recipe, halves, judges, constitution)
    prompts = tuple(_with_preference(half) for half in halves)
    trials = [_trial(name, one, halves) for name, one in sorted(attempts.items()) if one.problem is None]
    choice = choose(trials, prompts[0], bootstrap) if trials else None
    block = _block(attempts, trials, choice, prompts, bootstrap)
    cost = JudgeResult.total(one.whole for one in attempts.values()).cost
    mode = recipe.label.mode if block["chosen"] is None else attempts[block["chosen"]["name"]].mode
    resolved = _with_mode(recipe, mode)
    result = next((one.results[1] for one in attempts.values() if one.mode == mode and one.results), None)
    if result is None:
        result = judge_gold(judges.cached, halves[1], constitution, resolved.label, recipe.seed)
        cost = cost.plus(result.cost)
    return ModeComparison(block, resolved, halves[1], result, cost)


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


def _with_mode(recipe: Recipe, mode: Mode) -> Recipe:
    return recipe.model_copy(update={"label": recipe.label.model_copy(update={"mode": mode})})


def _attempt(
    mode: Mode, recipe: Recipe, halves: Sequence[GoldLabels], judges: Judges, constitution: Constitution
) -> _Attempt:
    section = _with_mode(recipe, mode).label
    try:
        results = tuple(judge_gold(judges.cached, half, constitution, section, recipe.seed) for half in halves)
    except (ConfigError, ModelError) as error:
        return _Attempt(mode, (), str(error))
    attempt = _Attempt(mode, results, None)
    try:
        check_failure_cap(attempt.whole, sum(len(half.judgments) for half in halves), section)
    except JudgeError as error:
        return attempt._replace(problem=str(error).removeprefix("label: "))
    return attempt


def _trial(name: str, attempt: _Attempt, halves: Sequence[GoldLabels]) -> ModeTrial:
    choosing, reporting = (
        {item.judgment.pair.id: item.right for item in decided(match(result.judgments, half.judgments))}
        for result, half in zip(attempt.results, halves, strict=True)
    )
    return ModeTrial(name, choosing, reporting, attempt.whole.cost)


# ------------------------------------------------------------------------------------------------ what it says


def _block(
    attempts: Mapping[str, _Attempt],
    trials: Sequence[ModeTrial],
    choice: Choice | None,
    prompts: Sequence[Prompts],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """`modes` of the audit: what was tried, best where it was chosen first, and what is proposed."""
    hits = {one.name: one.reporting for one in trials}
    agreement = {name: agreement_on(found, prompts[1], bootstrap) for name, found in hits.items()}
    picked = choice.picked if choice else None
    beats = picked is not None and beats_a_coin(agreement[picked])
    order = [*(choice.ranked if choice else ()), *sorted(name for name in attempts if name not in hits)]
    rows = []
    for name in order:
        attempt, rival = attempts[name], picked is not None and name in hits and name != picked
        whole = attempt.whole
        rows.append(
            {
                "name": name,
                "mode": attempt.mode.model_dump(mode="json"),
                "problem": attempt.problem,
                "choosing": dumped(choice.agreement.get(name)) if choice else None,
                "agreement": dumped(agreement.get(name)),
                "difference": dumped(difference_on(hits[picked or ""], hits[name], prompts[1], bootstrap))
                if rival
                else None,
                "consistency": _consistency(attempt.results[1:], bootstrap),
                "coverage": coverage(whole.judgments, whole.failures)["value"],
                "cost": cost_per_pair(whole.cost, len(whole.judgments)),
            }
        )
    chosen = None
    if picked is not None and beats:
        chosen = ModeChoice(name=picked, mode=attempts[picked].mode, reason=reason(agreement[picked]))
    block: dict[str, Any] = {
        "picked": picked,
        "beats_a_coin": beats,
        "close": choice is not None and choice.close,
        "rivals": choice is not None and choice.rivals,
        "lead": dumped(choice.lead) if choice else None,
        "flattery": choice.flattery if choice else None,
        "choosing": {"pairs": len(prompts[0]), "prompts": len(set(prompts[0].values()))},
        "reporting": {"pairs": len(prompts[1]), "prompts": len(set(prompts[1].values()))},
        "rows": rows,
        "chosen": chosen.model_dump(mode="json") if chosen else None,
    }
    return said(block) | block


def _consistency(results: Sequence[JudgeResult], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """How often a principle's choice was the same in both orders; None for modes that have no orders."""
    judgments = [part for result in results for judgment in result.judgments for part in as_asked(judgment)]
    found = order_consistency(judgments, *bootstrap)
    return None if found is None else {key: found[key] for key in ("value", "low", "high", "n")}
