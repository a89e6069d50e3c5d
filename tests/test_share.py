"""`rlaif export --push-to-hub` against a hub on this machine: what arrives loads, says what is true, and gives away no
path, host or token; and whatever the hub refuses is one line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard, constants
from huggingface_hub.utils import close_session

from rlaif.api.reward import RewardModel
from rlaif.audits.requirement import identity
from rlaif.config import dump_recipe, load_recipe
from rlaif.config.load import AUDIT_SCHEMA
from rlaif.constitution import load_constitution
from rlaif.digest import hash_path
from rlaif.feedback.pairs import read_preferences
from rlaif.files import remove
from rlaif.jsonl import read_objects, write_json, write_jsonl
from rlaif.pipeline import run_recipe, stages_until
from rlaif.run_folder import Run
from rlaif.share.dataset_card import FEATURES
from rlaif.share.parent import parent_of
from rlaif.stats import estimate_at
from rlaif.testing import save_tiny, small_recipe
from rlaif.words import with_interval
from tests.fake_hub import READ_ONLY, TOKEN, FakeHub, fake_hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""huggingface_hub 2.4 gives httpx2 a file in the older way."""
NAME = "Élan – 東京"
SMALL: dict[str, Any] = {
    "name": NAME,
    "prompts__heldout": 8,
    "sample__max_tokens": 8,
    "optimise__steps": 1,
    "optimise__rollouts_per_step": 8,
    "optimise__minibatch_size": 8,
    "optimise__max_tokens": 8,
    "reward__epochs": 1,
    "evaluate__bootstrap_samples": 50,
    "preferences__tie_margin": 0.01,
}


def made(folder: Path, model: str, until: str | None = None, **changes: Any) -> Run:
    """A finished run of a tiny recipe, in a folder of its own."""
    folder.mkdir()
    recipe = small_recipe(folder, model, 24, **(SMALL | changes))
    return run_recipe(recipe, folder / "run", stages_until(recipe, until) if until else None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's home: what lies in it may not be told."""
    return tmp_path_factory.mktemp("home") / "jane.doe"


@pytest.fixture(scope="module")
def finished(home: Path) -> Run:
    home.mkdir()
    parent = home / "my-base"
    save_tiny(parent, num_hidden_layers=1)
    (parent / "README.md").write_text("---\nlicense: mit\nbase_model: other/elder\n---\n# Base\n")
    return made(home / "work", str(parent), until="evaluate")


def changed(run: Run, folder: Path, *overrides: str) -> Run:
    """A copy of the run, with another recipe."""
    shutil.copytree(run.folder, folder)
    recipe = load_recipe(str(run.recipe), overrides)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    return Run(folder)


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's machine: home, token, and a folder for temporary files, which must be empty in the end."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary


@contextlib.contextmanager
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **faults: Any) -> Iterator[FakeHub]:
    with fake_hub(tmp_path / "hub", **faults) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        try:
            yield hub
        finally:
            close_session()


