"""Panels: each way of combining by its definition, and what happens to pairs that a member failed on."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rlaif.config.feedback import LabelSection
from rlaif.config.judging import PanelMode
from rlaif.config.models import JudgeModel
from rlaif.constitution import Constitution
from rlaif.feedback.judge import judge_by_mode
from rlaif.feedback.judge.panel import combined
from rlaif.feedback.judge.result import Cost, JudgeResult
from rlaif.feedback.verdict import LOGIT_LIMIT
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.models.engine import ChatRequest, Engine, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Failure, Judgment, Message, Pair, Prompt, Provenance, Reliability
from rlaif.testing import likes_letters
from tests.scripted_judge import likes_short
from tests.tiers import seeds

Ps = Sequence[float | None]
"""One member's p_a of each pair; None where it failed."""


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def pair(a: str, b: str) -> Pair:
    return Pair.of(Prompt.of((Message(role="user", content="why?"),)), a, b)


def pairs_of(count: int) -> list[Pair]:
    """Of every second pair, a is the later text in sorted order."""
    return [pair(*(("x", f"y{i}") if i % 2 else (f"y{i}", "x"))) for i in range(count)]


def combine(mode: PanelMode, pairs: Sequence[Pair], results: Sequence[JudgeResult]) -> JudgeResult:
    """The members' results on one shard."""
    return JudgeResult.total(combined(mode, [pairs], [[result] for result in results]))


def mode(how: str, *names: str) -> PanelMode:
    return PanelMode.model_validate({"members": [{"name": name} for name in names], "combine": how})


def provenance(judge: str) -> Provenance:
    return Provenance(
        constitution="c",
        constitution_version="1.0.0",
        constitution_hash="hash",
        judge=judge,
        judge_revision="1",
        template=f"{judge}-template",
        template_hash=f"{judge}-hash",
        sampling={},
        aggregation="mean",
    )


def member(name: str, pairs: Sequence[Pair], ps: Ps) -> JudgeResult:
    return JudgeResult(
        tuple(
            Judgment(pair=one, source="ai", annotator=f"{name}:t", p_a=p, provenance=provenance(name))
            for one, p in zip(pairs, ps, strict=True)
            if p is not None
        ),
        tuple(
            Failure(stage="label", id=one.id, reason="model error", detail="no route", principle="x")
            for one, p in zip(pairs, ps, strict=True)
            if p is None
        ),
        Cost(2, 30, 4),
    )


def run(how: str, table: dict[str, Ps], pairs: Sequence[Pair] | None = None) -> JudgeResult:
    """The panel of these members."""
    pairs = pairs or pairs_of(len(next(iter(table.values()))))
    return combine(mode(how, *table), pairs, [member(name, pairs, ps) for name, ps in table.items()])


def labels(result: JudgeResult) -> list[float]:
    return [judgment.p_a for judgment in result.judgments]


def test_mean_by_hand() -> None:
    result = run("mean", {"u": [0.9, 0.5, 0.999], "v": [0.7, 0.5, 0.01], "w": [0.2, 0.8, 0.3]})
    expected = [
        sigma((logit(0.9) + logit(0.7) + logit(0.2)) / 3),
        sigma(logit(0.8) / 3),
        sigma((logit(0.999) + logit(0.01) + logit(0.3)) / 3),
    ]
    assert labels(result) == pytest.approx(expected, abs=1e-12)
    assert run("mean", {"u": [1.0], "v": [0.5]}).judgments[0].p_a == pytest.approx(sigma(LOGIT_LIMIT / 2), abs=1e-12)


def test_majority_by_hand() -> None:
    result = run("majority", {"u": [0.51, 0.5, 0.1, 0.5], "v": [0.7, 0.5, 0.2, 0.9], "w": [0.001, 0.8, 0.3, 0.5]})
    assert labels(result) == pytest.approx([2 / 3, 2 / 3, 0, 2 / 3], abs=1e-12)
    assert labels(run("majority", {"u": [0.9, 0.5 + 1e-16], "v": [0.1, 0.5]})) == [0.5, 0.5]


