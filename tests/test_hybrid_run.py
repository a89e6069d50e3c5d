"""From a judged run over `route` and the page's answers to mixed preferences: the road of a hybrid run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlaif.annotate.route import Conflict, read_routing, route
from rlaif.annotate.store import AnswerStore
from rlaif.config import Recipe
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.pairs import choice
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.pipeline import run_recipe, stages_until
from rlaif.records import Judgment, Pair, Preference
from rlaif.run_folder import Run
from rlaif.testing import small_recipe
from tests.annotated import given

OWN_PAGE = [{"kind": "annotations"}]


def hybrid(folder: Path, tiny: str, **policy: object) -> Recipe:
    labels = {"kind": "mix", "human_data": OWN_PAGE, "policy": policy or {"kind": "human_wins"}}
    return small_recipe(folder, tiny, prompts=72, prompts__heldout=8, preferences__labels=labels, seed=1)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, tiny_folder):
    """A recipe that learns from its own page, and the folder of its run up to the judge's labels."""
    folder = tmp_path_factory.mktemp("hybrid")
    recipe = hybrid(folder, str(tiny_folder), kind="reliability", min_overlap=20)
    return recipe, run_recipe(recipe, folder / "run", stages_until(recipe, "label")).folder


@pytest.fixture
def judged(labelled, tmp_path):
    """The recipe and a copy of the run."""
    recipe, folder = labelled
    shutil.copytree(folder, tmp_path / "run")
    return recipe, Run(tmp_path / "run")


def answer(run: Run, wrong_every: int = 5) -> list[Pair]:
    """Somebody answers every routed pair, and sides with the judge but for every so-manyth."""
    judge = {j.pair.id: j for j in read_jsonl(run.judgments, Judgment)}
    routed = read_jsonl(run.route, Pair)
    store = AnswerStore(run.answers)
    for i, pair in enumerate(routed):
        likes_a = choice(judge[pair.id].p_of(pair.a)) >= 0.5
        side = "a" if likes_a == bool((i + 1) % wrong_every) else "b"
        store.add(given(pair, "Ada", side), pair)
    store.close()
    return routed


def worth(run: Run, pairs: list[Pair], hits: int) -> float:
    """The judge's agreement where it sides with so many of these answers, less half of those on which it is even."""
    judge = {j.pair.id: j for j in read_jsonl(run.judgments, Judgment)}
    even = sum(choice(judge[pair.id].p_a) == 0.5 for pair in pairs)
    assert even < len(pairs) / 4
    return round((hits - 0.5 * even + 0.5) / (len(pairs) + 1), 6)


def pairs_again(recipe: Recipe, run: Run) -> list[Preference]:
    run_recipe(recipe, run.folder, ["pairs"])
    return read_jsonl(run.preferences, Preference)


def test_without_answers_the_stage_says_what_to_do(judged):
    recipe, run = judged
    with pytest.raises(DataError, match="rlaif annotate"):
        run_recipe(recipe, run.folder, ["pairs"])


def test_routed_answers_become_preferences_and_say_what_the_judge_is_worth(judged, cli):
    recipe, run = judged
    _, said, _ = cli("route", str(run.folder), "--budget", "40", "--by", "random")
    assert said.startswith("40 of ") and said.endswith(f"\nnext: rlaif annotate {run.folder}\n")
    routed = answer(run)
    rows = pairs_again(recipe, run)
    people = {row.pair_id for row in rows if row.source == "human"}
    assert people == {pair.id for pair in routed}
    smoothed = {round(row.p_chosen, 6) for row in rows if row.source == "ai"}
    assert smoothed == {worth(run, routed, 32)}, "32 of 40 agree, and every other label of the judge is worth that"
    conflicts = read_jsonl(run.conflicts, Conflict)
    assert 4 <= len(conflicts) <= 8 and {one.annotators for one in conflicts} == {("Ada",)}
    assert json.loads(run.annotators.read_text())["annotators"][0]["annotator"] == "Ada"


def test_more_answers_make_the_stage_run_again_and_the_same_ones_do_not(judged, capsys):
    recipe, run = judged
    route(run.folder, 40, "random")
    answer(run)
    first = pairs_again(recipe, run)
    before = run.preferences.read_bytes()
    pairs_again(recipe, run)
    assert "pairs: up to date" in capsys.readouterr().out and run.preferences.read_bytes() == before
    route(run.folder, 10, "random")
    more = answer(run)
    assert not {pair.id for pair in more} & {row.pair_id for row in first if row.source == "human"}
    assert sum(row.source == "human" for row in pairs_again(recipe, run)) == 50


def test_what_a_router_picked_says_nothing_about_the_judge(judged):
    """Uncertain pairs are harder: were they counted, the judge would seem worse than it is on the rest."""
    recipe, run = judged
    route(run.folder, 30, "random")
    first = answer(run, wrong_every=1000)
    route(run.folder, 20, "uncertainty", share=0.0)
    routed = answer(run, wrong_every=1)
    assert set(read_routing(run).picked) == {pair.id for pair in routed}
    rows = pairs_again(recipe, run)
    assert {round(row.p_chosen, 6) for row in rows if row.source == "ai"} == {worth(run, first, 30)}


