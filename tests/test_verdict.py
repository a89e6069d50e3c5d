"""The mathematics of judging against its definitions; the swap properties are in test_swap_properties.py."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config.feedback import Lexicographic, Mean, SampleOne
from rlaif.constitution import Principle
from rlaif.feedback.verdict import (
    LOGIT_LIMIT,
    Aggregation,
    aggregate,
    average,
    checked,
    draw,
    judged,
    log_odds,
    reasoned,
    verdict_logit,
)
from rlaif.feedback.verdict import sigma as exact_sigma
from rlaif.records import PrincipleJudgment, Verdict


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def verdict(first: str, p_first: float, mass: float = 1.0) -> Verdict:
    """A verdict that gives the response shown first this share of the labels' mass."""
    return Verdict.model_validate(
        {
            "first": first,
            "logprob_first": math.log(mass * p_first),
            "logprob_second": math.log(mass * (1 - p_first)),
        }
    )


def principle(name: str, **knobs: object) -> Principle:
    return Principle.model_validate({"id": name, "compare": "Which response is better?", **knobs})


def says(name: str, log_odds: float) -> PrincipleJudgment:
    """A judgment without position bias."""
    return judged(name, verdict("a", sigma(log_odds)), verdict("b", sigma(-log_odds)))


def total(items: list[tuple[Principle, PrincipleJudgment]], how: Aggregation, margin: float = 4.0) -> float:
    return aggregate(items, how, margin, 0, "pair")


def test_two_orders_by_hand() -> None:
    # P(a) is 0.9 when shown first, 1 - 0.6 = 0.4 when shown second.
    judgment = judged("x", verdict("a", 0.9, mass=0.3), verdict("b", 0.6, mass=0.01))
    assert judgment.p_a == pytest.approx(sigma((math.log(9) + math.log(2 / 3)) / 2), abs=1e-12)
    assert judgment.swap_gap == pytest.approx(0.5, abs=1e-12)
    assert not judgment.checked


@given(st.floats(-8, 8), st.floats(-8, 8))
def test_an_additive_position_bias_cancels_exactly(log_odds: float, bias: float) -> None:
    """The reason for averaging log-odds: the judge says q + bias for the first place in both orders."""

    def biased(first: str, q: float) -> Verdict:
        return Verdict.model_validate({"first": first, "logprob_first": q + bias, "logprob_second": 0.0})

    judgment = judged("x", biased("a", log_odds), biased("b", -log_odds))
    assert judgment.p_a == pytest.approx(sigma(log_odds), abs=1e-12)


@given(st.floats(-200, 0), st.floats(-200, 0), st.floats(-50, 0))
def test_label_mass_does_not_matter(one: float, other: float, shift: float) -> None:
    plain = Verdict(first="a", logprob_first=one, logprob_second=other)
    shifted = Verdict(first="a", logprob_first=one + shift, logprob_second=other + shift)
    assert verdict_logit(plain) == pytest.approx(verdict_logit(shifted), abs=1e-9)


def test_the_log_odds_of_one_verdict_are_bounded() -> None:
    assert verdict_logit(Verdict(first="a", logprob_first=0, logprob_second=-9999)) == LOGIT_LIMIT
    assert verdict_logit(Verdict(first="b", logprob_first=0, logprob_second=-9999)) == -LOGIT_LIMIT


def test_orders_must_be_both() -> None:
    with pytest.raises(ValueError, match="a first, then"):
        judged("x", verdict("b", 0.5), verdict("a", 0.5))


@pytest.mark.parametrize(
    ("passes_a", "passes_b", "log_odds"),
    [(True, False, 4), (False, True, -4), (True, True, 0), (False, False, 0)],
)
def test_checked(passes_a: bool, passes_b: bool, log_odds: float) -> None:
    judgment = checked("x", passes_a, passes_b, 4.0)
    assert judgment.p_a == pytest.approx(sigma(log_odds), abs=1e-12)
    assert (judgment.checked, judgment.swap_gap, judgment.verdicts) == (True, None, ())


def after(p_first: float, first: str) -> Verdict:
    """A verdict with a reason."""
    return verdict(first, p_first).model_copy(update={"reason": "because"})


