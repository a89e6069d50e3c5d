"""From what users said of a served policy to the next round: what is taken, what is said of it, and kills."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlaif import live
from rlaif.annotate.publish import publish
from rlaif.annotate.store import AnswerStore, ServedReply
from rlaif.cli import app
from rlaif.config import Recipe, dump_recipe, load_recipe
from rlaif.digest import hash_path
from rlaif.errors import ConfigError
from rlaif.feedback.prompts import read_prompts
from rlaif.iterate import iterate, round_of
from rlaif.jsonl import read_jsonl
from rlaif.live import RoundFeedback, iterate_from_feedback
from rlaif.pipeline import STAGES
from rlaif.records import Message, Preference
from rlaif.run_folder import Run
from rlaif.serve.guard.config import GuardSection, dump_guard
from rlaif.serve.guard.feedback import keep_feedback
from rlaif.testing import small_recipe
from tests.forked import draw_nothing, exit_code
from tests.test_resume import Kill, arm


def say(service: Path, kind: str, **body: Any) -> str:
    """As a client of the service would."""
    service.mkdir(parents=True, exist_ok=True)
    with closing(AnswerStore(service / "answers.sqlite")) as store:
        return keep_feedback(store, json.dumps({"kind": kind, **body}).encode())


def edit(service: Path, number: int, question: str = "Spell") -> str:
    return say(
        service, "edit", prompt=f"{question} {number}", response=f"{number} 1", edited="abcde" * (1 + number % 3)
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path, "no-model", prompts=60, prompts__heldout=20)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rounds that would be trained; each counts as done."""
    begun: list[int] = []

    def trained(recipe: Recipe, number: int, folder: Path, redo: bool = False) -> Any:
        begun.append(number)
        return [("round",)]

    monkeypatch.setattr(live, "iterate", trained)
    monkeypatch.setattr(live, "_done", lambda recipe, folder, number: number in begun)
    return begun


def taken(folder: Path, number: int) -> RoundFeedback:
    return RoundFeedback.model_validate_json((folder / f"feedback-{number}" / "feedback.json").read_text())


def test_each_round_takes_what_came_since_the_last(recipe, rounds, tmp_path, capsys):
    service, folder = tmp_path / "service", tmp_path / "rounds"
    first = {edit(service, number) for number in range(6)}
    assert iterate_from_feedback(recipe, service, folder) is not None
    assert set(taken(folder, 1).ids) == first and taken(folder, 1).pairs == 6
    second = {edit(service, number, "Count") for number in range(4)}
    second.add(say(service, "pair", prompt="Which?", response="abc", other="1", choice="response"))
    assert iterate_from_feedback(recipe, service, folder) is not None
    assert set(taken(folder, 2).ids) == second and rounds == [1, 2]
    assert iterate_from_feedback(recipe, service, folder) is None and rounds == [1, 2]
    assert not (folder / "feedback-3").exists() and not list(folder.glob(".feedback-*"))
    out = capsys.readouterr().out
    assert "feedback for round 1: 6 rows, 6 pairs" in out
    assert "people and the judge agree on 100% (61 to 100%) of 6 pairs; no earlier feedback" in out
    assert "of 5 pairs; no sign of a change from 100%" in out and "training knew" in out


def test_thumbs_pair_across_rounds_and_count_once_for_the_judge(recipe, rounds, tmp_path):
    service, folder = tmp_path / "service", tmp_path / "rounds"
    edit(service, 0)
    say(service, "thumbs", prompt="Say a", response="abc", up=True)
    say(service, "thumbs", prompt="Say a", response="1 2", up=False)
    iterate_from_feedback(recipe, service, folder)
    assert taken(folder, 1).pairs == 2
    say(service, "thumbs", prompt="Say a", response="abcdef", up=False)
    say(service, "thumbs", prompt="Say b", response="abcdef", up=True)
    iterate_from_feedback(recipe, service, folder)
    found = taken(folder, 2)
    assert (len(found.ids), found.pairs, [hit.agrees for hit in found.hits]) == (2, 2, [0.0])


def test_what_makes_no_pair_waits_for_more(recipe, rounds, tmp_path, capsys):
    service, folder = tmp_path / "service", tmp_path / "rounds"
    thumb = say(service, "thumbs", prompt="Say a", response="abc", up=True)
    assert iterate_from_feedback(recipe, service, folder) is None
    assert "1 row came in" in (out := capsys.readouterr().out) and "no two of them make a pair yet" in out
    heldout = read_prompts(recipe.prompts).heldout[0].messages[0].content
    say(service, "edit", prompt=heldout, response="1", edited="abc")
    assert iterate_from_feedback(recipe, service, folder) is None
    assert "2 rows came in" in (out := capsys.readouterr().out) and "no pair that may train" in out
    assert rounds == [] and not (folder / "feedback-1").exists()
    other = say(service, "thumbs", prompt="Say a", response="1", up=False)
    iterate_from_feedback(recipe, service, folder)
    assert (
        {thumb, other} < set(taken(folder, 1).ids) and taken(folder, 1).on_heldout == 1 and taken(folder, 1).pairs == 1
    )