def test_routes_are_of_unlabelled_pairs_and_by_what_was_asked(judged):
    _, run = judged
    judgments = {j.pair.id: j for j in read_jsonl(run.judgments, Judgment)}
    route(run.folder, 25, "uncertainty", share=0.0)
    closest = sorted(abs(j.p_a - 0.5) for j in judgments.values())[:25]
    routed = read_jsonl(run.route, Pair)
    assert sorted(abs(judgments[pair.id].p_a - 0.5) for pair in routed) == pytest.approx(closest)
    route(run.folder, 10**6, "swap_gap")
    assert len(read_jsonl(run.route, Pair)) == len(judgments), "a budget beyond all pairs is all pairs"
    with pytest.raises(ConfigError, match=r"no router 'uncertainti'; did you mean 'uncertainty'\?"):
        route(run.folder, 5, "uncertainti")
    with pytest.raises(ConfigError, match="no reward model, which --by margin reads"):
        route(run.folder, 5, "margin")
    with pytest.raises(DataError, match="needs 30 pairs that people labelled"):
        route(run.folder, 5, "predicted")
    with pytest.raises(ConfigError, match="no judgments of a run"):
        route(run.folder.parent, 5)


def test_margins_of_the_reward_model_route(judged, cli):
    recipe, run = judged
    route(run.folder, 40, "random")
    answer(run)
    run_recipe(recipe, run.folder, ["pairs", "reward"])
    _, said, _ = cli("route", str(run.folder), "--budget", "20", "--by", "margin", "--random-share", "0")
    assert "\n  elbow: " in said and len(read_jsonl(run.route, Pair)) == 20


def test_conflicts_are_shown_for_reading(judged, cli):
    _, run = judged
    assert "needs labels of a judge and of people" in cli("conflicts", str(run.folder))[2]
    route(run.folder, 20, "random")
    answer(run)
    said = cli("conflicts", str(run.folder), "--count", "2")[1].splitlines()
    assert said[-1] == "4 conflicts, 2 shown" and sum(line.startswith("pair ") for line in said) == 2
    assert any("preferred by Ada:" in line for line in said) and any(
        "preferred by the judge (" in line for line in said
    )


def test_a_removed_annotator_trains_nothing_and_it_is_said(tmp_path, tiny_folder, capsys):
    """Twelve gold questions, all answered wrong: whatever else that person said is left out."""
    truth = [{"prompt": f"Say {i}", "chosen": f"letters {i}", "rejected": f"{i}"} for i in range(72)]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth[:14]))
    rows = [{**row, "annotator": "careful"} for row in truth]
    rows += [{**row, "chosen": row["rejected"], "rejected": row["chosen"], "annotator": "troll"} for row in truth]
    (tmp_path / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gold = [{"kind": "file", "path": str(tmp_path / "gold.jsonl")}]
    recipe = small_recipe(
        tmp_path,
        str(tiny_folder),
        prompts=72,
        prompts__heldout=8,
        preferences__labels={"kind": "human", "human_data": [{"kind": "file", "path": str(tmp_path / "human.jsonl")}]},
        preferences__annotators={"gold": gold, "remove": {"min_gold_accuracy": 0.6}},
    )
    run = run_recipe(recipe, tmp_path / "run", ["pairs"])
    kept = read_jsonl(run.preferences, Preference)
    assert all(row.chosen[0].content.startswith("letters") and row.p_chosen == 1 for row in kept)
    assert "left out, all labels of troll" in capsys.readouterr().out
    known = {f"Say {i}" for i in range(14)}
    assert not known & {row.prompt[-1].content for row in kept}, "gold questions train nothing"


def test_an_edit_is_a_preference_and_a_demonstration(judged):
    recipe, run = judged
    route(run.folder, 30, "random")
    routed = answer(run, wrong_every=1000)
    store = AnswerStore(run.answers)
    store.add(given(routed[0], "Bo", "a", edited=routed[0].a + " and more letters"), routed[0])
    store.close()
    rows = pairs_again(recipe, run)
    better = [row for row in rows if row.chosen[0].content.endswith("and more letters")]
    assert [row.source for row in better] == ["human"] and better[0].rejected[0].content == routed[0].a
    assert routed[0].a + " and more letters" in run.human_demonstrations.read_text()


def test_answers_of_a_page_elsewhere(judged, tmp_path, tiny_folder):
    _, run = judged
    route(run.folder, 40, "random")
    answer(run)
    labels = {"kind": "human", "human_data": [{"kind": "annotations", "run": str(run.folder)}]}
    recipe = small_recipe(tmp_path, str(tiny_folder), prompts=72, prompts__heldout=8, preferences__labels=labels)
    other = run_recipe(recipe, tmp_path / "other", ["pairs"])
    assert len(read_jsonl(other.preferences, Preference)) == 40
    write_jsonl(run.annotations, [])  # what is lost there is made again from what people answered
    run_recipe(recipe, other.folder, ["pairs"])
    assert len(read_jsonl(run.annotations, Judgment)) == 40
