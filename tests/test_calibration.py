"""The judge's confidence against how often it is right, the maps fitted to it, and what a map does to a label."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import isotonic_regression, minimize_scalar
from scipy.special import expit

from rlaif.audits.calibration import FOLDS, calibration, reliability
from rlaif.errors import DataError
from rlaif.feedback.calibration import (
    TEMPERATURES,
    Confidences,
    Isotonic,
    Temperature,
    apply_calibration,
    calibrate,
    fit_isotonic,
    fit_temperature,
    fitted,
)
from rlaif.feedback.judge.result import Cost, JudgeResult
from rlaif.feedback.labelled import LabelledJudgment
from rlaif.records import Failure, Judgment, MemberJudgment, Message, Pair, PrincipleJudgment, Prompt
from rlaif.stats import Bootstrap
from tests.audited import ORIGIN

FEW = Bootstrap(samples=100)
STEPS = Isotonic(x=(0.5, 0.7, 0.9), y=(0.5, 0.6, 0.8))


def judgment(number: int, p_a: float) -> Judgment:
    pair = Pair.of(Prompt.of((Message(role="user", content=f"question {number}"),)), "one", "two")
    return Judgment(pair=pair, source="ai", annotator="j", p_a=p_a)


def labelled(p: list[float], h: list[float]) -> list[LabelledJudgment]:
    return [LabelledJudgment(judgment(i, x), y) for i, (x, y) in enumerate(zip(p, h, strict=True))]


def simulated(n: int, temperature: float, seed: int = 0) -> list[LabelledJudgment]:
    """A judge that is right with probability sigma(x) and says sigma(temperature * x)."""
    rng = np.random.default_rng(seed)
    inner = rng.normal(0, 1.5, n)
    human = rng.random(n) < expit(inner)
    return labelled([float(p) for p in expit(temperature * inner)], [float(h) for h in human])


# ------------------------------------------------------------------------------------------- applying maps

maps = st.one_of(
    st.floats(0.05, 100).map(lambda value: Temperature(value=value)),
    st.lists(st.tuples(st.floats(0.501, 1), st.floats(0.5, 1)), max_size=5, unique_by=lambda point: point[0]).map(
        lambda points: Isotonic(
            x=(0.5, *sorted(x for x, _ in points)),
            y=(0.5, *sorted(y for _, y in points)),
        )
    ),
)


@given(st.floats(0, 1), maps)
@example(1e-300, Temperature(value=2.0))
@example(0.5, STEPS)
def test_maps_are_exactly_antisymmetric(p: float, how: Temperature | Isotonic) -> None:
    assert calibrate(1 - p, how) == 1 - calibrate(p, how)
    assert 0 <= calibrate(p, how) <= 1
    assert calibrate(0.5, how) == 0.5


@given(st.floats(0, 1), st.floats(0, 1), maps)
def test_maps_never_turn_a_choice_or_an_order(p: float, q: float, how: Temperature | Isotonic) -> None:
    low, high = sorted((p, q))
    assert calibrate(low, how) <= calibrate(high, how)
    assert (calibrate(p, how) - 0.5) * (p - 0.5) >= 0


def test_temperature_by_hand() -> None:
    assert calibrate(0.9, Temperature(value=2.0)) == pytest.approx(0.75, abs=1e-12)  # odds of 9 become 3
    assert calibrate(0.75, Temperature(value=0.5)) == pytest.approx(0.9, abs=1e-12)
    assert calibrate(0.123, Temperature(value=1.0)) == pytest.approx(0.123, abs=1e-12)
    assert calibrate(1.0, Temperature(value=30.0)) == pytest.approx(expit(1.0))  # log-odds end at 30


def test_isotonic_by_hand() -> None:
    points = {0.6: 0.55, 0.7: 0.6, 0.8: 0.7, 0.9: 0.8, 1.0: 0.8, 0.2: 0.3, 0.05: 0.2}
    for p, expected in points.items():
        assert calibrate(p, STEPS) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ((0.5, 0.7), (0.5,), "one length"),
        ((), (), "first point"),
        ((0.6,), (0.6,), "first point"),
        ((0.5, 0.7, 0.7), (0.5, 0.6, 0.7), "x must increase"),
        ((0.5, 0.7, 0.8), (0.5, 0.7, 0.6), "y must not decrease"),
        ((0.5, 0.7), (0.5, 1.1), "less than or equal to 1"),
    ],
)
def test_what_is_no_map_is_refused(x: tuple[float, ...], y: tuple[float, ...], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Isotonic(x=x, y=y)


def test_labels_are_mapped_and_everything_else_stays() -> None:
    principle = PrincipleJudgment(principle="kind", checked=False, p_a=0.9)
    member = MemberJudgment(member="m", annotator="m", p_a=0.9, provenance=ORIGIN)
    before = judgment(0, 0.9).model_copy(update={"principles": (principle,), "members": (member,)})
    result = JudgeResult((before, judgment(1, 0.25)), (Failure(stage="label", id="x", reason="r"),), Cost(1, 2, 3))
    mapped = apply_calibration(result, Temperature(value=2.0))
    assert [j.p_a for j in mapped.judgments] == pytest.approx([0.75, 1 / (1 + math.sqrt(3))])
    assert [j.p_raw for j in mapped.judgments] == [0.9, 0.25]
    assert mapped.judgments[0].model_copy(update={"p_a": 0.9, "p_raw": None}) == before
    assert mapped._replace(judgments=()) == result._replace(judgments=())
    Judgment.model_validate(mapped.judgments[0].model_dump())


def test_maps_do_not_pile_up() -> None:
    once = apply_calibration(JudgeResult((judgment(0, 0.9),), ()), Temperature(value=2.0))
    assert apply_calibration(once, Temperature(value=2.0)) == once
    again = apply_calibration(once, STEPS).judgments[0]
    assert (again.p_a, again.p_raw) == (pytest.approx(0.8), 0.9)


def test_the_audits_maps_are_read_back() -> None:
    found = calibration(simulated(400, 2.0), FEW)
    assert found is not None
    how, steps = fitted(found, "temperature"), fitted(found, "isotonic")
    assert isinstance(how, Temperature) and how.value == found["temperature"]["value"]
    assert isinstance(steps, Isotonic) and list(steps.y) == found["isotonic"]["y"]


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ({"temperature": None}, "calibration.temperature: the audit fitted none"),
        ({}, "calibration.temperature: the audit fitted none"),
        (None, "calibration.temperature: the audit fitted none"),
        ({"temperature": {"value": -1}}, r"calibration.temperature.value: .*greater than 0 \(got -1\)"),
        ({"temperature": {}}, "calibration.temperature.value: .*got None"),
    ],
)
def test_an_audit_without_the_map_is_an_error(audit: dict[str, object] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fitted(audit, "temperature")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- scores


def test_scores_by_hand() -> None:
    # Confidence 0.92 right, 0.94 wrong, 0.7 right, and a tie of the judge; the human tie does not count.
    found = calibration(labelled([0.92, 0.94, 0.3, 0.5, 0.8], [1, 0, 0, 1, 0.5]), FEW)
    assert found is not None and found["n"] == 4
    assert found["brier"] == pytest.approx((0.08**2 + 0.94**2 + 0.3**2 + 0.5**2) / 4)
    assert found["log_loss"] == pytest.approx(-sum(map(math.log, (0.92, 0.06, 0.7, 0.5))) / 4)
    # Bins: [0.9, 0.95) holds two with mean 0.93 and accuracy 0.5; [0.7, 0.75) one; [0.5, 0.55) the tie.
    assert found["ece"] == pytest.approx((2 * 0.43 + 1 * 0.3 + 0) / 4)
    rows = [(row["lower"], row["upper"], row["n"], row["accuracy"]["value"]) for row in found["bins"]]
    assert rows == [(0.5, 0.55, 1, 0.5), (0.7, 0.75, 1, 1.0), (0.9, 0.95, 2, 0.5)]
    assert [row["confidence"] for row in found["bins"]] == pytest.approx([0.5, 0.7, 0.93])
    assert (found["bins"][2]["accuracy"]["low"], found["bins"][2]["accuracy"]["high"]) == (0.0, 1.0)  # 1 of 2


def test_the_interval_of_a_bin_resamples_prompts() -> None:
    """Forty pairs that are four prompts are worth little more than four pairs."""
    p, right = [0.7] * 40, [int(i % 4 != 0) for i in range(40)]
    (alone,) = reliability(Confidences.of(labelled(p, right)), FEW)
    data = Confidences.of(labelled(p, right))
    (together,) = reliability(data._replace(prompt_ids=tuple(str(i % 4) for i in range(40))), FEW)
    assert alone["accuracy"]["value"] == together["accuracy"]["value"] == 0.75
    width = [row["accuracy"]["high"] - row["accuracy"]["low"] for row in (alone, together)]
    assert width[0] < 0.35 and width[1] > 0.7
    narrow = reliability(data, Bootstrap(500, confidence=0.5))[0]["accuracy"]
    assert narrow["high"] - narrow["low"] < width[0] / 2


@pytest.mark.parametrize("p", [0.55, 0.6, 0.65, 0.7, 0.85, 0.95, 1.0])
def test_a_confidence_on_an_edge_is_in_the_bin_above_from_either_side(p: float) -> None:
    (above,) = reliability(Confidences.of(labelled([p, 1 - p, p - 1e-15, 1 - p + 1e-15], [1, 1, 1, 1])), FEW)
    assert above["n"] == 4 and above["lower"] == pytest.approx(min(p, 0.95))


def test_certainty_that_is_wrong_costs_much_and_not_everything() -> None:
    found = calibration(labelled([1.0, 0.0], [0, 0]), FEW)
    assert found is not None and found["log_loss"] == pytest.approx(15)


def test_without_a_right_choice_there_is_no_calibration() -> None:
    assert calibration([], FEW) is None
    assert calibration(labelled([0.9], [0.5]), FEW) is None


# -------------------------------------------------------------------------------------------- the fits


def test_the_temperature_has_the_least_log_loss() -> None:
    rows = simulated(300, 3.0)
    signed = np.array([(2 * r.p_human - 1) * math.log(r.judgment.p_a / (1 - r.judgment.p_a)) for r in rows])

    def log_loss(log_t: float) -> float:
        return float(np.logaddexp(0, -signed * math.exp(-log_t)).mean())

    best = minimize_scalar(log_loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(Confidences.of(rows)).value == pytest.approx(math.exp(best.x), rel=1e-5)


@pytest.mark.parametrize(
    ("p", "h", "expected", "at_limit"),
    [
        ([0.9, 0.8, 0.7, 0.2] * 5, [1, 1, 1, 0] * 5, TEMPERATURES[0], True),  # never wrong
        ([0.9, 0.8, 0.7, 0.2] * 5, [0, 0, 0, 1] * 5, TEMPERATURES[1], True),  # always wrong
        ([0.9] * 20, [1, 0] * 10, TEMPERATURES[1], True),  # knows nothing
        ([0.5] * 20, [1, 0] * 10, 1.0, False),  # says nothing
    ],
)
def test_a_temperature_without_end_stops_at_the_limit_and_says_so(
    p: list[float], h: list[float], expected: float, at_limit: bool
) -> None:
    found = calibration(labelled(p, h), FEW)
    assert found is not None
    assert found["temperature"]["value"] == pytest.approx(expected, rel=1e-6)
    assert found["temperature"]["at_limit"] is at_limit
    if at_limit:
        assert TEMPERATURES[0] * 0.999 <= found["temperature"]["low"] <= found["temperature"]["high"] <= 100.1


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.45, 0.5, 0.6, 0.8, 0.95]), st.booleans()), min_size=1))
def test_isotonic_is_the_upper_half_of_the_fit_to_both_orientations(rows: list[tuple[float, bool]]) -> None:
    found = fit_isotonic(Confidences.of(labelled([p for p, _ in rows], [float(h) for _, h in rows])))
    both = [(p, float(h)) for p, h in rows] + [(1 - p, 1 - float(h)) for p, h in rows]
    where = sorted({round(p, 9) for p, _ in both})
    groups = [[h for p, h in both if round(p, 9) == x] for x in where]
    fit = isotonic_regression([np.mean(group) for group in groups], weights=[len(group) for group in groups])
    most = 1 - 1 / (len(rows) + 2)
    expected = {x: min(max(float(y), 1 - most), most) for x, y in zip(where, fit.x, strict=True)}
    assert [calibrate(x, found) for x in where] == pytest.approx(list(expected.values()), abs=1e-9)


def test_isotonic_by_hand_pools_and_keeps_off_certainty() -> None:
    # Confidence 0.6: 3 of 4 right; 0.8: 1 of 2, so both pool to 4 of 6; 0.95: always.
    p, h = [0.6] * 4 + [0.8] * 2 + [0.95] * 2, [1.0, 1, 1, 0, 1, 0, 1, 1]
    found = fit_isotonic(Confidences.of(labelled(p, h)))
    assert found.x == pytest.approx((0.5, 0.6, 0.8, 0.95))
    assert found.y == pytest.approx((0.5, 4 / 6, 4 / 6, 0.9))


def test_a_judge_that_is_wrong_when_sure_is_mapped_to_even() -> None:
    found = fit_isotonic(Confidences.of(labelled([0.9] * 6, [1.0, 0, 0, 0, 1, 0])))
    assert (found.x, found.y) == ((0.5, 0.9), (0.5, 0.5))
    assert calibrate(0.9, found) == 0.5


def test_both_maps_mend_an_overconfident_judge() -> None:
    found = calibration(simulated(1500, 3.0), FEW)
    assert found is not None
    assert found["temperature"]["low"] < 3.0 < found["temperature"]["high"]
    assert found["ece"] > 0.12
    for kind in ("temperature", "isotonic"):
        assert found[kind]["ece"] < 0.05
        assert found[kind]["brier"] < found["brier"] and found[kind]["log_loss"] < found["log_loss"]


def test_a_map_is_measured_on_prompts_that_it_was_not_fitted_to() -> None:
    # The judge knows nothing and says a different thing each time: in-sample isotonic finds structure, and out of fold
    # it must cost more than saying 0.5 always.
    rng = np.random.default_rng(0)
    rows = labelled([float(p) for p in rng.uniform(0.5, 1, 200)], [float(h) for h in rng.integers(0, 2, 200)])
    data = Confidences.of(rows)
    how = fit_isotonic(data)
    mapped = np.array([calibrate(float(p), how) for p in data.confidence])
    in_sample = float(-np.log(np.where(data.correct == 1, mapped, 1 - mapped)).mean())
    found = calibration(rows, FEW)
    assert found is not None
    assert in_sample < math.log(2) < found["isotonic"]["log_loss"]


def test_all_pairs_of_a_prompt_are_in_one_fold() -> None:
    # One prompt: one fold, nothing to fit on the others.
    pairs = [Pair.of(Prompt.of((Message(role="user", content="why?"),)), f"one {i}", "two") for i in range(4 * FOLDS)]
    rows = [LabelledJudgment(Judgment(pair=pair, source="ai", annotator="j", p_a=0.8), 1.0) for pair in pairs]
    found = calibration(rows, FEW)
    assert found is not None
    assert found["temperature"] is None and found["isotonic"] is None and found["n"] == 4 * FOLDS


def test_no_score_depends_on_which_response_is_called_a() -> None:
    rows = simulated(200, 2.0)
    turned = [
        LabelledJudgment(row.judgment.model_copy(update={"p_a": 1 - row.judgment.p_a}), 1 - row.p_human)
        if i % 3
        else row
        for i, row in enumerate(rows)
    ]
    one, other = calibration(rows, FEW), calibration(turned, FEW)
    assert one is not None and other is not None
    for key in ("ece", "brier", "log_loss"):
        assert one[key] == pytest.approx(other[key], abs=1e-12)
        assert one["isotonic"][key] == pytest.approx(other["isotonic"][key], abs=1e-9)
    assert one["temperature"]["value"] == pytest.approx(other["temperature"]["value"], rel=1e-6)