def test_every_members_judgment_is_kept() -> None:
    result = run("mean", {"u": [0.9, 0.4], "v": [0.7, 0.6]})
    judgment = result.judgments[0]
    assert [(m.member, m.annotator, m.p_a) for m in judgment.members] == [("u", "u:t", 0.9), ("v", "v:t", 0.7)]
    assert [m.provenance for m in judgment.members] == [provenance("u"), provenance("v")]
    assert (judgment.source, judgment.annotator) == ("ai", "panel:u+v")
    origin = judgment.provenance
    assert origin is not None
    assert (origin.constitution, origin.constitution_hash, origin.aggregation) == ("c", "hash", "mean")
    assert (origin.judge, origin.template) == ("panel(mean)", "u-template+v-template")
    assert origin.sampling == {"members": "u+v"}
    assert result.cost == (4, 60, 8)
    other = run("mean", {"u": [0.9, 0.4], "w": [0.7, 0.6]}).judgments[0].provenance
    assert other is not None
    assert other.judge_revision != origin.judge_revision and other.template_hash != origin.template_hash


def test_agreement_with_the_panel() -> None:
    table: dict[str, Ps] = {"u": [0.9, 0.9, 0.9, 0.5], "v": [0.9, 0.1, 0.5, 0.5], "w": [0.9, 0.1, 0.5, 0.5]}
    result = run("majority", table)  # a, b, a (2 of 3), tie
    assert result.reliability == (
        Reliability(member="u", agreement=3 / 4, pairs=4),
        Reliability(member="v", agreement=3.5 / 4, pairs=4),
        Reliability(member="w", agreement=3.5 / 4, pairs=4),
    )


@pytest.mark.parametrize("how", ["mean", "majority"])
def test_these_need_every_member(how: str) -> None:
    pairs = pairs_of(3)
    result = run(how, {"u": [0.9, None, None], "v": [0.8, 0.7, None]})
    assert [j.pair for j in result.judgments] == [pairs[0]]
    assert [(f.id, f.reason, f.detail, f.principle) for f in result.failures] == [
        (pairs[1].id, "model error", "member u: no route", "x"),
        (pairs[2].id, "model error", "member u: no route", "x"),
        (pairs[2].id, "model error", "member v: no route", "x"),
    ]
    assert [(r.agreement, r.pairs) for r in result.reliability] == [(1, 1), (1, 1)]


def test_dawid_skene_makes_do_with_those_that_answered() -> None:
    pairs = pairs_of(5)
    u: Ps = [0.9, 0.1, None, 0.8, None]
    v: Ps = [0.9, 0.1, 0.9, 0.8, None]
    result = run("dawid_skene", {"u": u, "v": v, "w": v})
    assert [j.pair for j in result.judgments] == pairs[:4]
    assert [m.member for m in result.judgments[2].members] == ["v", "w"]
    assert [f.detail for f in result.failures] == [f"member {name}: no route" for name in "uvw"]
    assert {f.id for f in result.failures} == {pairs[4].id}
    assert [r.pairs for r in result.reliability] == [3, 4, 4]
    assert len({str(j.provenance) for j in result.judgments}) == 1


def test_a_member_that_never_answers() -> None:
    result = run("dawid_skene", {"u": [0.9, 0.2], "v": [0.9, 0.2], "w": [None, None]})
    assert result.failures == ()
    assert result.reliability[2] == Reliability(member="w", pairs=0)
    result = run("mean", {"u": [0.9, 0.2], "v": [None, None]})
    assert (result.judgments, len(result.failures)) == ((), 2)
    assert combine(mode("dawid_skene", "u", "v"), [], [member("u", [], []), member("v", [], [])]).judgments == ()