def test_a_round_that_was_begun_takes_nothing_new(recipe, rounds, tmp_path, monkeypatch):
    service, folder = tmp_path / "service", tmp_path / "rounds"
    edit(service, 0)
    iterate_from_feedback(recipe, service, folder)
    before = hash_path(folder / "feedback-1")
    monkeypatch.setattr(live, "_done", lambda *_: False)
    edit(service, 1)
    iterate_from_feedback(recipe, service, folder)
    assert hash_path(folder / "feedback-1") == before and rounds == [1, 1]


def test_drift_is_said_and_kept(recipe, rounds, tmp_path, capsys):
    service, folder = tmp_path / "service", tmp_path / "rounds"
    for number in range(30):
        edit(service, number, "Say")
    iterate_from_feedback(recipe, service, folder)
    for number in range(30):
        body = {"prompt": f"Refund my invoice {number}", "response": "abcdefgh", "other": f"{number}"}
        say(service, "pair", **body, choice="response" if number % 3 else "other")
    iterate_from_feedback(recipe, service, folder)
    drifts = [json.loads((folder / f"feedback-{k}" / "drift.json").read_text()) for k in (1, 2)]
    assert drifts[0]["topics"]["p"] > 0.05 and drifts[1]["topics"]["p"] == 0.001
    assert {"refund", "invoice"} <= set(drifts[1]["topics"]["risen"])
    assert drifts[1]["agreement"]["p"] <= 0.01 and drifts[1]["agreement"]["now"]["value"] == pytest.approx(2 / 3)
    out = capsys.readouterr().out
    assert "prompt topics: 30 prompts differ from" in out and "of 30 pairs; changed from 100%" in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimise": {"kind": "best_of_n"}}, "trains nothing"),
        ({"optimise__scoring": {"kind": "length"}}, "learns nothing from people's labels"),
        (
            {
                "preferences__labels": {
                    "kind": "ai",
                    "pairs": "human",
                    "human_data": [{"kind": "annotations", "run": "x"}],
                }
            },
            "no place",
        ),
    ],
)
def test_a_recipe_that_cannot_learn_from_people_is_refused_before_any_work(tmp_path, rounds, changes, message):
    recipe = small_recipe(tmp_path, "no-model", prompts=60, prompts__heldout=20, **changes)
    edit(tmp_path / "service", 0)
    with pytest.raises(ConfigError, match=message):
        iterate_from_feedback(recipe, tmp_path / "service", tmp_path / "rounds")
    assert not (tmp_path / "rounds").exists()


def test_the_round_learns_from_it_beside_what_the_recipe_has(recipe, rounds, tmp_path):
    edit(tmp_path / "service", 0)
    iterate_from_feedback(recipe, tmp_path / "service", tmp_path / "rounds")
    theirs = str(tmp_path / "rounds" / "feedback-1")

    def labels(written: dict[str, Any], number: int = 1) -> dict[str, Any]:
        values = recipe.model_dump(mode="json")
        values["preferences"]["labels"] = written
        found = round_of(Recipe.model_validate(values), tmp_path / "rounds", number)
        return found.preferences.labels.model_dump(mode="json")

    own = {"kind": "annotations", "run": "own", "tags": []}
    mine = {"kind": "annotations", "run": theirs, "tags": []}
    assert labels({"kind": "ai"})["human_data"] == [mine]
    assert [source["run"] for source in labels({"kind": "human", "human_data": [own]})["human_data"]] == ["own", theirs]
    tagged = {"kind": "by_tag", "human": ["help"], "ai": ["harm"]}
    found = labels({"kind": "mix", "human_data": [own], "policy": tagged})["human_data"]
    assert found[1] == mine | {"tags": ["help"]}, "else the policy would drop it"
    assert labels({"kind": "ai"}, 2)["human_data"] == [], "round 2 has none"


def test_the_command(recipe, rounds, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    words = ["iterate", str(file), "--out", str(tmp_path / "rounds"), "--from-feedback", str(tmp_path / "service")]
    edit(tmp_path / "service", 0)
    assert CliRunner().invoke(app, words).exit_code == 0
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, rounds) == (1, [1]) and "nothing came in" in done.output
    for wrong in ([*words, "--rounds", "2"], words[:4]):
        assert isinstance(CliRunner().invoke(app, wrong).exception, ConfigError)


