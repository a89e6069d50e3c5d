"""What evaluation says of a reward model, against plain loops over its held-out rows; and the table for a person."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from rlaif.evaluation.report import write_report
from rlaif.evaluation.reward_worth import accuracy, calibration, members, rating_error, reward_worth
from rlaif.evaluation.tables import worth
from rlaif.stats import Bootstrap
from tests.fake_run import inputs, write_run

QUICK = Bootstrap(samples=200)


def row(prompt: str, p: float, margin: float, **more: Any) -> dict[str, Any]:
    return {"prompt_id": prompt, "source": "ai", "p_chosen": p, "margin": margin, **more}


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def drawn(count: int, scale: float, seed: int = 0) -> list[dict[str, Any]]:
    """Certain labels that are right as often as sigma(margin / scale) says: at scale 1 the model is calibrated."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        margin = rng.uniform(0, 3)
        right = rng.random() < sigma(margin / scale)
        rows.append(row(f"p{i // 3}", 1.0, margin if right else -margin))
    return rows


def test_calibration_is_that_of_a_plain_loop() -> None:
    rng = random.Random(1)
    rows = [row(f"p{i % 17}", rng.uniform(0.5, 1), rng.gauss(0, 2)) for i in range(80)]
    found = calibration(rows, QUICK)
    assert found is not None
    bins: dict[int, list[tuple[float, float]]] = {}
    for r in rows:
        confidence = sigma(abs(r["margin"]))
        agreement = r["p_chosen"] if r["margin"] > 0 else 1 - r["p_chosen"]
        bins.setdefault(min(int(confidence * 10), 9), []).append((confidence, agreement))
    error = sum(abs(sum(c - a for c, a in pairs)) for pairs in bins.values()) / len(rows)
    assert found["ece"]["value"] == pytest.approx(error)
    assert [entry["n"] for entry in found["bins"]] == [len(bins[i]) for i in sorted(bins)]
    for entry, i in zip(found["bins"], sorted(bins), strict=True):
        assert (entry["from"], entry["to"]) == pytest.approx((i / 10, (i + 1) / 10))
        assert entry["confidence"] == pytest.approx(sum(c for c, _ in bins[i]) / len(bins[i]))
        assert entry["value"] == pytest.approx(sum(a for _, a in bins[i]) / len(bins[i]))


def test_a_calibrated_model_has_a_small_error_and_a_loud_one_a_large_one() -> None:
    errors = {}
    for scale in (1, 5):
        found = calibration(drawn(3000, scale), QUICK)
        assert found is not None
        errors[scale] = found["ece"]
    assert errors[1]["value"] < 0.04
    assert errors[5]["value"] > 0.15 and errors[5]["low"] > 0.12


def test_nothing_changes_when_pairs_are_turned_round() -> None:
    rows = [*drawn(60, 1.0), row("x", 0.7, 0.0), row("y", 0.5, 1.0)]
    turned = [r | {"p_chosen": 1 - r["p_chosen"], "margin": -r["margin"]} for r in rows]
    assert accuracy(rows, QUICK) == accuracy(turned, QUICK)
    one, other = calibration(rows, QUICK), calibration(turned, QUICK)
    assert one is not None and other is not None
    assert one["ece"]["value"] == pytest.approx(other["ece"]["value"])


def test_intervals_resample_prompts_not_pairs() -> None:
    """Every pair three times over, in its own prompt: no more is known than before."""
    rows = drawn(90, 3.0)
    one, other = calibration(rows, QUICK), calibration([r for r in rows for _ in range(3)], QUICK)
    assert one is not None and other is not None
    for bound in ("value", "low", "high"):
        assert one["ece"][bound] == pytest.approx(other["ece"][bound])
    apart = calibration([r | {"prompt_id": f"{r['prompt_id']}-{i}"} for r in rows for i in range(3)], QUICK)
    assert apart is not None
    assert apart["ece"]["high"] - apart["ece"]["low"] < 0.8 * (one["ece"]["high"] - one["ece"]["low"])


def test_members_that_agree_and_members_that_do_not() -> None:
    rows = [
        row("a", 0.9, 1.0, margins=[0.5, 1.5]),
        row("b", 0.8, -1.0, margins=[-0.5, -1.5]),
        row("c", 0.8, 0.5, margins=[2.0, -1.0]),
        row("d", 0.5, 0.5, margins=[1.0, 0.5]),  # a tie has no right answer
    ]
    found = members(rows, QUICK)
    assert found is not None
    assert (found["members"], found["agree"]["value"], found["agree"]["n"]) == (2, 0.5, 2)
    assert (found["disagree"]["value"], found["disagree"]["n"]) == (1.0, 1)
    assert found["disagreement"]["value"] == pytest.approx((0.5 + 0.5 + 1.5 + 0.25) / 4)
    assert members(drawn(9, 1.0), QUICK) is None
    always = members(rows[:2], QUICK)
    assert always is not None and always["disagree"] is None


