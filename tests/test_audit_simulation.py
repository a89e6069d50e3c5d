"""The proof of the audit's statistics: a judge whose faults are known is recovered within the reported intervals.

The simulated judge is right as often as its inner log-odds say, states them too boldly (a temperature), is drawn to
the longer response, and leans to a position that differs by prompt. The true value of every figure is an integral over
one normal variable, computed here by quadrature and never by the code under test.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, log_expit, logit
from scipy.stats import norm

from rlaif.audits.calibration import reliability, temperature_estimate
from rlaif.audits.metrics import (
    accuracy,
    always_longer,
    by_principle,
    by_tag,
    kappa,
    lead_over_longer,
    stability,
    summarise,
    verbosity,
)
from rlaif.audits.probes import ProbeBench
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode
from rlaif.constitution import Constitution
from rlaif.evaluation.agreement import order_consistency
from rlaif.feedback.calibration import Confidences
from rlaif.feedback.judge import SingleJudge
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.labelled import agreement, choice, match
from rlaif.feedback.verdict import judged
from rlaif.models.engine import ChatRequest
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Judgment, Message, Pair, Prompt, Verdict, oriented
from rlaif.stats import Bootstrap, clustered_mean_difference
from rlaif.testing import choose, shown
from tests.tiers import in_worlds, least

PROMPTS = 120
FEW, MANY = 18, 300
"""Repetitions, and a third fewer of some, for time. Among so many kinds of figures one falls below the mark by chance:
over seeds 0 to 299 "same choice again" held 92.3 %. Over 0 to 899 none is below 93.8 %, and it is 94.7 %."""
LEAST_COVER = 0.93
SAMPLES = 500

LENGTH_PULL = 0.5  # inner log-odds for the longer response
SPREADS = (0.6, 2.2)  # of the inner log-odds: half of the prompts are hard, half easy
TEMPERATURE = 2.0  # stated log-odds are this many times the inner ones
LEAN, LEAN_SPREAD = 0.7, 0.9  # stated log-odds for whatever stands first, normal over prompts
TURNED, EVEN = 0.3, 0.2  # a second principle: the first one's choice turned round so often, and no choice so often
WAVERING = (1.0, 9.0)  # share of other choices when asked again, beta over prompts


# ------------------------------------------------------------------------------------------------- the truth


def mean_over_pairs(value: Callable[[float], float], jumps: Sequence[float] = ()) -> float:
    """E of a function of the inner log-odds for the longer response, N(LENGTH_PULL, spread^2), with these jumps either
    side of 0."""
    points = sorted({0.0, *jumps, *(-jump for jump in jumps)})
    by_spread = []
    for spread in SPREADS:
        law = norm(LENGTH_PULL, spread)
        low, high = LENGTH_PULL - 12 * spread, LENGTH_PULL + 12 * spread
        by_spread.append(quad(lambda x, law=law: value(x) * law.pdf(x), low, high, points=points, epsabs=1e-10)[0])
    return float(np.mean(by_spread))


def truths() -> dict[str, float]:
    """Every figure's true value. The human prefers the longer with the judge's own inner probability sigma(x)."""
    lean = norm(LEAN, LEAN_SPREAD)
    longer = mean_over_pairs(lambda x: float(expit(x)))
    wrong_of_shorter = mean_over_pairs(lambda x: float(expit(-x)) if x > 0 else 0.0) / (1 - longer)
    wrong_of_longer = mean_over_pairs(lambda x: float(expit(x)) if x < 0 else 0.0) / longer
    accuracy = mean_over_pairs(lambda x: float(expit(abs(x))))
    second_accuracy = TURNED + (1 - 2 * TURNED) * accuracy
    wavering = WAVERING[0] / sum(WAVERING)
    distance = mean_over_pairs(lambda x: float(2 * expit(TEMPERATURE * abs(x)) - 1))
    first = mean_over_pairs(lambda x: float(lean.sf(TEMPERATURE * abs(x))))
    second = mean_over_pairs(lambda x: float(lean.cdf(-TEMPERATURE * abs(x))))
    return {
        "accuracy": accuracy,
        "kappa": 2 * accuracy - 1,
        "always longer": longer,
        "consistency": 1 - first - second,
        "both first": first,
        "both second": second,
        "wrong when shorter": wrong_of_shorter,
        "wrong when longer": wrong_of_longer,
        "verbosity bias": wrong_of_shorter - wrong_of_longer,
        "temperature": TEMPERATURE,
        "lead over longer": accuracy - longer,
        "of a tag": accuracy,
        "of a principle": second_accuracy,
        "without a principle": (1 - EVEN) * (second_accuracy - accuracy) + EVEN * (0.5 - accuracy),
        "same choice again": 1 - wavering,
        "change of p": wavering * distance,
        "flipped by a probe": wavering,
        "shift of p": -wavering * distance,
    } | {f"bin from {low:g}": right_within(low, low + 0.05) for low in BINS}


BINS = [0.5 + 0.05 * number for number in range(10)]


def right_within(low: float, high: float) -> float:
    """How often the judge is right where it states a confidence from low to high."""
    ends = [float(logit(p)) / TEMPERATURE for p in (low, min(high, 1 - 1e-12))]
    inside = mean_over_pairs(lambda x: float(ends[0] <= abs(x) < ends[1]), ends)
    return mean_over_pairs(lambda x: float(expit(abs(x))) if ends[0] <= abs(x) < ends[1] else 0.0, ends) / inside


# --------------------------------------------------------------------------------------------- the simulation


class World(NamedTuple):
    """What is the same in every repetition: pairs of known lengths, 1 to 4 to a prompt."""

    pairs: list[Pair]
    prompt_of: np.ndarray
    sign: np.ndarray
    """1 where a is the longer response, -1 where b is."""


class Draw(NamedTuple):
    """What one repetition draws, pair by pair."""

    stated: np.ndarray
    """The judge's log-odds for a, before its lean."""
    lean: np.ndarray
    human: np.ndarray
    """1 where the human prefers a, 0 where b."""
    other: np.ndarray
    """What the second principle states: the first's log-odds times 1, -1 or 0."""
    wavers: np.ndarray
    """Where a second asking turns the choice round."""