def test_a_failure_without_detail_still_names_the_member() -> None:
    pairs = pairs_of(1)
    silent = JudgeResult((), (Failure(stage="label", id=pairs[0].id, reason="no principle applies"),))
    result = combine(mode("mean", "u", "v"), pairs, [member("u", pairs, [0.9]), silent])
    assert [f.detail for f in result.failures] == ["member v"]


def test_a_member_that_is_silent_is_our_own_mistake() -> None:
    pairs = pairs_of(2)
    results = [member("u", pairs, [0.9, 0.9]), member("v", pairs[:1], [0.9])]
    for how in ("mean", "dawid_skene"):
        with pytest.raises(ValueError, match=f"pair {pairs[1].id}: member v has neither"):
            combine(mode(how, "u", "v"), pairs, results)


FOUR = {"u": 0.85, "v": 0.7, "w": 0.75, "x": 0.3}
"""Accuracies of members; the last one is better contradicted."""


class Truth(NamedTuple):
    """A simulated panel: which response is better, and the members' p."""

    a_is_better: list[bool]
    table: dict[str, Ps]


def simulate(accuracies: dict[str, float], count: int, seed: int) -> Truth:
    rng = random.Random(seed)
    truth = [rng.random() < 0.5 for _ in range(count)]

    def say(right: bool, better: bool) -> float:
        p = rng.uniform(0.51, 0.99)
        return p if right == better else 1 - p

    return Truth(
        truth,
        {name: [say(rng.random() < share, better) for better in truth] for name, share in accuracies.items()},
    )


def test_dawid_skene_maximises_the_likelihood() -> None:
    """Against the definition: prior 1/2, one accuracy a member, the marginal likelihood maximised directly."""
    table = simulate(FOUR, 60, 3).table
    votes = np.array([[p > 0.5 for p in ps] for ps in table.values()])  # type: ignore[operator]

    def likelihoods(theta: Any) -> Any:
        """P(votes of a pair | a, b is the better one), one row each."""
        q = 1 / (1 + np.exp(-theta))[:, None]
        return np.stack([np.where(votes == side, q, 1 - q).prod(axis=0) for side in (True, False)])

    best = minimize(lambda theta: -np.log(likelihoods(theta).mean(axis=0)).sum(), np.array([1.0, 1, 1, -1]), tol=1e-12)
    for_a, for_b = likelihoods(best.x)
    result = run("dawid_skene", table)
    accuracies = [r.accuracy for r in result.reliability]
    assert accuracies == pytest.approx(list(1 / (1 + np.exp(-best.x))), abs=5e-4)
    assert labels(result) == pytest.approx(list(for_a / (for_a + for_b)), abs=5e-4)


def test_dawid_skene_by_hand() -> None:
    """Two members always agree; the third one's vote is a coin, so it must not move a label."""
    told = [0.9, 0.9, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1]
    result = run("dawid_skene", {"u": told, "v": told, "w": [0.9, 0.1] * 4})
    assert labels(result) == pytest.approx([1, 1, 0, 0] * 2, abs=1e-6)
    assert [r.accuracy for r in result.reliability] == pytest.approx([1, 1, 0.5], abs=1e-6)
    assert [r.agreement for r in result.reliability] == [1, 1, 0.5]
    assert all(sigma(-LOGIT_LIMIT) <= p <= sigma(LOGIT_LIMIT) for p in labels(result))


def test_dawid_skene_without_a_vote_is_even() -> None:
    even: Ps = [0.5, 0.5]
    assert labels(run("dawid_skene", {"u": even, "v": even})) == [0.5, 0.5]
    half: Ps = [0.9, 0.5]
    first, second = labels(run("dawid_skene", {"u": half, "v": half}))
    assert first > 0.99 and second == 0.5


