"""`rlaif plan`: what it promises is what simulations give, and what the points cannot say is not said."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlaif.api.curve import measured_curve
from rlaif.errors import ConfigError, DataError
from rlaif.evaluation.contest.power import clustered_error
from rlaif.evaluation.planning import (
    LabelsNeeded,
    Point,
    Spread,
    labels_needed,
    parsed,
    prompts_needed,
    sentence,
    wins_of,
)
from rlaif.jsonl import write_jsonl
from rlaif.records import Judgment, Message, Pair, Preference, Prompt
from rlaif.run_folder import Run
from rlaif.testing import small_recipe

SIZES = (100, 200, 400, 800, 1600, 3200)


# ------------------------------------------------------------------------------------------------- win rates


def wins(rng: np.random.Generator, prompts: int, samples: int, mean: float, correlation: float) -> np.ndarray:
    """Wins of `samples` per prompt, of a beta-binomial: (prompts, samples)."""
    scale = (1 - correlation) / correlation
    chance = rng.beta(mean * scale, (1 - mean) * scale, size=prompts)
    return (rng.random((prompts, samples)) < chance[:, None]).astype(float)


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("correlation", [0.1, 0.6])
def test_the_planned_prompts_find_the_effect_as_often_as_promised(samples: int, correlation: float) -> None:
    effect, rng = 0.1, np.random.default_rng(0)
    prompts = prompts_needed(Spread.assumed(correlation), samples, 0.95, None, effect)
    found = 0
    for _ in range(1000):
        means = wins(rng, prompts, samples, 0.5 + effect, correlation).mean(1)
        found += means.mean() - 1.96 * means.std(ddof=1) / math.sqrt(prompts) > 0.5
    assert 0.76 <= found / 1000 <= 0.87  # the plan takes the variance of 0.5, which is a little more


@pytest.mark.parametrize(("samples", "correlation"), [(1, 0.5), (2, 0.3), (8, 0.1)])
def test_the_planned_interval_is_as_wide_as_wished(samples: int, correlation: float) -> None:
    rng = np.random.default_rng(1)
    prompts = prompts_needed(Spread.assumed(correlation), samples, 0.95, 0.1, None)
    names = np.repeat(np.arange(prompts), samples).astype(str).tolist()
    widths = [
        2 * 1.96 * clustered_error(wins(rng, prompts, samples, 0.5, correlation).ravel().tolist(), names)
        for _ in range(60)
    ]
    assert np.mean(widths) == pytest.approx(0.1, rel=0.03)


def test_fewest_is_fewest() -> None:
    """By hand: z^2 / width^2 at a width of 0.1 is 384.1, and Student's law wants two more."""
    spread = Spread.assumed(1.0)
    assert prompts_needed(spread, 1, 0.95, 0.1, None) == prompts_needed(spread, 8, 0.95, 0.1, None) == 387
    assert prompts_needed(Spread(0, 0), 1, 0.95, 0.1, 0.1) == 2
    both = prompts_needed(spread, 1, 0.95, 0.1, 0.05)
    assert both == max(prompts_needed(spread, 1, 0.95, 0.1, None), prompts_needed(spread, 1, 0.95, None, 0.05))
    with pytest.raises(DataError, match="more than 100,000,000 prompts"):
        prompts_needed(spread, 1, 0.95, 1e-5, None)


def test_a_spread_is_found_again() -> None:
    values = wins(np.random.default_rng(2), 4000, 3, 0.5, 0.4)
    names = np.repeat(np.arange(4000), 3).astype(str).tolist()
    found = Spread.of(values.ravel().tolist(), names)
    assert found.between == pytest.approx(0.1, abs=0.01)
    assert found.within == pytest.approx(0.15, abs=0.01)
    assert found.error(4000, 3) == pytest.approx(clustered_error(values.ravel().tolist(), names), rel=0.01)
    assert Spread.of([0, 1, 1], ["a", "b", "c"]) == Spread(pytest.approx(1 / 3), 0.0)
    for values, names in (([1, 0], ["a", "a"]), ([], [])):
        with pytest.raises(DataError, match="two prompts"):
            Spread.of(values, names)