def world(prompts: int = PROMPTS) -> World:
    pairs, prompt_of = [], []
    for i in range(prompts):
        prompt = Prompt.of((Message(role="user", content=f"question {i}"),), tags=(("third",) if i % 3 == 0 else ()))
        for k in range(1 + i % 4):
            short, long = f"brief {i} {k}", f"a long reply {i} {k}"
            pairs.append(oriented(prompt, short, long))
            prompt_of.append(i)
    sign = np.array([1 if pair.a.startswith("a long") else -1 for pair in pairs])
    return World(pairs, np.array(prompt_of), sign)


WORLD = world()


def draw(world: World, seed: int) -> Draw:
    rng = np.random.default_rng(seed)
    prompts = world.prompt_of[-1] + 1
    spread = rng.choice(SPREADS, prompts)[world.prompt_of]
    lean = rng.normal(LEAN, LEAN_SPREAD, prompts)[world.prompt_of]
    inner = LENGTH_PULL + spread * rng.normal(size=len(world.sign))
    longer = rng.random(len(inner)) < expit(inner)
    human = np.where(world.sign > 0, longer, ~longer).astype(float)
    stated = TEMPERATURE * inner * world.sign
    other = stated * rng.choice([0, -1, 1], len(inner), p=[EVEN, (1 - EVEN) * TURNED, (1 - EVEN) * (1 - TURNED)])
    wavers = rng.random(len(inner)) < rng.beta(*WAVERING, prompts)[world.prompt_of]
    return Draw(stated, lean, human, other, wavers)


CONSTITUTION = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "c",
        "version": "1.0.0",
        "title": "C",
        "principles": [{"id": "better", "compare": "Which response is better?"}],
    }
)


