"""What evaluation.json means, in plain sentences: the paragraph at the top of the report.

The words follow the intervals. A change whose interval holds 0 is called no clear change however large it
looks, and a judge that does not agree with itself is not quoted without saying so. Every threshold is named
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from rlaif.stats import Estimate, estimate_at
from rlaif.words import COIN, NONE, Unit, direction, figure, number, percent, points, span, with_interval

STEADY_JUDGE = 0.8
"""Order consistency from which a judge is called steady: strong judges reach about 0.8 (arXiv 2406.07791)."""
FAIR_JUDGE = 0.65
"""Below this it is called shaky: GPT-4's swap consistency in MT-Bench was 0.65 (arXiv 2306.05685)."""
WEAK_REWARD_MODEL = 0.6
"""Held-out accuracy; reward models in N+ range from 0.63 to 0.69 (arXiv 2403.17031)."""
LONGER = 1.5
"""Growth, or shrinking, of responses worth a word: length alone wins comparisons (arXiv 2404.04475)."""
FAR_KL = 25.0
"""Nats per response. This and what follows are this page's conventions, not a paper's."""
MORE_REPETITION = 0.05
FEWER_FINISHED = -0.05
FEW_PROMPTS = 30
LOW_COVERAGE = 0.98
LOUDEST = 3
"""Of so many judged principles the sentences speak; the table has all."""
Tree = Mapping[str, Any]


class ReportVerdict(NamedTuple):
    """`outcome` colours the page; `paragraphs` are the surest first."""

    outcome: Literal["better", "worse", "unclear"]
    heading: str
    paragraphs: list[str]
    cautions: list[str]


def verdict(evaluation: Tree) -> ReportVerdict:
    """Sentences for a run, from its evaluation.json: the checks first, then the measures that no part of the run has
    seen. Missing parts are said to be missing."""
    if not evaluation:
        said = "This run has no evaluation.json: nothing can be said about it until `rlaif evaluate` has run."
        return ReportVerdict("unclear", "Not evaluated yet", [said], [])
    confidence = evaluation.get("confidence", 0.95)
    outcome, heading = _outcome(evaluation)
    paragraphs = (
        _checks(evaluation, confidence),
        measure_sentences(evaluation),
        [*judge_sentences(evaluation), *_preference(evaluation)],
        _reward_model(evaluation),
    )
    return ReportVerdict(outcome, heading, [" ".join(said) for said in paragraphs if said], _cautions(evaluation))


def judge_is_noise(evaluation: Tree) -> bool:
    """Whether the judge's order consistency cannot be told from, or is below, a coin's."""
    found = estimate_at(evaluation, "judge.order_consistency")
    return found is not None and direction(found, COIN) != "up"


def _outcome(evaluation: Tree) -> tuple[Literal["better", "worse", "unclear"], str]:
    checked = evaluation.get("all_checked")
    rate = estimate_at(evaluation, "policy.win_rate_vs_reference")
    if checked:
        up, down, unclear = "Better on the checks", "Worse on the checks", "No clear change on the checks"
        found = direction(estimate_at(checked, "difference"))
    elif rate and not judge_is_noise(evaluation):
        up, down, unclear = "Preferred to the reference", "The reference is preferred", "No clear preference"
        found = direction(rate, COIN)
    elif rate:
        return "unclear", "The judge is too unreliable to tell"
    else:
        return "unclear", "Nothing here says whether the policy is better"
    if found == "unclear":
        return "unclear", unclear
    if found == "up" and _confirmed(evaluation):
        return "better", f"{up}, and on measures that no part of the run has seen"
    return ("better", up) if found == "up" else ("worse", down)


def _confirmed(evaluation: Tree) -> bool:
    """Whether of the measures that no part of the run has seen one clearly changed as wanted, and none otherwise."""
    unseen = [m for m in evaluation.get("measures", ()) if m.get("better") and not m.get("seen")]
    wanted = {"lower": "down", "higher": "up"}
    moved = [(direction(estimate_at(m, "difference")), wanted[m["better"]]) for m in unseen]
    return any(found == good for found, good in moved) and all(found in {good, "unclear"} for found, good in moved)