def test_wins_of_a_run_count_ties_and_leave_out_what_was_not_judged(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    run = Run(tmp_path)
    with pytest.raises(DataError, match=r"has no evaluation_judgments.jsonl"):
        wins_of(run)
    prompts = [Prompt.of((Message(role="user", content=name),)) for name in "ab"]
    judged = [Pair.of(prompts[0], "won", "x"), Pair.of(prompts[1], "lost", "x")]
    rows = [(prompts[0], "won", "x"), (prompts[0], "same", "same"), (prompts[1], "lost", "x"), (prompts[1], "new", "x")]
    write_jsonl(run.samples, [{"prompt_id": p.id, "after": after, "before": before} for p, after, before in rows])
    write_jsonl(
        run.evaluation_judgments,
        [Judgment(pair=pair, source="ai", annotator="j", p_a=p) for pair, p in zip(judged, (0.9, 0.2), strict=True)],
    )
    assert wins_of(run) == Spread.of([1.0, 0.5, 0.0], [prompts[0].id, prompts[0].id, prompts[1].id])
    write_jsonl(run.samples, [{"prompt_id": p.id, "after": "same", "before": "same"} for p in prompts])
    assert wins_of(run) is None
    said = cli("plan", "win-rate", "--width", "0.1", "--run", str(tmp_path))[1]
    assert re.search(r"assumed \(correlation 0.3\); all wins of .* are alike, which tells nothing of it", said)


# ------------------------------------------------------------------------------------------------- learning curves


def curve(rng: np.random.Generator | None, c: float, a: float, b: float, pairs: int) -> list[Point]:
    true = [c - a * size**-b for size in SIZES]
    return [
        Point(n, p if rng is None else rng.binomial(pairs, p) / pairs, pairs) for n, p in zip(SIZES, true, strict=True)
    ]


@pytest.mark.parametrize(
    ("c", "a", "b", "wished"), [(0.8, 1.2, 0.5, 0.75), (0.9, 2.0, 0.5, 0.88), (0.85, 0.9, 0.3, 0.74)]
)
def test_a_curve_without_noise_is_recovered(c: float, a: float, b: float, wished: float) -> None:
    true = (a / (c - wished)) ** (1 / b)
    found = labels_needed(curve(None, c, a, b, 10**9), wished)
    assert found.labels == pytest.approx(true, rel=0.06)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= true * 1.04
    assert found.high >= true / 1.04
    assert found.high / found.low < 1.5
    assert found.ceiling == pytest.approx(c, abs=0.01)


def cover(c: float, a: float, b: float, wished: float, pairs: int, times: int, known: bool = True) -> float:
    rng, true, inside = np.random.default_rng(0), (a / (c - wished)) ** (1 / b), 0
    for _ in range(times):
        points = curve(rng, c, a, b, pairs)
        found = labels_needed(points if known else [point._replace(pairs=None) for point in points], wished)
        inside += (found.low or 0) <= 1.03 * true and true <= 1.03 * (found.high or math.inf)
    return inside / times


def test_the_interval_holds_the_truth() -> None:
    assert cover(0.8, 1.2, 0.5, 0.75, 1000, 25) >= 0.88


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("wished", "pairs"), [(0.75, 1000), (0.78, 1000), (0.75, 5000)])
def test_the_interval_holds_the_truth_in_19_of_20_simulations(wished: float, pairs: int, known: bool) -> None:
    assert cover(0.8, 1.2, 0.5, wished, pairs, 200, known) >= 0.92


def test_what_the_points_cannot_say_is_not_said() -> None:
    never = labels_needed(curve(None, 0.7, 1.2, 0.5, 2000), 0.9)
    flat = labels_needed([Point(n, 0.6, 500) for n in SIZES], 0.75)
    for found in (never, flat):
        assert (found.labels, found.high) == (None, None)
    assert "cannot be said from these points" in sentence(never, 0.9, 0.95)
    assert "levels off at 70%" in sentence(never, 0.9, 0.95)
    rough = labels_needed(curve(np.random.default_rng(0), 0.8, 1.2, 0.5, 300), 0.78)
    assert rough.high is None
    with pytest.raises(DataError, match="three different numbers of labels"):
        labels_needed([Point(100, 0.6, 50), Point(200, 0.7, 50)], 0.8)
    with pytest.raises(DataError, match="four points"):
        labels_needed([Point(n, 0.6 + n / 4000) for n in (100, 200, 400)], 0.8)


