"""Taking the judge's taste for length out of its labels."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from rlaif.errors import DataError
from rlaif.feedback.calibration import LengthBias, debias, fit_length_bias
from rlaif.feedback.labelled import LabelledJudgment
from rlaif.records import Judgment, Message, Pair, Prompt


def judged(name: str, p_a: float, words_a: int = 3, words_b: int = 3, p_raw: float | None = None) -> Judgment:
    prompt = Prompt.of((Message(role="user", content=name),))
    pair = Pair.of(prompt, " ".join(["a"] * words_a), " ".join(["b"] * words_b))
    return Judgment(pair=pair, source="ai", annotator="judge", p_a=p_a, p_raw=p_raw)


def overlap(n: int, slope: float, length: float, seed: int = 0, taste: float = 1.0) -> list[LabelledJudgment]:
    """A judge with a taste for length, and people whose choice of a has the probability

    sigma(slope * (the judge's log-odds + length * tanh(difference / 10))).
    """
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        longer = rng.choice([-10, 10])
        lead = rng.gauss(taste * longer / 10, 1)
        says = rng.random() < expit(slope * (lead + length * math.tanh(longer / 10)))
        rows.append(LabelledJudgment(judged(f"q{i}", float(expit(lead)), 20 + longer, 20), float(says)))
    return rows


def test_the_fit_finds_what_was_planted():
    how = fit_length_bias(overlap(4000, slope=0.8, length=-1.0))
    assert how.scale == 10 and how.pairs == 4000
    assert how.slope == pytest.approx(0.8, abs=0.12)
    assert how.length == pytest.approx(-1.0, abs=0.15)


def test_a_label_loses_what_the_judge_gave_for_length_and_stays_as_sure():
    how = LengthBias(slope=0.5, length=-1.2, scale=10, pairs=100)
    alike, longer = judged("q", 0.9), judged("q", 0.7, 20, 10)
    assert how.p_a(alike) == pytest.approx(0.9)
    assert how.p_a(longer) == pytest.approx(expit(logit(0.7) - 1.2 * math.tanh(1)))
    assert how.p_a(longer) < 0.5, "a label may change sides"
    calibrated = judged("q", 0.6, 20, 10, p_raw=0.7)
    assert how.p_a(calibrated) == how.p_a(longer), "maps never pile up"


def test_judgments_keep_what_the_judge_said():
    rows = overlap(300, slope=1.0, length=-1.0)
    found = debias([row.judgment for row in rows], rows)
    assert [one.p_raw for one in found] == [row.judgment.p_a for row in rows]
    assert [one.pair for one in found] == [row.judgment.pair for row in rows]
    longer = [one.p_a - one.p_raw for one in found if len(one.pair.a) > len(one.pair.b)]
    assert longer and max(longer) < 0


@settings(deadline=None, max_examples=30)
@given(p=st.floats(0.01, 0.99), words=st.integers(1, 40), seed=st.integers(0, 3), shuffle=st.randoms())
def test_neither_what_is_called_a_nor_the_order_of_rows_matters(p, words, seed, shuffle):
    rows = overlap(40, slope=0.7, length=-0.5, seed=seed)
    turned = [
        LabelledJudgment(
            row.judgment.model_copy(update={"pair": row.judgment.pair.swapped(), "p_a": 1 - row.judgment.p_a}),
            1 - row.p_human,
        )
        if shuffle.random() < 0.5
        else row
        for row in rows
    ]
    shuffle.shuffle(turned)
    how, again = fit_length_bias(rows), fit_length_bias(turned)
    assert (again.slope, again.length, again.scale) == pytest.approx((how.slope, how.length, how.scale), abs=1e-6)
    one = judged("q", p, words, 7)
    other = one.model_copy(update={"pair": one.pair.swapped(), "p_a": 1 - p})
    assert how.p_a(other) == pytest.approx(1 - how.p_a(one), abs=1e-12)


def test_people_without_a_preference_say_nothing():
    rows = overlap(60, slope=1.0, length=0.0)
    ties = [row._replace(p_human=0.5) for row in overlap(60, slope=1.0, length=0.0, seed=1)]
    assert fit_length_bias([*rows, *ties]) == fit_length_bias(rows)
    with pytest.raises(DataError, match="labelled no pair both"):
        fit_length_bias(ties)


def test_labels_stay_as_they_are_where_the_judges_word_says_nothing_of_peoples():
    rows = overlap(400, slope=-1.0, length=0.0, taste=0.0)
    how = fit_length_bias(rows)
    assert (how.slope, how.length) == pytest.approx((0, 0), abs=1e-6)
    assert [one.p_a for one in debias([row.judgment for row in rows], rows)] == pytest.approx(
        [row.judgment.p_a for row in rows]
    )


def test_few_labels_move_little():
    """The same people: with 20 pairs the prior holds what with 2000 the labels say."""
    few, many = (fit_length_bias(overlap(n, slope=0.3, length=-2.0, seed=2)).length for n in (20, 2000))
    assert abs(few) < 1.5 and many < -1.6


def test_a_judge_who_is_never_wrong_has_a_finite_slope():
    rows = [LabelledJudgment(judged(f"q{i}", p), float(p > 0.5)) for i, p in enumerate([0.9, 0.1] * 30)]
    how = fit_length_bias(rows)
    assert 1 < how.slope < 100 and how.length == 0
    assert how.scale == 1, "all texts are equally long"
