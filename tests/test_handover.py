"""The files of docs/handover are what a trainer loads, at most five lines of code each, and score as rlaif does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

import rlaif
from rlaif.cli import app
from rlaif.jsonl import write_jsonl
from rlaif.models.local.load import load_tokenizer
from tests.peers.run import PEERS

FOLDER = Path(__file__).parents[1] / "docs" / "handover"
FILES = sorted(FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def run(shallow_folder, tmp_path_factory):
    """A folder with runs/quickstart/reward_model in it."""
    pairs = [(f"Say {n}", "letters" + "x" * (n % 5), "0123" + "9" * (n % 7)) for n in range(12)]
    judged = rlaif.judge(pairs, "plain-and-brief", "scripted:rlaif.testing:likes_letters")
    folder = tmp_path_factory.mktemp("handover")
    rows = rlaif.preferences(judged, heldout_share=0.3, tie_margin=0.0)
    write_jsonl(folder / "runs/quickstart/preferences.jsonl", rows)
    rlaif.train_reward_model(
        rows, shallow_folder, folder / "runs/quickstart/reward_model", lora=None, epochs=1, minibatch_size=8
    )
    return folder


def loaded(path: Path) -> ModuleType:
    """As trainers load a file that they are given the path of."""
    spec = importlib.util.spec_from_file_location("given", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_file_gives_its_trainer_the_value(path, run, monkeypatch):
    monkeypatch.chdir(run)
    (wanted,) = rlaif.RewardModel.load("runs/quickstart").score([("Say it", "letters")])
    module = loaded(path)
    turn = [{"role": "user", "content": "Say it"}]
    if path.stem == "trl":
        (found,) = module.reward(prompts=["Say it"], completions=["letters"], completion_ids=[[1]])
    elif path.stem == "verl_score":
        found = module.compute_score("rlaif", "letters", "", {"prompt": turn})["score"]
    else:
        tokenizer = load_tokenizer(str(run / "runs/quickstart/reward_model"))
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        found = module.reward_func([prompt + "letters"], [prompt], [""])["rewards"].item()
    assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_file_is_five_lines(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= 5 and lines[0].startswith('"""')


def test_the_page_has_a_row_for_every_peer_and_names_every_file():
    page = (FOLDER / "README.md").read_text()
    for name, peer in PEERS.items():
        assert f"| {name} | {peer.package.partition('==')[2]} | " in page
    assert [path.name for path in FILES if path.name not in page] == []


COMMANDS = re.findall(r"^    rlaif (.*)$", (FOLDER / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_is_one_and_exports_are_run(command, run, monkeypatch):
    """`serve` is run by the peers' scripts and by test_serve.py."""
    monkeypatch.chdir(run)
    name, *words = command.split()
    if name == "serve":
        group = typer.main.get_command(app)
        group.commands[name].make_context(name, words)
        return
    done = CliRunner().invoke(app, [name, *words])
    assert done.exit_code == 0, done.output
    assert Path(words[-1]).stat().st_size > 0