@pytest.fixture
def hub(tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with served(tmp_path, monkeypatch) as hub:
        yield hub


def push(cli: Any, run: Run, what: str, *more: str) -> tuple[int, str, str]:
    return cli("export", str(run.folder), "--push-to-hub", f"me/my-{what}", "--what", what, *more)


def snippet(folder: Path, repo: str) -> str:
    """The first Python of a card, with the folder in place of the repository."""
    (code, *_) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert f'"{repo}"' in code
    return code.replace(f'"{repo}"', repr(str(folder)))


# ------------------------------------------------------------------------------------------------- what arrives


def test_a_pushed_reward_model_scores_as_the_runs_own(cli: Any, finished: Run, hub: FakeHub, here: Path) -> None:
    before = hash_path(finished.folder)
    code, out, error = push(cli, finished, "reward_model")
    assert (code, error) == (0, "")
    folder = hub.folder("models/me/my-reward_model")
    assert f"model me/my-reward_model, private, at {hub.url}: 6 files, " in out and "\n  model.safetensors  " in out
    assert out.splitlines()[-1] == f"pushed: {hub.url}/me/my-reward_model/commit/{1:040x}"
    names = sorted(path.name for path in finished.reward_model.iterdir())
    assert hub.files("models/me/my-reward_model") == sorted([*names, "README.md"])
    for name in names:
        assert (folder / name).read_bytes() == (finished.reward_model / name).read_bytes()
    found: dict[str, Any] = {}
    exec(snippet(folder, "me/my-reward_model"), found)
    own = RewardModel.load(finished.folder, dtype="float32")
    assert own.score([found["conversation"]]) == pytest.approx([found["score"]], abs=1e-5)
    assert hash_path(finished.folder) == before and list(here.iterdir()) == []


def test_a_pushed_policy_answers(cli: Any, finished: Run, hub: FakeHub) -> None:
    assert push(cli, finished, "policy")[0] == 0
    found: dict[str, Any] = {}
    exec(snippet(hub.folder("models/me/my-policy"), "me/my-policy"), found)
    assert found["output"].shape[1] > found["inputs"]["input_ids"].shape[1]


def test_pushed_preferences_are_the_rows_by_split(cli: Any, finished: Run, hub: FakeHub, tmp_path: Path) -> None:
    from datasets import load_dataset

    code, out, _ = cli("export", str(finished.folder), "--push-to-hub", "me/my-preferences")  # the default
    assert code == 0 and f"pushed: {hub.url}/datasets/me/my-preferences/" in out
    folder = hub.folder("datasets/me/my-preferences")
    rows = [row for _, row in read_objects(finished.preferences)]
    read = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    for split in ("train", "heldout"):
        assert read[split].to_list() == [row for row in rows if row["split"] == split]
    assert read["train"].features._to_yaml_list() == [{"name": name} | kind for name, kind in FEATURES.items()]
    card = DatasetCard.load(folder / "README.md")
    assert {one["name"]: one["num_examples"] for one in card.data.dataset_info["splits"]} == {
        split: len(read[split]) for split in read
    }
    assert "no prompt is in both" in card.text and card.data.size_categories == ["n<1K"]
    assert len(read_preferences(folder / "train.jsonl")) == len(read["train"])


def test_who_may_see_it_is_sure_before_anything_is_sent(cli: Any, finished: Run, hub: FakeHub) -> None:
    assert push(cli, finished, "preferences", "--public")[0] == 0
    assert hub.private == {"datasets/me/my-preferences": False} and hub.commits == 1
    code, _, error = push(cli, finished, "preferences")
    assert (code, hub.commits) == (2, 1) and "my-preferences: is there and public; add --public if" in error
    assert push(cli, finished, "preferences", "--public")[0] == 0 and hub.commits == 2  # the same again: a new commit
    assert push(cli, finished, "policy")[0] == 0
    code, _, error = push(cli, finished, "policy", "--public")
    assert code == 2 and "is there and private; leave --public out" in error and hub.commits == 3


# -------------------------------------------------------------------------------------------- what the card says


def test_the_card_has_the_figures_of_the_report_and_what_they_are_of(cli: Any, finished: Run, here: Path) -> None:
    for what in ("reward_model", "policy", "preferences"):
        assert cli("export", str(finished.folder), "--what", what, "--out", what)[0] == 0
    evaluation = json.loads(finished.evaluation.read_text())
    card = ModelCard.load("reward_model/README.md")
    assert card.data.to_dict() == {
        "base_model": "other/elder",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-classification",
        "tags": ["rlaif", "reward-model", "ai-feedback"],
    }
    accuracy = estimate_at(evaluation, "reward_model.heldout_accuracy")
    offset = json.loads((finished.reward_model / "config.json").read_text())["rlaif_reference_score"]
    for said in (
        f"agrees with {with_interval(accuracy)}.",
        f"rest on {accuracy.n} held-out pairs",
        f"`rlaif_reference_score` ({offset:.2f}".replace("-", "−"),
        "responses that the policy gave before training",
        f"Constitution letters 1.0.0, hash `{evaluation['constitution']['hash']}`",
        "rlaif.testing:likes\\_letters (compare). No audit of this judge",
        f"digest of recipe.yaml `{hash_path(finished.recipe)}`",
        "my-base has the licence mit, as its README.md says",
        "0 prompts without one",
        f"Recipe {NAME}",
    ):
        assert said in card.text, said
    policy = Path("policy/README.md").read_text()
    assert (
        f"| Win rate against the reference |  | {with_interval(rate(evaluation)).replace(' (', ' | ')[:-1]} |" in policy
    )
    assert "pipeline_tag: text-generation" in policy and "with PPO on AI feedback by the constitution letters" in policy
    assert "Only 8 held-out prompts: the intervals themselves are rough." in policy


def rate(evaluation: Any) -> Any:
    return estimate_at(evaluation, "policy.win_rate_vs_reference")


def test_an_audit_of_the_same_judge_is_quoted_and_no_other(cli: Any, finished: Run, here: Path) -> None:
    recipe = load_recipe(str(finished.recipe))
    about = identity(recipe, load_constitution(recipe.constitution))
    audit = {"schema": AUDIT_SCHEMA, "audited": about, "opinion": {"sentence": "Yes: it may be used, 71% (60 to 80%)."}}
    place = finished.folder.parent / f"audit-{NAME}" / "audit.json"
    place.parent.mkdir()
    for other, said in ((False, "says: Yes: it may be used, 71% (60 to 80%)."), (True, "No audit of this judge")):
        write_json(place, audit | {"audited": about | {"check_margin": 9.0}} if other else audit)
        assert cli("export", str(finished.folder), "--what", "policy", "--out", f"out-{other}")[0] == 0
        assert said in Path(f"out-{other}/README.md").read_text()
    shutil.rmtree(place.parent)


def test_a_run_without_evaluation_says_that_nothing_was_measured(
    cli: Any, here: Path, tmp_path: Path, finished: Run, shallow_folder: str
) -> None:
    run = changed(finished, tmp_path / "early", f"policy.model={shallow_folder}")
    run.evaluation.unlink()
    for what in ("reward_model", "policy"):
        assert cli("export", str(run.folder), "--what", what, "--out", what)[0] == 0
        text = Path(f"{what}/README.md").read_text()
        assert (
            "Nothing was measured: this run has no evaluation of what it holds now." in text
            and "%" not in text.partition("```yaml")[0]
        )
        assert "license: unknown" in text and "cannot be told: it is a folder whose README.md names none" in text
        assert "base_model" not in text and "Constitution letters 1.0.0, hash" in text


@pytest.mark.slow
def test_the_evaluation_of_earlier_weights_is_not_quoted(cli: Any, finished: Run, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(finished.folder, run.folder)
    manifest = json.loads(run.manifest.read_text())
    manifest["stages"]["reward"]["finished"] = "9999-01-01T00:00:00Z"
    run.manifest.write_text(json.dumps(manifest))
    assert cli("export", str(run.folder), "--what", "reward_model", "--out", str(tmp_path / "card"))[0] == 0
    text = (tmp_path / "card" / "README.md").read_text()
    assert "no evaluation of what it holds now" in text and "held-out pairs" not in text


def test_an_ensemble_goes_with_its_members(cli: Any, hub: FakeHub, tmp_path: Path, shallow_folder: str) -> None:
    ensemble = {"kind": "independent", "members": 2}
    run = made(tmp_path / "several", shallow_folder, until="reward", reward__ensemble=ensemble)
    assert push(cli, run, "reward_model")[0] == 0
    folder, found = hub.folder("models/me/my-reward_model"), dict[str, Any]()
    assert {name.partition("/")[0] for name in hub.files("models/me/my-reward_model")} == {
        "README.md",
        "member-0",
        "member-1",
    }
    text = (folder / "README.md").read_text()
    assert (
        "2 reward models (an ensemble), each trained from" in text
        and "mean of its members (member-0 and member" in text
    )
    code = snippet(folder, "me/my-reward_model")
    scores = []
    for member in ("member-0", "member-1"):
        exec(code.replace("member-0", member), found)
        scores.append(found["score"])
    own = RewardModel.load(run.folder, dtype="float32")
    assert own.score([found["conversation"]]) == pytest.approx([sum(scores) / 2], abs=1e-5)


def test_the_best_of_n_is_not_called_trained(cli: Any, here: Path, tmp_path: Path, finished: Run) -> None:
    run = changed(finished, tmp_path / "best", "optimise={kind: best_of_n, n: 3}")
    write_json(run.policy / "best_of_n.json", {"n": 3})
    assert cli("export", str(run.folder), "--what", "policy", "--out", "policy")[0] == 0
    text = Path("policy/README.md").read_text()
    assert (
        "unchanged: the policy of this run is the best of 3 of its responses" in text
        and "A policy, trained" not in text
    )
    assert Path("policy/best_of_n.json").exists()


def test_people_are_told_from_the_judge_and_made_up_ones_from_people(
    cli: Any, here: Path, tmp_path: Path, finished: Run
) -> None:
    labels = "preferences.labels={kind: human, human_data: [{kind: hub, dataset: org/labels, data_dir: part}]}"
    run = changed(finished, tmp_path / "people", labels)
    write_jsonl(run.preferences, [row | {"source": "human"} for _, row in read_objects(run.preferences)])
    write_jsonl(run.human_failures, [{"id": "x:3", "stage": "pairs", "reason": "one text twice"}] * 2)
    write_json(run.folder / "annotators.json", {"annotators": [{"simulated": True}, {"simulated": False}]})
    run.responses.unlink()
    for what in ("reward_model", "preferences"):
        assert cli("export", str(run.folder), "--what", what, "--out", what)[0] == 0
    card = ModelCard.load("reward_model/README.md")
    assert card.data.datasets == ["org/labels"] and card.data.tags[2:] == ["human-feedback", "rlhf"]
    for said in (
        "on human feedback. It reads",
        "mean score of the training responses, as this run has none of the policy's",
        "Labels: human feedback (RLHF). Prompts: prompts.jsonl. People's labels: org/labels/part. 1 of 2 ",
        "| human | ",
        "2 rows of people's labels that could not be used (one text twice: 2)",
        "No AI judge labelled these preferences.",
    ):
        assert said in card.text, said
    text = Path("preferences/README.md").read_text()
    assert "What people compared is from org/labels/part" in text and "responses were written by" not in text


def test_what_a_method_did_not_read_it_did_not_learn_from(cli: Any, here: Path, tmp_path: Path, finished: Run) -> None:
    run = changed(finished, tmp_path / "sft", "optimise={kind: sft, data: {kind: judge}}")
    for made_of in ("preferences", "reward_model"):
        remove(getattr(run, made_of))
    assert cli("export", str(run.folder), "--what", "policy", "--out", "policy")[0] == 0
    text = Path("policy/README.md").read_text()
    assert "with SFT, without preferences." in text and "This run has no preferences; the recipe says what" in text


# ---------------------------------------------------------------------------------------------------- the parent


def test_the_licence_is_looked_for_where_it_may_stand(tmp_path: Path, hub: FakeHub) -> None:
    plain, given, odd = (Path(save_tiny(tmp_path / name)) for name in ("plain", "given", "odd"))
    told = "license: other\nlicense_name: house\nlicense_link: LICENSE\nbase_model: [org/base]"
    (given / "README.md").write_text(f"---\n{told}\n---\n")
    (odd / "README.md").write_text("---\nlicense: [\n---\n")
    assert parent_of(str(given), None).license == {"license": "other", "license_name": "house"}
    assert parent_of(str(given), None).base == "org/base"
    for unknown in (plain, odd):
        assert parent_of(str(unknown), None)[1:3] == (None, {})
    embedded = parent_of("smollm2-135m", None)
    assert (embedded.base, embedded.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", {"license": "apache-2.0"})
    hub.known["org/base"] = {"license": "gemma"}
    assert parent_of("org/base", None).license == {"license": "gemma"}
    assert parent_of("org/none", None)[1:3] == ("org/none", {})
    assert parent_of("org/base", None, local=["org/base"]).base is None  # it was a folder when the run read it
    # What another run made, an adapter, and a snapshot in the hub's cache have their parent's.
    older = tmp_path / "older" / "policy"
    shutil.copytree(plain, older)
    (older.parent / "recipe.yaml").write_text("policy: {model: org/base}\n")
    assert parent_of(str(older), None)[:3] == ("policy, made from org/base,", "org/base", {"license": "gemma"})
    adapter = tmp_path / "adapter"
    write_json(adapter / "adapter_config.json", {"base_model_name_or_path": "org/base"})
    assert parent_of(str(adapter), None).license == {"license": "gemma"}
    snapshot = tmp_path / "models--org--base" / "snapshots" / "abc123"
    shutil.copytree(plain, snapshot)
    assert parent_of(str(snapshot), None)[:2] == ("org/base", "org/base")


def test_parents_that_name_each_other_come_to_an_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        folder = Path(save_tiny(tmp_path / one / "policy"))
        (folder.parent / "recipe.yaml").write_text(f"policy: {{model: {tmp_path / other / 'policy'}}}\n")
    assert parent_of(str(tmp_path / "a" / "policy"), None).license == {}


# ------------------------------------------------------------------------------------------------ what stays here

A_PATH = re.compile(rb"(?<![\w.:/<-])/(?:home|tmp|root|var|work|usr)/[\w.]")


def test_no_path_host_or_token_goes_and_no_file_that_is_none_of_the_models(
    cli: Any, hub: FakeHub, home: Path, finished: Run, tmp_path: Path
) -> None:
    run = changed(
        finished,
        home / "private run",
        "judge={backend: client, model: m, base_urls: ['https://gpu7.corp.example/v1'], api_key_env: MY_KEY}",
        "tracking={to: [wandb], project: secret-project}",
        "name=quickstart",
        f"prompts.sources.0.path={home}/my texts/secret plan.jsonl",
    )
    config = json.loads((run.policy / "config.json").read_text()) | {"_name_or_path": str(home / "my-base")}
    (run.policy / "config.json").write_text(json.dumps(config))
    for name in ("optimizer.pt", "notes.txt", ".env", "checkpoint-5/model.safetensors", "train.log"):
        (run.policy / name).parent.mkdir(exist_ok=True)
        (run.policy / name).write_text(f"{home} {TOKEN}")
    for what in ("policy", "reward_model", "preferences"):
        code, out, error = push(cli, run, what)
        assert (code, error) == (0, "")
        if what == "policy":
            left = ".env, checkpoint-5/model.safetensors, notes.txt, optimizer.pt, train.log"
            assert f"left out, as no library reads it: {left}" in out
    assert hub.commits == 3
    for path in (path for path in hub.root.rglob("*") if path.is_file()):
        assert path.suffix in {".json", ".jsonl", ".md", ".jinja", ".safetensors"}, path
        data = path.read_bytes()
        for text in (str(home), str(run.folder), "gpu7", "MY_KEY", TOKEN, "jane", "secret-project"):
            assert text.encode() not in data, (path, text)
        assert A_PATH.search(data) is None, (path, A_PATH.search(data))
    sent = json.loads((hub.folder("models/me/my-policy") / "config.json").read_text())
    assert sent == config | {"_name_or_path": "my-base"}
    assert "path: secret plan.jsonl" in (hub.folder("models/me/my-policy") / "README.md").read_text()


@pytest.mark.parametrize("which", ["home", "run", "token"])
def test_rows_that_hold_a_path_or_the_token_are_not_sent(
    which: str, cli: Any, hub: FakeHub, home: Path, finished: Run, tmp_path: Path, here: Path
) -> None:
    run = Run(tmp_path / "run with a path")
    shutil.copytree(finished.folder, run.folder)
    rows = read_preferences(run.preferences)
    text = {"home": f"see {home}/notes", "run": f"in {run.folder}", "token": f"use {TOKEN}"}[which]
    said = (rows[1].chosen[0].model_copy(update={"content": text}),)
    write_jsonl(run.preferences, [rows[0], rows[1].model_copy(update={"chosen": said}), *rows[2:]])
    code, _, error = push(cli, run, "preferences")
    assert code == 2 and re.match(r"error: (train|heldout)\.jsonl:\d+: holds (the path of|your token)", error)
    assert hub.asked == [] and list(here.iterdir()) == [] and text not in error
    code, out, _ = cli("export", str(run.folder), "--what", "preferences", "--out", "mine")  # which stays here
    assert code == 0 and Path("mine/train.jsonl").exists()
    assert which == "token" or re.search(r"^(train|heldout)\.jsonl:\d+: holds the path of .*: look at it", out, re.M)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--push-to-hub", "mine"], "--push-to-hub mine: not of the form OWNER/NAME"),
        (["--push-to-hub", "me/a/b"], "not of the form OWNER/NAME"),
        (["--push-to-hub", "me/ü"], "not of the form OWNER/NAME"),
        (["--push-to-hub", "me/a..b"], "could not be pushed"),
        (["--push-to-hub", "you/x"], "(403) says that your token may not write to you"),
        (["--push-to-hub", "me/x", "--what", "rewardmodel"], "did you mean 'reward_model'?"),
        (["--push-to-hub", "me/x", "--to", "trl"], "--to trl: is for a file"),
        (["--what", "policy"], "name a folder with --out, or a repository with --push-to-hub"),
        (["--what", "policy", "--out", "full"], "--out full: is there and not empty"),
        (["--to", "trl"], "give --to FORMAT and --out FILE, or --push-to-hub"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(
    words: list[str], message: str, cli: Any, finished: Run, hub: FakeHub, here: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    code, _, error = cli("export", str(finished.folder), *words)
    assert code == 2 and message in error and error.count("\n") == 1, error
    assert hub.commits == 0 and list(here.iterdir()) == [] and len(list((tmp_path / "full").iterdir())) == 1


def test_runs_without_what_is_asked_for(cli: Any, finished: Run, hub: FakeHub, tmp_path: Path) -> None:
    code, _, error = cli("export", "nowhere", "--push-to-hub", "me/x")
    assert code == 2 and error == "error: nowhere: no such run folder\n"
    run = Run(tmp_path / "early")
    run.folder.mkdir()
    code, _, error = push(cli, run, "policy")
    assert code == 2 and "early: no run folder: it has no recipe.yaml" in error
    shutil.copy(finished.recipe, run.recipe)
    shutil.copy(finished.preferences, run.preferences)
    code, _, error = push(cli, run, "policy")
    assert code == 2 and error.endswith("policy is not there yet; the run has preferences\n") and hub.asked == []
    run.preferences.write_text("")
    code, _, error = cli("export", str(run.folder), "--what", "preferences", "--out", "mine")
    assert code == 2 and "holds nothing to push" in error and not list(tmp_path.glob("*mine*"))
    code, _, error = push(cli, run, "preferences")
    assert code == 2 and error.endswith("preferences.jsonl holds nothing to push\n") and hub.asked == []


def test_without_a_token_nothing_is_asked(
    cli: Any, finished: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    code, _, error = push(cli, finished, "policy")
    assert code == 2 and "no token of the hub here; set HF_TOKEN, or log in" in error and hub.asked == []


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_wrong", "(401) does not know your token"), (READ_ONLY, "(403) says that your token may")],
)
def test_a_token_that_will_not_do(
    token: str, message: str, cli: Any, finished: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    code, _, error = push(cli, finished, "policy")
    assert code == 2 and message in error and error.count("\n") == 1 and token not in error
    assert hub.private == {} and hub.commits == 0


@pytest.mark.parametrize(
    "fault",
    [
        ("/api/repos/create", 500, "(500) refused: "),
        ("/api/repos/create", 409, "(409) says that the repository is there already"),
        ("/api/validate-yaml", 500, "goes on"),
        ("/preupload/main", 503, "(503) refused: "),
        ("/lfs/objects/batch", 401, "(401) does not know your token"),
        ("/lfs/", 500, "(500) refused: "),
        ("/commit/main", 500, "the repository is there, and the same command goes on"),
    ],
)
def test_a_hub_that_fails_on_the_way_leaves_one_line_and_nothing_half_done(
    fault: tuple[str, int, str],
    cli: Any,
    finished: Run,
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, status, message = fault
    failing = [True]
    with served(tmp_path, monkeypatch, fault=lambda _, asked: status if path in asked and failing[0] else None) as hub:
        code, _, error = push(cli, finished, "reward_model")
        assert code == 2 and message in error and error.count("\n") == 1 and TOKEN not in error, error
        assert list(here.iterdir()) == [] and hub.commits == 0
        failing[0] = False
        assert push(cli, finished, "reward_model")[0] == 0 and hub.commits == 1


def test_a_hub_out_of_reach(cli: Any, finished: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, error = push(cli, finished, "policy")
    assert code == 2 and error.startswith("error: http://127.0.0.1:9: me/my-policy could not be pushed: ")
    assert error.count("\n") == 1 and list(here.iterdir()) == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, error = push(cli, finished, "policy")
    assert code == 2 and "offline mode is enabled" in error


@pytest.mark.slow
def test_address_and_token_are_those_of_the_environment(finished: Run, tmp_path: Path) -> None:
    with fake_hub(tmp_path / "hub") as hub:
        told = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        words = ["export", str(finished.folder), "--what", "policy", "--push-to-hub", "me/mine"]
        done = subprocess.run(
            [sys.executable, "-m", "rlaif", *words],
            env=os.environ | told | {"HF_HOME": str(tmp_path / "hf")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert hub.private == {"models/me/mine": True} and "README.md" in hub.files("models/me/mine")