@seeds(3)
def test_dawid_skene_recovers_the_members_accuracies(seed: int) -> None:
    accuracies = {"u": 0.9, "v": 0.8, "w": 0.75, "x": 0.6, "flipper": 0.2}
    truth = simulate(accuracies, 400, seed)
    result = run("dawid_skene", truth.table)
    assert [r.accuracy for r in result.reliability] == pytest.approx(list(accuracies.values()), abs=0.05)
    # The flipper is heard as what it is, so the panel beats the majority, which counts its votes as they are.
    right = [
        sum((p > 0.5) == better for p, better in zip(labels(run(how, truth.table)), truth.a_is_better, strict=True))
        for how in ("dawid_skene", "majority")
    ]
    assert right[0] > right[1]
    assert right[0] / 400 > 0.9


@pytest.mark.parametrize("how", ["mean", "majority", "dawid_skene"])
def test_exchanging_a_and_b(how: str) -> None:
    """Pair by pair, whatever the others do: p_a becomes 1 - p_a to the last bit."""
    truth = simulate(FOUR, 40, 1)
    pairs = pairs_of(40)
    before = run(how, truth.table, pairs)
    turned = [i % 3 == 0 for i in range(40)]
    table = {
        name: [1 - p if turn and p is not None else p for p, turn in zip(ps, turned, strict=True)]
        for name, ps in truth.table.items()
    }
    after = run(how, table, [one.swapped() if turn else one for one, turn in zip(pairs, turned, strict=True)])
    for p, q, turn in zip(labels(before), labels(after), turned, strict=True):
        assert (1 - q if turn else q) == p
    assert after.reliability == before.reliability


def test_no_side_is_favoured() -> None:
    """All members prefer a nearly always: the prior stays one half, so a lone vote for b is not drowned by it."""
    ps: list[float | None] = [0.9] * 19
    result = run("dawid_skene", {"u": [*ps, 0.1, 0.9], "v": [*ps, 0.1, None], "w": [*ps, 0.9, None]})
    # With symmetric errors and two reliable members against one, b is likely however rare it is.
    assert labels(result)[19] < 0.01


@pytest.mark.parametrize("how", ["mean", "majority", "dawid_skene"])
def test_the_order_of_members_and_pairs_changes_only_the_order(how: str) -> None:
    table = simulate(FOUR, 40, 1).table
    before = run(how, table)
    after = run(how, {name: table[name] for name in "wxuv"})
    assert labels(after) == labels(before)
    assert [r.member for r in after.reliability] == list("wxuv")
    assert sorted(map(str, after.reliability)) == sorted(map(str, before.reliability))
    assert [m.member for m in after.judgments[0].members] == list("wxuv")
    origins = after.judgments[0].provenance, before.judgments[0].provenance
    assert origins[0] is not None and origins[1] is not None
    assert origins[0].judge_revision == origins[1].judge_revision
    reversed_pairs = run(how, {name: ps[::-1] for name, ps in table.items()}, pairs_of(40)[::-1])
    assert labels(reversed_pairs)[::-1] == labels(before)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_pair_ends_as_a_judgment_or_as_failures(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    how = data.draw(st.sampled_from(["mean", "majority", "dawid_skene"]))
    # Votes that contradict each other change no count here, and on so few pairs such a fit takes its time.
    p = st.none() | st.sampled_from([0.5, 0.7, 1.0])
    table = {name: data.draw(st.lists(p, min_size=count, max_size=count)) for name in "uvw"}
    result, pairs = run(how, table), pairs_of(count)
    judged = [j.pair.id for j in result.judgments]
    failed = [f.id for f in result.failures]
    assert not set(judged) & set(failed)
    assert set(judged) | set(failed) == {one.id for one in pairs}
    assert len(set(judged)) == len(judged)
    order = {one.id: i for i, one in enumerate(pairs)}
    assert all(order[x] <= order[y] for ids in (judged, failed) for x, y in pairwise(ids))
    for i, one in enumerate(pairs):
        missing = sum(ps[i] is None for ps in table.values())
        assert failed.count(one.id) == (missing if missing == 3 or (missing and how != "dawid_skene") else 0)


CONSTITUTION = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "c",
        "version": "1.0.0",
        "title": "C",
        "principles": [{"id": "apt", "compare": "Which response is more apt?"}],
    }
)
MEMBERS: list[dict[str, Any]] = [
    {"name": "plain"},
    {
        "name": "brief",
        "model": {"backend": "scripted", "model": "brief"},
        "mode": {"kind": "compare", "template": "compare-brief"},
    },
    {"name": "thinker", "mode": {"kind": "reasoned", "reasons": 2}},
]