def judge_directly(world: World, drawn: Draw) -> list[Judgment]:
    """The judgments that a judge would make, without prompts and replies."""
    judgments = []
    for pair, stated, lean in zip(world.pairs, drawn.stated, drawn.lean, strict=True):
        principle = judged("better", verdict("a", stated + lean), verdict("b", lean - stated))
        judgments.append(Judgment(pair=pair, source="ai", annotator="j", p_a=principle.p_a, principles=(principle,)))
    return judgments


def verdict(first: Any, log_odds: float) -> Verdict:
    log_p = log_expit((log_odds, -log_odds))
    return Verdict(first=first, logprob_first=float(log_p[0]), logprob_second=float(log_p[1]))


def judge_really(world: World, drawn: Draw) -> list[Judgment]:
    """The same judge behind a model's interface: it reads the rendered prompt and gives its labels' log-probs."""
    by_text = {}
    for pair, stated, lean in zip(world.pairs, drawn.stated, drawn.lean, strict=True):
        by_text |= {pair.a: (float(stated), float(lean)), pair.b: (-float(stated), float(lean))}

    def opinion(request: ChatRequest) -> dict[str, float]:
        first, second = shown(request)
        assert re.sub(r"\D+", " ", first).split() == re.sub(r"\D+", " ", second).split()
        stated, lean = by_text[first]
        return choose(stated + lean)

    model = ScriptedChatModel(opinion)
    result = SingleJudge(CompareMode(), CONSTITUTION, LabelSection(), 0)(model, world.pairs)
    assert not result.failures
    return list(result.judgments)


def gold(world: World, drawn: Draw) -> list[Judgment]:
    return [
        Judgment(pair=pair, source="human", annotator="h", p_a=float(p))
        for pair, p in zip(world.pairs, drawn.human, strict=True)
    ]


def the_rest(world: World, drawn: Draw, judgments: list[Judgment], seed: int) -> dict[str, dict[str, Any]]:
    """The intervals that `estimates` leaves out: by principle and tag, paired, of the bins, and of asking again."""
    how = Bootstrap(SAMPLES, 0.95, seed)
    labels = gold(world, drawn)
    labelled = match(judgments, labels)
    with_other = [
        judgment.model_copy(update={"principles": (judged("other", verdict("a", x), verdict("b", -x)),)})
        for judgment, x in zip(judgments, drawn.other, strict=True)
    ]
    rows = match(with_other, labels)
    again = [j.model_copy(update={"p_a": 1 - j.p_a}) if w else j for j, w in zip(judgments, drawn.wavers, strict=True)]
    same = stability(list(zip(judgments, again, strict=True)), how)
    lead = lead_over_longer(labelled, how)
    third = by_tag(labelled, how)["third"]
    assert same is not None and lead is not None and third is not None
    before, after = (
        [agreement(choice(p), item.p_human) for p, item in zip(ps, labelled, strict=True)]
        for ps in ([j.p_a for j in judgments], [j.principles[0].p_a for j in with_other])
    )
    ids = [pair.prompt_id for pair in world.pairs]
    few = world.pairs[:60]
    bench = ProbeBench(None, None, CONSTITUTION, LabelSection(), tuple(few), 0, how)  # type: ignore[arg-type]
    moved = [-abs(2 * judgment.p_a - 1) * w for judgment, w in zip(judgments, drawn.wavers, strict=True)]
    ids_of_few = [pair.id for pair in few]
    flipped = bench.mean(zip(drawn.wavers[:60].astype(float), ids_of_few, strict=True))
    shift = bench.mean(zip(moved[:60], ids_of_few, strict=True), signed=True)
    assert flipped is not None and shift is not None
    return {
        "lead over longer": lead.model_dump(),
        "of a tag": third,
        "of a principle": by_principle(rows, how)["other"]["accuracy"],
        "without a principle": clustered_mean_difference(before, after, ids, how).model_dump(),
        "same choice again": same["same_choice"],
        "change of p": same["mean_change"],
        "flipped by a probe": flipped,
        "shift of p": shift,
    } | {f"bin from {row['lower']:g}": row["accuracy"] for row in reliability(Confidences.of(labelled), how)}


