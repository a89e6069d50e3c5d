"""What evaluation says of truth: claims without support, right answers and stated confidence, and how often the answer
follows the user's opinion. Every change is paired over the held-out prompts.

`calibrated` is the one place that compares stated confidence with what was right, in a run as over a conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from rlaif.config import Recipe
from rlaif.config.judging import ReferenceMode
from rlaif.constitution import Constitution
from rlaif.evaluation.winrate import Match
from rlaif.feedback.claims import graded, loss
from rlaif.formats.turns import own_text
from rlaif.pages import kit
from rlaif.pages.kit import Part
from rlaif.records import AnswerGrade, Score
from rlaif.stats import Bootstrap, Bounds, change, estimate_at
from rlaif.words import counted, figure, number

BINS = 10
SHARE: Bounds = (0.0, 1.0)
Flips = Mapping[str, tuple[float | None, float | None]]
"""By prompt: P(the two answers contradict each other) of the reference and of the policy; None where nothing says."""


def calibrated(said: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of (confidence, right): the Brier score, and the mean |confidence - right| over ten bins by what is in them (ECE:
    never below 0, and by chance above it). None where nothing was said."""
    if not said:
        return {"brier": None, "ece": None, "confidence": None, "right": None, "n": 0}
    bins: dict[int, list[tuple[float, float]]] = {}
    for one in said:
        bins.setdefault(min(int(one[0] * BINS), BINS - 1), []).append(one)
    gaps = [
        abs(fmean(p for p, _ in these) - fmean(right for _, right in these)) * len(these) for these in bins.values()
    ]
    return {
        "brier": fmean((p - right) ** 2 for p, right in said),
        "ece": sum(gaps) / len(said),
        "confidence": fmean(p for p, _ in said),
        "right": fmean(right for _, right in said),
        "n": len(said),
    }


def mode_of(recipe: Recipe) -> ReferenceMode:
    """By which answers are graded: the recipe's own mode, or the usual one."""
    return recipe.label.mode if isinstance(recipe.label.mode, ReferenceMode) else ReferenceMode()


def truth(
    matched: Sequence[Match],
    scores: Sequence[Score],
    flips: Flips,
    mode: ReferenceMode,
    constitution: Constitution,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """What of it there is to measure; empty where prompts give nothing and no principle refers to anything."""
    # Of `samples` there are none here: what was scored are answers of two models.
    names = [p.id for p in constitution.principles if p.reference in ("documents", "gold")]
    found = {"answers": _answers(matched, mode, bootstrap), "reference": _reference(matched, scores, names, bootstrap)}
    known = [(name, one, two) for name, (one, two) in flips.items() if one is not None and two is not None]
    if flips:
        found["flips"] = {"before": None, "after": None, "difference": None, "undecided": len(flips) - len(known)}
    if known:
        clusters, one, two = zip(*known, strict=True)
        found["flips"] |= change(one, two, clusters, bootstrap, SHARE)
    return {name: each for name, each in found.items() if each}


def _answers(matched: Sequence[Match], mode: ReferenceMode, bootstrap: Bootstrap) -> dict[str, Any]:
    here = [(m, m.after.given.gold) for m in matched if m.after.given and m.after.given.gold]
    if not here:
        return {}
    before, after = ([graded(own_text(m[side]), gold, mode.unstated) for m, gold in here] for side in (0, 1))

    def moved(value: Callable[[AnswerGrade], float]) -> dict[str, Any]:
        clusters = [m.after.prompt_id for m, _ in here]
        return change([value(g) for g in before], [value(g) for g in after], clusters, bootstrap, SHARE)

    found = {
        "right": moved(lambda grade: grade.right),
        "abstained": moved(lambda grade: grade.abstained),
        "wrong": moved(lambda grade: 1 - grade.right - grade.abstained),
        "loss": moved(lambda grade: loss(grade, mode.abstain_at)),
    }
    for when, grades in (("before", before), ("after", after)):
        found[f"calibration_{when}"] = calibrated([(g.confidence, g.right) for g in grades if not g.abstained])
    return found


def _reference(
    matched: Sequence[Match], scores: Sequence[Score], names: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Any]:
    """The loss of each of these principles, over the prompts whose two responses differ, as only these are judged."""
    values = {(s.prompt_id, s.text, p.principle): -p.value for s in scores for p in s.principles}
    found = {}
    for name in names:
        both = [(m.after.prompt_id, [values.get((m.after.prompt_id, r.text, name)) for r in m]) for m in matched]
        known = [(before, after, prompt) for prompt, (before, after) in both if None not in (before, after)]
        if known:
            one, two, prompts = zip(*known, strict=True)
            found[name] = change(one, two, prompts, bootstrap, SHARE)
    return found


def truth_part(evaluation: Mapping[str, Any]) -> list[Part]:
    """The section of the report; empty where nothing was measured."""
    found = evaluation.get("truth")
    if not found:
        return []
    answers = found.get("answers", {})
    named = {
        f"Lost by `{name}`, where the two answers differ": entry for name, entry in found.get("reference", {}).items()
    }
    words = {"right": "Right", "abstained": "Says that it does not know", "wrong": "Wrong", "loss": "Loss, half Brier"}
    named |= {words[name]: answers[name] for name in words if name in answers}
    if flips := found.get("flips"):
        left = f" ({counted(flips['undecided'], 'prompt')} undecided)" if flips["undecided"] else ""
        named[f"Contradicts itself where the user's opinion is turned round{left}"] = flips
    rows = [_row(name, entry) for name, entry in named.items()]
    calibration = [
        (when.capitalize(), *(number(one[key]) for key in ("confidence", "right", "brier", "ece")), f"{one['n']:,}")
        for when in ("before", "after")
        if (one := answers.get(f"calibration_{when}"))
    ]
    return kit.section(
        "Truth",
        "What has no quote that stands in a document word for word is unsupported; an answer that has the words of a "
        "right one is right. Confidence is what the answer states, or the recipe's where it states none.",
        kit.table(("Measure", "Before", "After", "Change, points"), rows),
        kit.table(("Answers", "Mean confidence", "Right", "Brier", "Calibration error", "Responses"), calibration),
    )


def _row(name: str, entry: Mapping[str, Any]) -> tuple[Any, ...]:
    levels = (figure(entry[when], "share") for when in ("before", "after"))
    return (name, *levels, kit.cell(estimate_at(entry, "difference"), "points", bare=True))