def brief(request: ChatRequest) -> Reply:
    """Prefers what stands first, with half of the probability; fails on the pair that says so."""
    text = request.messages[-1].content
    p = 0.25 if "fail" in text else 0.5
    return Reply(label_logprobs={"A": math.log(p), "B": math.log(p / 2)} if "fail" not in text else {})


def own(request: ChatRequest) -> Any:
    """Plainly it likes letters; after a reason, brevity."""
    if not request.labels:
        return "short is good"
    first = request.model_copy(update={"messages": request.messages[:1]})
    return likes_short(first) if len(request.messages) > 1 else likes_letters(request)


def test_members_in_a_row_with_one_model_open_it_once() -> None:
    """Starting a judge can take a minute, and the usual panel is one model with several templates."""
    opened: list[JudgeModel | None] = []

    @contextmanager
    def open_judge(which: JudgeModel | None) -> Iterator[Engine]:
        opened.append(which)
        yield ScriptedChatModel(likes_letters)

    names = ["u", "v", "w", "x"]
    members = [{"name": name} | ({"model": MEMBERS[1]["model"]} if name in "vw" else {}) for name in names]
    section = LabelSection.model_validate({"mode": {"kind": "panel", "members": members}})
    result = judge_by_mode(open_judge, [pair("aaaa", "b")], CONSTITUTION, section, 0)
    assert [which and which.model for which in opened] == [None, "brief", None]
    assert [member.member for member in result.judgments[0].members] == names


@pytest.mark.parametrize("how", ["mean", "majority", "dawid_skene"])
def test_a_whole_panel(how: str, tmp_path: Any) -> None:
    opened: list[str] = []

    @contextmanager
    def open_judge(which: JudgeModel | None) -> Iterator[Engine]:
        opened.append("own" if which is None else which.model)
        yield ScriptedChatModel(own if which is None else brief, name=opened[-1])

    section = LabelSection.model_validate({"mode": {"kind": "panel", "members": MEMBERS, "combine": how}})
    pairs, seen = [pair("aaaa", "b"), pair("c", "ddd"), pair("fail", "e")], []
    result = judge_by_mode(open_judge, pairs, CONSTITUTION, section, 0, seen.append)
    assert opened == ["own", "brief", "own"]
    assert sum(seen) == 9
    judgment = result.judgments[0]
    assert [m.annotator for m in judgment.members] == ["own:compare", "brief:compare-brief", "own:reasoned"]
    p = [m.p_a for m in judgment.members]
    assert p == pytest.approx([sigma(0.8 * 3), 0.5, sigma(-0.1 * 3)], abs=1e-9)
    assert judgment.provenance is not None
    assert judgment.provenance.template == "compare+compare-brief+reasoned"
    assert result.cost.calls == 3 * 2 + 3 * 2 + 3 * 8
    if how == "mean":
        assert judgment.p_a == pytest.approx(sigma((2.4 + 0 - 0.3) / 3), abs=1e-9)
    if how == "dawid_skene":
        assert (len(result.judgments), result.failures) == (3, ())
    else:
        assert [(f.id, f.reason) for f in result.failures] == [(pairs[2].id, "no label log-probabilities")] * 2
        assert result.failures[0].detail.startswith("member brief: got {}")
    write_jsonl(tmp_path / "j.jsonl", result.judgments)
    assert read_jsonl(tmp_path / "j.jsonl", Judgment) == list(result.judgments)
