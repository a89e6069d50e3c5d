"""Recipes without rollouts or without a reward model: which stages they have, what they learn from, what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import Recipe
from rlaif.config.sources import FileSource
from rlaif.errors import DataError, RlaifError
from rlaif.evaluation.compare import compare_runs
from rlaif.feedback.prompts import read_demonstrations, read_prompts
from rlaif.jsonl import read_jsonl, read_objects, write_jsonl
from rlaif.models.engine import ChatRequest, Reply
from rlaif.pipeline import STAGES, run_recipe, stages_of
from rlaif.records import Demonstration, Failure, Preference, Response
from rlaif.run_folder import Run
from rlaif.stages.demonstrations import demonstrations
from rlaif.testing import small_recipe
from rlaif.training.optimise.rewards import Scores

pytestmark = pytest.mark.usefixtures("blank_plots")
EVERY = ("sample", "label", "pairs", "reward")
LENGTH = {"kind": "length", "per": 4}
JUDGE = {"kind": "judge"}
REVISE = {"mode": {"kind": "revise", "rounds": 2, "max_tokens": 8}}
HUMAN = {"labels": {"kind": "human", "human_data": [{"kind": "file", "path": "x.jsonl"}]}}
JOINED = {"kind": "sum", "parts": [{"source": JUDGE}, {"source": {"kind": "reward_model"}}]}
COST = {"name": "long", "cost": {"kind": "ensemble"}, "limit": 1.0}


def with_method(recipe: Recipe, method: dict[str, Any], **sections: Any) -> Recipe:
    return Recipe.model_validate(recipe.model_dump(mode="json") | {"optimise": method, **sections})


@pytest.fixture
def recipe(tmp_path, tiny_folder) -> Recipe:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    return small_recipe(
        inputs,
        tiny_folder,
        prompts=16,
        prompts__heldout=6,
        sample__responses_per_prompt=3,
        sample__max_tokens=6,
        preferences__tie_margin=0.02,
        reward__epochs=1,
        evaluate__bootstrap_samples=50,
    )


# ------------------------------------------------------------------------------------------------ what is needed


@pytest.mark.parametrize(
    ("method", "sections", "artefact", "before"),
    [
        ({"kind": "ppo"}, {}, "reward_model", EVERY),
        ({"kind": "ppo", "scoring": JUDGE}, {}, None, ()),
        ({"kind": "grpo", "scoring": {"kind": "checks"}}, {}, None, ()),
        ({"kind": "rloo", "scoring": LENGTH}, {}, None, ()),
        ({"kind": "rloo", "scoring": JOINED}, {}, "reward_model", EVERY),
        (
            {"kind": "reinforce", "scoring": LENGTH, "constraints": [COST]},
            {"reward": {"ensemble": {"members": 2}}},
            "reward_model",
            EVERY,
        ),
        ({"kind": "ppo"}, {"preferences": HUMAN}, "reward_model", ("pairs", "reward")),
        ({"kind": "dpo"}, {}, "preferences", EVERY[:3]),
        ({"kind": "dpo"}, {"preferences": HUMAN}, "preferences", ("pairs",)),
        ({"kind": "sft"}, {"label": REVISE}, "demonstrations", ("sample", "label")),
        ({"kind": "sft"}, {"label": REVISE, "preferences": HUMAN}, "demonstrations", ("sample", "label")),
        ({"kind": "sft", "data": {"kind": "chosen"}}, {}, "preferences", EVERY[:3]),
        ({"kind": "sft", "data": JUDGE}, {}, None, ()),
        ({"kind": "sft", "data": {"kind": "file", "path": "x.jsonl"}}, {}, None, ()),
        ({"kind": "best_of_n"}, {}, "reward_model", EVERY),
        ({"kind": "best_of_n", "scoring": LENGTH}, {}, None, ()),
    ],
)
def test_a_recipe_has_the_stages_its_method_needs(recipe, method, sections, artefact, before):
    changed = with_method(recipe, method, **sections)
    assert changed.learns_from == artefact
    assert stages_of(changed) == [*before, "optimise", "evaluate", "report"]


@pytest.mark.parametrize(
    ("method", "sections", "line"),
    [
        ({"kind": "sft"}, {}, "optimise.data.kind is 'revisions', which label.mode.kind=revise makes"),
        ({"kind": "rloo", "scoring": {"kind": "ensemble"}}, {}, "so reward.ensemble must be set"),
        (
            {"kind": "best_of_n", "scoring": {"kind": "reward_model", "head": "brief"}},
            {},
            "scores with the head 'brief', so reward.principle_heads must be true",
        ),
    ],
)
def test_a_method_that_would_find_nothing_is_refused(recipe, method, sections, line):
    with pytest.raises(ValueError, match=line):
        with_method(recipe, method, **sections)


def test_optimise_reads_what_it_learns_from_and_no_more(recipe, tmp_path):
    run = Run(tmp_path / "run")
    own = {run.reward_model, run.preferences, run.responses, run.demonstrations}

    def read(method: dict[str, Any], **sections: Any) -> list[Path]:
        return STAGES["optimise"].inputs(with_method(recipe, method, **sections), run)

    assert own & set(read({"kind": "ppo"})) == {run.reward_model}
    assert own & set(read({"kind": "dpo"})) == {run.preferences, run.responses}
    assert own & set(read({"kind": "sft"}, label=REVISE)) == {run.demonstrations}
    assert own & set(read({"kind": "sft", "data": JUDGE})) == set()
    shown = tmp_path / "x.jsonl"
    shown.touch()
    assert shown in read({"kind": "sft", "data": {"kind": "file", "path": str(shown)}})
    assert "testing.py" in {path.name for path in read({"kind": "sft", "data": JUDGE})}
    assert "testing.py" in {path.name for path in read({"kind": "rloo", "scoring": JUDGE})}
    assert "score.jinja" in {path.name for path in read({"kind": "rloo", "scoring": JUDGE})}
    assert "letters.yaml" in {path.name for path in read({"kind": "rloo", "scoring": {"kind": "checks"}})}


# -------------------------------------------------------------------------------------------------- demonstrations


GOOD = [
    {"prompt": "Hi", "completion": "hello", "other": 1},
    {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": " yes "}]},
    {"prompt": "Why?", "completion": "bec", "finished": False},
]


def test_rows_of_a_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    own = Demonstration.model_validate(GOOD[1] | {"source": "ai", "prompt_id": "own", "round": 2})
    write_jsonl(file, [*GOOD, own])
    found, _ = read_demonstrations(FileSource(path=str(file)), "Be brief.")
    assert [(s.text, s.finished) for s in found] == [("hello", True), ("yes", True), ("bec", False), ("yes", True)]
    assert {s.prompt.messages[0].content for s in found} == {"Be brief."}
    assert found[0].prompt.id == found[1].prompt.id != found[3].prompt.id == "own"


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"prompt": "Hi", "complete": "x"}, "no key 'completion'; did you mean 'complete'?"),
        ({"prompt": "Hi", "completion": 3}, "completion: must be a text (got 3)"),
        ({"prompt": "Hi", "completion": "x", "finished": "no"}, "finished: Input should be a valid boolean (got 'no')"),
    ],
)
def test_a_bad_row_is_one_line_with_its_place(tmp_path, row, line):
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [GOOD[0], row])
    with pytest.raises(DataError) as error:
        read_demonstrations(FileSource(path=str(file)), None)
    assert str(error.value).startswith(f"{file}:2: {line}") and "\n" not in str(error.value)


CALL = [{"id": "c"}]
SHOWS_NOTHING = [
    ("Hi", " ", "completion has an empty response"),
    ("Hi", None, "completion is missing"),
    ("Hi", [], "completion is not one assistant turn"),
    ("Hi", [{"role": "user", "content": "x"}], "completion is not one assistant turn"),
    ("Hi", [{"role": "assistant", "content": None, "tool_calls": CALL}], "a message calls a tool"),
    ("Hi", [{"role": "assistant", "content": None}], "a message has no content"),
    (" ", "x", "blank turn in the prompt"),
    ([{"role": "assistant", "content": "x"}], "x", "the prompt does not end with a user turn"),
    *(
        ([{"role": "user", "content": "Hi"}, {"role": role, "content": "4"}], "x", "a turn of a tool")
        for role in ("tool", "function", "ipython")
    ),
    ([{"role": "critic", "content": "x"}], "x", "a message has no known role"),
]


def test_rows_that_show_nothing_are_failures_with_their_cause(tmp_path):
    file = tmp_path / "rows.jsonl"
    bad = [{"prompt": prompt, "completion": completion} for prompt, completion, _ in SHOWS_NOTHING]
    named = {"prompt": [{"role": "developer", "content": "Be kind."}, *GOOD[1]["prompt"]], "completion": "x"}
    write_jsonl(file, [GOOD[0], *bad, named])
    found, failures = read_demonstrations(FileSource(path=str(file)), None)
    assert [one.text for one in found] == ["hello", "x"]
    assert [turn.role for turn in found[1].prompt.messages] == ["system", "user"]
    assert [(failure.stage, failure.reason) for failure in failures] == [("optimise", why) for *_, why in SHOWS_NOTHING]
    assert failures[0].id == f"{file}:2"
    with pytest.raises(DataError, match=r"demonstrations: 12 of 14 rows cannot be used .*raise prompts.max_failures$"):
        read_demonstrations(FileSource(path=str(file)), None, 0.2)
    write_jsonl(file, bad[:1])
    with pytest.raises(DataError, match=r"rows.jsonl: nothing to imitate: completion has an empty response 1; first: "):
        read_demonstrations(FileSource(path=str(file)), None)


def test_a_tools_turn_stops_no_run(recipe, tmp_path, capsys):
    """It is said, and kept with its place."""
    file = tmp_path / "rows.jsonl"
    called = {"prompt": [*GOOD[1]["prompt"], {"role": "tool", "content": "4"}], "completion": "x"}
    write_jsonl(file, [called, *GOOD])
    changed = with_method(recipe, {"kind": "sft", "data": {"kind": "file", "path": str(file)}})
    run = Run(tmp_path / "run")
    shown, counts = demonstrations(changed, run, changed.optimise.data)
    assert (len(shown), counts) == (3, {"dropped": 0, "failed": 1})
    assert [failure.id for failure in read_jsonl(run.demonstration_failures, Failure)] == [f"{file}:1"]
    said = " ".join(capsys.readouterr().out.split())
    assert "demonstrations: 1 of 4 rows failed: a turn of a tool 1; first:" in said


def test_no_demonstration_is_on_a_prompt_kept_for_evaluation(recipe, tmp_path):
    split = read_prompts(recipe.prompts)
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": p.messages[-1].content, "completion": "x"} for p in (*split.train, *split.heldout)]
    disguised = [row | {"prompt_id": "another"} for row in rows[len(split.train) :]]
    write_jsonl(file, [*rows, *rows, *disguised])
    changed = with_method(recipe, {"kind": "sft", "data": {"kind": "file", "path": str(file)}})
    shown, counts = demonstrations(changed, Run(tmp_path / "run"), changed.optimise.data)
    assert [s.prompt.id for s in shown] == [p.id for p in split.train]
    assert counts == {"dropped": 3 * len(split.heldout)}


def test_only_last_revisions_are_shown(recipe, tmp_path):
    changed = with_method(recipe, {"kind": "sft"}, label=REVISE)
    run = Run(tmp_path / "run")
    prompts = read_prompts(recipe.prompts).train[:2]
    write_jsonl(
        run.demonstrations,
        [
            Demonstration.model_validate(
                {
                    "prompt": [m.model_dump() for m in p.messages],
                    "completion": [{"role": "assistant", "content": f"{p.id} {number}"}],
                    "source": "ai",
                    "prompt_id": p.id,
                    "round": number,
                }
            )
            for p in prompts
            for number in (1, 2)
        ],
    )
    assert [s.text for s in demonstrations(changed, run, changed.optimise.data)[0]] == [f"{p.id} 2" for p in prompts]


def test_chosen_responses_of_training_pairs_that_are_no_ties(recipe, tmp_path):
    from tests.tiny_training import preference

    changed = with_method(recipe, {"kind": "sft", "data": {"kind": "chosen"}})
    run = Run(tmp_path / "run")
    rows = [
        preference("a", "good", "bad"),
        preference("a", "good", "worse"),
        preference("b", "cut", "bad"),
        preference("c", "even", "bad", p_chosen=0.5),
        preference("d", "kept", "bad", split="heldout"),
    ]
    write_jsonl(run.preferences, rows)
    sample = {"id": "", "prompt": [], "index": 0, "tokens": 1, "model": "m"}
    write_jsonl(
        run.responses,
        [
            Response.model_validate(sample | {"prompt_id": rows[2].prompt_id, "text": "cut", "finished": False}),
            Response.model_validate(sample | {"prompt_id": rows[0].prompt_id, "text": "good", "finished": True}),
        ],
    )
    shown, _ = demonstrations(changed, run, changed.optimise.data)
    assert [(s.text, s.finished) for s in shown] == [("good", True), ("cut", False)]


# ------------------------------------------------------------------------------------------------- whole recipes


def answers(request: ChatRequest) -> Reply | str | dict[str, float]:
    """A judge that writes: nothing to one prompt, too much to another."""
    from rlaif.testing import likes_letters

    if request.labels:
        return likes_letters(request)
    number = int(request.messages[-1].content.split()[-1])
    if number % 8 == 7:
        return ""
    return Reply(text=f"answer {number}", finish_reason="length" if number % 8 == 6 else "stop", completion_tokens=3)


SFT = {"kind": "sft", "lora": None, "minibatch_size": 8, "epochs": 3, "learning_rate": 1e-3}
MINE = {"backend": "scripted", "model": "tests.test_offline_stages:answers"}


def finished(recipe: Recipe, folder: Path) -> tuple[Run, dict[str, Any]]:
    run = run_recipe(recipe, folder)
    return run, json.loads(run.evaluation.read_text())


def nothing_to_do(recipe: Recipe, folder: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    capsys.readouterr()
    run_recipe(recipe, folder)
    return capsys.readouterr().out.count("up to date") == len(stages_of(recipe))


def test_sft_on_the_judges_own_answers(recipe, tmp_path, capsys):
    changed = with_method(recipe, SFT | {"data": JUDGE}, judge=MINE, label={"max_failures": 0.5})
    run, evaluation = finished(changed, tmp_path / "run")
    rows = read_jsonl(run.judge_demonstrations, Demonstration)
    train = read_prompts(changed.prompts).train
    failed = read_jsonl(run.demonstration_failures, Failure)
    assert {row.prompt_id for row in rows} | {f.id for f in failed} == {p.id for p in train}
    assert all(row.completion[0].content.startswith("answer") for row in rows)
    assert {f.reason for f in failed} <= {"empty reply"} and len(rows) + len(failed) == len(train)
    losses = [row["loss"] for row in run.read_metrics("optimise")]
    assert losses[-1] < losses[0] - 0.1
    assert evaluation["reward_model"] == {"heldout_accuracy": None, "note": "no reward model"}
    assert evaluation["policy"]["score"] is None and evaluation["policy"]["kl"]["value"] != 0
    assert "This run has no reward model" in run.report.read_text()
    assert not run.reward_model.exists() and not run.preferences.exists()
    assert nothing_to_do(changed, run.folder, capsys)


def test_too_many_answers_that_failed_stop_it(recipe, tmp_path):
    changed = with_method(recipe, SFT | {"data": JUDGE}, judge=MINE)
    with pytest.raises(RlaifError, match=r"optimise.data.kind=judge: \d of \d+ responses failed"):
        run_recipe(changed, tmp_path / "run")
    assert read_jsonl(Run(tmp_path / "run").demonstration_failures, Failure), "on disk before the share is looked at"


def test_a_file_that_changed_is_learnt_from_anew(recipe, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [{"prompt": f"Q{i}", "completion": "aaaa"} for i in range(8)])
    changed = with_method(recipe, SFT | {"data": {"kind": "file", "path": str(file)}})
    run = run_recipe(changed, tmp_path / "run", ["optimise"])
    capsys.readouterr()
    run_recipe(changed, run.folder, ["optimise"])
    assert "up to date" in capsys.readouterr().out
    write_jsonl(file, [{"prompt": f"Q{i}", "completion": "bbbb"} for i in range(8)])
    run_recipe(changed, run.folder, ["optimise"])
    assert "up to date" not in capsys.readouterr().out


def test_dpo_needs_no_reward_model(recipe, tmp_path, capsys):
    method = {"kind": "dpo", "lora": {"rank": 4}, "learning_rate": 1e-3, "minibatch_size": 8}
    changed = with_method(recipe, method)
    run, evaluation = finished(changed, tmp_path / "run")
    assert list(run.read_manifest()["stages"]) == ["sample", "label", "pairs", "optimise", "evaluate", "report"]
    *steps, last = run.read_metrics("optimise")
    heldout = [p for p in read_jsonl(run.preferences, Preference) if p.split == "heldout"]
    assert set(last) == {"stage", "step"} | {
        f"heldout_{name}" for name in ("loss", "accuracy", "margin", "chosen_drift", "rejected_drift")
    }
    assert last["step"] == len(steps)
    assert run.read_manifest()["stages"]["optimise"]["heldout_pairs"] == len(heldout) > 0
    assert evaluation["judge"]["order_consistency"] is not None
    assert evaluation["reward_model"]["heldout_accuracy"] is None
    assert "The policy&#39;s implicit reward ranks" in run.report.read_text()
    assert nothing_to_do(changed, run.folder, capsys)


# ----------------------------------------------------------------------------------------------------- best of n


def test_best_of_n_keeps_the_best_and_says_how_far_it_can_be(recipe, tmp_path, capsys):
    method = {"kind": "best_of_n", "n": 4, "scoring": LENGTH}
    changed = with_method(recipe, method, evaluate={"responses_per_prompt": 2, "bootstrap_samples": 50})
    run, evaluation = finished(changed, tmp_path / "run")
    assert json.loads((run.policy / "best_of_n.json").read_text()) == {"n": 4}
    kl = evaluation["policy"]["kl"]
    assert (kl["value"], kl["low"], kl["n"]) == (pytest.approx(0.6363, abs=1e-4), None, 12) and "at most" in kl["note"]
    tokens = evaluation["policy"]["response_tokens"]
    assert tokens["after"] > tokens["before"]
    rows = [row for _, row in read_objects(run.samples)]
    assert len(rows) == 12 and "score_after" not in rows[0] and "kl" not in rows[0]
    assert sum(row["before"] == row["after"] for row in rows) < 3, "candidates are drawn apart from the reference's"
    assert nothing_to_do(changed, run.folder, capsys)


@pytest.mark.slow
def test_best_of_n_by_the_reward_model_scores_higher(recipe, tmp_path):
    run, evaluation = finished(with_method(recipe, {"kind": "best_of_n", "n": 4}), tmp_path / "run")
    assert evaluation["policy"]["score"]["difference"]["value"] > 0
    assert evaluation["reward_model"]["heldout_accuracy"]["value"] is not None
    rows = [row for _, row in read_objects(run.samples)]
    assert all(row["score_after"] is not None for row in rows)


def test_of_equal_scores_the_first_is_kept_and_none_is_a_failure(recipe, tmp_path, monkeypatch):
    """The first of every four has no score, the other three the same one: the second is kept. One prompt has none."""
    from rlaif.stages import answers as stage

    nobody = read_prompts(recipe.prompts).heldout[0].id

    place: dict[str, int] = {}

    def scored(*arguments: Any) -> Scores:
        responses = arguments[3]
        place.update({r.id: r.index for r in responses})
        assert [r.index for r in responses[:8]] == list(range(8))
        return Scores([None if r.index % 4 == 0 or r.prompt_id == nobody else 1.0 for r in responses])

    monkeypatch.setattr(stage, "_scored", scored)
    seen: list[Any] = []
    from rlaif.stages import evaluation

    original: Callable[..., Any] = evaluation._scores
    monkeypatch.setattr(evaluation, "_scores", lambda *a: seen.append(a[-1]) or original(*a))
    method = {"kind": "best_of_n", "n": 4, "scoring": LENGTH}
    against = {"kind": "file", "path": str(tmp_path / "against.jsonl")}
    taught = read_prompts(recipe.prompts).train[0].messages[-1].content
    (tmp_path / "against.jsonl").write_text(json.dumps({"prompt": f"{taught} <!>"}))
    filters = {"decontaminate": {"against": [against], "threshold": 0.5}, "personal": {}}
    prompts = recipe.prompts.model_dump(mode="json") | {"filters": filters}
    evaluate = {"responses_per_prompt": 2, "bootstrap_samples": 50}
    run, evaluation = finished(with_method(recipe, method, evaluate=evaluate, prompts=prompts), tmp_path / "run")
    assert evaluation["filters"] == {"dropped": {"overlaps with a held-out prompt": 1}, "masked": {}}
    page = run.report.read_text()
    assert "Prompts left out" in page and "overlaps with a held-out prompt 1" in page and "data masked" not in page
    (after,) = seen
    assert {r.index for r in after} == {0, 1} and evaluation["heldout"] == {"prompts": 5, "responses": 10}
    assert [place[r.id] for r in after] == [4 * r.index + 1 for r in after]
    lost = [f for f in read_jsonl(run.evaluation_failures, Failure) if f.reason == "nothing to choose from"]
    assert [f.id for f in lost] == [nobody, nobody]


def test_runs_without_and_with_a_reward_model_are_compared(tmp_path):
    from tests.fake_run import inputs, write_run

    one = write_run(tmp_path / "one", inputs(gain=0.1, seed=3))
    other = write_run(tmp_path / "two", inputs(gain=0.5))
    evaluation = json.loads((other / "evaluation.json").read_text())
    evaluation["reward_model"] = {"heldout_accuracy": None, "note": "no reward model"}
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    table = compare_runs([one, other], tmp_path / "page.html")
    (row,) = [row for row in table if row[0] == "Reward model, held-out accuracy"]
    assert "%" in row[1] and row[2] == "no reward model"
    assert "no reward model" in (tmp_path / "page.html").read_text()
