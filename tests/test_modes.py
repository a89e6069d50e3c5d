"""Every way of judging through the label stage: from responses to preferences that favour what the judge favours."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import Recipe, dump_recipe
from rlaif.errors import ConfigError
from rlaif.jsonl import read_jsonl
from rlaif.pipeline import run_recipe
from rlaif.records import Demonstration, Judgment, Preference, Ranking, Reliability, Revision, Score
from rlaif.run_folder import Run
from rlaif.testing import letters, small_recipe

CONSTITUTION = """\
schema: rlaif/constitution/v1
id: letters
version: 1.0.0
title: Plain letters, no digits
principles:
  - id: plain-letters
    compare: Which response has more plain letters?
    question: Does the response consist of plain letters?
    desired: "yes"
    critique: Say where the response lacks letters.
    revise: Write the response again with more letters.
    contrast: {for: Use letters., against: Use digits.}
  - id: no-digits
    check: {kind: regex_absent, pattern: '[0-9]'}
"""
PANEL = {
    "kind": "panel",
    "combine": "dawid_skene",
    "members": [
        {"name": "plain"},
        {"name": "rated", "mode": {"kind": "score"}},
        {"name": "list", "mode": {"kind": "checklist"}},
    ],
}
MODES: list[dict[str, Any]] = [
    {"kind": "compare"},
    {"kind": "reasoned", "reasons": 2},
    {"kind": "score"},
    {"kind": "checklist"},
    {"kind": "rank"},
    {"kind": "rank", "rounds": 2},
    {"kind": "revise"},
    PANEL,
]


EVIDENCE = {
    "score": {"scores"},
    "checklist": {"scores"},
    "rank": {"rankings"},
    "revise": {"revisions", "demonstrations"},
    "panel": {"reliability"},
}
"""What a mode leaves beside its judgments."""


def recipe_with(folder: Path, model: str, mode: dict[str, Any], **changes: Any) -> Recipe:
    recipe = small_recipe(
        folder,
        model,
        prompts=12,
        label__mode=mode,
        prompts__heldout=2,
        preferences__tie_margin=0.01,
        label__check_margin=0.01,
        judge__model="tests.scripted_judge:every_part",
        **changes,
    )
    (folder / "letters.yaml").write_text(CONSTITUTION)
    return recipe


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> Path:
    """What every mode judges."""
    folder = tmp_path_factory.mktemp("sampled")
    return run_recipe(recipe_with(folder, tiny_folder, {"kind": "compare"}), folder / "run", ["sample"]).responses


def judged(recipe: Recipe, folder: Path, responses: Path, stages: list[str]) -> Run:
    """A run in which these responses lie, as if it had sampled them, and these stages are done."""
    run = Run(folder)
    run.folder.mkdir()
    run.recipe.write_text(dump_recipe(recipe))
    shutil.copy(responses, run.responses)
    return run_recipe(recipe, folder, stages)


@pytest.mark.parametrize(
    "mode", MODES, ids=lambda mode: "-".join(str(v) for v in mode.values() if not isinstance(v, list))
)
def test_a_mode_labels_every_pair_prefers_letters_and_leaves_its_evidence(
    tmp_path: Path, tiny_folder: str, responses: Path, mode: dict[str, Any]
) -> None:
    run = judged(recipe_with(tmp_path, tiny_folder, mode), tmp_path / "run", responses, ["label", "pairs"])
    judgments = read_jsonl(run.judgments, Judgment)
    facts = run.read_manifest()["stages"]["label"]
    assert len(judgments) == facts["pairs"] - facts["unlabelled"] > 5
    assert facts["unlabelled"] == 0
    rows = read_jsonl(run.preferences, Preference)
    favoured = sum(letters(row.chosen[0].content) >= letters(row.rejected[0].content) for row in rows)
    assert favoured >= 0.8 * len(rows) > 0
    assert {path.stem for path in run.evidence if path.exists()} == EVIDENCE.get(mode["kind"], set())
    if mode["kind"] in ("score", "checklist"):
        assert all(score.principles for score in read_jsonl(run.scores, Score))
    if mode["kind"] == "rank":
        assert all(sorted(r.strengths, reverse=True) == list(r.strengths) for r in read_jsonl(run.rankings, Ranking))
    if mode["kind"] == "revise":
        assert all(len(r.rounds) == 2 for r in read_jsonl(run.revisions, Revision))
        assert {row.round for row in read_jsonl(run.demonstrations, Demonstration)} == {1, 2}
    if mode["kind"] == "panel":
        assert [m.member for m in read_jsonl(run.reliability, Reliability)] == ["plain", "rated", "list"]
        assert all(len(judgment.members) == 3 for judgment in judgments)


def test_labelling_that_requires_an_audit_says_how_to_make_one(
    tmp_path: Path, tiny_folder: str, responses: Path
) -> None:
    audit = {"file": str(tmp_path / "audit.json")}
    recipe = recipe_with(tmp_path, tiny_folder, {"kind": "compare"}, label__audit=audit)
    with pytest.raises(ConfigError, match="rlaif audit"):
        judged(recipe, tmp_path / "run", responses, ["label"])
