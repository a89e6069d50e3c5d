"""What an audit means, in plain sentences: may this judge be used for this constitution?

Yes, no, or not yet known, by rules that are stated here and nowhere else. Each rule says of one figure whether the
interval clears what it asks for, misses it, or leaves it open; one miss is a no, and with nothing open it is a yes.
Next: `cautions.py`, for what a reader should know whatever the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from rlaif.audits.cautions import LEAST_COVERAGE, about_the_gold, cautions
from rlaif.stats import Estimate, at, estimate_at
from rlaif.words import COIN, Side, counted, direction, in_points, percent, points, span, with_interval

USEFUL = 0.6
"""Least accuracy. The smallest labeller of arXiv 2309.00267 agreed with humans on 0.627; humans agree with each other
on 0.73 to 0.77."""
LEAST_PROMPTS = 30
"""Below so many prompts the intervals themselves are rough, so nothing is a yes."""

Finding = Literal["clears", "misses", "open"]
Outcome = Literal["yes", "no", "unknown"]


class Opinion(NamedTuple):
    """`sentence` is the one to read; `reasons` are what the other rules found; `cautions` hold whatever the outcome."""

    outcome: Outcome
    sentence: str
    reasons: list[str]
    cautions: list[str]


class _Rule(NamedTuple):
    finding: Finding
    words: str


def opinion(audit: Mapping[str, Any]) -> Opinion:
    """Of an audit as `run_audit` makes it."""
    if _only_code(audit):
        return _of_code(audit)
    rules = [_coverage(audit), *_accuracy(audit), *_position(audit), *_code(audit), *_size(audit)]
    findings = {rule.finding for rule in rules}
    outcome: Outcome = "no" if "misses" in findings else "unknown" if "open" in findings else "yes"
    sentence = _sentence(audit, outcome, rules)
    others = [rule.words for rule in rules if rule.words not in sentence]
    return Opinion(outcome, sentence, [f"{words[0].upper()}{words[1:]}." for words in others], cautions(audit))


def _sentence(audit: Mapping[str, Any], outcome: Outcome, rules: list[_Rule]) -> str:
    judge, constitution = named(audit)
    if outcome == "yes":
        return f"Yes: {judge} may be used for {constitution}; {_accuracy(audit)[0].words}."
    first = next(rule.words for rule in rules if rule.finding == ("misses" if outcome == "no" else "open"))
    told = "No: do not use" if outcome == "no" else "Not yet known whether to use"
    return f"{told} {judge} for {constitution}; {first}."


def _of_code(audit: Mapping[str, Any]) -> Opinion:
    """Where no principle is left to the judge, nothing that was measured is about it."""
    judge, constitution = named(audit)
    sentence = f"Not yet known whether to use {judge} for {constitution}; code decides every principle, not the judge."
    found = estimate_at(audit, "accuracy")
    pairs = counted(found.n if found else 0, "pair")
    agrees = f"The checks agree with the human labels on {with_interval(found)} of {pairs}."
    return Opinion("unknown", sentence, [agrees], about_the_gold(audit))


def _only_code(audit: Mapping[str, Any]) -> bool:
    code, judged = _by_decider(audit)
    return bool(code) and not judged


def _by_decider(audit: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The principles that code decided on every pair, and those that the judge had a part in."""
    names = audit["by_principle"]
    code = [name for name, entry in names.items() if entry["n"] and entry["checked"] == entry["n"]]
    return code, [name for name in names if name not in code]


def named(audit: Mapping[str, Any]) -> tuple[str, str]:
    """The judge and the constitution, as a reader knows them."""
    about = audit["audited"]
    members = about["mode"].get("members", {})
    judge = f"the panel of {', '.join(members)}" if members else about["judge"]["model"]
    mode = about["mode"]["kind"]
    constitution = about["constitution"]
    return f"{judge} ({mode})", f"{constitution['id']} {constitution['version']}"


# ----------------------------------------------------------------------------------------------- the rules


FINDINGS: dict[Side, Finding] = {"up": "clears", "down": "misses", "unclear": "open"}
"""By the side of a threshold on which the interval lies; a figure without an interval leaves it open."""