def test_reasons_by_hand() -> None:
    # Two reasons: P(a) is 0.9 and 0.6 when shown first, 0.7 and 0.2 when shown second.
    pairs = [(after(0.9, "a"), after(0.3, "b")), (after(0.6, "a"), after(0.8, "b"))]
    singles = [sigma((logit(0.9) + logit(0.7)) / 2), sigma((logit(0.6) + logit(0.2)) / 2)]
    judgment = reasoned("x", pairs, (0.0, 1.0))
    assert judgment.p_a == pytest.approx(sum(singles) / 2, abs=1e-12)
    assert judgment.swap_gap == pytest.approx(0.75 - 0.45, abs=1e-12)
    assert judgment.verdicts == (*pairs[0], *pairs[1])
    assert reasoned("x", pairs, (0.45, 0.55)).p_a == pytest.approx(0.55, abs=1e-12)
    assert reasoned("x", pairs, (0.45, 0.55)).swap_gap == judgment.swap_gap  # the bias is not clamped


def test_the_clamp_holds_the_mean_not_its_parts() -> None:
    pairs = [(after(0.95, "a"), after(0.05, "b")), (after(0.2, "a"), after(0.8, "b"))]
    assert reasoned("x", pairs, (0.4, 0.6)).p_a == pytest.approx(0.575, abs=1e-12)
    assert reasoned("x", pairs[:1], (0.4, 0.6)).p_a == 0.6
    assert reasoned("x", pairs[1:], (0.4, 0.6)).p_a == 0.4


def test_a_clamped_judgment_counts_with_its_clamped_log_odds() -> None:
    clamped = reasoned("x", [(after(0.999, "a"), after(0.001, "b"))], (0.4, 0.6))
    items = [(principle("x"), clamped), (principle("y"), says("y", -1.0))]
    assert total(items, Mean()) == pytest.approx(sigma((logit(0.6) - 1) / 2), abs=1e-12)
    assert total([(principle("x", veto=True), clamped), items[1]], Mean(), margin=4.0) == total(items, Mean())


def test_a_judgment_without_verdicts_counts_with_the_log_odds_of_its_p() -> None:
    rated = PrincipleJudgment(principle="x", checked=False, p_a=0.8)
    items = [(principle("x"), rated), (principle("y"), says("y", -1.0))]
    assert total(items, Mean()) == pytest.approx(sigma((logit(0.8) - 1) / 2), abs=1e-12)
    sure = [(principle("x"), rated.model_copy(update={"p_a": 1.0})), (principle("y"), says("y", -20.0))]
    assert total(sure, Mean()) == pytest.approx(sigma((LOGIT_LIMIT - 20) / 2), abs=1e-9)


def test_log_odds_are_those_of_p_and_bounded() -> None:
    assert [log_odds(p) for p in (0.9, 0.5, 0.1)] == pytest.approx([math.log(9), 0, -math.log(9)], abs=1e-12)
    assert [log_odds(p) for p in (0, 1e-300, 1)] == [-LOGIT_LIMIT, -LOGIT_LIMIT, LOGIT_LIMIT]


@given(st.floats(-40, 40))
def test_the_opposite_log_odds_give_the_exact_complement(lead: float) -> None:
    assert exact_sigma(-lead) == 1 - exact_sigma(lead)
    assert exact_sigma(lead) == pytest.approx(sigma(lead), abs=1e-15)
    assert log_odds(exact_sigma(-lead)) == -log_odds(exact_sigma(lead))


@given(st.lists(st.floats(-40, 40).map(exact_sigma), min_size=1, max_size=6))
def test_the_average_of_the_complements_is_the_exact_complement(ps: list[float]) -> None:
    assert average([1 - p for p in ps]) == 1 - average(ps)
    assert average(ps) == pytest.approx(sum(ps) / len(ps), abs=1e-12)


def test_mean_is_of_log_odds_by_weight() -> None:
    items = [
        (principle("x", weight=1.0), says("x", 2.0)),
        (principle("y", weight=3.0), says("y", -1.0)),
        (principle("z", weight=1.0), checked("z", True, False, 4.0)),
        (principle("even", weight=5.0), checked("even", True, True, 4.0)),
    ]
    assert total(items, Mean()) == pytest.approx(sigma((2 - 3 + 4 + 0) / 10), abs=1e-12)


