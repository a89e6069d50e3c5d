"""Pairs from responses, and preference rows from judgments: ties, repeats, the split, and the TRL format."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config.feedback import PreferencesSection
from rlaif.constitution import load_constitution
from rlaif.errors import DataError
from rlaif.feedback.pairs import (
    PreferenceResult,
    WeightedJudgment,
    apart_by_checks,
    make_pairs,
    oriented,
    to_preferences,
)
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.records import Judgment, Message, Pair, Preference, Prompt, Response, Source

SECTION = PreferencesSection()


def prompt(text: str, *tags: str) -> Prompt:
    return Prompt.of((Message(role="user", content=text),), tags)


def responses(of: Prompt, *texts: str) -> list[Response]:
    return [
        Response(
            id=f"{of.id} {i}",
            prompt_id=of.id,
            prompt=of.messages,
            index=i,
            text=text,
            finished=True,
            tokens=1,
            model="m",
        )
        for i, text in enumerate(texts)
    ]


def label(pair: Pair, p_a: float, source: Source = "ai", weight: float = 1.0) -> WeightedJudgment:
    return WeightedJudgment(Judgment(pair=pair, source=source, annotator="x", p_a=p_a), weight)


def preferences(*items: WeightedJudgment, **knobs: Any) -> PreferenceResult:
    return to_preferences(items, PreferencesSection(**knobs))


def texts(row: Preference) -> tuple[str, str]:
    return row.chosen[0].content, row.rejected[0].content


# ------------------------------------------------------------------------------------------------ make_pairs


def test_all_pairs_of_different_texts() -> None:
    one, two = prompt("one", "t"), prompt("two")
    rows = [*responses(two, "x", "y"), *responses(one, "p", "q", "p", "r")]
    pairs = make_pairs([one, two], rows, None, 0)
    assert [{p.a, p.b} for p in pairs] == [{"p", "q"}, {"p", "r"}, {"q", "r"}, {"x", "y"}]
    assert [p.tags for p in pairs] == [("t",)] * 3 + [()]
    assert len({p.id for p in pairs}) == 4


@given(st.permutations(range(10)), st.integers(1, 6), st.integers(0, 3))
def test_pairs_do_not_depend_on_row_order(order: list[int], per_prompt: int, seed: int) -> None:
    prompts = [prompt("one"), prompt("two")]
    rows = [row for p in prompts for row in responses(p, "a", "b", "c", "d", "e")]
    plain = make_pairs(prompts, rows, per_prompt, seed)
    assert make_pairs(prompts, [rows[i] for i in order], per_prompt, seed) == plain
    assert len(plain) == 2 * per_prompt
    everything = make_pairs(prompts, rows, None, seed)
    assert [p for p in everything if p in plain] == plain


CHECKS = """\
schema: rlaif/constitution/v1
id: checks
version: 1.0.0
title: What code decides
principles:
  - {id: short, check: {kind: max_words, limit: 2}, weight: 2}
  - {id: no-digits, check: {kind: regex_absent, pattern: '[0-9]'}}
  - {id: only-of-maths, check: {kind: regex_absent, pattern: x}, weight: 9, tags: [maths]}
  - {id: judged, compare: 'Which is kinder?', weight: 9}
