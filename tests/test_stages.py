"""Stages where something fails or must be freed: a model that is nowhere, one unanswerable prompt, a judge that says
nothing, the GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif import stages
from rlaif.config import Recipe
from rlaif.errors import ConfigError, DataError, JudgeError, ModelError
from rlaif.feedback.prompts import read_prompts
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.models import open as open_module
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.pipeline import STAGES, run_recipe
from rlaif.records import Failure, Judgment, Response
from rlaif.run_folder import Run
from rlaif.stages.models import check_models
from rlaif.testing import fake_server, small_recipe
from tests.fake_run import response

CHECKED = """\
schema: rlaif/constitution/v1
id: checked
version: 1.0.0
title: Code alone
principles: [{id: brief, check: {kind: max_words, limit: 5}}]
"""
NOWHERE = {"backend": "local", "model": "~/nope"}
SERVED = {"backend": "client", "model": "judge", "base_urls": ["http://127.0.0.1:9/v1"]}
MEMBERS = [{"name": "one", "mode": {"kind": "compare"}}, {"name": "two", "model": NOWHERE | {"model": "a b"}}]
TOO_LONG = "prompt of 9000 tokens does not fit a context of 4096"


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def recipe(tmp_path):
    return small_recipe(
        tmp_path,
        "scripted",
        prompts=80,
        prompts__heldout=20,
        sample__responses_per_prompt=2,
        evaluate__responses_per_prompt=1,
        evaluate__bootstrap_samples=20,
        label__max_failures=0.05,
    )


def measure_nothing(patch: pytest.MonkeyPatch) -> None:
    """KL and scores without models."""

    def scores(recipe, reward_model, policy, before, after):
        assert [(r.prompt_id, r.index) for r in before] == [(r.prompt_id, r.index) for r in after]
        return [0.0] * len(before), [1.0] * len(after)

    patch.setattr("rlaif.training.policy_model.measure_kl", lambda recipe, policy, responses: [0.1] * len(responses))
    patch.setattr("rlaif.stages.evaluation._scores", scores)


@pytest.fixture
def models(monkeypatch):
    """Policies are scripts; the prompts of `models[name]` are too long for the policy of that name."""
    too_long: dict[str, set[str]] = {}
    real = open_module.open_model

    def opened(config):
        if config.backend == "scripted":
            return real(config)
        name = config.model.rpartition("/")[2]

        def write(request: ChatRequest) -> Reply:
            if request.messages[-1].content in too_long.get(name, set()):
                return Reply(error=TOO_LONG)
            return Reply(text=f"{name} {request.seed}", finish_reason="stop", completion_tokens=2)

        return ScriptedChatModel(write, name)

    monkeypatch.setattr("rlaif.models.open.open_model", opened)
    measure_nothing(monkeypatch)
    return too_long


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"judge": {"backend": "local", "model": "./nope"}}, "model folder './nope' does not exist"),
        ({"judge": {"backend": "vllm", "model": "smollm2-135n"}}, "did you mean 'smollm2-135m'"),
        ({"judge": {"backend": "scripted", "model": "tests.scripted_judge:likes_shrot"}}, "did you mean 'likes_short'"),
        ({"policy": {"backend": "local", "model": "them/theirs"}}, "HF_HUB_OFFLINE is set"),
        ({"judge": SERVED | {"api_key_env": "NO_SUCH_KEY"}}, "the environment variable NO_SUCH_KEY is not set"),
        ({"judge": SERVED | {"base_urls": ["http://:80/v1"]}}, "base_urls: 'http://:80/v1': "),
        ({"reward__model": "/no/such/model"}, "model folder '/no/such/model' does not exist"),
        ({"label__mode": {"kind": "panel", "members": MEMBERS}}, "a b: Repo id must use"),
        (
            {
                "constitution": "plain-and-brief",
                "optimise__scoring": {"kind": "judge", "mode": {"kind": "contrast"}, "model": NOWHERE},
            },
            "model folder '~/nope' does not exist",
        ),
    ],
)
def test_a_model_that_is_nowhere_is_missed_before_any_work(
    changes: dict[str, Any], said: str, run: Run, tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlaif.pipeline.run_stage", lambda *_: pytest.fail("a stage began"))
    monkeypatch.setattr("rlaif.models.server.require_vllm", lambda: None)
    with pytest.raises((ModelError, ConfigError)) as caught:
        run_recipe(small_recipe(tmp_path, tiny_folder, **changes), run.folder)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not run.recipe.exists(), "nothing is bound to a recipe that cannot run"


def test_a_judge_that_is_not_asked_need_not_be_there(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """Nor one of a stage that is done, nor what opens elsewhere."""
    checked = tmp_path / "checked.yaml"
    checked.write_text(CHECKED)
    recipe = small_recipe(tmp_path, tiny_folder, judge=NOWHERE)
    check_models((recipe, [STAGES[name] for name in ("sample", "pairs", "reward")]))
    with pytest.raises(ModelError, match="nope"):
        check_models((recipe, [STAGES["label"]]))
    check_models((recipe.model_copy(update={"constitution": str(checked)}), STAGES.values()))
    far = {"backend": "ray", "workers": 1, "engine": {"backend": "local", "model": "/far/away"}}
    check_models((small_recipe(tmp_path, tiny_folder, judge=far), [STAGES["label"]]))


def test_a_name_that_many_arms_share_is_looked_for_once(
    tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("rlaif.stages.models.check_name", lambda name, revision: asked.append(name))
    recipes = [small_recipe(tmp_path, tiny_folder, seed=seed, reward__model="them/theirs") for seed in range(3)]
    check_models(*((recipe, [STAGES["reward"], STAGES["optimise"]]) for recipe in recipes))
    assert sorted(asked) == sorted([tiny_folder, "them/theirs"])


def test_a_server_that_does_not_run_yet_is_said_and_stops_nothing(
    tmp_path: Path, tiny_folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_server(lambda request: pytest.fail("nothing is asked")) as server:
        urls = [server.url, "http://127.0.0.1:9/v1"]
        recipe = small_recipe(tmp_path, tiny_folder, judge=SERVED | {"base_urls": urls})
        check_models((recipe, [STAGES[name] for name in ("sample", "pairs")]))
        assert capsys.readouterr().out == ""
        check_models((recipe, [STAGES["label"], STAGES["evaluate"]]))
        assert (
            capsys.readouterr().out == "  no server at http://127.0.0.1:9/v1 yet: it must answer when judge is asked\n"
        )
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        far = small_recipe(tmp_path, tiny_folder, judge=SERVED | {"base_urls": ["http://nowhere.invalid/v1"]})
        check_models((far, [STAGES["label"]]))
        assert capsys.readouterr().out == "", "a proxy knows what it reaches"
        monkeypatch.delenv("http_proxy")
        check_models((far, [STAGES["label"]]))
        assert "no server at http://nowhere.invalid/v1 yet" in capsys.readouterr().out


def texts(prompts) -> list[str]:
    return [prompt.messages[-1].content for prompt in prompts]


def test_one_prompt_that_cannot_be_answered_does_not_stop_sampling(recipe, run, models):
    first, *_ = texts(read_prompts(recipe.prompts).train)
    models["scripted"] = {first}
    facts = stages.sample(recipe, run)
    assert (facts["responses"], facts["failed"]) == (118, 2)
    assert {f.stage for f in read_jsonl(run.sample_failures, Failure)} == {"sample"}
    assert stages.label(recipe, run)["pairs"] == 59


def test_too_many_are_told_with_advice_and_are_on_disk(recipe, run, models):
    models["scripted"] = set(texts(read_prompts(recipe.prompts).train)[:10])
    with pytest.raises(
        DataError, match=r"^sample: 20 of 120 responses failed \(16.7%, limit 5.0%\).*shorten the prompts"
    ):
        stages.sample(recipe, run)
    assert len(read_jsonl(run.sample_failures, Failure)) == 20 and not run.responses.exists()


def made(run: Run) -> None:
    for folder in (run.reward_model, run.policy):
        folder.mkdir(parents=True)
    write_jsonl(run.heldout, [])


def test_evaluation_goes_on_with_what_both_sides_answered(recipe, run, models):
    made(run)
    one, two, *_ = texts(read_prompts(recipe.prompts).heldout)
    models |= {"scripted": {one}, "policy": {two}}
    facts = stages.evaluate(recipe, run)
    assert (facts["heldout_prompts"], facts["unsampled"]) == (20, 2)
    evaluation = json.loads(run.evaluation.read_text())
    assert evaluation["heldout"] == {"prompts": 18, "responses": 18}
    assert evaluation["judge"]["coverage"]["failed"] == 0, "nobody asked the judge about them"
    failures = read_jsonl(run.evaluation_failures, Failure)
    assert [(f.stage, f.reason) for f in failures] == [("evaluate", "model error")] * 2


def test_a_judge_that_says_nothing_stops_labelling_but_not_evaluation(recipe, run, models):
    silent = recipe.judge.model_copy(update={"model": "tests.scripted_judge:says_nothing"})
    recipe = recipe.model_copy(update={"judge": silent})
    stages.sample(recipe, run)
    with pytest.raises(JudgeError, match="label: 60 of 60 pairs have no judgment"):
        stages.label(recipe, run)
    assert {f.stage for f in read_jsonl(run.failures, Failure)} == {"label"}
    run.failures.unlink()
    made(run)
    stages.evaluate(recipe, run)
    coverage = json.loads(run.evaluation.read_text())["judge"]["coverage"]
    assert (coverage["value"], coverage["failed"]) == (0, 20)
    assert {f.stage for f in read_jsonl(run.evaluation_failures, Failure)} == {"evaluate"}


def test_memory_is_given_back_before_any_model_is_opened_and_each_is_closed_before_the_next(
    recipe, run, models, monkeypatch
):
    events = []
    opened = open_module.open_model

    def watched(config):
        model = opened(config)
        events.append("open")
        monkeypatch.setattr(model, "close", lambda: events.append("close"), raising=False)
        return model

    monkeypatch.setattr("rlaif.models.open.open_model", watched)
    monkeypatch.setattr("rlaif.models.local.load.free_memory", lambda: events.append("free"))
    made(run)
    stages.evaluate(recipe, run)
    assert events == ["free", "open", "close"] * 3


@pytest.mark.parametrize("n", [3, 700])
def test_scores_are_centred_on_a_bounded_number_of_responses(run, n):
    from rlaif.stages.reward import reference_responses

    response = Response(id="", prompt_id="p", prompt=(), index=0, text="x", finished=True, tokens=1, model="m")
    rows = [response.model_copy(update={"id": str(i)}) for i in range(n)]
    seen = []
    for order in (rows, rows[::-1]):
        write_jsonl(run.responses, order)
        seen.append({r.id for r in reference_responses(run)})
    assert seen[0] == seen[1] and len(seen[0]) == min(n, 512)
    assert n < 512 or seen[0] != {str(i) for i in range(512)}, "by hash, not by position"


def test_every_artefact_is_written_by_some_stage(run: Run, recipe: Recipe) -> None:
    """One that no stage names is neither made again when it is gone nor looked at when it changed."""
    written = {path for stage in STAGES.values() for path in stage.outputs(run)}
    beside = {run.folder, run.recipe, run.manifest, run.metrics, run.scope_file, run.checkpoints}
    beside |= {
        run.answers,
        run.annotations,
        run.annotation_edits,
        run.annotation_thumbs,
        run.route,
        run.routing,
        run.explained,
        run.gates,
    }  # what people, `rlaif route`, `rlaif explain` and `rlaif iterate` leave
    beside |= {run.judgment_parts}  # in the place of the one file, with `label.parts`
    assert {path for path in vars(run).values() if isinstance(path, Path)} == written | beside
    assert not written & beside
    for path in (run.heldout, run.heldout_ratings):
        assert path in STAGES["reward"].outputs(run)
        assert path in STAGES["evaluate"].inputs(recipe, run)


def test_pairs_that_the_checks_tell_apart_are_judged_first(tmp_path, run):
    recipe = small_recipe(tmp_path, "scripted", label__pairs_per_prompt=1, label__pair_choice="checks")
    prompts = read_prompts(recipe.prompts).train
    texts = ("words", "more words", "4 words")
    write_jsonl(run.responses, [response(prompt, text, i) for prompt in prompts for i, text in enumerate(texts)])
    stages.label(recipe, run)
    pairs = [judgment.pair for judgment in read_jsonl(run.judgments, Judgment)]
    assert len(pairs) == len(prompts) and all("4 words" in (pair.a, pair.b) for pair in pairs)
