"""Every command that README and docs print is one that the command line takes, with a recipe that loads; and it runs.

Fast: options and arguments are parsed by the real command line, and a shipped recipe is loaded with the command's
overrides. Slow: the commands of each page are run one after the other in an empty folder, with a tiny policy and a
scripted judge in place of the quickstart's, and with the files that the page presupposes.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest
import typer
import yaml
from typer.core import TyperGroup

from rlaif.annotate.desk import read_questions
from rlaif.annotate.store import AnswerStore
from rlaif.cli import app
from rlaif.config import load_recipe
from rlaif.run_folder import Run
from rlaif.serve.guard.feedback import keep_feedback
from tests.annotated import given

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if page.name != "strong-judge.md"  # its commands are run, at small size, by test_strong_road.py
]
STARTS = re.compile(r"^    (accelerate launch .* -m )?(rlaif .*)$", re.DOTALL)
ASSIGNS = re.compile(r"^    ([A-Z]+)=('.*'|\S+)$")


class Command(NamedTuple):
    """As a page prints it."""

    page: str
    line: int
    words: list[str]
    launched: bool
    """By `accelerate launch`."""

    @property
    def text(self) -> str:
        return " ".join(self.words)


def commands(page: Path) -> Iterator[Command]:
    lines = page.read_text().splitlines()
    variables: dict[str, str] = {}
    number = 0
    while number < len(lines):
        first, text = number, lines[number]
        while STARTS.match(text) and (words := words_of(text)) is None:
            number += 1
            text = text.removesuffix("\\") + lines[number]
        number += 1
        if assigned := ASSIGNS.match(text):
            variables[assigned[1]] = shlex.split(assigned[2])[0]
        elif found := STARTS.match(text):
            words = words_of(found[2]) or []
            words = [re.sub(r"^\$([A-Z]+)$", lambda name: variables[name[1]], word) for word in words]
            yield Command(page.name, first + 1, words, bool(found[1]))


def words_of(text: str) -> list[str] | None:
    """The words of a command without its comment; None where it goes on in the next line."""
    if text.endswith("\\"):
        return None
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # a quotation that is open yet
        return None


ALL = [command for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("command", ALL, ids=[f"{c.page}:{c.line} {c.words[1]}" for c in ALL])
def test_a_printed_command_is_one(command: Command) -> None:
    command_or_group = typer.main.get_command(app)
    context = command_or_group.make_context("rlaif", list(command.words[1:]))
    while isinstance(command_or_group, TyperGroup) and (rest := [*context._protected_args, *context.args]):
        name, found, rest = command_or_group.resolve_command(context, rest)
        assert found is not None
        command_or_group, context = found, found.make_context(name, rest, parent=context)
    recipe = context.params.get("recipe")
    if recipe and recipe != "RECIPE" and not Path(recipe).suffix:
        load_recipe(recipe, context.params.get("overrides") or [])


# ------------------------------------------------------------------------------------------------- they are run, too

NOT_RUN = {
    r" hh-(rlaif|rlhf|hybrid) ": "vLLM on a GPU, and a data set of the hub",
    r"runs/rlaif runs/rlhf": "of the runs on a GPU",
    r"kind=vllm|vllm:": "a vLLM server",
    r"backend=client": "a server that somebody else runs",
    r"backend=ray judge.workers=64": "64 GPUs",
    r"backend=ray": "a Ray cluster: test_ray.py starts one",
    r"compute\.sharding": "several processes: test_launch.py runs them",
    r"judge\.model=judges/mine": "a judge trained for minutes: test_judge_train.py runs one",
    r"--push-to-hub": "a hub: test_share.py runs one",
    r"iterate\.self_reward": "the embedded model judges itself: test_gates.py runs a tiny one",
    r"judge train": "a judge trained for minutes: test_judge_train.py runs one",
}
"""What a command holds that cannot run in a minute on any machine, and why."""
MAY_SAY_NO = re.compile(r"rlaif (audit|constitution distill|iterate|redteam) ")
"""Exit code 1 is an answer of these."""
SMALL: dict[str, dict[str, Any]] = {
    "judge": {"backend": "scripted", "model": "tests.scripted_judge:likes_letters_anyhow"},
    "prompts": {"heldout": 4, "limit": 12},
    "sample": {"max_tokens": 12},
    "label": {"max_failures": 0.9},
    "preferences": {"tie_margin": 0.01},
    "reward": {"epochs": 1, "microbatch_tokens": 4096},
    "optimise": {"steps": 2, "rollouts_per_step": 8, "minibatch_size": 8, "max_tokens": 12, "lora": None},
    "evaluate": {"prompts": 4, "bootstrap_samples": 50, "measures": [{"kind": "words"}]},
}
"""What makes the quickstart small; what a command says itself goes before."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, shallow_folder: str) -> Path:
    """A folder with everything that a page may presuppose."""
    folder = tmp_path_factory.mktemp("pages")
    recipe = yaml.safe_load((ROOT / "rlaif" / "recipes" / "quickstart.yaml").read_text())
    for name, values in SMALL.items():
        recipe[name] = values if name == "judge" else recipe[name] | values
    recipe["policy"] = {"backend": "local", "model": shallow_folder, "dtype": "float32"}
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    rows = [
        {
            "prompt": f"Say {n}",
            "chosen": f"plain letters {n}",
            "rejected": f"{n} " * 4,
            "annotator": "ab"[n % 2],
            "seconds": 5,
        }
        for n in range(60)
    ]
    for name in ("labels", "known"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(folder / "labels.jsonl", folder / "FILE")
    asked = [json.loads(line) for line in (ROOT / "prompts" / "sets" / "everyday.jsonl").read_text().splitlines()]
    shown = [{"prompt": row["prompt"], "completion": "plain letters alone"} for row in asked]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    for name in ("my-constitution", "my", "a", "old"):
        shutil.copy(ROOT / "constitutions" / "harmlessness.yaml", folder / f"{name}.yaml")
    for name in ("b", "new"):
        shutil.copy(ROOT / "constitutions" / "plain-and-brief.yaml", folder / f"{name}.yaml")
    shown = re.search(r"(?m)(^    schema:.*\n(?:^    .*\n)+)", (ROOT / "docs" / "signals.md").read_text())
    assert shown is not None
    (folder / "polite.yaml").write_text(dedent(shown[1]))
    rated = [
        {"prompt": f"Say {n}", "response": f"{'lovely' if n % 2 else 'awful'} {n}", "passes": n % 2 > 0}
        for n in range(80)
    ]
    (folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))
    (folder / "more.jsonl").write_text("".join(json.dumps({"prompt": f"Tell {n}"}) + "\n" for n in range(12)))
    arms = {name: {"kind": "custom", "overrides": [f"optimise.learning_rate={rate}"]} for name, rate in RATES.items()}
    study = {"schema": "rlaif/study/v1", "name": "my-study", "title": "Two rates", "recipe": "small.yaml"}
    study |= {"arms": arms, "seeds": [0], "pairs": "sampled"}
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return folder


