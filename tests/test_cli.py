"""The command line: quick to answer, one line and exit code 2 for what is the user's to mend, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rlaif
from rlaif.cli import main
from rlaif.models.cache.store import ReplyStore
from rlaif.models.engine import Reply
from rlaif.pipeline import STAGES
from rlaif.resources import available, resolve
from rlaif.run_folder import Run
from tests.audited import CONSTITUTION, write_gold
from tests.fake_run import inputs, write_run

PEOPLE = ("route", "annotate", "annotators", "conflicts", "export")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


# -------------------------------------------------------------------------------------------------------- help


def test_help_imports_little_and_nothing_heavy():
    code = "import sys, rlaif.cli; sys.argv[1:] = ['--help']\ntry: rlaif.cli.main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    loaded = done.stdout.splitlines()[-1].split()
    heavy = {"torch", "transformers", "datasets", "numpy", "scipy", "matplotlib", "pydantic", "jinja2", "httpx"}
    assert heavy & set(loaded) == set()
    assert len(loaded) < 500, "330 are 0.2 s; the promise is 0.5"


def test_ppo_is_an_older_name_of_optimise(cli, monkeypatch, tmp_path):
    """The command, and the section in overrides."""
    seen = []

    def run_recipe(recipe, folder, only, **_):
        seen.append((recipe.optimise.kind, recipe.optimise.steps, only))
        return Run(folder)

    monkeypatch.setattr("rlaif.pipeline.run_recipe", run_recipe)
    assert cli("ppo", "hh-rlaif", "ppo.steps=3")[0] == 0
    assert cli("optimise", "hh-rlaif", "optimise.steps=4")[0] == 0
    assert seen == [("ppo", 3, ["optimise"]), ("ppo", 4, ["optimise"])]


def test_every_command_explains_itself(cli):
    every = cli("--help")[1]
    for command in ("run", *STAGES, "iterate", "check", "study", "compare", "schema", "version", *PEOPLE):
        code, out, _ = cli(command, "--help")
        assert code == 0 and "Usage:" in out and command in every, command


def test_version(cli):
    assert cli("version") == (0, rlaif.__version__ + "\n", "")


# ------------------------------------------------------------------------------------------------------ mistakes


def bad(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


RECIPE = """
name: bad
constitution: {constitution}
policy: {{backend: local, model: smollm2-135m}}
judge: {{backend: scripted, model: "tests.scripted_judge:likes_short"}}
prompts: {{sources: [{{kind: file, path: {prompts}}}], heldout: 1}}
label: {{mode: {{kind: compare, template: {template}}}}}
"""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run", "quickstrat"], "no recipe 'quickstrat'; did you mean 'quickstart'?"),
        (["run", "there/quickstart.yaml"], "there/quickstart.yaml: no such recipe file; did you mean 'quickstart'?"),
        (["run", "quickstart", "optimise.stepz=3"], "optimise.stepz: no such key; did you mean 'steps'?"),
        (
            ["optimise", "quickstart", "optimise.steps"],
            "override 'optimise.steps' is not of the form section.key=value",
        ),
        (["sample", "quickstart", "optimise.steps=many"], "(got 'many')"),
        (["run", "quickstart", "--out", "file"], "file: cannot be a run folder: "),
        (["run", "quickstart", "--out", "."], "not empty and not a run"),
        (["label", "quickstart", "--out", "r"], "r/responses.jsonl: not there yet; run the sample stage first"),
        (["pairs", "quickstart", "--out", "r"], "r/judgments.jsonl: not there yet; run the label stage first"),
        (["reward", "quickstart", "--out", "r"], "r/preferences.jsonl: not there yet; run the pairs stage first"),
        (["optimise", "quickstart", "--out", "r"], "r/reward_model: not there yet; run the reward stage first"),
        (["evaluate", "quickstart", "--out", "r"], "r/reward_model: not there yet; run the reward stage first"),
        (["check"], "check: name at least one file, or give --list-checks"),
        (["check", "gone.yaml"], "gone.yaml: no such file"),
        (["check", "file"], "file: neither .yaml (constitution, recipe or study) nor .jinja (judge template)"),
        (["schema", "recipy"], "schema: no schema of 'recipy'; did you mean 'recipe'?"),
        (["schema", "recipe", "--out", "file/schema.json"], "file/schema.json: File exists"),
        (["schema", "recipe", "--out", "."], "schema: --out . is a folder; name a file in it"),
        (["cache", "prune"], "cache prune: say which: --older-than-days, --model or --all"),
        (["cache", "prune", "--all", "--model", "x"], "cache prune: --all is every reply; leave it out, or the other"),
        (["compare", "gone", "--out", "page.html"], "compare: give two or more different run folders"),
        (["compare", "gone", "lost", "--out", "page.html"], "gone: no such run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(cli, tmp_path, words, reason):
    (tmp_path / "file").write_text("x")
    code, _, err = cli(*words)
    assert code == 2 and reason in err
    assert err.startswith("error: ") and "Traceback" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("what", "text", "reason"),
    [
        ("constitution", "schema: rlaif/constitution/v1\nid: x\n", "bad.yaml: version: required"),
        ("constitution", "a: [", "bad.yaml:1: not valid YAML"),
        ("prompts", '{"prompt": "hi"}\n{"prompt": \n', "bad.yaml:2: not a JSON object: "),
        ("prompts", '{"promt": "hi"}\n', "bad.yaml:1: no key 'prompt', 'messages' or 'chosen'; did you mean 'promt'?"),
        ("template", "{% block user %}{{ conversatoin }}{% endblock %}", "bad.yaml:1: "),
    ],
)
def test_a_bad_file_is_named_with_its_line(cli, tmp_path, what, text, reason):
    names = {"constitution": "plain-and-brief", "prompts": "everyday", "template": "compare"}
    names[what] = bad(tmp_path, "bad.yaml", text)
    recipe = bad(tmp_path, "recipe.yaml", RECIPE.format(**names))
    out = tmp_path / "run"
    if what == "template":  # where the judge is first needed
        out.mkdir()
        code, _, err = cli("label", recipe, "--out", str(out))
        assert code == 2 and "responses.jsonl: not there yet" in err
        (out / "responses.jsonl").write_text("")
    code, _, err = cli("label" if what == "template" else "sample", recipe, "--out", str(out))
    assert code == 2 and reason in err and "Traceback" not in err


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_traceback_shows_where_it_arose_wherever_it_stands(cli, place, monkeypatch):
    words = ["run", "quickstart", "optimise.stepz=3"]
    monkeypatch.setattr(sys, "argv", ["rlaif", *words[:place], "--traceback", *words[place:]])
    with pytest.raises(rlaif.errors.ConfigError, match="no such key"):
        main()


def test_a_report_of_a_run_that_has_nothing_says_so(cli, tmp_path):
    code, out, err = cli("report", "quickstart", "--out", "r")
    assert (code, err) == (0, "") and "report: r/report.html" in out
    assert "Not evaluated yet" in (tmp_path / "r" / "report.html").read_text()


def test_what_the_system_refuses_is_one_line(cli, monkeypatch):
    """A full disk, say, wherever it shows."""

    def full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlaif.pipeline.run_recipe", full)
    code, _, err = cli("run", "quickstart")
    assert (code, err) == (2, "error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("days", ["-1", "nan", "x"])
def test_an_age_that_is_none_removes_nothing(cli, days):
    code, _, err = cli("cache", "prune", "--older-than-days", days)
    assert code == 2 and "Invalid value for '--older-than-days'" in err


def test_the_cache_is_listed_with_whole_names_in_columns(cli, monkeypatch, tmp_path):
    """`prune --model` wants the name as it is, brackets and all, however narrow the screen."""
    monkeypatch.setenv("RLAIF_REPLIES", str(tmp_path / "replies.sqlite"))
    monkeypatch.setenv("COLUMNS", "40")
    names = ["Qwen/" + "long-" * 12 + "name", "[red]x[/red]"]
    for name, count in zip(names, (12, 3), strict=True):
        store = ReplyStore(tmp_path / "replies.sqlite")
        store.save({f"{name} {n}".encode(): Reply(text="x") for n in range(count)}, name, "1")
        store.close()
    code, out, _ = cli("cache")
    path, *lines = out.splitlines()
    assert (code, path) == (0, str(tmp_path / "replies.sqlite"))
    assert [line.split()[0] for line in lines] == ["model", *names]
    assert len({len(line) for line in lines}) == 1 and lines[1].split()[1:3] == ["1", "12"]
    assert cli("cache", "prune", "--model", names[1])[1].startswith("3 replies removed")


def test_an_interrupt_says_how_to_go_on(cli, monkeypatch):
    def interrupted(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlaif.pipeline.run_recipe", interrupted)
    code, _, err = cli("run", "quickstart")
    assert (code, err) == (130, "stopped; run the same command again to go on\n")


# --------------------------------------------------------------------------------------------- check and schema


@pytest.mark.parametrize("kind", ["constitutions", "recipes", "prompts/judge"])
def test_what_is_shipped_passes_the_check(cli, kind):
    files = [str(resolve(kind, name)) for name in available(kind)]
    code, out, err = cli("check", *files)
    assert (code, err) == (0, "") and out.count(": valid") == len(files)
    assert "warning" not in out, "what we ship is an example to follow"


def test_check_looks_at_all_files_and_then_fails(cli, tmp_path):
    good = str(resolve("constitutions", "harmlessness"))
    broken = bad(tmp_path, "broken.yaml", "schema: rlaif/constitution/v1\nid: x\nprinciples: []\nnmae: y\n")
    dated = bad(tmp_path, "dated.yaml", "policy: 2024-13-01\n")
    recipe = bad(tmp_path, "recipe.yaml", "policy: {}\n")
    template = bad(tmp_path, "x.jinja", "{% block user %}")
    code, out, err = cli("check", broken, good, dated, recipe, template)
    assert code == 2 and f"{good}: constitution harmlessness" in out and "Traceback" not in err
    for path in (broken, dated, recipe, template):
        assert path in err


def test_the_list_of_checks(cli):
    code, out, _ = cli("check", "--list-checks")
    assert code == 0 and "max_words" in out and "no_repetition" in out


@pytest.mark.parametrize(("kind", "folder"), [("constitution", "constitutions"), ("recipe", "recipes")])
def test_the_schema_fits_what_is_shipped(cli, kind, folder):
    code, out, _ = cli("schema", kind)
    assert code == 0
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(out)
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.check_schema(schema)
    for name in available(folder):
        value = yaml.safe_load(resolve(folder, name).read_text())
        assert [error.message for error in validator.iter_errors(value)] == []
        assert list(validator.iter_errors(value | {"nmae": 1}))


# -------------------------------------------------------------------------------------------------------- compare


@pytest.mark.usefixtures("blank_plots")
def test_compare_puts_runs_side_by_side(cli, tmp_path):
    runs = [str(write_run(tmp_path / name, inputs(prompts=6))) for name in ("one", "two")]
    code, out, err = cli("compare", *runs, "--out", "pages/both.html")
    assert (code, err) == (0, "") and "page: pages/both.html" in out
    assert (tmp_path / "pages" / "both.html").read_text().startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "pages" / "both.json").read_text())


# -------------------------------------------------------------------------------------------- the judge's commands


@pytest.fixture
def judged_by(tmp_path, monkeypatch):
    """Words that name a scripted judge of tests/audited.py, its constitution, and labels that it may be right about."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    (tmp_path / "goodness.yaml").write_text(CONSTITUTION)
    write_gold(tmp_path / "gold.jsonl", 40)

    def words(judge: str) -> list[str]:
        return [
            "judge.backend=scripted",
            f"judge.model=tests.audited:{judge}",
            "constitution=goodness.yaml",
            "label.mode={kind: compare}",
            "evaluate.bootstrap_samples=200",
        ]

    return words