def test_bands_by_label_strength_share_out_all_decided_pairs() -> None:
    rows = [
        row(f"p{i}", p, m) for i, (p, m) in enumerate([(0.55, 1), (0.6, -1), (0.61, 1), (0.9, 1), (1, -1), (0.5, 1)])
    ]
    bands = reward_worth(rows, QUICK)["by_strength"]
    assert [(b["from"], b["to"], b["n"], b["value"]) for b in bands] == [
        (0.5, 0.6, 2, 0.5),
        (0.6, 0.75, 1, 1.0),
        (0.75, 0.9, 1, 1.0),
        (0.9, 1.0, 1, 0.0),
    ]


def test_heads_are_held_against_their_own_principles_labels() -> None:
    rows = [
        row("a", 0.9, 1.0, heads={"brief": {"margin": 1.0, "p_chosen": 0.2}, "kind": {"margin": 1.0, "p_chosen": 0.7}}),
        row("b", 0.9, 1.0, heads={"brief": {"margin": -1.0, "p_chosen": 0.2}}),
    ]
    heads = reward_worth(rows, QUICK)["heads"]
    assert {name: (e["value"], e["n"]) for name, e in heads.items()} == {"brief": (0.5, 2), "kind": (1.0, 1)}


def test_the_error_on_ratings_is_what_is_left_when_both_are_centred() -> None:
    rows = [
        {"prompt_id": f"p{i // 2}", "rating": rating, "score": rating + 7 + off}
        for i, (rating, off) in enumerate([(0.0, 0.5), (1.0, -0.5), (-1.0, 0.5), (4.0, -0.5)])
    ]
    found = rating_error(rows, QUICK)
    assert found is not None
    assert (found["value"], found["n"]) == (pytest.approx(0.5), 4)
    assert found["without"] == pytest.approx((1 + 0 + 2 + 3) / 4)
    names = {name: value for name, value, _, _ in worth({"reward_model": {"rating_error": found}})}
    assert names == {"Off a held-out rating by": "0.50", "One score for all would be off by": "1.50"}


def test_nothing_measured_is_none_and_has_no_row_in_the_table() -> None:
    found = reward_worth([], QUICK)
    assert found == {"calibration": None, "by_strength": [], "ensemble": None, "heads": None, "rating_error": None}
    assert worth({"reward_model": {"heldout_accuracy": None, **found}}) == worth({}) == []


def test_the_table_says_each_figure_once_with_its_interval() -> None:
    estimate = {"value": 0.74, "low": 0.66, "high": 0.81, "n": 120}
    evaluation = {
        "reward_model": {
            "heldout_accuracy": estimate | {"by_source": {"ai": estimate, "human": estimate | {"value": 0.5}}},
            "by_strength": [{"from": 0.5, "to": 0.6, **estimate}],
            "calibration": {"ece": estimate | {"value": 0.04, "low": 0.02, "high": 0.07}, "bins": []},
            "ensemble": {"disagreement": estimate | {"value": 1.5, "low": None}, "agree": estimate, "disagree": None},
            "heads": {"brief": estimate},
        }
    }
    table = worth(evaluation)
    assert [row[:3] for row in table] == [
        ("Agrees with held-out labels", "74%", "66 to 81%"),
        ("with AI labels", "74%", "66 to 81%"),
        ("with human labels", "50%", "66 to 81%"),
        ("where the label is 50% to 60% sure", "74%", "66 to 81%"),
        ("Calibration error (ECE)", "4%", "2 to 7%"),
        ("Members all prefer the same: agrees", "74%", "66 to 81%"),
        ("Members' spread of a margin", "1.50", ""),
        ("Head of brief: agrees with that principle", "74%", "66 to 81%"),
    ]
    assert {row[3] for row in table} == {"120"}


@pytest.mark.usefixtures("blank_plots")
def test_the_figures_reach_evaluation_json_and_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", inputs())
    entry = json.loads((run / "evaluation.json").read_text())["reward_model"]
    assert entry["heldout_accuracy"]["value"] == pytest.approx(
        sum(b["value"] * b["n"] for b in entry["by_strength"]) / sum(b["n"] for b in entry["by_strength"])
    )
    page = write_report(run).read_text()
    assert "What the reward model is worth" in page and "Calibration error (ECE)" in page
