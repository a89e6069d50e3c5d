"""A whole study on a tiny model: arms over seeds, the contest, held-out human labels, the page; and what it refuses."""

from __future__ import annotations

import importlib
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rlaif.config import dump_recipe, load_recipe
from rlaif.digest import hash_path
from rlaif.errors import ConfigError, ModelError
from rlaif.jsonl import read_jsonl, read_objects
from rlaif.records import Judgment, Message, Pair, Preference, Prompt
from rlaif.resources import resolve
from rlaif.study import contest
from rlaif.study import run as study_run
from rlaif.study.config import arm_runs, load_study, recipe_of
from rlaif.study.contest import meetings, prompts_of
from rlaif.study.page import Page, read_comparison
from rlaif.study.run import heldout_labels, run_study
from rlaif.testing import CONSTITUTION, small_recipe
from tests.forked import exit_code

ARMS: dict[str, dict[str, object]] = {
    "rlaif": {},
    "rlhf": {},
    "hybrid": {},
    "direct": {},
    "best_of_n": {"overrides": ["optimise.n=2"]},
    "length_only": {},
}


def write_study(folder: Path, recipe: Path, human: Path, **changes: object) -> Path:
    values: dict[str, object] = {
        "schema": "rlaif/study/v1",
        "name": "tiny",
        "title": "A tiny study",
        "recipe": str(recipe),
        "arms": ARMS,
        "seeds": [0, 1],
        "pairs": "human",
        "human_data": [{"kind": "file", "path": str(human)}],
        "judge": {"backend": "scripted", "model": "tests.scripted_judge:likes_short"},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def material(tmp_path_factory, shallow_folder):
    """The recipe that all arms share, and human labels on its prompts: people like letters, as the judge does."""
    folder = tmp_path_factory.mktemp("study")
    recipe = small_recipe(
        folder,
        str(shallow_folder),
        prompts=40,
        prompts__heldout=12,
        prompts__sources=[{"kind": "file", "path": str(folder / "prompts.jsonl"), "tags": ["harmful"]}],
        judge__model="tests.scripted_judge:every_part",
        evaluate__prompts=6,
        evaluate__bootstrap_samples=60,
        optimise__steps=1,
        optimise__rollouts_per_step=4,
        optimise__minibatch_size=4,
        optimise__epochs=1,
        reward__epochs=1,
    )
    question = '\n    question: Letters?\n    desired: "yes"'
    asked = CONSTITUTION.replace("more plain letters?", "more plain letters?" + question)
    (folder / "letters.yaml").write_text(asked)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    rows = [{"prompt": f"Say {i}", "chosen": f"letters {'abc' * (i % 3 + 1)}", "rejected": f"0{i}"} for i in range(40)]
    (folder / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def done(material, tmp_path_factory, blank_plots):
    """The study, run once."""
    path = write_study(material, material / "recipe.yaml", material / "human.jsonl")
    folder = tmp_path_factory.mktemp("studies") / "tiny"
    said = run_study(load_study(path), folder)
    return path, folder, said


def test_every_arm_is_a_run_and_they_differ_only_in_where_feedback_comes_from(done):
    path, folder, _ = done
    study = load_study(path)
    runs = list(arm_runs(study, folder))
    assert len(runs) == 2 * len(ARMS) and all(run.run.report.exists() for run in runs)
    found, _ = read_comparison(folder)
    assert set(found.differences) <= {
        key for key in found.differences if key.startswith(("preferences.labels", "optimise"))
    }
    sources = {
        run.arm: {row.source for row in read_jsonl(run.run.preferences, Preference)}
        for run in runs
        if run.run.preferences.exists()
    }
    assert sources["rlaif"] == {"ai"} and sources["rlhf"] == {"human"}
    assert sources["hybrid"] == {"human"}, "people labelled every pair that the judge did, and where both did they win"
    assert "direct" not in sources, "the judge scores rollouts itself"


def test_all_arms_meet_on_the_same_prompts_seed_by_seed(done):
    path, folder, _ = done
    study = load_study(path)
    met = list(meetings(list(arm_runs(study, folder)), prompts_of(study)))
    assert len(met) == 6 * 2 * 21, "six prompts, two seeds, seven contestants two by two"
    assert all(one.seed == other.seed and one.arm != other.arm for _, _, one, other in met)
    judged = {judgment.pair.id for judgment in read_jsonl(folder / "contest" / "judgments.jsonl", Judgment)}
    assert judged == {meeting.pair.id for meeting in met if meeting.one.text != meeting.other.text}


def test_reward_models_are_measured_on_labels_that_trained_none(done):
    path, folder, _ = done
    study = load_study(path)
    labels = {label.pair.id for label in heldout_labels(study, folder)}
    assert len(labels) == 12
    rows = [row for _, row in read_objects(folder / "accuracy.jsonl")]
    assert {row["pair_id"] for row in rows} == labels
    assert {(row["arm"], row["seed"]) for row in rows} == {
        (arm, seed) for arm in ("rlaif", "rlhf", "hybrid", "best_of_n", "length_only")[:4] for seed in (0, 1)
    }
    for run in arm_runs(study, folder):
        if run.run.preferences.exists():
            assert not labels & {row.pair_id for row in read_jsonl(run.run.preferences, Preference)}


def test_the_page_says_what_the_numbers_beside_it_say(done):
    _, folder, said = done
    page = (folder / "comparison.html").read_text()
    raw = json.loads((folder / "comparison.json").read_text())
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    (contest,) = raw["contests"]
    assert contest["games"] == 6 * 2 * 21 and len(contest["win_rates"]) == 21
    assert {row["arm"] for row in contest["league"]["standings"]} == {*ARMS, "reference"}
    at_equal_length = contest["length_controlled"]
    assert [row["prompt_term"] for row in at_equal_length] == [
        "reference" in (r["one"], r["other"]) for r in at_equal_length
    ]
    assert "how hard each prompt is against the reference" in page
    for arm in ARMS:
        assert f">{arm}<" in page and any(line.startswith(arm) for line in said)
    assert set(raw["reward_models"]["accuracy"]) == {"rlaif", "rlhf", "hybrid", "best_of_n"}
    assert raw["costs"]["rlhf"]["spent"]["human_labels"] == 28 and raw["costs"]["direct"]["spent"]["labels"] == 0
    assert any("missed 1 time in 5" in caution for caution in raw["cautions"])
    assert raw["unjudged"]["failed"] == 0
    assert "refuses" in page.lower() and set(raw["refusals"]) == {*ARMS, "reference"}


def test_running_it_again_does_nothing_and_ends_in_the_same_bytes(done, capsys):
    path, folder, said = done
    files = [folder / "comparison.json", folder / "comparison.html", folder / "accuracy.jsonl", folder / "contest"]
    before = [hash_path(file) for file in files]
    assert run_study(load_study(path), folder) == said
    assert [hash_path(file) for file in files] == before
    out = capsys.readouterr()
    assert "done in" not in out.err + out.out, "every stage was up to date"


def test_the_same_page_in_a_notebook(done):
    _, folder, _ = done
    shown = Page(folder)._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "A tiny study" in shown


def test_peoples_answers_join_the_contest(done):
    """`rlaif annotate` on the contest's folder: people's judgments are a second contest on the page, never mixed in."""
    _, folder, _ = done
    judged = read_jsonl(folder / "contest" / "judgments.jsonl", Judgment)[:20]
    people = [Judgment(pair=j.pair, source="human", annotator="ann", p_a=1.0) for j in judged]
    path = folder / "contest" / "annotations.jsonl"
    path.write_text("".join(j.model_dump_json() + "\n" for j in people))
    try:
        found, _ = read_comparison(folder)
        assert [one.judge for one in found.judged] == ["judge", "people"]
    finally:
        path.unlink()


def test_a_contest_is_held_again_when_the_judges_own_files_change(tmp_path, monkeypatch):
    """Its code, what that imports, its template: with the same name each is another judge."""
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "contest_judge.py": "import contest_taste\ndef f(request): ...\n",
        "contest_taste.py": "taste = 1\n",
        "asks.jinja": resolve("prompts/judge", "compare").read_text(),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    judge = ["judge.backend=scripted", "judge.model=contest_judge:f", f"label.mode.template={tmp_path / 'asks.jinja'}"]
    recipe = load_recipe("quickstart", judge)
    found = [contest._identity(recipe, [])]
    for name, text in files.items():
        found.append(contest._identity(recipe, []))
        (tmp_path / name).write_text(text + "\n")
    found.append(contest._identity(recipe, []))
    assert found[0] == found[1] and [found[1:].count(one) for one in found[1:]] == [1] * 4


def test_a_changed_human_label_reaches_the_figures(tmp_path, monkeypatch):
    """The margins of a reward model are kept; what people said is read anew."""
    pair = Pair.of(Prompt.of((Message(role="user", content="Hi"),)), "yes", "no")
    run = SimpleNamespace(reward_model=tmp_path / "reward_model")
    run.reward_model.mkdir()
    recipe = SimpleNamespace(reward=None, policy=SimpleNamespace(dtype="float32"))
    scored = []
    monkeypatch.setattr("rlaif.rewards.model.score_pairs", lambda *_: scored.append(1) or {pair.id: 2.0})
    for p_a in (0.0, 0.0, 1.0):
        label = Judgment(pair=pair, source="human", annotator="ann", p_a=p_a)
        monkeypatch.setattr(study_run, "heldout_labels", lambda *_, label=label: [label])
        study_run.measure_accuracy(None, tmp_path, [("arm", 0, recipe, run)])
        assert [row["p_human"] for _, row in read_objects(tmp_path / "accuracy.jsonl")] == [p_a]
    assert len(scored) == 2


# ------------------------------------------------------------------------------------------------- killed

KILLS = (
    ("rlaif.study.run", "run_recipe", "", 2),
    ("rlaif.study.contest", "write_jsonl", "judgments.jsonl", 1),
    ("rlaif.study.run", "write_jsonl", "accuracy.jsonl", 2),
    ("rlaif.study.page", "write_study_page", "", 1),
)
"""Between two arms, in the contest, between two reward models, before the page: the process dies before the function of
that module is called, with a path that ends so, for the so-manyth time."""


def die_at(module: str, name: str, ending: str, nth: int) -> None:
    """Let this process kill itself there."""
    place = importlib.import_module(module)
    original = getattr(place, name)
    calls = []

    def deadly(*arguments: object, **options: object) -> object:
        if str(arguments[0]).endswith(ending):
            calls.append(arguments)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(place, name, deadly)


def work(path: Path, folder: Path, place: tuple[str, str, str, int] | None) -> None:
    import torch

    torch.set_num_threads(1)
    if place is not None:
        die_at(*place)
    run_study(load_study(path), folder)


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_in_the_same_bytes(material, tmp_path):
    arms = {"rlaif": {}, "rlhf": {}}
    path = write_study(tmp_path, material / "recipe.yaml", material / "human.jsonl", arms=arms, seeds=[0])
    peaceful, killed = tmp_path / "peaceful", tmp_path / "killed"
    assert exit_code(work, path, peaceful, None) == 0
    assert [exit_code(work, path, killed, place) for place in KILLS] == [-9] * len(KILLS)
    assert exit_code(work, path, killed, None) == 0
    for name in ("comparison.html", "accuracy.jsonl", "contest/judgments.jsonl", "study.yaml"):
        assert hash_path(killed / name) == hash_path(peaceful / name), name
    figures = [json.loads((folder / "comparison.json").read_text()) for folder in (killed, peaceful)]
    for found in figures:
        for arm in arms:
            assert found["costs"][arm]["spent"].pop("seconds") >= 0, "by the clock"
    assert figures[0] == figures[1]


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"rlief": {}}}, r"rlief: no kind of this name; did you mean 'rlaif'\?"),
        ({"arms": {"a/b": {"kind": "rlaif"}}}, r"'a/b': an arm's name is letters"),
        ({"arms": {"rlhf": {}}, "human_data": [], "pairs": "sampled"}, "arms.rlhf learns from people, so human_data"),
        ({"human_data": [], "arms": {"rlaif": {}}}, "pairs is 'human', so human_data must name them"),
        ({"seeds": [1, 1]}, "seeds: one is there twice"),
        ({"arms": {"reference": {"kind": "rlaif"}}}, "the policy before training"),
        ({"prises": {}}, r"prises: no such key; did you mean 'prices'\?"),
        ({"shema": "x"}, r"shema: no such key; did you mean 'schema'\?"),
        ({"arms": {"rlaif": {"overides": []}}}, r"arms.rlaif.overides: no such key; did you mean 'overrides'\?"),
        ({"judge": {"backend": "local", "modl": "x"}}, r"judge.modl: no such key; did you mean 'model'\?"),
        (
            {"human_data": [{"kind": "file", "path": "x", "frm": 1}]},
            "human_data.0.frm: no such key; did you mean 'form'",
        ),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0"),
        ({"seeds": [True]}, "seeds: a number, not true or false"),
    ],
)
def test_a_study_that_does_not_hold_together_is_one_clear_line(material, tmp_path, changes, said):
    path = write_study(tmp_path, material / "recipe.yaml", material / "human.jsonl", **changes)
    with pytest.raises(ConfigError, match=said):
        load_study(path)