def estimates(judgments: list[Judgment], labels: list[Judgment], seed: int) -> dict[str, dict[str, Any]]:
    """The first ten figures that `truths` knows. (`summarise` gives them too, and takes three times as long.)"""
    how = Bootstrap(SAMPLES, 0.95, seed)
    rows = match(judgments, labels)
    right = accuracy(rows, how)
    consistency = order_consistency(judgments, *how)
    length = verbosity(rows, how)
    assert right is not None and consistency is not None and length is not None
    chance_corrected, baseline = kappa(right), always_longer(rows, how)
    assert chance_corrected is not None and baseline is not None
    return {
        "accuracy": right.model_dump(),
        "kappa": chance_corrected.model_dump(),
        "always longer": baseline.model_dump(),
        "consistency": consistency,
        "both first": consistency["both_first"],
        "both second": consistency["both_second"],
        "wrong when shorter": length["wrong_when_human_prefers_shorter"],
        "wrong when longer": length["wrong_when_human_prefers_longer"],
        "verbosity bias": length["bias"],
        "temperature": temperature_estimate(Confidences.of(rows), how),
    }


def contains(estimate: dict[str, Any], truth: float) -> bool:
    return bool(estimate["low"] <= truth <= estimate["high"])


# ------------------------------------------------------------------------------------------------- the proof


@pytest.mark.slow
def test_the_truth_is_what_the_simulation_tends_to() -> None:
    """Quadrature and the drawing of judgments describe one world: a million pairs, no code under test."""
    truth = truths()
    names = [name for name in truth if name not in {"kappa", "temperature", "of a tag"}]
    found: dict[str, list[float]] = {name: [] for name in names if not name.startswith("bin")}
    by_bin = Counter[tuple[float, bool]]()
    for seed in range(2500):
        drawn = draw(WORLD, 10**6 + seed)
        prefers_longer, human_longer = drawn.stated * WORLD.sign > 0, (drawn.human > 0) == (WORLD.sign > 0)
        wrong = prefers_longer != human_longer
        first, second = drawn.lean > abs(drawn.stated), drawn.lean < -abs(drawn.stated)
        found["accuracy"].append(1 - wrong.mean())
        found["always longer"].append(human_longer.mean())
        found["consistency"].append(1 - first.mean() - second.mean())
        found["both first"].append(first.mean())
        found["both second"].append(second.mean())
        found["wrong when shorter"].append((wrong & ~human_longer).sum() / (~human_longer).sum())
        found["wrong when longer"].append((wrong & human_longer).sum() / human_longer.sum())
        found["verbosity bias"].append(found["wrong when shorter"][-1] - found["wrong when longer"][-1])
        found["lead over longer"].append(1 - wrong.mean() - human_longer.mean())
        right = (drawn.other > 0) == (drawn.human > 0)
        decides = drawn.other != 0
        found["of a principle"].append(right[decides].mean())
        found["without a principle"].append(np.where(decides, right, 0.5).mean() - 1 + wrong.mean())
        moved = drawn.wavers * abs(2 * expit(drawn.stated) - 1)
        found["same choice again"].append(1 - drawn.wavers.mean())
        found["flipped by a probe"].append(drawn.wavers.mean())
        found["change of p"].append(moved.mean())
        found["shift of p"].append(-moved.mean())
        confidence = expit(abs(drawn.stated))
        for low in BINS:
            inside = (low <= confidence) & (confidence < low + 0.05)
            by_bin[low, True] += int((inside & ~wrong).sum())
            by_bin[low, False] += int((inside & wrong).sum())
    for name, values in found.items():
        assert np.mean(values) == pytest.approx(truth[name], abs=0.003), name
    for low in BINS:
        share = by_bin[low, True] / (by_bin[low, True] + by_bin[low, False])
        assert share == pytest.approx(truth[f"bin from {low:g}"], abs=0.01), low


