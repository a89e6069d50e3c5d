"""Where a principle's classifier decides and a signal counts: labels, ratings, rewards, vetoes, costs, pairs and
evaluation, each given the response's prompt. Planted texts, of which the truth is plain."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from rlaif.audits.signals import Answer, measure
from rlaif.checkup import check_file
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import ChecklistMode, CompareMode
from rlaif.config.scoring import Constraint, SignalScore, Veto
from rlaif.constitution import Constitution, diff, lint
from rlaif.errors import ConfigError, ModelError
from rlaif.evaluation.evaluate import EvaluationInputs, evaluate
from rlaif.feedback.judge import SingleJudge
from rlaif.feedback.judge.score import score_responses
from rlaif.feedback.pairs import apart_by_checks
from rlaif.models.scripted import ScriptedChatModel
from rlaif.pipeline import STAGES, run_recipe
from rlaif.records import Message, Pair, Prompt, Response
from rlaif.rewards.open import Shop, open_reward
from rlaif.rewards.sources import SignalReward, checks, vetoes
from rlaif.run_folder import Run
from rlaif.signals.kinds import Repetition
from rlaif.stages.stage import constitution_files
from rlaif.testing import save_tiny, small_recipe, tiny_tokenizer
from rlaif.training.optimise.rewards import Rewards

EGG = Prompt.of((Message(role="user", content="How do I boil an egg?"),))
TAX = Prompt.of((Message(role="user", content="Who must pay income tax?"),))
BOIL = "To boil an egg, put it into hot water."
NEAR = {"kind": "similarity", "at_least": 0.5}
SILENT = ScriptedChatModel(lambda request: pytest.fail("code decides"))


def constitution(*classifiers: dict[str, Any], **more: Any) -> Constitution:
    principles = [{"id": f"p{i}", "classifier": one} | more for i, one in enumerate(classifiers)]
    head = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "T"}
    return Constitution.model_validate(head | {"principles": principles})


def test_labels_are_decided_by_the_prompt_that_the_response_answers() -> None:
    other = "Everybody with an income has to pay income tax."
    pairs = [Pair.of(EGG, BOIL, other), Pair.of(TAX, BOIL, other), Pair.of(TAX, "?", other)]
    found = SingleJudge(CompareMode(), constitution(NEAR), LabelSection(), 0)(SILENT, pairs)
    egg, tax = found.judgments
    assert egg.p_a > 0.9 and tax.p_a < 0.1
    assert all(judgment.principles[0].checked for judgment in found.judgments)
    (failure,) = found.failures
    assert (failure.id, failure.reason, failure.principle) == (pairs[2].id, "a classifier gave no number", "p0")
    assert failure.detail == "similarity on '?': nothing to measure"
    assert apart_by_checks(constitution(NEAR))(pairs[0]) == 1
    assert apart_by_checks(constitution(NEAR))(pairs[2]) == 0


def test_so_are_ratings_rewards_and_vetoes() -> None:
    rules = constitution(NEAR, veto=True)
    responses = [(EGG, BOIL), (TAX, BOIL), (TAX, "?")]
    rated = score_responses(SILENT, ChecklistMode(), responses, rules, LabelSection(), seed=0)
    assert [score and score.value for score in rated.scores] == [1, 0, None]
    assert [failure.reason for failure in rated.failures[2]] == ["a classifier gave no number"]
    for reward in (checks(rules), vetoes(rules)):
        assert reward.score(*map(list, zip(*responses, strict=True))) == [1, 0, None]


def test_a_signal_is_a_reward_and_a_cost_with_a_limit() -> None:
    from tests.tiny_training import tiny_method

    shout = {"kind": "keywords", "words": ["egg"]}
    shop = Shop(
        lambda head: [], tiny_tokenizer, 60, lambda source: vetoes(constitution(shout | {"at_least": 1}, veto=True))
    )
    cost = Constraint(name="egg", cost=SignalScore.model_validate({"signal": shout}), sign=-1, limit=-0.5)
    section = tiny_method("rloo", scoring=SignalScore.model_validate({"signal": NEAR}), constraints=(cost,))
    rewards = Rewards.of(section, lambda source: open_reward(source, shop))
    near, far, none = rewards.score.measure([EGG, TAX, EGG], [BOIL, BOIL, "?"]).values
    assert none is None and near is not None and far is not None and near > 0.7 > far + 0.3
    assert rewards.costs["egg"].measure([EGG, EGG], [BOIL, "No."]).values == [1, 0] and rewards.signs == {"egg": -1}
    assert open_reward(Veto(), shop).measure([EGG, EGG], [BOIL, "No."]).values == [1, 0]


def test_evaluation_has_the_pass_rate_and_the_number_itself() -> None:
    def side(texts: list[str]) -> list[Response]:
        shared = {"prompt_id": EGG.id, "prompt": EGG.messages, "finished": True, "tokens": 3, "model": "m"}
        return [Response(id=f"{text}{i}", index=i, text=text, **shared) for i, text in enumerate(texts)]

    again = {"kind": "repetition", "n": 1, "at_most": 0.4}
    given = EvaluationInputs(constitution(again, NEAR), side(["a a a a", "a b", "?"]), side(["a b", "a a", BOIL]))
    settings = type("Section", (), {"bootstrap_samples": 50, "confidence": 0.95})
    found = evaluate(given, settings, 0)  # type: ignore[arg-type]
    rate = found["principles"]["p0"]["pass_rate"]
    assert (rate["before"], rate["after"], found["principles"]["p0"]["undecided"]) == (0.5, 0.5, 1)
    number, near = found["measures"]
    assert (number["name"], number["before"], number["after"]) == ("p0 (repetition)", 0.375, 0.25)
    assert (number["better"], number["seen"]) == ("lower", "the classifier")
    assert number["without_value"] == {"before": 1, "after": 0}
    assert near["better"] == "higher" and near["without_value"] == {"before": 1, "after": 0}


def test_whoever_has_many_texts_lets_classifiers_read_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(Repetition, "read_ahead", lambda self, answers: seen.append([text for text, _ in answers]))
    signal = {"kind": "repetition", "at_most": 0.5}
    rules = constitution(signal)
    tagged = EGG.model_copy(update={"tags": ("t",)})
    prompts, texts = [EGG, tagged], ["a b", "c d"]
    checks(constitution(signal, tags=["t"])).score(prompts, texts)
    assert seen == [["c d"]]  # what the principle applies to
    checks(rules).score(prompts, texts)
    rules.pass_rates(texts, prompts)
    SignalReward(Repetition.model_validate(signal)).score(prompts, texts)
    score_responses(SILENT, ChecklistMode(), [(EGG, "a b"), (EGG, "c d")], rules, LabelSection(), seed=0)
    SingleJudge(CompareMode(), rules, LabelSection(), 0)(SILENT, [Pair.of(EGG, *texts)])
    measure(rules, [Answer({}, EGG.messages, text, (), "") for text in texts])
    assert seen[1:] == [texts] * 6


def test_diff_and_lint_speak_of_classifiers() -> None:
    old, new = constitution(NEAR), constitution(NEAR | {"at_least": 0.6})
    (change,) = diff.diff(old, new).changes
    assert change == ("major", "p0: classifier similarity: at_least 0.5 -> 0.6")
    assert any("p1: the same classifier as p0; it counts twice" in w for w in lint(constitution(NEAR, NEAR)))


# ------------------------------------------------------------------------------------------------ a whole run

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letter_classifier(folder: Path) -> str:
    """Says which share of a text are letters: a regression, trained on random texts."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": 262, "num_key_value_heads": 2, "pad_token_id": 0, "num_labels": 1}
    model = LlamaForSequenceClassification(
        LlamaConfig(id2label={0: "letters"}, label2id={"letters": 0}, problem_type="regression", **sizes)
    )
    draw, tokenizer = random.Random(0), tiny_tokenizer()
    others = bytes(range(33, 256)).decode(errors="replace")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        shares = [draw.random() for _ in range(16)]
        texts = ["".join(draw.choice(LETTERS if draw.random() < s else others) for _ in range(12)) for s in shares]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        truth = torch.tensor([sum(c in LETTERS for c in text) / 12 for text in texts])
        loss = model(**tokens, labels=truth).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_run_begins_only_where_its_classifiers_can_be_asked(tmp_path: Path) -> None:
    """In the constitution or as a reward; a stage that asks none does not load it."""
    folder = tmp_path / "classifier"  # without weights
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "letters"}}
    (folder / "config.json").write_text(json.dumps(config))
    signal = {"kind": "model", "model": str(folder), "labels": {"letters": 1}}
    recipe = small_recipe(tmp_path, save_tiny(tmp_path / "policy"), 4, prompts__heldout=1)
    rules = tmp_path / "letters.yaml"
    rewarded = recipe.model_copy(
        update={
            "optimise": recipe.optimise.model_copy(
                update={"scoring": SignalScore.model_validate({"kind": "signal", "signal": signal})}
            )
        }
    )
    with pytest.raises(ModelError, match=rf"classifier '{folder}' cannot be loaded: "):
        run_recipe(rewarded, tmp_path / "rewarded")
    rules.write_text(
        "schema: rlaif/constitution/v1\nid: coded\nversion: 1.0.0\ntitle: Classifiers only\nprinciples:\n"
        f"  - {{id: letters, classifier: {json.dumps(signal | {'at_least': 0.2})}}}\n"
    )
    with pytest.raises(ModelError, match=rf"classifier '{folder}' cannot be loaded: "):
        run_recipe(recipe, tmp_path / "run")
    for name in ("rewarded", "run"):
        assert not Run(tmp_path / name).responses.exists()
    assert run_recipe(recipe, tmp_path / "run", ["sample"]).responses.exists()