def test_an_override_that_does_not_fit_is_said_before_anything_runs(material, tmp_path):
    arms = {"rlaif": {}, "rlhf": {"overrides": ["optimise.stps=3"]}}
    study = load_study(write_study(tmp_path, material / "recipe.yaml", material / "human.jsonl", arms=arms))
    with pytest.raises(ConfigError, match=r"arms.rlhf: override: optimise.stps: no such key; did you mean 'steps'\?"):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": {"rlaif": {}, "rlhf": {"overrides": ["policy.model=./nope"]}}},
        {"arms": {"rlaif": {}, "direct": {"overrides": ["optimise.scoring.model={backend: local, model: ./nope}"]}}},
        {"judge": {"backend": "local", "model": "./nope"}},
    ],
    ids=["a policy", "a scoring judge", "the contest's judge"],
)
def test_a_model_that_is_nowhere_is_missed_before_the_first_arm(material, tmp_path, changes):
    study = load_study(write_study(tmp_path, material / "recipe.yaml", material / "human.jsonl", **changes))
    with pytest.raises(ModelError, match=r"model folder '\./nope' does not exist"):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_keeps_its_study(done, material, tmp_path):
    _, folder, _ = done
    other = write_study(tmp_path, material / "recipe.yaml", material / "human.jsonl", name="other")
    with pytest.raises(ConfigError, match="holds the study 'tiny'"):
        run_study(load_study(other), folder)
    fewer = write_study(tmp_path, material / "recipe.yaml", material / "human.jsonl", arms={"rlhf": {}})
    with pytest.raises(ConfigError, match="the arm 'rlaif' is there and the study has it no more"):
        run_study(load_study(fewer), folder)