def _against(found: Estimate, threshold: float) -> Finding:
    return FINDINGS[direction(found, threshold)]


def _coverage(audit: Mapping[str, Any]) -> _Rule:
    covered = audit["coverage"]
    if covered["value"] is None or not audit["pairs"]:
        return _Rule("misses", "not one pair could be judged" if covered["failed"] else "it was asked nothing")
    words = f"it judged {percent(covered['value'])} of the pairs"
    if covered["value"] < LEAST_COVERAGE:
        return _Rule("misses", f"{words}, and {percent(LEAST_COVERAGE)} is the least")
    return _Rule("clears", words)


def _accuracy(audit: Mapping[str, Any]) -> list[_Rule]:
    found = estimate_at(audit, "accuracy")
    if not found:
        return [_Rule("open", "no pair has both a judgment and a human preference")] if audit["pairs"] else []
    words = f"it agrees with the human labels on {with_interval(found)} of {counted(found.n, 'pair')}"
    chance, useful = _against(found, COIN), _against(found, USEFUL)
    if chance == "misses":
        rule = _Rule("misses", f"{words}, which is worse than a coin")
    elif chance == "open":
        near = "it is near chance" if useful == "misses" else "it cannot be told from a coin"
        holds = f"{near}: {words.removeprefix('it ')}, and the interval holds a coin's 50%"
        rule = _Rule("misses" if useful == "misses" else "open", holds)
    elif useful == "misses":
        rule = _Rule("misses", f"{words}, more than a coin's 50% but too seldom ({percent(USEFUL)} is the least)")
    elif useful == "open":
        rule = _Rule("open", f"{words}: better than a coin, but perhaps below {percent(USEFUL)}, the least to be asked")
    else:
        rule = _Rule("clears", f"{words}, where a coin would on 50%")
    return [rule, *_baseline(audit)]


def _baseline(audit: Mapping[str, Any]) -> list[_Rule]:
    lead, longer = (estimate_at(audit, f"baselines.{name}") for name in ("lead_over_longer", "always_longer"))
    if lead is None or longer is None:
        return []
    side = "ahead of" if lead.value > 0 else "behind"
    away = "level with" if points(lead.value) == "0" else f"{in_points(abs(lead.value))} {side}"
    words = (
        f"always taking the longer response would agree on {percent(longer.value)}; the judge is {away} that "
        f"({span(lead, 'points')})"
    )
    return [_Rule(_against(lead, 0.0), words)]


def _position(audit: Mapping[str, Any]) -> list[_Rule]:
    """Modes that show one response at a time have no order to be biased by."""
    found = estimate_at(audit, "consistency")
    if not found:
        return []
    words = f"shown a pair in both orders, it prefers the same response {with_interval(found)} of the time"
    finding = _against(found, COIN)
    positions = (at(audit, f"consistency.{which}.value") for which in ("both_first", "both_second"))
    even = at(audit, "consistency.undecided.value") > sum(positions)
    more = {
        "misses": ": mostly it prefers neither" if even else ": its choice is mostly the position",
        "open": ", and the interval holds a coin's 50%",
        "clears": "",
    }
    return [_Rule(finding, words + more[finding])]


def _code(audit: Mapping[str, Any]) -> list[_Rule]:
    """Agreement that checks earn must not be put down to the judge beside them."""
    code, judged = _by_decider(audit)
    if not code or any(
        direction(estimate_at(audit["by_principle"][name], "accuracy"), COIN) == "up" for name in judged
    ):
        return []
    words = (
        f"code decides {', '.join(code)}, and no principle that the judge decides agrees with the human labels more "
        "often than a coin"
    )
    return [_Rule("open", words)]


def _size(audit: Mapping[str, Any]) -> list[_Rule]:
    prompts = audit["decided_prompts"]
    if not audit["pairs"] or prompts >= LEAST_PROMPTS:
        return []
    few = f"{counted(prompts, 'prompt')} {'is' if prompts == 1 else 'are'} too few to tell"
    return [_Rule("open", f"{few} ({LEAST_PROMPTS} are the least)")]
