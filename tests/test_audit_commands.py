"""`rlaif constitution ablate` and `fit` as a user calls them, on labels that a known taste has given."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlaif.audits.commands import ablate_command, fit_command
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError
from rlaif.testing import small_recipe
from rlaif.words import MINUS

CONSTITUTION = """\
schema: rlaif/constitution/v1
id: taste
version: 1.0.0
title: Letters count, digits do not matter
principles:
  - id: plain-letters
    compare: Which response has more plain letters?
    question: Does the response consist of plain letters?
    desired: "yes"
  - id: no-digits
    check: {kind: regex_absent, pattern: '[0-9]'}
"""


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    """Sixty prompts; people take the response with more letters, with or without a digit in it."""
    rows = []
    for number in range(60):
        long, short = "abcdefghijkl" + "7" * (number % 2), "abc" + "7" * (number % 3 == 0)
        rows.append({"prompt": f"Say {number}", "chosen": long, "rejected": short})
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_leaving_out_what_people_go_by_costs_agreement(tmp_path: Path, gold: Path) -> None:
    recipe = small_recipe(tmp_path, "unused", judge__model="tests.scripted_judge:every_part")
    (tmp_path / "letters.yaml").write_text(CONSTITUTION)
    text = "\n".join(ablate_command(recipe, [gold])).replace(MINUS, "-")
    assert "human labels: 100%" in text
    lines = [line for line in text.splitlines() if line.startswith(("plain-letters", "no-digits"))]
    change = {line.split()[0]: re.findall(r"[+-]?\d+\.\d", line)[0] for line in lines}
    assert float(change["plain-letters"]) < -10 and float(change["no-digits"]) >= 0


def test_the_fit_gives_weight_to_what_people_go_by(tmp_path: Path, gold: Path) -> None:
    recipe = small_recipe(tmp_path, "unused", judge__model="tests.scripted_judge:every_part")
    (tmp_path / "letters.yaml").write_text(CONSTITUTION)
    lines = fit_command(recipe, [gold], tmp_path / "fitted.yaml", "logistic")
    fitted = load_constitution(str(tmp_path / "fitted.yaml"))
    weights = {p.id: p.weight for p in fitted.principles}
    assert weights["plain-letters"] > weights.get("no-digits", 0.0)
    assert fitted.version != "1.0.0" and "fitted 100" in lines[1]
    with pytest.raises(ConfigError, match=r"must be a \.yaml file"):
        fit_command(recipe, [gold], tmp_path / "fitted.json")