@in_worlds(FEW, MANY)
def test_the_intervals_hold_the_truth(worlds: int) -> None:
    """In at least 93 of 100 repetitions, counted over three hundred: with one hundred, a sound 95 % interval would
    miss that mark one time in eight by chance."""
    truth = truths()
    held, made = Counter[str](), Counter[str]()
    for seed in range(worlds):
        drawn = draw(WORLD, seed)
        judgments = judge_directly(WORLD, drawn)
        found = estimates(judgments, gold(WORLD, drawn), seed)
        if seed >= worlds // 3:
            found |= the_rest(WORLD, drawn, judgments, seed)
        made.update(list(found))
        held.update(name for name, estimate in found.items() if contains(estimate, truth[name]))
    assert min(made.values()) >= 0.9 * (worlds - worlds // 3) and set(made) == set(truth)
    assert all(held[name] >= least(made[name]) for name in truth), (held, made)
    if worlds == FEW:
        return
    cover = {name: held[name] / made[name] for name in truth}
    assert min(cover.values()) >= LEAST_COVER, cover
    assert max(cover.values()) < 0.995, cover  # and they are not so wide as to say nothing


def test_a_real_judge_gives_the_same_judgments() -> None:
    """From rendered prompts and label log-probs through both orders to p(a): what the repetitions build directly."""
    small = world(24)
    for seed in range(3):
        drawn = draw(small, seed)
        really, directly = judge_really(small, drawn), judge_directly(small, drawn)
        assert [j.pair for j in really] == small.pairs
        assert [j.p_a for j in really] == pytest.approx([j.p_a for j in directly], abs=1e-9)
        for one, other in zip(really, directly, strict=True):
            assert one.principles[0].swap_gap == pytest.approx(other.principles[0].swap_gap, abs=1e-9)


def test_a_large_audit_through_the_judge_recovers_every_fault() -> None:
    large = world(600)
    drawn = draw(large, 2)  # an ordinary draw: one in twenty lies outside by chance
    judgments = judge_really(large, drawn)
    labelled = match(judgments, gold(large, drawn))
    found = summarise(labelled, judgments, (), Cost(), Bootstrap(SAMPLES))
    truth = truths()
    figures = {
        "accuracy": found["accuracy"],
        "always longer": found["baselines"]["always_longer"],
        "consistency": found["consistency"],
        "both first": found["consistency"]["both_first"],
        "verbosity bias": found["verbosity"]["bias"],
        "temperature": found["calibration"]["temperature"],
    }
    for name, estimate in figures.items():
        assert contains(estimate, truth[name]), name
        assert estimate["high"] - estimate["low"] < 0.3 * max(truth[name], 0.5), name
    calibration = found["calibration"]
    assert calibration["ece"] > 0.08
    for kind in ("temperature", "isotonic"):
        assert calibration[kind]["ece"] < 0.03
        assert calibration[kind]["log_loss"] < calibration["log_loss"] - 0.04


@in_worlds(20, 60)
def test_a_judge_without_faults_is_not_accused(worlds: int) -> None:
    """No lean, no boldness, and a length that says nothing: the intervals hold 0 and 1 as often as they say."""
    held = Counter[str]()
    for seed in range(worlds):
        drawn = draw(WORLD, 5000 + seed)
        rng = np.random.default_rng(seed)
        inner = rng.normal(0, 1.5, len(WORLD.sign))
        human = (rng.random(len(inner)) < expit(inner)).astype(float)
        fair = drawn._replace(stated=inner, lean=0 * inner, human=human)
        found = estimates(judge_directly(WORLD, fair), gold(WORLD, fair), seed)
        assert found["consistency"]["value"] == 1.0 and found["both first"]["value"] == 0.0
        held["verbosity bias"] += contains(found["verbosity bias"], 0.0)
        held["temperature"] += contains(found["temperature"], 1.0)
    assert min(held.values()) >= least(worlds), held