def test_a_margin_beyond_double_precision_still_counts() -> None:
    """sigma(50) is 1.0 as a float; the log-odds must come from the margin, not back from p_a."""
    items = [(principle("x"), checked("x", True, False, 50.0)), (principle("y"), says("y", -20.0))]
    assert total(items, Mean(), margin=50.0) == pytest.approx(sigma(15), abs=1e-12)


def test_sample_takes_the_drawn_principle_alone() -> None:
    items = [(principle(name), says(name, value)) for name, value in (("x", 1.0), ("y", -2.0), ("z", 3.0))]
    seen = Counter()
    for i in range(60):
        drawn = draw([p for p, _ in items], 0, f"pair {i}")
        seen[drawn.id] += 1
        expected = {p.id: j.p_a for p, j in items}[drawn.id]
        assert aggregate(items, SampleOne(), 4.0, 0, f"pair {i}") == pytest.approx(expected, abs=1e-12)
    assert set(seen) == {"x", "y", "z"}


def test_draw_follows_the_weights_and_the_seed() -> None:
    items = [principle("x", weight=1.0), principle("y", weight=3.0)]
    n = 4000
    share = sum(draw(items, 0, str(i)).id == "y" for i in range(n)) / n
    assert abs(share - 0.75) < 4 * math.sqrt(0.75 * 0.25 / n)  # four standard errors
    assert any(draw(items, 0, str(i)) != draw(items, 1, str(i)) for i in range(20))


@given(st.permutations(["a", "b", "c", "d"]), st.integers(0, 1000))
def test_draw_ignores_order_and_losers(names: list[str], seed: int) -> None:
    winner = draw([principle(name) for name in names], seed, "pair")
    losers = [name for name in names if name != winner.id]
    assert draw([principle(name) for name in (losers[0], winner.id)], seed, "pair").id == winner.id


def test_lexicographic() -> None:
    how = Lexicographic(decided=0.1)  # |log-odds| above 0.405
    high, low = principle("high", priority=1), principle("low", priority=2)
    even = principle("also-high", priority=1, weight=3.0)
    assert total([(low, says("low", -9)), (high, says("high", 0.5))], how) == pytest.approx(sigma(0.5))
    assert total([(high, says("high", 0.3)), (low, says("low", -2))], how) == pytest.approx(sigma(-2))
    # A group speaks with its weighted mean: (0.5 + 3 * 0.1) / 4 = 0.2 is undecided.
    items = [(high, says("high", 0.5)), (even, says("also-high", 0.1)), (low, says("low", -2))]
    assert total(items, how) == pytest.approx(sigma(-2))
    # None decided: the mean of all.
    assert total([(high, says("high", 0.3)), (low, says("low", -0.1))], how) == pytest.approx(sigma(0.1))


@pytest.mark.parametrize("how", [Mean(), SampleOne(), Lexicographic()])
def test_vetoes_override(how: Aggregation) -> None:
    loud = (principle("loud", weight=100.0, priority=0), says("loud", 9.0))
    veto = principle("veto", veto=True, priority=9)
    assert total([loud, (veto, checked("veto", False, True, 4.0))], how) == pytest.approx(sigma(-4))
    assert total([loud, (veto, says("veto", -5))], how) == pytest.approx(sigma(-5))
    other = principle("other", veto=True)
    both = [loud, (veto, checked("veto", False, True, 4.0)), (other, checked("other", True, False, 4.0))]
    assert total(both, how) == pytest.approx(0.5)


def test_a_veto_that_does_not_speak_is_an_ordinary_principle() -> None:
    loud = (principle("loud"), says("loud", 2.0))
    veto = principle("veto", veto=True)
    assert total([loud, (veto, checked("veto", False, False, 4.0))], Mean()) == pytest.approx(sigma(1))
    assert total([loud, (veto, says("veto", -3.9))], Mean()) == pytest.approx(sigma(-0.95))
