"""Several judges on the same pairs: their judgments side by side, combined, with each one's estimated reliability.

Nothing is asked here; `modes.py` runs the members one after the other. Every member's judgment is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from statistics import fmean
from typing import NamedTuple

from rlaif.config.judging import PanelMode
from rlaif.feedback.dawid_skene import fit_dawid_skene
from rlaif.feedback.judge.result import Cost, JudgeResult
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import average, log_odds, sigma
from rlaif.records import Failure, Judgment, MemberJudgment, Pair, Provenance, Reliability, content_id

Key = tuple[str, str]
"""A pair as it lies: its id and the text of a."""
Opinions = Mapping[str, Judgment]
"""Of one pair: by the member's name."""


class _Combined(NamedTuple):
    p_a: dict[Key, float]
    accuracy: dict[str, float]
    """By member; empty where nothing estimates it."""


def combine(mode: PanelMode, pairs: Sequence[Pair], results: Sequence[JudgeResult]) -> JudgeResult:
    """The members' results (in the order of `mode.members`, each on exactly these pairs) as one.

    mean         sigma of the mean of the members' log-odds
    majority     the share of members that prefer a; a member at 0.5 counts half
    dawid_skene  the posterior that a is the true label, each member's error rate estimated with it
                 (Dawid and Skene 1979, doi 10.2307/2346806). Two members cannot tell who of them errs: take three

    `mean` and `majority` need every member: a pair on which one failed stays unlabelled, with that member's failures.
    `dawid_skene` makes do with the members that answered, and fails a pair only where none did. Scores, rankings
    and revisions of the members are not kept. ValueError where a member says nothing about a pair, not even why.
    """
    names = [member.name for member in mode.members]
    opinions, failures = _by_pair(names, pairs, results)
    needed = 1 if mode.combine == "dawid_skene" else len(names)
    voted = {key: said for key, said in opinions.items() if len(said) >= needed}
    combined = _dawid_skene(voted) if mode.combine == "dawid_skene" else _simple(mode.combine, voted)
    origin = _origin(mode, results) if voted else None
    unlabelled = dict.fromkeys(pair.id for pair in pairs if _key(pair) not in voted)
    return JudgeResult(
        judgments=tuple(
            Judgment(
                pair=pair,
                source="ai",
                annotator=f"panel:{'+'.join(names)}",
                p_a=combined.p_a[_key(pair)],
                members=_members(names, voted[_key(pair)]),
                provenance=origin,
            )
            for pair in pairs
            if _key(pair) in voted
        ),
        failures=tuple(row for pair_id in unlabelled for row in failures[pair_id]),
        cost=reduce(Cost.plus, (result.cost for result in results)),
        reliability=tuple(_reliability(name, voted, combined) for name in names),
    )


def _key(pair: Pair) -> Key:
    return pair.id, pair.a


def _by_pair(
    names: Sequence[str], pairs: Sequence[Pair], results: Sequence[JudgeResult]
) -> tuple[dict[Key, dict[str, Judgment]], dict[str, list[Failure]]]:
    """Every member's judgment of each pair; every member's failures by the pair's id, their detail with its name."""
    opinions: dict[Key, dict[str, Judgment]] = {_key(pair): {} for pair in pairs}
    failures: dict[str, list[Failure]] = defaultdict(list)
    for name, result in zip(names, results, strict=True):
        judged = {_key(judgment.pair): judgment for judgment in result.judgments}
        failed: dict[str, list[Failure]] = defaultdict(list)
        for row in result.failures:
            detail = f"member {name}: {row.detail}" if row.detail else f"member {name}"
            failed[row.id].append(row.model_copy(update={"detail": detail}))
        for key, said in opinions.items():
            if key in judged:
                said[name] = judged[key]
            elif key[0] not in failed:
                raise ValueError(f"pair {key[0]}: member {name} has neither a judgment nor a failure of it")
        for pair_id, rows in failed.items():
            failures[pair_id] += rows
    return opinions, failures


def _simple(how: str, voted: Mapping[Key, Opinions]) -> _Combined:
    if how == "mean":
        p_a = {key: sigma(fmean(log_odds(j.p_a) for j in said.values())) for key, said in voted.items()}
    else:
        p_a = {key: average([choice(j.p_a) for j in said.values()]) for key, said in voted.items()}
    return _Combined(p_a, {})


def _dawid_skene(voted: Mapping[Key, Opinions]) -> _Combined:
    """The posterior of each pair by `dawid_skene.py`, from votes for the first of the two texts in sorted order.

    A member at 0.5 has no vote; a pair without any vote stays at 0.5.
    """
    votes = {
        (pair_id, name): (judgment.p_a > 0.5) != _turned(judgment.pair)
        for (pair_id, _), said in voted.items()
        for name, judgment in said.items()
        if choice(judgment.p_a) != 0.5
    }
    fit = fit_dawid_skene(votes)

    def p_a(key: Key, pair: Pair) -> float:
        if key[0] not in fit.p_first:
            return 0.5
        lead = log_odds(fit.p_first[key[0]])
        return sigma(-lead if _turned(pair) else lead)

    return _Combined({key: p_a(key, next(iter(said.values())).pair) for key, said in voted.items()}, fit.accuracy)


def _turned(pair: Pair) -> bool:
    return pair.a > pair.b


def _members(names: Sequence[str], said: Opinions) -> tuple[MemberJudgment, ...]:
    return tuple(
        MemberJudgment(
            member=name,
            annotator=said[name].annotator,
            p_a=said[name].p_a,
            principles=said[name].principles,
            provenance=_known(said[name].provenance),
        )
        for name in names
        if name in said
    )


def _known(provenance: Provenance | None) -> Provenance:
    assert provenance is not None, "a judge's judgment says where it came from"
    return provenance


def _origin(mode: PanelMode, results: Sequence[JudgeResult]) -> Provenance:
    """The panel's own provenance: what its members share, and hashes of what they do not.

    Of all members that judged anything, also for a pair that one of them failed on: the fit used them all.
    """
    own = {
        member.name: _known(result.judgments[0].provenance)
        for member, result in zip(mode.members, results, strict=True)
        if result.judgments
    }
    return next(iter(own.values())).model_copy(
        update={
            "judge": f"panel({mode.combine})",
            "judge_revision": content_id({name: one.model_dump(mode="json") for name, one in own.items()}),
            "template": "+".join(one.template for one in own.values()),
            "template_hash": content_id({name: one.template_hash for name, one in own.items()}),
            "sampling": {"members": "+".join(own)},
        }
    )


def _reliability(name: str, voted: Mapping[Key, Opinions], combined: _Combined) -> Reliability:
    """How often the member sided with the panel; a tie of one of the two only is half an agreement."""
    both = [(said[name].p_a, combined.p_a[key]) for key, said in voted.items() if name in said]
    shares = [1 - abs(choice(own) - choice(panel)) for own, panel in both]
    return Reliability(
        member=name,
        accuracy=combined.accuracy.get(name),
        agreement=fmean(shares) if shares else None,
        pairs=len(shares),
    )