def _checks(evaluation: Tree, confidence: float) -> list[str]:
    checked = evaluation.get("all_checked")
    if not checked:
        return ["No principle is decided by code, so there is no pass rate that a reader could verify."]
    count = checked.get("checks", 0)
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    what = "the one check" if count == 1 else f"all {words[count] if count < len(words) else count} checks"
    after, before = percent(checked["after"]), percent(checked["before"])
    difference = estimate_at(checked, "difference")
    assert difference is not None, "it is measured with both rates"
    interval = f"{percent(confidence)} interval {span(difference, 'points')}"
    change = f"({points(difference.value)} points, {interval})"
    found = direction(difference)
    if found == "unclear":
        return [
            f"The policy passes {what} on {after} of held-out responses and the reference on {before} "
            f"{change}: no difference that this evaluation can tell from chance."
        ]
    moved = "up from" if found == "up" else "down from"
    sentences = [f"The policy now passes {what} on {after} of held-out responses, {moved} {before} {change}."]
    checks = {name: e for name, e in evaluation.get("principles", {}).items() if e.get("checked")}
    changes = {name: estimate_at(entry, "pass_rate.difference") for name, entry in checks.items()}
    worse = [f"{name} ({points(e.value)})" for name, e in changes.items() if e and direction(e) == "down"]
    if worse and found == "up":
        sentences.append(f"Not everything improved: {', '.join(worse)} fell.")
    return sentences


def _preference(evaluation: Tree) -> list[str]:
    rate = estimate_at(evaluation, "policy.win_rate_vs_reference")
    if rate is None:
        return []
    sentences = [
        f"The policy's response wins {with_interval(rate)} of comparisons with the reference's "
        "under the whole constitution, ties counting half."
    ]
    alone = estimate_at(evaluation, "policy.win_rate_vs_reference.judged_principles")
    if alone and evaluation.get("all_checked"):
        meaning = {
            "up": "so the judge prefers the policy too",
            "down": "so the judge prefers the reference",
            "unclear": "which a coin toss would explain",
        }[direction(alone, COIN)]
        if judge_is_noise(evaluation):
            meaning = "which means nothing with this judge"
        sentences.append(f"By the judged principles alone it wins {with_interval(alone)}, {meaning}.")
    return sentences


def judge_sentences(evaluation: Tree) -> list[str]:
    """How far the judge agrees with itself, and what that is worth."""
    consistency = estimate_at(evaluation, "judge.order_consistency")
    coverage = evaluation.get("judge", {}).get("coverage") or {}
    if consistency is None and not coverage.get("judged"):
        return ["No AI judge was used."]
    if consistency is None:
        who = "only an audit or a measure that it has not seen can say"
        return [f"The judge looked at each response alone, so no order could bias it; whether it is right, {who}."]
    said = (
        "Shown each pair in both orders, the judge preferred the same response "
        f"{with_interval(consistency)} of the time; a coin would 50% of the time"
    )
    if judge_is_noise(evaluation):
        so = ". Treat everything that rests on the judged principles as noise."
    elif consistency.value < FAIR_JUDGE:
        so = ", so it is shaky: its preferences are a hint, not a measurement."
    elif consistency.value < STEADY_JUDGE:
        so = ", so its preferences carry information, with a good deal of noise."
    else:
        so = ", so it is steady. Whether it is right, only an audit against human labels can say."
    return [said + so]


def _reward_model(evaluation: Tree) -> list[str]:
    accuracy = estimate_at(evaluation, "reward_model.heldout_accuracy")
    if accuracy is None:
        return []
    weak = ", which is weak" if accuracy.value < WEAK_REWARD_MODEL else ""
    if direction(accuracy, COIN) != "up":
        weak = ": it cannot be told from a coin, and neither can what was learned from it"
    return [f"The reward model ranks {with_interval(accuracy)} of held-out pairs as they were labelled{weak}."]


def _cautions(evaluation: Tree) -> list[str]:
    policy = evaluation.get("policy", {})
    prompts = evaluation.get("heldout", {}).get("prompts")
    found = []
    if prompts is not None and prompts < FEW_PROMPTS:
        found.append(f"Only {prompts} held-out prompts: the intervals themselves are rough.")
    tokens = policy.get("response_tokens")
    if tokens and tokens["before"] and not 1 / LONGER <= tokens["after"] / tokens["before"] <= LONGER:
        moved = "longer" if tokens["after"] > tokens["before"] else "shorter"
        found.append(
            f"Responses became much {moved}, {number(tokens['before'])} to {number(tokens['after'])} tokens: "
            "length alone may explain part of any preference."
        )
    repetition, finished = (estimate_at(policy, f"{what}.difference") for what in ("repetition", "finished"))
    if repetition and repetition.value > MORE_REPETITION:
        found.append(f"Responses repeat themselves more: {_shift(policy['repetition'])} of runs of four words.")
    if finished and finished.value < FEWER_FINISHED:
        found.append(f"Fewer responses end before the token limit ({_shift(policy['finished'])}).")
    kl = estimate_at(policy, "kl")
    if kl and kl.value > FAR_KL:
        found.append(
            f"The policy is far from the reference ({number(kl.value)} nats per response): look for "
            "reward hacking in its responses."
        )
    covered = evaluation.get("judge", {}).get("coverage") or {}
    if covered.get("value") is not None and covered["value"] < LOW_COVERAGE:
        share = percent(1 - covered["value"])
        found.append(f"{share} of pairs could not be judged; the others may not be like them.")
    return found


