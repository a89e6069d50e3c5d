"""Rounds: each begins from the policy of the one before, learns from all rounds' preferences, and can be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from rlaif.cli import app
from rlaif.config import Recipe, dump_recipe, load_recipe
from rlaif.digest import hash_path
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.pairs import join
from rlaif.feedback.prompts import read_prompts
from rlaif.iterate import HEADER, iterate, round_of
from rlaif.jsonl import read_jsonl, read_objects
from rlaif.pipeline import STAGES, stages_of
from rlaif.records import Preference, Response
from rlaif.run_folder import Run
from rlaif.testing import small_recipe
from tests.forked import draw_nothing, exit_code
from tests.test_resume import Kill, arm
from tests.tiny_training import preference

KILLS = [
    Kill("pairs", "replace", 1),
    Kill("reward", "torn row", 2),
    Kill("optimise", "publish", 1, after=True),
    Kill("evaluate", "replace", 3),
]
"""All in round 2."""


class Story(NamedTuple):
    recipe: Recipe
    peaceful: Path
    killed: Path
    ends: list[int | None]

    def rounds(self, folder: Path | None = None) -> list[Run]:
        return [Run((folder or self.peaceful) / f"round-{number}") for number in (1, 2)]


def work(recipe: Recipe, folder: Path, kill: Kill | None) -> None:
    """Two rounds in a folder named relative to where the process stands, as from a command line."""
    import torch

    torch.set_num_threads(1)
    draw_nothing()
    os.environ["RLAIF_REPLIES"] = str(folder.parent / "replies.sqlite")
    os.chdir(folder.parent)
    if kill is not None:
        stage = STAGES[kill.stage]

        def armed(recipe: Recipe, run: Run) -> dict[str, Any]:
            if run.folder.name == "round-2":
                arm(kill)
            return stage.run(recipe, run)

        STAGES[kill.stage] = stage._replace(run=armed)
    iterate(recipe, 2, Path(folder.name))


def in_a_process(recipe: Recipe, folder: Path, kill: Kill | None = None) -> int | None:
    return exit_code(work, recipe, folder, kill)


@pytest.fixture(scope="module", params=[KILLS[2:3], pytest.param(KILLS, marks=pytest.mark.slow)], ids=["once", "all"])
def story(request, tmp_path_factory, shallow_folder) -> Story:
    recipe = small_recipe(
        tmp_path_factory.mktemp("inputs"),
        shallow_folder,
        prompts=30,
        prompts__heldout=10,
        sample__max_tokens=8,
        sample__responses_per_prompt=3,
        preferences__tie_margin=0.02,
        reward__epochs=4,
        optimise={
            "kind": "rloo",
            "steps": 8,
            "rollouts_per_step": 32,
            "minibatch_size": 32,
            "learning_rate": 2e-2,
            "lora": None,
            "temperature": 1.0,
            "max_tokens": 8,
            "missing_eos_penalty": 0.0,
            "kl": {"kind": "fixed", "coef": 0.02},
            "checkpoint_every": 2,
        },
        evaluate__bootstrap_samples=50,
    )
    folders = tmp_path_factory.mktemp("runs")
    peaceful, killed = (folders / name / "rounds" for name in ("peaceful", "killed"))
    for folder in (peaceful, killed):
        folder.parent.mkdir()
    assert in_a_process(recipe, peaceful) == 0
    shutil.copytree(peaceful / "round-1", killed / "round-1")  # where nobody is killed
    ends = [in_a_process(recipe, killed, kill) for kill in request.param]
    assert in_a_process(recipe, killed) == 0
    return Story(recipe, peaceful, killed, ends)


# ------------------------------------------------------------------------------------------------------- rounds


def test_the_second_round_begins_where_the_first_ended(story):
    first, second = story.rounds()
    recipes = [load_recipe(str(run.recipe)) for run in (first, second)]
    assert recipes[1].policy.model == "rounds/round-1/policy"
    assert recipes[1].reference == recipes[0].policy == story.recipe.policy
    assert recipes[1].reward.model == story.recipe.policy.model
    assert recipes[1].seed != recipes[0].seed and recipes[1].evaluate.seed == recipes[0].seed
    texts = [{(r.prompt_id, r.index): r.text for r in read_jsonl(run.responses, Response)} for run in (first, second)]
    assert texts[0].keys() == texts[1].keys()
    assert sum(texts[0][key] == texts[1][key] for key in texts[0]) < len(texts[0]) / 4


def test_the_reward_model_learns_from_all_rounds(story):
    first, second = (read_jsonl(run.preferences, Preference) for run in story.rounds())
    assert {row.pair_id for row in first} < {row.pair_id for row in second}
    counts = story.rounds()[1].read_manifest()["stages"]["pairs"]
    assert counts["included"] + counts["included_repeats"] == len(first)
    assert counts["rows"] == len(second) > len(first)


def test_a_held_out_prompt_is_held_out_in_every_round(story):
    evaluation = {prompt.id for prompt in read_prompts(story.recipe.prompts).heldout}
    trained, measured = set[str](), set[str]()
    for run in story.rounds():
        for row in read_jsonl(run.preferences, Preference):
            (trained if row.split == "train" else measured).add(row.prompt_id)
        samples = {row["prompt_id"] for _, row in read_objects(run.samples)}
        assert samples == evaluation
    assert not trained & measured and not evaluation & (trained | measured)


def test_every_round_is_compared_with_the_first_policy_on_the_same_answers(story):
    first, second = ([row for _, row in read_objects(run.samples)] for run in story.rounds())
    assert [row["before"] for row in first] == [row["before"] for row in second]
    assert [row["after"] for row in first] != [row["after"] for row in second]
    kl = [json.loads(run.evaluation.read_text())["policy"]["kl"]["value"] for run in story.rounds()]
    assert kl[1] > kl[0] > 0, "from the original, so it adds up"


def test_rounds_teach(story):
    policies = [json.loads(run.evaluation.read_text())["policy"] for run in story.rounds()]
    assert all(policy["score"]["difference"]["low"] > 0 for policy in policies)
    assert policies[1]["win_rate_vs_reference"]["value"] > 0.8


# ------------------------------------------------------------------------------------------------------- resume


def test_rounds_killed_anywhere_in_the_second_end_in_the_same_bytes(story):
    assert story.ends and set(story.ends) == {-signal.SIGKILL}
    for one, other in zip(story.rounds(), story.rounds(story.killed), strict=True):
        names = ("recipe", "responses", "judgments", "preferences", "heldout", "metrics", "samples")
        for name in (*names, "evaluation_judgments"):
            assert getattr(one, name).read_bytes() == getattr(other, name).read_bytes(), name
        assert hash_path(one.reward_model) == hash_path(other.reward_model)
        assert hash_path(one.policy) == hash_path(other.policy)


def test_finished_rounds_have_nothing_to_do_and_make_a_table(story, monkeypatch, capsys):
    monkeypatch.chdir(story.peaceful.parent)
    table = iterate(story.recipe, 2, Path("rounds"))
    out = capsys.readouterr().out
    assert out.count("up to date") == 2 * len(STAGES) and "from round 1's policy, which training measures its KL" in out
    assert table[0] == HEADER and [row[0] for row in table[1:]] == ["1", "2"]
    for row, run in zip(table[1:], story.rounds(), strict=True):
        evaluation = json.loads(run.evaluation.read_text())
        assert row[1].startswith(f"{100 * evaluation['policy']['win_rate_vs_reference']['value']:.0f}% (")
        assert row[3] == f"{evaluation['policy']['kl']['value']:.2f}"
        rows = read_jsonl(run.preferences, Preference)
        assert row[5] == str(sum(p.split == "train" for p in rows))


def test_another_recipe_is_refused(story, monkeypatch):
    monkeypatch.chdir(story.peaceful.parent)
    changed = Recipe.model_validate(story.recipe.model_dump(mode="json") | {"label": {"check_margin": 0.7}})
    with pytest.raises(ConfigError, match=r"label.check_margin: 0.5 -> 0.7"):
        iterate(changed, 2, Path("rounds"))


def test_the_command_prints_the_table(story, monkeypatch, tmp_path):
    monkeypatch.chdir(story.peaceful.parent)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(story.recipe))
    done = CliRunner().invoke(app, ["iterate", str(file), "--rounds", "1", "--out", "rounds"], catch_exceptions=False)
    assert done.exit_code == 0
    assert CliRunner().invoke(app, ["iterate", str(file), "--rounds", "0"]).exit_code == 2


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"optimise": {"kind": "best_of_n"}}, "optimise.kind=best_of_n trains nothing"),
        ({"optimise": {"kind": "sft", "data": {"kind": "judge"}}}, "optimise.data.kind=judge teaches the same texts"),
        (
            {"preferences": {"labels": {"kind": "human", "human_data": [{"kind": "file", "path": "x"}]}}},
            "nobody labels what a new policy writes",
        ),
    ],
)
def test_a_recipe_with_nothing_to_do_over_again_is_refused(tmp_path, shallow_folder, sections, line):
    recipe = small_recipe(tmp_path, shallow_folder)
    with pytest.raises(ConfigError, match=line):
        iterate(Recipe.model_validate(recipe.model_dump(mode="json") | sections), 2, tmp_path / "rounds")
    assert not (tmp_path / "rounds").exists()


def test_without_preferences_only_the_policy_goes_on(tmp_path, shallow_folder):
    recipe = small_recipe(tmp_path, shallow_folder, optimise={"kind": "rloo", "scoring": {"kind": "checks"}})
    second = round_of(recipe, Path("rounds"), 2)
    assert stages_of(second) == ["optimise", "evaluate", "report"]
    assert second.preferences == recipe.preferences and second.policy.model == "rounds/round-1/policy"


@pytest.mark.parametrize(("weight", "included"), [(0.0, ()), (1.0, ("rounds/round-2/preferences.jsonl",))])
def test_demonstrations_stand_against_every_round_and_go_alone_or_with_preferences(tmp_path, weight, included):
    told = {"kind": "demonstrations", "data": {"kind": "file", "path": "shown.jsonl"}, "preferences": weight}
    third = round_of(small_recipe(tmp_path, "no-model", reward__loss=told), Path("rounds"), 3)
    assert third.reward.loss.earlier == ("rounds/round-1/responses.jsonl", "rounds/round-2/responses.jsonl")
    assert third.preferences.include == included


# ------------------------------------------------------------------------------------------------------- joining


def test_joined_rows_keep_one_label_a_pair_and_source_and_one_side_a_prompt():
    new = [preference("a", "x", "y"), preference("b", "x", "y", split="heldout")]
    old = [
        preference("a", "y", "x"),  # the same pair, labelled otherwise before
        preference("a", "x", "y", source="human"),
        preference("b", "p", "q"),  # trained then, held out now
        preference("c", "x", "y", split="heldout"),
        preference("d", "x", "y"),
        preference("d", "x", "y"),  # in two files
        preference("e", "x", "y"),  # kept for evaluation
    ]
    rows, counts = join(new, old, {old[-1].prompt_id})
    shown = [(r.prompt[0].content, r.chosen[0].content, r.source, r.split) for r in rows]
    assert shown == [
        ("a", "x", "ai", "train"),
        ("b", "x", "ai", "heldout"),
        ("a", "x", "human", "train"),
        ("b", "p", "ai", "heldout"),
        ("c", "x", "ai", "heldout"),
        ("d", "x", "ai", "train"),
    ]
    assert counts == {
        "included": 4,
        "included_repeats": 2,
        "included_on_evaluation_prompts": 1,
        "rows": 6,
        "train": 3,
        "heldout": 3,
    }


def test_joining_that_leaves_nothing_to_train_on_is_an_error():
    with pytest.raises(DataError, match=r"preferences.include: .* nothing is left to train on"):
        join([preference("a", "x", "y")], [preference("a", "p", "q", split="heldout")], ())


def test_what_a_round_takes_from_the_one_before_is_read_by_its_stages(story, monkeypatch, tmp_path):
    """The file is an input of the stage: else a second round would rest on preferences that are gone."""
    recipe = load_recipe(str(story.rounds()[1].recipe))
    monkeypatch.chdir(story.peaceful.parent)
    files = STAGES["pairs"].inputs(recipe, Run(tmp_path))
    assert Path("rounds/round-1/preferences.jsonl") in files
    assert Path("rounds/round-1/policy") in STAGES["sample"].inputs(recipe, Run(tmp_path))