GUARD = GuardSection(constitution="harmlessness")
FOLDERS: dict[str, tuple[dict[str, str], str]] = {
    "none": ({}, "no such folder"),
    "reward service": ({"judgments.jsonl": "{}\n", ".lock": ""}, "a service that scores for trainers, which takes no"),
    "idle reward service": (
        {"judgments.jsonl": ""},
        "a service that scores for trainers, which takes no feedback; name",
    ),
    "guard without feedback": (
        {"guard-1.yaml": dump_guard(GUARD.model_copy(update={"feedback": False})), "judgments.jsonl": ""},
        "serve it with feedback=true",
    ),
    "anything": ({"notes.txt": "x"}, "neither a guard nor a run; name the folder of `rlaif serve --guard`"),
    "empty": ({".lock": ""}, ""),
    "guard that was killed": ({"guard-1.yaml": dump_guard(GUARD), "judgments.jsonl": ""}, ""),
    "run without answers": ({"manifest.json": "{}", "judgments.jsonl": "{}\n"}, ""),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_without_answers_is_told_from_one_that_can_have_none(kind, recipe, rounds, tmp_path, capsys):
    files, wrong = FOLDERS[kind]
    for name, text in files.items():
        (tmp_path / "service").mkdir(exist_ok=True)
        (tmp_path / "service" / name).write_text(text)
    if not wrong:
        assert iterate_from_feedback(recipe, tmp_path / "service", tmp_path / "rounds") is None
        assert capsys.readouterr().out == f"nothing came in {tmp_path / 'service'} since the last round\n"
        return
    with pytest.raises(ConfigError, match=wrong) as error:
        iterate_from_feedback(recipe, tmp_path / "service", tmp_path / "rounds")
    assert "\n" not in str(error.value) and str(tmp_path / "service") in str(error.value)


def test_a_guard_that_was_asked_and_told_nothing_has_nothing_yet(recipe, rounds, tmp_path):
    (tmp_path / "service").mkdir()
    with closing(AnswerStore(tmp_path / "service" / "answers.sqlite")) as store:
        store.keep("chatcmpl-1", "reply", ServedReply(prompt=(Message(role="user", content="Say a"),), text="abc"))
    assert iterate_from_feedback(recipe, tmp_path / "service", tmp_path / "rounds") is None


# --------------------------------------------------------------------------------------- rounds that are trained


def work(recipe: Recipe, folder: Path, kill: Kill | None) -> None:
    """The next round in a folder named relative to where the process stands, as from a command line."""
    import torch

    torch.set_num_threads(1)
    draw_nothing()
    os.environ["RLAIF_REPLIES"] = str(folder.parent / "replies.sqlite")
    os.chdir(folder.parent)
    if kill is not None:
        stage = STAGES[kill.stage]

        def armed(recipe: Recipe, run: Run) -> dict[str, Any]:
            arm(kill)
            return stage.run(recipe, run)

        STAGES[kill.stage] = stage._replace(run=armed)
    iterate_from_feedback(recipe, Path("service"), Path(folder.name))


def plain_rounds(recipe: Recipe, folder: Path) -> None:
    os.environ["RLAIF_REPLIES"] = str(folder.parent / "replies.sqlite")
    os.chdir(folder.parent)
    iterate(recipe, 2, Path(folder.name))


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["ai", "human"])
def test_a_killed_round_ends_in_the_same_bytes_whatever_has_come_meanwhile(tmp_path, shallow_folder, labels):
    changes: dict[str, Any] = {}
    if labels == "human":
        edit(tmp_path / "own", 50)
        publish(Run(tmp_path / "own"))
        changes["preferences__labels"] = {
            "kind": "human",
            "human_data": [{"kind": "annotations", "run": str(tmp_path / "own")}],
        }
    recipe = small_recipe(
        tmp_path,
        shallow_folder,
        prompts=30,
        prompts__heldout=10,
        sample__max_tokens=8,
        sample__responses_per_prompt=3,
        preferences__tie_margin=0.02,
        reward__epochs=1,
        optimise={
            "kind": "rloo",
            "steps": 2,
            "rollouts_per_step": 8,
            "minibatch_size": 8,
            "lora": None,
            "max_tokens": 8,
        },
        evaluate__bootstrap_samples=50,
        **changes,
    )
    for name in ("peaceful", "killed"):
        for number in range(12):
            edit(tmp_path / name / "service", number)
    peaceful, killed = tmp_path / "peaceful" / "rounds", tmp_path / "killed" / "rounds"
    assert exit_code(work, recipe, peaceful, None) == 0
    assert exit_code(work, recipe, killed, Kill("optimise", "publish", 1)) == -signal.SIGKILL
    edit(tmp_path / "killed" / "service", 99)
    assert exit_code(work, recipe, killed, None) == 0
    for part in ("feedback-1", "round-1/policy", "round-1/reward_model", "round-1/preferences.jsonl"):
        assert hash_path(peaceful / part) == hash_path(killed / part), part
    rows = read_jsonl(peaceful / "round-1" / "preferences.jsonl", Preference)
    assert sum(row.source == "human" for row in rows) == 12 + (labels == "human")
    assert any(row.source == "ai" for row in rows) == (labels == "ai")
    assert exit_code(work, recipe, killed, None) == 0, "one came in between: round 2"
    second = read_jsonl(killed / "round-2" / "preferences.jsonl", Preference)
    assert sum(row.source == "human" for row in second) == 13 + (labels == "human")
    assert load_recipe(str(killed / "round-2" / "recipe.yaml")).policy.model == "rounds/round-1/policy"
    before = [hash_path(killed / f"round-{k}" / "manifest.json") for k in (1, 2)]
    assert exit_code(plain_rounds, recipe, killed) == 0
    after = [hash_path(killed / f"round-{k}" / "manifest.json") for k in (1, 2)]
    assert after == before, "up to date: what people said stays part of their rounds"
