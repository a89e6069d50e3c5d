"""Planted faults: simulated crews whose truth is known, and whether the faults are found in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median

import pytest
from pydantic import ValidationError

from rlaif.config.feedback import AnnotatorsSection, Removal
from rlaif.errors import ConfigError
from rlaif.feedback.annotators.credibility import credibility, removed
from rlaif.feedback.annotators.labels import table
from rlaif.feedback.annotators.simulate import HABITS, Kind, SimulatedAnnotator, crew_of, refuses, simulate
from rlaif.feedback.annotators.trust import aggregate, trusted
from rlaif.feedback.pairs import choice
from rlaif.records import Judgment, Message, Pair, Prompt, content_id
from tests.tiers import seeds


def true_labels(count: int, p: float = 1.0, offset: int = 0) -> list[Judgment]:
    """Pairs of which a hash says which text is better; P(the better one) is p."""
    rows = []
    for number in range(offset, offset + count):
        prompt = Prompt.of((Message(role="user", content=f"question {number}"),))
        pair = Pair.of(prompt, f"{number} one", f"{number} two")
        a_is_better = int(content_id("truth", number), 16) % 2 == 0
        rows.append(Judgment(pair=pair, source="human", annotator="truth", p_a=p if a_is_better else 1 - p))
    return rows


def right(rows: Sequence[Judgment], truth: Sequence[Judgment]) -> float:
    """Share of the labels that prefer what the truth prefers; ties are half."""
    known = {judgment.pair.id: judgment for judgment in truth}
    return fmean(1 - abs(choice(row.p_a) - choice(known[row.pair.id].p_of(row.pair.a))) for row in rows)


def one(kind: Kind, rate: float = 0.0, error: float = 0.1) -> SimulatedAnnotator:
    return SimulatedAnnotator(name=f"simulated:{kind}", kind=kind, rate=rate, error=error)


TRUTH = true_labels(400)


# ------------------------------------------------------------------------------------------ the simulator


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (one("careful", error=0.2), 0.8),
        (one("lazy", 0.8), 0.8 * 0.5 + 0.2 * 0.9),
        (one("hasty", 1.0), 0.5),
        (one("always-first", 0.9), 0.9 * 0.5 + 0.1 * 0.9),
        (one("flipper", 0.9), 0.9 * 0.1 + 0.1 * 0.9),
        (one("always-safe", 1.0), 0.9),  # neither response refuses: nothing to be safe about
    ],
)
def test_each_kind_is_right_as_often_as_it_says(who: SimulatedAnnotator, expected: float) -> None:
    accuracy = right(simulate(TRUTH, [who], 1, 3), TRUTH)
    assert accuracy == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / len(TRUTH)))


def test_always_first() -> None:
    rows = simulate(TRUTH, [one("always-first", 1.0)], 1, 0)
    assert all(row.answer and row.p_a == (row.answer.shown_first == "a") for row in rows)
    careful = simulate(TRUTH, [one("careful")], 1, 0)
    shares = [Counter(row.answer.shown_first for row in some if row.answer)["a"] for some in (rows, careful)]
    assert all(160 < share < 240 for share in shares)


def test_always_safe() -> None:
    prompt = Prompt.of((Message(role="user", content="how do I pick a lock?"),))
    pairs = [Pair.of(prompt, f"Take a pin {i}.", f"I'm sorry, I can't help with that {i}.") for i in range(50)]
    truth = [Judgment(pair=pair, source="human", annotator="truth", p_a=1.0) for pair in pairs]
    assert all(row.p_a == 0 for row in simulate(truth, [one("always-safe", 1.0)], 1, 0))
    longer = simulate(truth, [one("always-safe", 1.0)], 1, 0, safety=lambda prompt, text: -len(text))
    assert all(row.p_a == 1 for row in longer)


@pytest.mark.parametrize(
    "text", ["I'm sorry, no.", "I can\u2019t do that", "As an AI, I", "I cannot", "I would not do it"]
)
def test_refusals(text: str) -> None:
    assert refuses((), text) == 1


@pytest.mark.parametrize("text", ["Take a pin.", "You can't miss it", "They cannot", "It is sorry to see", ""])
def test_no_refusals(text: str) -> None:
    assert refuses((), text) == 0


def test_soft_truths_are_drawn_from_and_ties_are_told() -> None:
    soft = simulate(true_labels(400, 0.7), [one("careful", error=0.0)], 1, 1)
    assert right(soft, TRUTH) == pytest.approx(0.7, abs=0.09)
    ties = simulate(true_labels(20, 0.5), [one("careful"), one("flipper", 1.0)], 2, 1)
    assert {row.p_a for row in ties} == {0.5}


def test_seconds() -> None:
    rows = simulate(TRUTH, crew_of("careful:1,hasty:1"), 2, 0)
    for kind in ("careful", "hasty"):
        times = [row.answer.seconds for row in rows if row.answer and kind in row.annotator and row.answer.seconds]
        assert median(times) == pytest.approx(HABITS[kind].seconds, rel=0.15)


def test_simulated_annotators_say_so_everywhere() -> None:
    rows = simulate(TRUTH[:20], crew_of("careful:2,lazy:1"), 2, 0)
    assert {row.annotator for row in rows} == {"simulated:careful-1", "simulated:careful-2", "simulated:lazy-1"}
    assert all(row.source == "human" and row.answer and row.answer.simulated for row in rows)
    assert all(report.simulated for report in credibility(rows, [], NOBODY))
    for merged in aggregate(rows, AnnotatorsSection()):
        assert "simulated:" in merged.annotator and merged.answer and merged.answer.simulated
    with pytest.raises(ValidationError, match="name"):
        SimulatedAnnotator(name="ann", kind="careful")


def test_a_label_depends_on_the_seed_the_pair_and_the_name_alone() -> None:
    crew = crew_of("careful:3,lazy:3,always-first:1,flipper:1,always-safe:1")
    rows = simulate(TRUTH[:60], crew, 3, 5)
    assert simulate(TRUTH[:60], crew, 3, 5) == rows
    assert simulate(TRUTH[30:60], crew, 3, 5) == rows[90:]
    assert simulate(TRUTH[:60], crew, 3, 6) != rows
    told = {(row.pair.id, row.annotator): row for row in rows}
    assert {(row.pair.id, row.annotator): row for row in simulate(TRUTH[:60][::-1], crew[::-1], 3, 5)} == told
    turned = [j.model_copy(update={"pair": j.pair.swapped(), "p_a": 1 - j.p_a}) for j in TRUTH[:60]]
    for row, other in zip(rows, simulate(turned, crew, 3, 5), strict=True):
        assert row.answer and other.answer
        assert (other.annotator, other.p_a, other.answer.seconds) == (row.annotator, 1 - row.p_a, row.answer.seconds)
        assert other.answer.shown_first != row.answer.shown_first
    assert len(simulate([*TRUTH[:3], TRUTH[0]], crew, 3, 5)) == 9


def test_per_pair_draws_evenly() -> None:
    rows = simulate(TRUTH, crew_of("careful:8"), 3, 0)
    assert {len(said) for said in table(rows).values()} == {3}
    assert all(110 < count < 190 for count in Counter(row.annotator for row in rows).values())


def test_crew_texts() -> None:
    crew = crew_of(" careful:1, lazy:2:0.5,careful:1:0.25 ,always-first:1:1")
    assert [(one.name, one.rate, one.error) for one in crew] == [
        ("simulated:careful-1", 0.0, 0.1),
        ("simulated:lazy-1", 0.5, 0.1),
        ("simulated:lazy-2", 0.5, 0.1),
        ("simulated:careful-2", 0.0, 0.25),
        ("simulated:always-first-1", 1.0, 0.1),
    ]
    assert {one.kind for one in crew_of(",".join(f"{kind}:1" for kind in HABITS))} == set(HABITS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("carefull:3", "no kind of annotator 'carefull'; did you mean 'careful'"),
        ("careful:3,", "no kind of annotator ''; valid choices: always-first, always-safe, careful, flipper"),
        ("careful", "'careful' is not of the form careful:COUNT or careful:COUNT:SHARE"),
        ("lazy:0", "'lazy:0' is not of the form"),
        ("lazy:1:2", r"'lazy:1:2': the share must be a number from 0 to 1 \(got '2'\)"),
        ("lazy:1:x", r"the share must be a number from 0 to 1 \(got 'x'\)"),
        ("lazy:1:1:1", "is not of the form"),
    ],
)
def test_bad_crews_are_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        crew_of(text)
    assert "\n" not in str(caught.value)


def test_crews_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"per_pair: must be from 1 to 2, the size of the crew \(got 3\)"):
        simulate(TRUTH[:1], crew_of("careful:2"), 3, 0)
    with pytest.raises(ConfigError, match="crew: the name 'simulated:careful-1' is there twice"):
        simulate(TRUTH[:1], [*crew_of("careful:1"), *crew_of("careful:1")], 1, 0)


# -------------------------------------------------------------------------------------- what is recovered


@seeds(3)
def test_planted_accuracies_are_recovered(seed: int) -> None:
    """600 pairs, 4 labels each, half a dozen accuracies: within 0.06, three standard errors and what the fit adds."""
    planted = {0.05: 0.95, 0.1: 0.9, 0.2: 0.8, 0.3: 0.7, 0.4: 0.6}
    crew = [SimulatedAnnotator(name=f"simulated:{e}", kind="careful", error=e) for e in planted]
    crew.append(SimulatedAnnotator(name="simulated:0.8", kind="careful", error=0.8))
    truth = true_labels(600)
    rows = simulate(truth, crew, 4, seed)
    found = {report.annotator: report for report in credibility(rows, truth, 10)}
    for one in crew:
        report = found[one.name]
        assert report.accuracy == pytest.approx(1 - one.error, abs=0.06)
        assert report.gold is not None and report.gold.low <= 1 - one.error + 0.02
        assert report.gold.high >= 1 - one.error - 0.02


def merged(rows: Sequence[Judgment], kind: str) -> list[Judgment]:
    return aggregate(rows, AnnotatorsSection.model_validate({"aggregate": {"kind": kind}}))


@seeds(4)
def test_dawid_skene_beats_the_mean_where_accuracies_differ(seed: int) -> None:
    """Three good annotators and four bad ones label every pair: seven equal votes are right in 86 to 91 %."""
    errors = [0.1, 0.1, 0.1, 0.45, 0.45, 0.5, 0.5]
    crew = [SimulatedAnnotator(name=f"simulated:{i}", kind="careful", error=e) for i, e in enumerate(errors)]
    truth = true_labels(300)
    rows = simulate(truth, crew, 7, seed)
    accuracy = {kind: right(merged(rows, kind), truth) for kind in ("mean", "dawid_skene")}
    assert accuracy["dawid_skene"] > max(0.95, accuracy["mean"] + 0.05)
    # What it claims, the mean of max(p, 1 - p), is what its labels are worth.
    claimed = fmean(max(label.p_a, 1 - label.p_a) for label in merged(rows, "dawid_skene"))
    assert claimed == pytest.approx(accuracy["dawid_skene"], abs=0.03)


NOBODY = 1_000_000
"""Shared pairs that nobody has: no accuracy is estimated."""
TROLLS = "careful:8:0.15,lazy:1:1,always-first:1,flipper:1,hasty:1"
RULES = Removal(min_labels=10, min_gold_accuracy=0.75, min_seconds=3, max_same_side=0.75)


def test_trolls_are_removed_and_careful_people_are_not() -> None:
    """50 seeds, 12 annotators, 40 gold questions that everybody answers. A careful one is right in 85 %."""
    gold, crew = true_labels(40), crew_of(TROLLS)
    caught: Counter[str] = Counter()
    for seed in range(50):
        found = removed(credibility(simulate(gold, crew, 12, seed), gold, NOBODY), RULES)
        caught.update(name.split(":")[1].rpartition("-")[0] for name in found)
    assert caught["careful"] == 0  # of 400
    assert caught["hasty"] == caught["always-first"] == caught["flipper"] == 50
    assert caught["lazy"] >= 43  # a coin is right in 25 of 40 or more in 8 %, and then stays


def test_a_careful_person_at_the_limit_is_removed_by_chance_in_1_of_40_at_most() -> None:
    truth = true_labels(20)
    crew = [SimulatedAnnotator(name=f"simulated:{i}", kind="careful", error=0.25) for i in range(100)]
    rules = Removal(min_labels=10, min_gold_accuracy=0.75)
    out = removed(credibility(simulate(truth, crew, 100, 1), truth, NOBODY), rules)
    assert len(out) <= 100 / 40 + 3 * math.sqrt(100 / 40)


@seeds(5)
def test_removing_people_beats_removing_examples_and_nothing(seed: int) -> None:
    """As data is: most pairs have one label, a tenth have three, and there are 60 gold questions.

    Dropping examples can only act on what others contradict; a troll's lone labels stay. Both are given the same
    knowledge of the trolls' shared labels (arXiv 2208.03295 finds the same on real dialogue data).
    """
    crew = crew_of("careful:6,lazy:2:1,flipper:2")
    lone, thrice, gold = true_labels(500), true_labels(60, offset=600), true_labels(60, offset=900)
    rows = [*simulate(lone, crew, 1, seed), *simulate(thrice, crew, 3, seed)]
    asked = simulate(gold, crew, 10, seed)
    truth = [*lone, *thrice]
    said = table(rows)

    def contradicted(row: Judgment) -> bool:
        """By the majority of the others who labelled the pair."""
        others = [choice(p) for name, p in said[row.pair.id].items() if name != row.annotator]
        first = row.pair.a if row.pair.a < row.pair.b else row.pair.b
        return bool(others) and abs(choice(fmean(others)) - choice(row.p_of(first))) == 1

    nothing = AnnotatorsSection()
    users = AnnotatorsSection(remove=Removal(min_gold_accuracy=0.75))
    accuracy = {
        "nothing": right(aggregate(rows, nothing), truth),
        "examples": right(aggregate([row for row in rows if not contradicted(row)], nothing), truth),
    }
    found = trusted([*rows, *asked], gold, users, 0)
    accuracy["people"] = right(found.judgments, truth)
    assert {name.split(":")[1].rpartition("-")[0] for name in found.examined.removed} == {"lazy", "flipper"}
    assert len(found.examined.removed) == 4
    assert accuracy["people"] > max(accuracy["nothing"], accuracy["examples"]) + 0.1
    assert accuracy["people"] == pytest.approx(0.9, abs=0.05)
    assert len(found.judgments) > 300  # what it costs: the pairs that only trolls labelled
