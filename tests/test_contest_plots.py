"""The comparison's pictures: well-formed, the same bytes twice, and drawn from what they are given."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from rlaif.evaluation.contest.accuracy import ScoredLabel, accuracies
from rlaif.evaluation.contest.frontier import Curve, Point, over_optimisation
from rlaif.evaluation.contest.games import all_against_all, contest, win_rate
from rlaif.evaluation.contest.league import league
from rlaif.evaluation.contest.length import length_controlled
from rlaif.evaluation.contest.refusals import ContestReply, refusals
from rlaif.pages.plots import BLUE, GREEN, GREY, ORANGE, RED
from rlaif.stats import Bootstrap, Estimate
from rlaif.study import plots
from tests.contests import round_robin

QUICK = Bootstrap(samples=100)
NAMES = ["matrix", "forest", "raw forest", "frontier", "no gold", "league", "accuracy", "refusals"]


@pytest.fixture(scope="module")
def played():
    return contest(round_robin({"sft": 0.0, "rlaif": 1.5, "worse": -1.5, "same": 0.0}, 40, seeds=(0, 1)))


@pytest.fixture(scope="module")
def rates(played):
    return {arm: win_rate(played, arm, "sft", QUICK) for arm in played.arms if arm != "sft"}


@pytest.fixture(scope="module")
def pictures(played, rates):
    return drawn(played, rates)


def drawn(played, rates):
    d = np.linspace(0.3, 3, 8)
    curve = [Point(i, x * x, x, float(x * (1 - 0.6 * np.log(x)))) for i, x in enumerate(d)]
    falls = Curve(curve, over_optimisation(curve, "rl", 0.0))
    looks = plots.looks(["sft", "rlaif", "bon"], "sft")
    rows = [
        ContestReply(f"{arm}{i}", arm, i % 2 == 0, float(i % 3 == 0)) for arm in ("sft", "rlaif") for i in range(20)
    ]
    scores = [ScoredLabel(f"x{i}", f"p{i}", "rlaif", float(i % 4) - 0.5, 1.0, s) for i in range(40) for s in range(2)]
    lengths = {arm: length_controlled(played, arm, "sft", QUICK) for arm in rates}
    lengths["same"] = lengths["same"].model_copy(update={"rate": None})
    return {
        "matrix": plots.matrix("Matrix", played.arms, all_against_all(played, QUICK)),
        "forest": plots.win_rates("Forest", "sft", rates, lengths),
        "raw forest": plots.win_rates("Forest", "sft", rates),
        "frontier": plots.frontiers("Frontier", {"rlaif": falls, "bon": Curve(curve[:1])}, looks),
        "no gold": plots.frontiers("Frontier", {"rlaif": Curve([Point(0, 1.0, 1.0)])}, looks),
        "league": plots.standings("League", league(played, QUICK, "sft")),
        "accuracy": plots.accuracies("Accuracy", accuracies(scores, QUICK)),
        "refusals": plots.refusal_map("Refusals", refusals(rows, QUICK), looks),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_one_svg_that_runs_nothing(pictures, name):
    tree = ElementTree.fromstring(pictures[name])
    assert tree.tag.endswith("svg")
    assert not any(element.tag.endswith(("script", "image", "foreignObject")) for element in tree.iter())


def test_equal_numbers_give_equal_bytes(played, rates, pictures):
    assert drawn(played, rates) == pictures
    assert list(pictures) == NAMES


def colours(svg):
    return {found.upper() for found in re.findall(r"#[0-9a-fA-F]{6}", svg)}


def test_colours_say_who_is_better(pictures, rates):
    assert {GREEN.upper(), RED.upper(), GREY.upper()} <= colours(pictures["raw forest"])
    # 30 of 40 right: better than a coin, and nothing else in that picture is coloured.
    assert GREEN.upper() in colours(pictures["accuracy"]) and RED.upper() not in colours(pictures["accuracy"])
    unclear = rates["rlaif"].model_copy(update={"rate": Estimate(value=0.6, low=0.4, high=0.8, n=9)})
    shown = colours(plots.win_rates("", "sft", {"rlaif": unclear}))
    assert GREY.upper() in shown


def test_an_arm_looks_the_same_everywhere_and_unlike_the_others(pictures):
    arms = ["sft", *(f"arm {i}" for i in range(12))]
    looks = plots.looks(arms, "sft")
    assert looks["sft"].color == ORANGE and looks["arm 0"] == plots.Look(BLUE, "o")
    assert len(set(looks.values())) == len(arms)
    assert ORANGE not in {look.color for arm, look in looks.items() if arm != "sft"}
    assert {BLUE.upper(), ORANGE.upper()} <= colours(pictures["refusals"])