def test_kinds_change_what_they_say_and_nothing_else(material, tmp_path):
    study = load_study(write_study(tmp_path, material / "recipe.yaml", material / "human.jsonl", arms={
        **ARMS, "sft_on_judge": {}, "mine": {"kind": "custom", "overrides": ["optimise.steps=7"]},
    }))  # fmt: skip
    recipes = {arm: recipe_of(study, arm, 3) for arm in study.arms}
    assert {recipe.seed for recipe in recipes.values()} == {3}
    assert recipes["direct"].optimise.scoring.kind == "judge"
    assert recipes["length_only"].optimise.scoring.kind == "length"
    assert recipes["best_of_n"].optimise.kind == "best_of_n" and recipes["best_of_n"].optimise.n == 2
    assert recipes["sft_on_judge"].optimise.kind == "sft" and recipes["sft_on_judge"].optimise.data.kind == "judge"
    assert recipes["mine"].optimise.steps == 7 and recipes["mine"].preferences.labels.kind == "ai"
    assert recipes["rlhf"].preferences.labels.kind == "human"
    assert recipes["hybrid"].preferences.labels.kind == "mix"


def test_check_reads_a_study_and_its_arms(cli, tmp_path):
    study = "schema: rlaif/study/v1\nname: one\nrecipe: quickstart\narms:\n  rlaif: {}\n"
    (tmp_path / "study.yaml").write_text(study)
    assert cli("check", "study.yaml")[:2] == (0, "study.yaml: study one, arms rlaif: valid\n")
    for text, reason in (
        (study.replace("{}", "{overides: []}"), "arms.rlaif.overides: no such key; did you mean 'overrides'?"),
        (study.replace("{}", "{overrides: [optimise.stepz=1]}"), "did you mean 'steps'?"),
    ):
        (tmp_path / "study.yaml").write_text(text)
        code, _, err = cli("check", "study.yaml")
        assert code == 2 and reason in err