"""


def test_pairs_that_the_checks_tell_apart_come_first(tmp_path: Path) -> None:
    """By the size of the weights that speak for one side less those that speak for the other, of checks that apply."""
    (tmp_path / "checks.yaml").write_text(CHECKS)
    worth = apart_by_checks(load_constitution(str(tmp_path / "checks.yaml")))
    good, number, long, both = "fine", "4 x", "far too long", "far too long 4"
    p = prompt("one")
    pairs = make_pairs([p], responses(p, good, number, long, both), None, 0)
    assert {frozenset((x.a, x.b)): worth(x) for x in pairs} == {
        frozenset((good, number)): 1,
        frozenset((good, long)): 2,
        frozenset((good, both)): 3,
        frozenset((number, long)): 1,
        frozenset((number, both)): 2,
        frozenset((long, both)): 1,
    }
    assert worth(oriented(prompt("sum", "maths"), good, number)) == 10
    taken = make_pairs([p], responses(p, good, number, long, both), 3, 0, worth)
    assert {frozenset((x.a, x.b)) for x in taken} == {
        frozenset(x) for x in ((good, both), (good, long), (number, both))
    }


@given(st.permutations(range(10)), st.integers(1, 6), st.integers(0, 3))
def test_chosen_pairs_do_not_depend_on_row_order_either(order: list[int], per_prompt: int, seed: int) -> None:
    """Ties in worth are broken by hash, as among pairs that are all alike."""
    prompts = [prompt("one"), prompt("two")]
    rows = [row for p in prompts for row in responses(p, "a", "b", "c", "d", "e")]

    def worth(pair: Pair) -> float:
        return float("a" in (pair.a, pair.b))

    plain = make_pairs(prompts, rows, per_prompt, seed, worth)
    assert make_pairs(prompts, [rows[i] for i in order], per_prompt, seed, worth) == plain
    assert sum(worth(pair) for pair in plain) == 2 * min(per_prompt, 4)


def test_the_seed_chooses_pairs_and_orientation() -> None:
    p = prompt("one")
    rows = responses(p, *"abcdefghi")
    assert {x.id for x in make_pairs([p], rows, 5, 0)} != {x.id for x in make_pairs([p], rows, 5, 1)}
    pairs = make_pairs([p], rows, None, 0)
    assert 0 < sum(x.a < x.b for x in pairs) < len(pairs)
    other = {x.id: x for x in make_pairs([p], rows, None, 1)}
    assert {x.a == other[x.id].a for x in pairs} == {True, False}


def test_orientation_is_the_pairs_own() -> None:
    for one, other in combinations("abcdef", 2):
        assert oriented(prompt("q"), one, other) == oriented(prompt("q"), other, one)


def test_responses_of_another_run() -> None:
    with pytest.raises(DataError, match="which is not in this run"):
        make_pairs([prompt("one")], responses(prompt("two"), "x", "y"), None, 0)


# -------------------------------------------------------------------------------------------- to_preferences


def test_the_likelier_response_is_chosen() -> None:
    p = prompt("q", "t")
    yes = preferences(label(Pair.of(p, "x", "y"), 0.8, weight=0.5)).rows[0]
    no = preferences(label(Pair.of(p, "x", "y"), 0.1, "human")).rows[0]
    assert (texts(yes), yes.p_chosen, yes.weight, yes.source) == (("x", "y"), 0.8, 0.5, "ai")
    assert (texts(no), no.p_chosen, no.weight, no.source) == (("y", "x"), 0.9, 1.0, "human")
    assert (yes.prompt, yes.tags, yes.prompt_id) == (p.messages, ("t",), p.id)
    assert yes.pair_id == no.pair_id == Pair.of(p, "x", "y").id


@pytest.mark.parametrize("p_a", [0.5, 0.55, 0.6, 0.4])
def test_ties(p_a: float) -> None:
    item = label(Pair.of(prompt("q"), "x", "y"), p_a)
    dropped = preferences(item, tie_margin=0.1)
    assert (dropped.rows, dropped.counts["ties_dropped"]) == ((), 1)
    kept = preferences(item, tie_margin=0.1, ties="keep")
    assert (len(kept.rows), kept.counts["ties_kept"]) == (1, 1)
    assert kept.rows[0].p_chosen == pytest.approx(max(p_a, 1 - p_a), abs=1e-12)


@pytest.mark.parametrize("p_a", [0.55, 0.45])
def test_a_tie_on_the_margin_survives_rounding(p_a: float) -> None:
    """0.55 - 0.5 is above 0.05 as a float, and a tie must be one in both orientations."""
    assert preferences(label(Pair.of(prompt("q"), "x", "y"), p_a), tie_margin=0.05).rows == ()


def test_just_beyond_the_margin_is_no_tie() -> None:
    assert len(preferences(label(Pair.of(prompt("q"), "x", "y"), 0.6001), tie_margin=0.1).rows) == 1


def test_an_even_tie_names_the_same_response_in_both_orientations() -> None:
    for i in range(10):
        pair = Pair.of(prompt(f"q{i}"), "x", "y")
        one, other = (preferences(label(p, 0.5), ties="keep").rows for p in (pair, pair.swapped()))
        assert one == other


def test_repeats_are_averaged_in_one_orientation() -> None:
    pair = Pair.of(prompt("q"), "x", "y")
    result = preferences(label(pair, 1.0, "human"), label(pair.swapped(), 0.0, "human"), label(pair, 0.0, "human"))
    assert texts(result.rows[0]) == ("x", "y")
    assert result.rows[0].p_chosen == pytest.approx(2 / 3, abs=1e-12)
    assert (result.counts["judgments"], result.counts["repeats"], result.counts["rows"]) == (3, 2, 1)


def test_annotators_who_contradict_each_other_make_a_tie() -> None:
    pair = Pair.of(prompt("q"), "x", "y")
    assert preferences(label(pair, 1.0, "human"), label(pair.swapped(), 1.0, "human")).rows == ()


def test_two_sources_give_two_rows_on_one_side() -> None:
    pair = Pair.of(prompt("q"), "x", "y")
    rows = preferences(label(pair, 1.0, "human"), label(pair, 0.3, "ai")).rows
    assert [(row.source, texts(row)[0]) for row in rows] == [("human", "x"), ("ai", "y")]
    assert len({row.split for row in rows}) == 1


LABELS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc"), st.floats(0, 1)), min_size=1, max_size=40)


@given(LABELS, st.floats(0.01, 0.99), st.randoms(use_true_random=False))
def test_split_by_prompt(spec: list[tuple[int, str, float]], share: float, random: Any) -> None:
    items = [label(oriented(prompt(f"q{i}"), "x", text), p_a) for i, text, p_a in spec]
    result = preferences(*items, heldout_share=share, ties="keep")
    train, heldout = ({r.prompt_id for r in result.rows if r.split == s} for s in ("train", "heldout"))
    assert not train & heldout
    assert train
    assert bool(heldout) == (len(train | heldout) > 1)
    assert result.counts["train"] + result.counts["heldout"] == result.counts["rows"] == len(result.rows)

    random.shuffle(items)
    shuffled = preferences(*items, heldout_share=share, ties="keep")
    assert {(r.pair_id, texts(r), r.split) for r in shuffled.rows} == {
        (r.pair_id, texts(r), r.split) for r in result.rows
    }


def test_a_prompts_side_does_not_depend_on_the_others() -> None:
    items = [label(Pair.of(prompt(f"q{i}"), "x", "y"), 1.0) for i in range(400)]
    side = {row.prompt_id: row.split for row in preferences(*items, heldout_share=0.25).rows}
    half = {row.prompt_id: row.split for row in preferences(*items[::2], heldout_share=0.25).rows}
    assert half.items() <= side.items()
    share = sum(split == "heldout" for split in side.values()) / 400
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5  # four standard errors


def test_nothing() -> None:
    assert preferences().rows == ()


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), st.floats(0, 1))
def test_rows_survive_their_file(tmp_path_factory: pytest.TempPathFactory, one: str, other: str, p_a: float) -> None:
    path = tmp_path_factory.mktemp("p") / "preferences.jsonl"
    rows = preferences(label(Pair.of(prompt(one + "?"), one, other), p_a), ties="keep").rows
    write_jsonl(path, rows)
    assert read_jsonl(path, Preference) == list(rows)


def test_rows_are_trl_conversational_preference_rows(tmp_path: Path) -> None:
    """The file alone, read by `datasets`, must be what TRL's preference trainers document as their input."""
    datasets = pytest.importorskip("datasets")
    weird = "{{ x }} \u2028 </s> \U0001f600"
    items = [
        label(Pair.of(prompt("one"), "x", weird), 0.9),
        label(Pair.of(prompt("two", "t"), "p", "q"), 0.2, "human"),
    ]
    path = tmp_path / "preferences.jsonl"
    write_jsonl(path, preferences(*items).rows)
    table = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(table) == 2
    row = table[0]
    assert row["prompt"] == [{"role": "user", "content": "one"}]
    assert row["chosen"] == [{"role": "assistant", "content": "x"}]
    assert row["rejected"] == [{"role": "assistant", "content": weird}]
    assert table["p_chosen"][:] == [0.9, 0.8]
