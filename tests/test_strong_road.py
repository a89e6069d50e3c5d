"""The road of docs/strong-judge.md at its small size: the page's own commands, in order, by real vLLM on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.road import read_tokens
from rlaif.config import load_recipe
from rlaif.config.judging import PanelMode

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "strong-judge.md").read_text()
RLAIF = f'rlaif() {{ "{sys.executable}" -m rlaif "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'


def blocks(text: str) -> list[str]:
    """Everything that is indented by four spaces, paragraph by paragraph."""
    return [textwrap.dedent(block).lstrip("\n") for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.M)]


def road() -> tuple[str, list[str]]:
    """The words that make it small, and the commands; what needs the hub is left out."""
    way, _, rest = PAGE.partition("## At small size")
    (small,) = blocks(rest.partition("## What it takes")[0])
    commands = [block for block in blocks(way.partition("## The road")[2]) if "load_dataset" not in block]
    return small, commands


def test_the_page_names_every_command_of_the_road_and_the_recipe_what_the_page_says() -> None:
    small, (words, *commands) = road()
    assert words.startswith("SIZE=()") and "SIZE=(constitution=small.yaml" in small
    lines = [line for block in commands for line in block.splitlines() if line.startswith("rlaif ")]
    begun = [" ".join(line.split()[1:3]) for line in lines]
    assert begun == [
        *["audit strong-judge"] * 2,
        "run strong-judge",
        "judge train",
        "audit strong-judge",
        *["run strong-judge"] * 2,
        "compare runs/strong-judge",
    ]
    recipe = load_recipe("strong-judge")
    assert isinstance(recipe.label.mode, PanelMode) and recipe.label.mode.combine == "mean"
    assert [member.mode.kind for member in recipe.label.mode.members] == ["compare", "contrast"]
    assert recipe.label.audit is not None and recipe.label.audit.file == "runs/audit-strong-judge/audit.json"


def test_a_prefix_cache_reads_whole_blocks_that_began_an_earlier_row_once() -> None:
    shared, others = list(range(10)), [[*range(10), 20, 21], [*range(10), 30]]
    assert read_tokens([shared], block=4) == 10
    assert read_tokens([shared, *others], block=4) == 10 + (12 - 8) + (11 - 8)
    assert read_tokens([shared, shared], block=5) == 10 + 5, "the last token is computed again, and with it its block"
    assert read_tokens([[1, *shared], shared], block=4) == 11 + 10, "what stands elsewhere is not the same"


@pytest.mark.vllm
@pytest.mark.embedded
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_road_is_open(tmp_path: Path, embedded_folder: str) -> None:
    small, (_, *commands) = road()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    script = "set -e\n" + RLAIF + small + "".join(commands)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]
    judge = json.loads((tmp_path / "judges" / "distilled" / "judge.json").read_text())
    assert judge["pairs"]["train"] + judge["pairs"]["heldout"] == 8 + 14 and judge["pairs"]["audit"] == 8
    assert judge["gold"]["other_constitution"] == 0
    for run, annotator in {
        "strong-judge": "panel:compare+contrast",
        "distilled": "judges/distilled:compare-brief",
    }.items():
        rows = [json.loads(line) for line in (tmp_path / "runs" / run / "judgments.jsonl").read_text().splitlines()]
        assert len(rows) == 8 and {row["annotator"] for row in rows} == {annotator}
        assert (tmp_path / "runs" / run / "report.html").exists()
    assert (tmp_path / "comparison.html").exists()