def test_it_is_said_with_two_digits() -> None:
    assert sentence(LabelsNeeded(2345.6, 1234.5, 9876, 0.8), 0.75, 0.95) == (
        "about 2,300 labels reach 75% (95%: 1,200 to 9,900); the likeliest curve levels off at 80%"
    )
    assert "1,200 or more; no upper limit" in sentence(LabelsNeeded(2345.6, 1234.5, None, 0.8), 0.75, 0.95)


@pytest.mark.parametrize("text", ["100:61", "100", "a:0.5", "0:0.5", "100:0.6,", "100:-0.5", ""])
def test_points_are_read_or_named(text: str) -> None:
    assert parsed("100:0.61, 200:.7,400:1", 5) == [Point(100, 0.61, 5), Point(200, 0.7, 5), Point(400, 1.0, 5)]
    with pytest.raises(ConfigError, match="--points: LABELS:ACCURACY"):
        parsed(text, None)


# ------------------------------------------------------------------------------------------------- the commands


def test_plan_win_rate(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli("plan", "win-rate", "--width", "0.1", "--effect", "0.05", "--correlation", "0.3")
    assert code == 0
    rows = [list(map(int, re.findall(r"[\d]+", line.replace(",", "")))) for line in out.splitlines()[1:5]]
    assert [row[0] for row in rows] == [1, 2, 4, 8]
    for samples, prompts, written, pairs in rows:
        assert (written, pairs) == (2 * prompts * samples, prompts * samples)
        assert prompts == prompts_needed(Spread.assumed(0.3), samples, 0.95, 0.1, 0.05)
    assert "assumed (correlation 0.3); measure it with --run" in out
    assert cli("plan", "win-rate")[::2] == (2, "error: plan win-rate: say --width, --effect, or both\n")


def test_plan_labels(cli: Callable[..., tuple[int, str, str]]) -> None:
    points = ",".join(f"{point.labels}:{point.accuracy:.4f}" for point in curve(None, 0.8, 1.2, 0.5, 1))
    code, out, _ = cli("plan", "labels", "--accuracy", "0.75", "--points", points, "--pairs", "20000")
    assert code == 0
    assert re.match(r"about 5[5-9]0 labels reach 75% \(95%: [45]\d0 to [67]\d0\); the likeliest curve levels", out)
    assert "give the curve with --points" in cli("plan", "labels", "--accuracy", "0.7")[2]


def test_a_curve_is_measured_on_growing_parts_of_a_run(tmp_path: Path, shallow_folder: str) -> None:
    recipe = small_recipe(tmp_path, shallow_folder, prompts=24, reward__epochs=1)
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.claim(recipe)
    rows = [
        Preference(
            prompt=(Message(role="user", content=f"Say {n}"),),
            chosen=(Message(role="assistant", content="plain letters"),),
            rejected=(Message(role="assistant", content=f"{n} 4 5 6"),),
            p_chosen=1.0,
            source="ai",
            weight=1.0,
            split="heldout" if n % 4 == 0 else "train",
            prompt_id=f"p{n}",
            pair_id=f"q{n}",
        )
        for n in range(32)
    ]
    write_jsonl(run.preferences, rows)
    found = measured_curve(run.folder, 3)
    assert [(point.labels, point.pairs) for point in found] == [(6, 8), (12, 8), (24, 8)]
    assert found == measured_curve(run.folder, 3)
    write_jsonl(run.preferences, [row for row in rows if row.split == "train"])
    with pytest.raises(ConfigError, match="24 training and 0 held-out pairs bear no curve"):
        measured_curve(run.folder, 3)
