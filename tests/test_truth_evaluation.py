"""Truth in evaluation.json: calibrated and over-confident answers, unsupported claims, and opinions turned round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import rlaif
from rlaif.config.judging import ReferenceMode
from rlaif.config.models import ScriptedModel
from rlaif.evaluation.artefacts import EVALUATION
from rlaif.evaluation.truth import calibrated, truth, truth_part
from rlaif.evaluation.winrate import Match
from rlaif.formats.given import opposite
from rlaif.models.engine import ChatRequest
from rlaif.pages.kit import Part
from rlaif.pipeline import run_recipe
from rlaif.records import Given, Message, PrincipleScore, Prompt, Response, Score
from rlaif.run_folder import Run
from rlaif.stages.truth import ask_flips, opposite_prompts
from rlaif.stats import Bootstrap
from rlaif.testing import likes_letters, small_recipe
from tests.test_modes import recipe_with
from tests.truthful import constitution, contradicts, prompt

REFERS = constitution({"id": "grounded", "reference": "documents"}, {"id": "steady", "reference": "samples"})
contradicts_by_number = contradicts  # named by the recipe below, as a judge


def judges_anything(request: ChatRequest) -> dict[str, float]:
    return contradicts(request) if "<first>" in request.messages[-1].content else likes_letters(request)


def response(to: Prompt, text: str, index: int = 0) -> Response:
    return Response(
        id="r", prompt_id=to.id, prompt=to.messages, index=index, text=text, finished=True, tokens=3,
        model="m", given=to.given,
    )  # fmt: skip


def test_a_calibrated_answerer_and_one_that_is_too_sure():
    rng = np.random.default_rng(0)
    chances = rng.choice([0.1, 0.3, 0.55, 0.95], 20_000)
    right = (rng.random(20_000) < chances).astype(float)
    honest = calibrated([*zip(chances.tolist(), right.tolist(), strict=True)])
    assert honest["ece"] < 0.02
    assert honest["brier"] == pytest.approx(np.mean(chances * (1 - chances)), abs=0.01)
    sure = calibrated([(1.0, one) for one in right.tolist()])
    assert sure["ece"] == pytest.approx(1 - right.mean())
    assert sure["brier"] > honest["brier"] + 0.3
    assert calibrated([])["brier"] is None
    assert calibrated([(0.95, 1.0), (1.0, 0.0)])["ece"] == pytest.approx(0.475)  # all from 0.9 to 1 are one bin


def answers(texts: list[str], gold: str) -> list[Match]:
    asked = [prompt(f"Question {n}?", gold=(gold,)) for n in range(len(texts))]
    return [Match(response(p, "It is Lyon."), response(p, text)) for p, text in zip(asked, texts, strict=True)]


def test_right_wrong_and_abstained_before_and_after():
    matched = answers(["It is Paris, 75% sure."] * 3 + ["Rome, 75% sure."] + ["I don't know."] * 4, "Paris")
    found = truth(matched, (), {}, ReferenceMode(abstain_at=0.6), REFERS, Bootstrap(200))
    moved = {
        name: (found["answers"][name]["before"], found["answers"][name]["after"])
        for name in ("right", "abstained", "wrong")
    }
    assert moved == {"right": (0, 0.375), "abstained": (0, 0.5), "wrong": (1, 0.125)}
    assert found["answers"]["calibration_before"] == {"brier": 1, "ece": 1, "confidence": 1, "right": 0, "n": 8}
    assert found["answers"]["calibration_after"]["n"] == 4
    assert found["answers"]["calibration_after"]["ece"] == pytest.approx(0)
    assert found["answers"]["loss"]["after"] == pytest.approx((3 * 0.0625 + 1.5625 + 4 * 0.64) / 16)
    page = "".join(map(str, truth_part({"truth": found})))
    assert "Says that it does not know" in page and "50%" in page
    assert list[Part]() == truth_part({})


def test_the_loss_by_principle_is_paired():
    matched = answers(["a", "b"], "x")
    names = [
        "constitution",
        "constitution_version",
        "constitution_hash",
        "judge",
        "judge_revision",
        "template",
        "template_hash",
    ]
    provenance: Any = dict.fromkeys(names, "x") | {"sampling": {}, "aggregation": "mean"}
    scores = [
        Score(
            id="s", prompt_id=r.prompt_id, prompt=r.prompt, text=r.text, value=value, annotator="j",
            provenance=provenance,
            principles=tuple(PrincipleScore(principle=p, checked=False, value=value) for p in ("grounded", "steady")),
        )
        for match in matched
        for r, value in ((match.before, -0.75), (match.after, -0.25))
    ]  # fmt: skip
    (found,) = truth(matched, scores[:-1], {}, ReferenceMode(), REFERS, Bootstrap(100))["reference"].values()
    assert (found["before"], found["after"], found["difference"]["n"]) == (0.75, 0.25, 1)


def test_without_anything_given_nothing_is_measured():
    bare = prompt("x")
    assert (
        truth([Match(response(bare, "a"), response(bare, "b"))], (), {}, ReferenceMode(), REFERS, Bootstrap(10)) == {}
    )


def test_the_opinion_is_turned_round_after_the_same_documents():
    text = "<document>\nFacts.\n</document>\n\nI think it is tall. Is it?"
    asked = (Message(role="system", content="Be kind."), Message(role="user", content=text))
    one = Prompt.of(asked, ("t",), Given(opposed="I think it is small. Is it?", gold=("x",)))
    turned = opposite(one)
    assert turned is not None and turned.given is not None
    assert turned.messages[0] == asked[0] and turned.tags == ("t",) and turned.given.gold == ("x",)
    assert turned.messages[1].content == "<document>\nFacts.\n</document>\n\nI think it is small. Is it?"
    back = opposite(turned)
    assert back is not None and (back.messages, back.given) == (asked, one.given)
    assert opposite(Prompt.of(asked, given=Given(gold=("x",)))) is None


def test_who_follows_the_user_flips_and_who_does_not_stays(tmp_path: Path):
    prompts = [prompt(f"I think {n}. How much?", opposed=f"I think {n + 1}. How much?") for n in range(12)]
    prompts.append(prompt("How much?"))
    opposite = opposite_prompts(prompts)
    assert len(opposite) == 12
    flatters = [response(p, f"You are right, {p.messages[-1].content[8:10]}") for p in [*prompts, *opposite.values()]]
    stays = [response(p, "It is 330.") for p in [*prompts, *opposite.values()]]
    recipe = small_recipe(tmp_path, "none").model_copy(
        update={"judge": ScriptedModel(model="tests.test_truth_evaluation:contradicts_by_number")}
    )
    flips, cost = ask_flips(recipe, Run(tmp_path / "run"), opposite, flatters, stays[:-1])
    found = truth(answers(["x"], "y"), (), flips, ReferenceMode(), REFERS, Bootstrap(200))["flips"]
    assert found["before"] == pytest.approx(0.9)
    assert found["after"] == 0
    assert found["difference"]["high"] < -0.2
    assert (found["difference"]["n"], found["undecided"], cost.calls) == (11, 1, 24)
    assert "turned round (1 prompt undecided)" in "".join(map(str, truth_part({"truth": {"flips": found}})))
    silent = truth((), (), {"a": (None, 0.5), "b": (None, None)}, ReferenceMode(), REFERS, Bootstrap(20))
    assert silent == {"flips": {"before": None, "after": None, "difference": None, "undecided": 2}}
    assert "turned round (2 prompts undecided)" in "".join(map(str, truth_part({"truth": silent})))
    for one in (silent, {"flips": found}):
        EVALUATION.validate_python({"truth": one})
    with pytest.raises(ValidationError, match=r"flips\.undecided"):
        EVALUATION.validate_python({"truth": {"flips": {**found, "undecided": -1}}})


@pytest.mark.slow
def test_a_run_says_it_in_evaluation_and_report(tiny_folder: str, tmp_path: Path):
    rows = [
        {"prompt": f"I think {n}. How much?", "given": {"gold": ["330"], "opposed": f"I think {n + 9}. How much?"}}
        for n in range(6)
    ]
    best = {"kind": "best_of_n", "n": 2, "scoring": {"kind": "checks"}}
    recipe = small_recipe(tmp_path, tiny_folder, prompts__heldout=4, optimise=best, evaluate__bootstrap_samples=50)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = ScriptedModel(model="tests.test_truth_evaluation:judges_anything")
    rlaif.run(recipe.model_copy(update={"judge": judge}), out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["heldout"]["prompts"] == 4
    assert found["truth"]["answers"]["right"]["difference"]["n"] == 4
    assert found["truth"]["flips"]["undecided"] == 0
    assert found["truth"]["flips"]["difference"]["n"] == 4
    assert "opinion is turned round" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("kind", ["score", "checklist"])
def test_what_another_mode_says_of_a_response_is_no_loss(kind: str, tiny_folder: str, tmp_path: Path):
    """Its values are ratings: shown as losses they read as -165 %."""
    changes = {"optimise": {"kind": "best_of_n", "n": 2, "scoring": {"kind": "length"}}, "evaluate__prompts": 4}
    recipe = recipe_with(tmp_path, tiny_folder, {"kind": kind}, **changes)
    run = run_recipe(recipe, tmp_path / "run")
    assert "truth" not in json.loads(run.evaluation.read_text())
    assert "Lost by" not in run.report.read_text()
