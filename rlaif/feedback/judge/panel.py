"""Several judges on the same pairs: their judgments side by side, combined, with each one's estimated reliability.

Nothing is asked here; `judge/__init__.py` runs the members one after the other. Every member's judgment is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from rlaif.config.judging import PanelMode
from rlaif.feedback.annotators.labels import DawidSkeneFit, first_text, fit_dawid_skene
from rlaif.feedback.judge.result import Cost, JudgeResult
from rlaif.feedback.pairs import choice
from rlaif.feedback.verdict import average, log_odds, sigma
from rlaif.records import Failure, Judgment, MemberJudgment, Pair, Provenance, Reliability, content_id

Key = tuple[str, str]
"""A pair as it lies: its id and the text of a."""
Opinions = Mapping[str, Judgment]
"""Of one pair: by the member's name."""


def combined(
    mode: PanelMode, shards: Iterable[Sequence[Pair]], members: Sequence[Iterable[JudgeResult]]
) -> Iterator[JudgeResult]:
    """The members' results on each shard (in the order of `mode.members`, each on exactly its pairs) as one, and at the
    end the cost and each member's reliability. `shards` and `members` are gone through twice.

    mean         sigma of the mean of the members' log-odds
    majority     the share of members that prefer a; a member at 0.5 counts half
    dawid_skene  the posterior that a is the true label, each member's error rate estimated with it
                 (Dawid and Skene 1979, doi 10.2307/2346806), over all shards. Two members cannot tell who of them errs:
                 take three

    `mean` and `majority` need every member: a pair on which one failed stays unlabelled, with that member's failures.
    `dawid_skene` makes do with the members that answered, and fails a pair only where none did. Scores, rankings
    and revisions of the members are not kept. ValueError where a member says nothing about a pair, not even why.
    """
    names = [member.name for member in mode.members]
    needed = 1 if mode.combine == "dawid_skene" else len(names)
    # The panel's provenance names all members that judged anything, also a pair on which one failed: the fit uses them.
    own: dict[str, Provenance] = {}
    votes: dict[tuple[str, str], bool] = {}
    cost = Cost()
    for together in zip(*members, strict=True):
        for name, result in zip(names, together, strict=True):
            cost = cost.plus(result.cost)
            if result.judgments:
                own.setdefault(name, _known(result.judgments[0].provenance))
            for judgment in result.judgments if mode.combine == "dawid_skene" else ():
                if choice(judgment.p_a) != 0.5:  # a member at 0.5 has no vote
                    votes[judgment.pair.id, name] = (judgment.p_a > 0.5) == _a_first(judgment.pair)
    fit = fit_dawid_skene(votes) if mode.combine == "dawid_skene" else None
    origin = _origin(mode, {name: own[name] for name in names if name in own}) if own else None
    shares: dict[str, list[float]] = {name: [] for name in names}
    for pairs, *results in zip(shards, *members, strict=True):
        opinions, failures = _by_pair(names, pairs, results)
        p_of = {key: _p_a(mode, said, fit) for key, said in opinions.items() if len(said) >= needed}
        for key, p_a in p_of.items():
            for name, judgment in opinions[key].items():
                shares[name].append(1 - abs(choice(judgment.p_a) - choice(p_a)))
        unlabelled = dict.fromkeys(pair.id for pair in pairs if _key(pair) not in p_of)
        yield JudgeResult(
            judgments=tuple(
                Judgment(
                    pair=pair,
                    source="ai",
                    annotator=f"panel:{'+'.join(names)}",
                    p_a=p_of[_key(pair)],
                    members=tuple(map(_member, opinions[_key(pair)].items())),
                    provenance=origin,
                )
                for pair in pairs
                if _key(pair) in p_of
            ),
            failures=tuple(row for pair_id in unlabelled for row in failures[pair_id]),
        )
    # A tie of the member or of the panel alone is half an agreement.
    reliability = tuple(
        Reliability(
            member=name,
            accuracy=fit.accuracy.get(name) if fit else None,
            agreement=fmean(agreed) if agreed else None,
            pairs=len(agreed),
        )
        for name, agreed in shares.items()
    )
    yield JudgeResult((), (), cost, reliability=reliability)


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


def _p_a(mode: PanelMode, said: Opinions, fit: DawidSkeneFit | None) -> float:
    if fit is None and mode.combine == "mean":
        return sigma(fmean(log_odds(judgment.p_a) for judgment in said.values()))
    if fit is None:
        return average([choice(judgment.p_a) for judgment in said.values()])
    pair = next(iter(said.values())).pair
    if pair.id not in fit.p_first:  # nobody voted
        return 0.5
    lead = log_odds(fit.p_first[pair.id])
    return sigma(lead if _a_first(pair) else -lead)


def _a_first(pair: Pair) -> bool:
    """Whether a is the first of the two texts in sorted order, of which the fit speaks."""
    return pair.a == first_text(pair)


def _member(named: tuple[str, Judgment]) -> MemberJudgment:
    name, said = named
    return MemberJudgment(
        member=name,
        annotator=said.annotator,
        p_a=said.p_a,
        principles=said.principles,
        provenance=_known(said.provenance),
    )


def _known(provenance: Provenance | None) -> Provenance:
    assert provenance is not None, "a judge's judgment says where it came from"
    return provenance


def _origin(mode: PanelMode, own: Mapping[str, Provenance]) -> Provenance:
    """What the members share, and hashes of what they do not."""
    return next(iter(own.values())).model_copy(
        update={
            "judge": f"panel({mode.combine})",
            "judge_revision": content_id({name: one.model_dump(mode="json") for name, one in own.items()}),
            "template": "+".join(one.template for one in own.values()),
            "template_hash": content_id({name: one.template_hash for name, one in own.items()}),
            "sampling": {"members": "+".join(own)},
        }
    )