@pytest.mark.slow
def test_a_constitution_of_classifiers_runs_through_to_the_report_and_no_judge_is_asked(tmp_path: Path) -> None:
    """Slow: a whole run, in which the policy learns what the classifier likes."""
    judge = letter_classifier(tmp_path / "classifier")
    signal = {"kind": "model", "model": judge, "labels": {"letters": 1}}
    recipe = small_recipe(tmp_path, save_tiny(tmp_path / "policy"), 80, label__check_margin=4.0)
    rules = tmp_path / "letters.yaml"
    rules.write_text(
        "schema: rlaif/constitution/v1\nid: coded\nversion: 1.0.0\ntitle: Classifiers only\nprinciples:\n"
        f"  - {{id: letters, classifier: {json.dumps(signal | {'at_least': 0.2})}}}\n"
        "  - {id: fresh, classifier: {kind: repetition, n: 1, at_most: 0.5}, tags: [never]}\n"
    )
    assert "2 principles (0 judged, 2 checked): valid" in check_file(rules)
    assert Path(judge) in constitution_files(recipe)
    run: Run = run_recipe(recipe, tmp_path / "run")
    assert set(run.read_manifest()["stages"]) == set(STAGES)
    found = json.loads(run.evaluation.read_text())
    assert found["cost"]["judge_calls"] == 0
    assert found["policy"]["score"]["difference"]["low"] > 0
    (letters, fresh) = found["measures"]
    assert letters["name"] == "letters (model)" and letters["difference"]["low"] > 0
    assert fresh["before"] is None
    assert found["principles"]["letters"]["pass_rate"]["difference"]["low"] > 0
    assert "Letters (model)" in run.report.read_text()
    with pytest.raises(ConfigError, match="has no label 'leters'"):
        rules.write_text(rules.read_text().replace('{"letters": 1', '{"leters": 1'))
        check_file(rules)