@pytest.mark.parametrize(
    ("judge", "gate", "expected"),
    [
        ("sees_merit", "accuracy=0.9", 0),
        ("sees_position", "consistency=0.7", 1),
        ("sees_merit", None, 0),
        ("sees_position", None, 0),
        ("sees_merit", "accuracy=9", 2),
    ],
)
@pytest.mark.usefixtures("blank_plots")
def test_the_gate_is_the_exit_code_of_an_audit(cli, judged_by, tmp_path, judge, gate, expected):
    gated = ["--gate", gate] if gate else []
    code, out, err = cli(
        "audit", "quickstart", *judged_by(judge), "--gold", "gold.jsonl", *gated, "--probe-pairs", "2", "--out", "a"
    )
    assert code == expected
    assert ((tmp_path / "a" / "audit.html").exists(), "error:" in err) == (expected != 2, expected == 2)
    assert ("below the gate's" in out) == (expected == 1)


def test_distilling_nothing_is_exit_code_1_and_no_constitution(cli, judged_by, tmp_path):
    code, out, _ = cli("constitution", "distill", "gold.jsonl", *judged_by("says_nothing"), "--out", "found.yaml")
    assert code == 1 and "No principle survives" in out
    assert ((tmp_path / "found.yaml").exists(), (tmp_path / "found.json").exists()) == (False, True)


