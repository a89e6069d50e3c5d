"""`rlaif constitution fit` with a judge that answers exactly: the weights that made the labels come out, measured."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from rlaif.audits.principles import fit_constitution
from rlaif.config import load_recipe
from rlaif.constitution import load_constitution
from rlaif.constitution.diff import diff
from rlaif.errors import ConfigError, JudgeError
from rlaif.models.engine import ChatRequest

MARKS = {"kind": 6.0, "brief": 1.0, "blue": 0.0}
"""What people weigh; the constitution starts with it upside down."""
HEAD = "schema: rlaif/constitution/v1\nid: t\nversion: 1.0.0\ntitle: T\nprinciples:\n"
START = {"kind": 1, "brief": 6, "blue": 3}


def answers(request: ChatRequest) -> dict[str, float]:
    """Yes where the word that the question names stands in the response."""
    text = request.messages[-1].content
    (response,) = re.findall(r"<response>\n(.*?)\n</response>", text, re.DOTALL)
    yes = 0.9 if re.findall(r"Question: Is it (\w+)\?", text)[0] in response.split() else 0.05
    return {"Yes": math.log(yes), "No": math.log(0.95 - yes), "Unknown": math.log(0.05)}


def silent(request: ChatRequest) -> dict[str, float]:
    """No label has any probability."""
    return dict.fromkeys(request.labels, -60.0)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "old.yaml"
    texts = [f"- id: {m}\n  compare: Which response is {m}?\n  question: Is it {m}?\n  desired: 'yes'" for m in MARKS]
    path.write_text(HEAD + "".join(f"{text}\n  weight: {START[m]}\n" for text, m in zip(texts, MARKS, strict=True)))

    def load(judge: str = "answers"):
        return load_recipe(
            "quickstart",
            [f"judge={{backend: scripted, model: 'tests.test_fit_command:{judge}'}}", f"constitution={path}"],
        )

    return load


@pytest.fixture
def gold(tmp_path):
    """200 pairs on 100 prompts; people choose by the true weights, with noise."""
    rng = np.random.default_rng(0)
    rows = []
    while len(rows) < 200:
        has = rng.random((2, len(MARKS))) < 0.5
        if (has[0] == has[1]).all():
            continue
        merit = has @ np.array(list(MARKS.values()))
        best = int(rng.random() > 1 / (1 + math.exp(-(merit[0] - merit[1]))))
        texts = [" ".join(["words", *(m for m, there in zip(MARKS, row, strict=True) if there)]) for row in has]
        prompt = f"\n\nHuman: {len(rows) // 2}?\n\nAssistant:"
        rows.append({"chosen": f"{prompt} {texts[best]}", "rejected": f"{prompt} {texts[1 - best]}"})
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_the_weights_that_made_noisy_labels_come_out(recipe, gold, tmp_path, loss):
    out = tmp_path / "new.yaml"
    found = fit_constitution(recipe(), [gold], out, loss)
    written = load_constitution(str(out))
    weights = {p.id: p.weight for p in written.principles}
    assert all(weights["kind"] > 2 * weight for name, weight in weights.items() if name != "kind")
    assert diff(load_constitution(recipe().constitution), written).follows
    assert found.constitution == written and found.after.value > 0.75 and found.before.value < 0.7
    assert found.gain.value == pytest.approx(found.after.value - found.before.value)
    assert str(tmp_path) not in out.read_text()


def test_the_same_work_gives_the_same_file(recipe, gold, tmp_path):
    fit_constitution(recipe(), [gold], tmp_path / "one.yaml")
    fit_constitution(recipe(), [gold], tmp_path / "two.yaml")
    assert (tmp_path / "one.yaml").read_bytes() == (tmp_path / "two.yaml").read_bytes()


def test_the_old_constitution_is_not_overwritten(recipe, gold, tmp_path):
    before = (tmp_path / "old.yaml").read_bytes()
    with pytest.raises(ConfigError, match="would lose its comments"):
        fit_constitution(recipe(), [gold], tmp_path / "old.yaml")
    with pytest.raises(ConfigError, match=r"must be a \.yaml file"):
        fit_constitution(recipe(), [gold], tmp_path / "new.json")
    assert (tmp_path / "old.yaml").read_bytes() == before


def test_a_judge_that_says_nothing_fits_nothing(recipe, gold, tmp_path):
    with pytest.raises(JudgeError, match="pairs have no judgment"):
        fit_constitution(recipe("silent"), [gold], tmp_path / "new.yaml")
    assert not (tmp_path / "new.yaml").exists()


def test_a_principle_without_a_question_is_one_line(recipe, gold, tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(path.read_text() + "- {id: bare, compare: Which response is bare}\n")
    with pytest.raises(ConfigError, match="bare"):
        fit_constitution(recipe(), [gold], tmp_path / "new.yaml")
