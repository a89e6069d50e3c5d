"""Fitted weights: both losses against their definitions, planted weights found again, and the file that comes out."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rlaif.constitution import Constitution, load_constitution, write_constitution
from rlaif.constitution.diff import diff
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.weights import (
    LabelledPair,
    Loss,
    WeightFit,
    fit_header,
    fit_weights,
    hits,
    labelled_pairs,
    reweighted,
    split_by_prompt,
)
from rlaif.records import Judgment, Message, Pair, PrincipleScore, Prompt, Score, content_id, plain
from tests.audited import ORIGIN

LOSSES: tuple[Loss, ...] = ("logistic", "hinge")
NAMES = ("p0", "p1", "p2", "p3")


def simulated(planted: dict[str, float], n: int, seed: int, scale: float = 6.0) -> list[LabelledPair]:
    """Humans who choose with log-odds scale * (difference of the planted rewards); two pairs a prompt."""
    random = np.random.default_rng(seed)
    pairs = []
    for index in range(n):
        a, b = (dict(zip(planted, random.random(len(planted)).tolist(), strict=True)) for _ in "ab")
        lead = scale * sum(weight * (a[name] - b[name]) for name, weight in planted.items())
        chosen, rejected = (a, b) if random.random() < 1 / (1 + np.exp(-lead)) else (b, a)
        pairs.append(LabelledPair(f"prompt{index // 2}", chosen, rejected))
    return pairs


def constitution(*principles: dict[str, Any], version: str = "1.2.3") -> Constitution:
    judged = [{"id": name, "compare": f"Which response is {name}?"} | more for name, more in zip(NAMES, principles)]  # noqa: B905
    head = {"schema": "rlaif/constitution/v1", "id": "c", "version": version, "title": "C"}
    return Constitution.model_validate(head | {"principles": judged})


FOUR = constitution({"weight": 2.0}, {}, {}, {"weight": 5.0})


def fit(**changes: Any) -> WeightFit:
    made = WeightFit(
        weights={"p0": 1.5, "p1": 0.5},
        dropped=("p2",),
        untested=("p3",),
        loss="logistic",
        penalty=1e-3,
        trained=90,
        heldout=tuple(LabelledPair(prompt, {}, {}) for prompt in ("x", "x", "y", "z")),
        hits=(1.0, 0.0, 0.5, 1.0),
    )
    return made._replace(**changes)


# ------------------------------------------------------------------------------------------------------- the fit


@pytest.mark.parametrize("loss", LOSSES)
def test_planted_weights_are_found_again(loss: Loss) -> None:
    planted = {"p0": 2.0, "p1": 1.0, "p2": 0.5, "p3": 0.0}
    found = fit_weights(simulated(planted, 8000, seed=1), NAMES, loss, penalty=1e-4)
    kept = np.array([found.weights[name] for name in NAMES[:3]])
    assert kept / kept.sum() == pytest.approx(np.array([2.0, 1.0, 0.5]) / 3.5, abs=0.03)
    assert kept[0] > kept[1] > kept[2]
    assert found.weights.get("p3", 0.0) < 0.05
    assert np.mean(list(found.weights.values())) == pytest.approx(1.0, abs=1e-6)
    assert found.accuracy > 0.85
    assert (found.trained, len(found.hits), len(found.prompt_ids)) == (6400, 1600, 1600)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_principle_against_the_labels_is_dropped_and_one_that_tells_nothing_is_named(loss: Loss) -> None:
    pairs = simulated({"p0": 1.0, "p1": -1.0}, 400, seed=2)
    mute = [p._replace(chosen=p.chosen | {"p2": 0.25}, rejected=p.rejected | {"p2": 0.25}) for p in pairs]
    found = fit_weights(mute, NAMES, loss)
    assert found.weights == {"p0": 1.0}
    assert found.dropped == ("p1",)
    assert found.untested == ("p2", "p3"), "p3 applies to no prompt at all"


@pytest.mark.parametrize("loss", LOSSES)
def test_a_dropped_principle_leaves_no_trace_on_the_others(loss: Loss) -> None:
    """A bound, not a cut afterwards: the other weights are those of a fit without it."""
    pairs = simulated({"p0": 2.0, "p1": 1.0, "p2": -2.0}, 400, seed=9)
    found = fit_weights(pairs, NAMES[:3], loss)
    assert found.dropped == ("p2",)
    assert found.weights == pytest.approx(fit_weights(pairs, NAMES[:2], loss).weights, abs=1e-5)


def lowest(candidates: np.ndarray, differences: np.ndarray, loss: Loss, penalty: float) -> np.ndarray:
    """The candidate weights, one a row, with the lowest loss as it is defined."""
    margins = candidates @ differences.T
    if loss == "logistic":
        values = np.log1p(np.exp(-margins)).mean(axis=1) + penalty * (candidates**2).sum(axis=1)
    else:
        values = np.maximum(0, 1 - margins).mean(axis=1) + penalty * candidates.sum(axis=1)
    return candidates[values.argmin()]


def by_brute_force(differences: np.ndarray, loss: Loss, penalty: float) -> np.ndarray:
    """For two principles. The hinge loss has straight creases, so its minimum is where two of them, or one and an axis,
    cross: all crossings are tried. The logistic loss is smooth: a grid closes in on its minimum."""
    if loss == "hinge":
        lines = [(*row, 1.0) for row in differences] + [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
        systems = [np.array(two) for two in combinations(lines, 2)]
        crossings = [np.linalg.solve(s[:, :2], s[:, 2]) for s in systems if abs(np.linalg.det(s[:, :2])) > 1e-12]
        return lowest(np.array([c for c in crossings if min(c) >= -1e-12]), differences, loss, penalty)
    low, high = np.zeros(2), np.full(2, 64.0)
    for _ in range(40):
        axes = [np.linspace(low[i], high[i], 21) for i in range(2)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        best, width = lowest(grid, differences, loss, penalty), (high - low) / 5
        low, high = np.maximum(best - width, 0), best + width
    return best


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_the_minimum_of_the_loss(loss: Loss, seed: int) -> None:
    pairs = simulated({"p0": 2.0, "p1": 1.0}, 30, seed, scale=2.0)
    train, _ = split_by_prompt(pairs, 0.2, 0)
    differences = np.array([[p.chosen[name] - p.rejected[name] for name in NAMES[:2]] for p in train])
    expected = by_brute_force(differences, loss, penalty=0.01)
    found = fit_weights(pairs, NAMES[:2], loss, penalty=0.01)
    got = [found.weights.get(name, 0.0) for name in NAMES[:2]]
    assert got == pytest.approx(expected / expected[expected >= 1e-3 * expected.max()].mean(), abs=2e-6)


def test_hinge_by_hand() -> None:
    """Each pair moves one principle: p0 by 0.5, so w = 2 has no loss; p1 by 0.25, so w = 4."""
    moves = [({"p0": 0.5, "p1": 0.0}, f"a{i}") for i in range(10)] + [
        ({"p0": 0.0, "p1": 0.25}, f"b{i}") for i in range(10)
    ]
    pairs = [LabelledPair(prompt, chosen, {"p0": 0.0, "p1": 0.0}) for chosen, prompt in moves]
    assert fit_weights(pairs, NAMES[:2], "hinge").weights == pytest.approx({"p0": 2 / 3, "p1": 4 / 3}, abs=1e-6)
    # A penalty above what p1's pairs can save by it, at most 0.25 each, makes it worth nothing.
    train = split_by_prompt(pairs, 0.2, 0)[0]
    gain = 0.25 * sum(pair.chosen["p1"] > 0 for pair in train) / len(train)
    assert fit_weights(pairs, NAMES[:2], "hinge", penalty=gain + 0.01).dropped == ("p1",)


def test_logistic_agrees_with_another_solver() -> None:
    """Where no bound holds, as with weights that are exponentials and so never reach one."""
    pairs = simulated({"p0": 2.0, "p1": 1.0, "p2": 0.5, "p3": 0.25}, 500, seed=3)
    train, _ = split_by_prompt(pairs, 0.2, 0)
    differences = np.array([[p.chosen[name] - p.rejected[name] for name in NAMES] for p in train])

    def loss(logs: np.ndarray) -> float:
        weights = np.exp(logs)
        return float(np.log1p(np.exp(-differences @ weights)).mean() + 1e-3 * (weights**2).sum())

    other = np.exp(minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-7}).x)
    found = fit_weights(pairs, NAMES)
    assert [found.weights[name] for name in NAMES] == pytest.approx(other / other.mean(), abs=1e-3)


def test_the_same_pairs_in_another_order_give_the_same_fit() -> None:
    pairs = simulated({"p0": 2.0, "p1": 1.0}, 200, seed=4)
    for loss in LOSSES:
        one, other = fit_weights(pairs, NAMES[:2], loss), fit_weights(pairs[::-1], NAMES[:2], loss)
        assert one.weights == pytest.approx(other.weights, abs=1e-5)
        assert one == fit_weights(pairs, NAMES[:2], loss)
        assert one.accuracy == other.accuracy


# ---------------------------------------------------------------------------------------------------- held out


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.floats(0.1, 0.9), st.integers(0, 3))
def test_a_prompt_is_on_one_side_only(prompts: list[int], share: float, seed: int) -> None:
    pairs = [LabelledPair(f"p{number}", {"p0": float(i)}, {}) for i, number in enumerate(prompts)]
    distinct = len(set(prompts))
    if not 0 < round(share * distinct) < distinct:
        with pytest.raises(DataError, match=f"of {distinct} prompts"):
            split_by_prompt(pairs, share, seed)
        return
    train, held = split_by_prompt(pairs, share, seed)
    assert not {pair.prompt_id for pair in train} & {pair.prompt_id for pair in held}
    assert len({pair.prompt_id for pair in held}) == round(share * distinct)
    assert sorted(pair.chosen["p0"] for pair in train + held) == list(range(len(prompts)))
    turned = split_by_prompt(pairs[::-1], share, seed)
    assert (turned[0][::-1], turned[1][::-1]) == (train, held)


def test_the_seed_chooses_the_prompts() -> None:
    pairs = simulated({"p0": 1.0}, 100, seed=5)
    sides = {tuple(pair.prompt_id for pair in split_by_prompt(pairs, 0.2, seed)[1]) for seed in range(5)}
    assert len(sides) == 5


def test_the_fit_has_not_seen_what_it_is_tested_on() -> None:
    """Held-out labels turned around: the weights stay, the hits turn."""
    pairs = simulated({"p0": 2.0, "p1": 1.0}, 300, seed=6)
    held = {pair.prompt_id for pair in split_by_prompt(pairs, 0.2, 0)[1]}
    turned = [p._replace(chosen=p.rejected, rejected=p.chosen) if p.prompt_id in held else p for p in pairs]
    one, other = fit_weights(pairs, NAMES[:2]), fit_weights(turned, NAMES[:2])
    assert one.weights == other.weights
    assert one.hits == tuple(1 - hit for hit in other.hits)
    assert one.accuracy == pytest.approx(np.mean(one.hits)) != 0.5


def test_hits_by_hand() -> None:
    good, bad = {"p0": 0.75, "p1": 0.25}, {"p0": 0.25, "p1": 0.5}
    pairs = [LabelledPair("x", good, bad), LabelledPair("x", bad, good), LabelledPair("y", good, good)]
    assert hits(pairs, {"p0": 1.0, "p1": 1.0}) == (1.0, 0.0, 0.5)
    assert hits(pairs, {"p0": 1.0, "p1": 4.0}) == (0.0, 1.0, 0.5)
    assert hits(pairs, {"p0": 1.0, "p1": 2.0, "p2": 9.0}) == (0.5, 0.5, 0.5)


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize("loss", LOSSES)
def test_no_principle_goes_with_the_labels(loss: Loss) -> None:
    with pytest.raises(DataError, match="none of the 2 principles prefers what the humans of 80 pairs chose"):
        fit_weights(simulated({"p0": -1.0, "p1": -2.0}, 100, seed=7), NAMES[:2], loss)
    with pytest.raises(DataError, match="none of the 1 principles"):
        fit_weights(simulated({"p0": -1.0}, 100, seed=7), ["p9"], loss)


def test_without_a_penalty_or_prompts_there_is_no_fit() -> None:
    with pytest.raises(ConfigError, match=r"penalty: must be above 0.*\(got 0"):
        fit_weights(simulated({"p0": 1.0}, 10, seed=8), ["p0"], penalty=0.0)
    with pytest.raises(DataError, match="of 1 prompts holds out 0"):
        fit_weights(simulated({"p0": 1.0}, 2, seed=8), ["p0"])
    with pytest.raises(DataError, match="of 0 prompts"):
        fit_weights([], ["p0"])


# --------------------------------------------------------------------------------------------------- from records


def test_pairs_come_from_human_judgments_and_scores() -> None:
    prompt = Prompt.of((Message(role="user", content="why?"),))

    def score(text: str, value: float) -> Score:
        return Score(
            id=content_id(plain(prompt.messages), text),
            prompt_id=prompt.id,
            prompt=prompt.messages,
            text=text,
            value=value,
            principles=(PrincipleScore(principle="p0", checked=False, value=value),),
            annotator="j",
            provenance=ORIGIN,
        )

    def human(a: str, b: str, p_a: float) -> Judgment:
        return Judgment(pair=Pair.of(prompt, a, b), source="human", annotator="human", p_a=p_a)

    labels = [human("x", "y", 1.0), human("x", "y", 0.2), human("x", "y", 0.5), human("x", "unscored", 1.0)]
    assert labelled_pairs(labels, [score("x", 0.25), score("y", 0.75)]) == [
        LabelledPair(prompt.id, {"p0": 0.25}, {"p0": 0.75}),
        LabelledPair(prompt.id, {"p0": 0.75}, {"p0": 0.25}),
    ]


# -------------------------------------------------------------------------------------------- back to a constitution


def test_the_new_version_is_written_and_loads(tmp_path: Path) -> None:
    new = reweighted(FOUR, fit())
    path = tmp_path / "fitted.yaml"
    write_constitution(path, new, fit_header(FOUR, fit()))
    loaded = load_constitution(str(path))
    assert loaded == new
    assert [(p.id, p.weight) for p in loaded.principles] == [("p0", 1.5), ("p1", 0.5), ("p3", 5.0)]
    assert path.read_text().splitlines()[:5] == [
        f"# Weights fitted to human labels. Source: c 1.2.3, hash {FOUR.hash}.",
        "# Loss: logistic, penalty 0.001, 90 pairs.",
        "# Held-out accuracy: 0.625 on 4 pairs of 3 prompts.",
        "# Dropped, since their weight came out as 0: p2.",
        "# Weights as they were, since these pairs say nothing about them: p3.",
    ]


def test_a_veto_is_never_dropped() -> None:
    vetoed = constitution({}, {}, {"veto": True}, {})
    new = reweighted(vetoed, fit())
    assert [(p.id, p.weight, p.veto) for p in new.principles][2] == ("p2", 1e-3, True)
    assert "Kept only as vetoes, since their weight came out as 0: p2." in fit_header(vetoed, fit())
    assert "Dropped" not in fit_header(vetoed, fit())


@pytest.mark.parametrize(
    ("version", "dropped", "expected"),
    [
        ("1.2.3", ("p2",), "2.0.0"),
        ("1.2.3", (), "1.3.0"),
        ("0.2.3", ("p2",), "0.3.0"),
        ("0.2.3", (), "0.3.0"),
        ("1.2.3-draft", (), "1.3.0"),
    ],
)
def test_the_version_is_the_one_that_diff_calls_for(version: str, dropped: tuple[str, ...], expected: str) -> None:
    old = constitution({}, {}, {}, {}, version=version)
    new = reweighted(old, fit(dropped=dropped))
    assert new.version == expected
    assert diff(old, new).follows
    more = version.startswith("0") or "-" in version  # of a draft, the finished version would do; a fit is one more
    assert ("more than these changes call for" in diff(old, new).sentence) <= more


def test_a_version_that_cannot_be_raised() -> None:
    with pytest.raises(ConfigError, match=r"constitution 'c': version '2' cannot be raised; write it like 1\.0\.0"):
        reweighted(constitution({}, {}, {}, {}, version="2"), fit())