def _shift(change: Tree) -> str:
    return f"{percent(change['before'])} to {percent(change['after'])}"


# ---------------------------------------------------------------------------------------------- the measures


def measure_units(entry: Tree) -> tuple[Unit, Unit]:
    """In which units a measure's level and its change are said. Of words few are long: shares have one decimal."""
    return ("fine share", "fine points") if entry["unit"] == "share" else ("number", "signed")


def measure_tone(entry: Tree, difference: Estimate | None) -> str:
    """up: clearly as wanted; down: clearly not; nothing where neither is wanted."""
    moved = direction(difference)
    if moved == "unclear" or not entry.get("better"):
        return ""
    return "up" if (moved == "down") == (entry["better"] == "lower") else "down"


def measure_sentences(evaluation: Tree) -> list[str]:
    """What measures say that no part of the run has seen: one sentence, and one about each change that is not there at
    equal length."""
    unseen = [m for m in evaluation.get("measures", ()) if not m.get("seen") and m["difference"]]
    if not unseen:
        return []
    confidence = evaluation.get("confidence", 0.95)
    parts = "; ".join(_moved(entry, confidence) for entry in unseen)
    these = "this measure" if len(unseen) == 1 else "these measures"
    said = [f"No part of the run has seen {these}: {parts}."]
    for entry in unseen:
        found, equal = direction(estimate_at(entry, "difference")), estimate_at(entry, "equal_length")
        if found != "unclear" and equal is not None and direction(equal) != found:
            change = with_interval(equal, measure_units(entry)[1])
            name = entry["name"]
            said.append(
                f"With both responses cut to equal length {name} changes by {change}: length alone may explain it."
            )
    return said


def _moved(entry: Tree, confidence: float) -> str:
    difference, (level, by) = estimate_at(entry, "difference"), measure_units(entry)
    assert difference is not None, "asked for what was measured"
    verb = {"up": "rose", "down": "fell", "unclear": "did not clearly change"}[direction(difference)]
    wanted = ", not as wanted" if measure_tone(entry, difference) == "down" else ""
    ends = span(difference, by)
    interval = "no interval" if ends == NONE else f"{percent(confidence)} interval {ends}"
    moved = f"from {figure(entry['before'], level)} to {figure(entry['after'], level)}"
    return f"{entry['name']} {verb}{wanted}, {moved} ({figure(difference.value, by)}, {interval})"


# ---------------------------------------------------------------------------------------------- the labels


def loudest(labels: Tree) -> list[tuple[str, Tree]]:
    """The principles by their share of the label signal."""
    return sorted(labels["by_principle"].items(), key=lambda item: -(item[1]["signal"] or 0.0))


def label_sentences(evaluation: Tree) -> Iterator[str]:
    """Who gave the signal, and which way the loudest judged principles pull in measures that the run has not seen."""
    ranked = loudest(evaluation["labels"])
    judged = [(name, entry) for name, entry in ranked if not entry["checked"]]
    signals = [entry["signal"] for _, entry in ranked if entry["signal"] is not None]
    if not signals:
        yield "No principle prefers either response of any labelled pair, so the labels taught nothing."
    elif judged:
        share = sum(entry["signal"] for _, entry in judged)
        alone = len(judged) == len(ranked)
        by_code = "" if alone else f", code {percent(1 - share)}"
        yield f"The judge gave {'all' if alone else percent(share)} of the label signal{by_code}."
    else:
        yield "Code gave all of the label signal."
    seen = {entry["name"] for entry in evaluation.get("measures", ()) if entry.get("seen")}
    for name, entry in judged[:LOUDEST]:
        found = [one for one in entry.get("measures", ()) if one["name"] not in seen and one["n"]]
        if found:
            yield f"The response that {name} prefers is {'; '.join(_pulls(found))}."


def _pulls(agreements: list[Tree]) -> Iterator[str]:
    """'lower more often than a coin in x (61%, 56 to 66%) and y (...)': what is clear first."""
    found = [(one, estimate_at(one)) for one in agreements]
    for moved, often in (("up", "more often than"), ("down", "less often than"), ("unclear", "about as often as")):
        for side in ("lower", "higher"):
            alike = [(one["name"], e) for one, e in found if e and (direction(e, COIN), one["side"]) == (moved, side)]
            said = [f"{name} ({percent(e.value)}, {span(e, 'share')})" for name, e in alike]
            if said:
                yield f"{side} {often} a coin in {' and '.join(said)}"