def test_principles_are_left_out_and_weighed(cli, judged_by):
    code, out, _ = cli("constitution", "ablate", "quickstart", *judged_by("sees_merit"), "--gold", "gold.jsonl")
    heading, columns, *rows = out.splitlines()[-4:]
    assert code == 0 and heading.startswith("Agreement with human labels: 100% (") and columns.endswith("alone")
    assert [row.split()[0] for row in rows] == ["good", "kind"] and all("0.0 (" in row for row in rows)
    words = [*judged_by("sees_merit"), "judge.model=tests.test_ablate:says_yes_to_merit"]
    code, out, _ = cli("constitution", "fit", "quickstart", *words, "--gold", "gold.jsonl", "--out", "fitted.yaml")
    fitted, held_out, *rest = out.splitlines()[-5:]
    assert code == 0 and fitted.startswith("logistic fit on 32 pairs; held out: 8 pairs of ")
    assert ", fitted 100% (" in held_out and held_out.endswith("points: not to be told from none on so few pairs")
    assert rest[-1].endswith(": fitted.yaml") and rest[0].startswith("  good: ")


def test_a_run_goes_until_the_stage_that_is_named(cli, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "rlaif.pipeline.run_recipe", lambda recipe, out, only, **more: asked.append((out, only, more)) or Run(out)
    )
    assert cli("run", "quickstart", "--until", "label", "--out", "here")[0] == 0
    assert cli("run", "quickstart", "--out", "here", "--since", "a", "--since", "b", "--redo")[0] == 0
    assert asked == [
        (Path("here"), ["sample", "label"], {"since": [], "redo": False}),
        (Path("here"), None, {"since": [Path("a"), Path("b")], "redo": True}),
    ]
    code, _, err = cli("run", "hh-rlhf", "--until", "label")
    assert code == 2 and "label: this recipe has no such stage; it has pairs" in err