RATES = {"slow": 1e-4, "fast": 1e-3}


def small(command: Command) -> list[str]:
    """Its words after `rlaif`, with the small recipe in place of the quickstart and of RECIPE."""
    words = ["small.yaml" if word in ("quickstart", "RECIPE") else word for word in command.words[1:]]
    if words[0] in ("run", "reward", "iterate") and "--out" not in words:
        words += ["--out", f"runs/line-{command.line}"]
    if words[:2] == ["constitution", "distill"] and "--recipe" not in words:
        words += ["--recipe", "small.yaml"]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("page", [page.name for page in PAGES if any(commands(page))])
def test_the_commands_of_a_page_run(
    page: str, prepared: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(self: Any, sockets: Any) -> None:
        raise KeyboardInterrupt

    pytest.importorskip("uvicorn", reason="needs the extra `annotate`")
    monkeypatch.setattr("uvicorn.Server.run", interrupted)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("RLAIF_REPLIES", str(prepared / "replies.sqlite"))
    for command in (one for one in ALL if one.page == page):
        if command.launched or any(re.search(pattern, f"{command.text} ") for pattern in NOT_RUN):
            continue
        words = small(command)
        made = words[words.index("--out") + 1] if "--out" in words else ""
        for name in {
            re.sub(r"/(judgments|responses)\.jsonl$", "", word) for word in words if re.match(r"runs/|RUN$", word)
        } - {made}:
            presuppose(prepared, tmp_path / name, cli)
        if words[0] == "reward":
            presuppose(prepared, tmp_path / made, cli)
            words.append("--redo")
        if words[:2] == ["compare", "studies/my-study"] and not Path("studies").exists():
            cli("study", "study.yaml")
        if "--from-feedback" in words:
            tell(tmp_path / words[words.index("--from-feedback") + 1])
        if words[0] == "annotate":
            answer(Run(tmp_path / words[1]))
        code, out, error = cli(*words)
        where = f"{page}:{command.line}: {' '.join(words)}\n{out[-2000:]}\n{error}"
        assert code == 0 or (code == 1 and MAY_SAY_NO.match(command.text)), where


def presuppose(prepared: Path, folder: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    """A finished run in this folder, unless there is one: made once, then copied."""
    if folder.exists():
        return
    finished = prepared / "finished"
    if not finished.exists():
        assert cli("run", "small.yaml", "--out", str(finished))[0] == 0
    shutil.copytree(finished, folder)


def answer(run: Run) -> None:
    """As if somebody had compared every pair that the page shows."""
    with closing(AnswerStore(run.answers)) as store:
        for pair in read_questions(run, None, None, True).pairs:
            store.add(given(pair), pair)


def tell(service: Path) -> None:
    """As if users of a served policy had said something."""
    service.mkdir(parents=True, exist_ok=True)
    with closing(AnswerStore(service / "answers.sqlite")) as store:
        for number in range(8):
            body = {"kind": "edit", "prompt": f"Say {number}", "response": f"{number}", "edited": "plain letters"}
            keep_feedback(store, json.dumps(body).encode())


def test_what_is_not_run_is_still_there() -> None:
    """A reason that stands for no command any more goes."""
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, f"{c.text} ") for c in ALL)] == []
