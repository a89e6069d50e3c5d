"""The shipped HH recipes, run whole on a tiny model and a small file in HH-RLHF's format: AI, human and both."""

from __future__ import annotations

import json

import pytest

from rlaif.config import load_recipe
from rlaif.jsonl import read_jsonl
from rlaif.pipeline import run_recipe, stages_until
from rlaif.records import Judgment, Preference, Response

ROWS = 40
pytestmark = pytest.mark.usefixtures("blank_plots")


@pytest.fixture(scope="module")
def hh_file(tmp_path_factory):
    """Transcripts on 40 prompts; every fourth is tagged helpful, the others harmful; humans like long replies."""
    rows = []
    for number in range(ROWS):
        prompt = f"\n\nHuman: Hello\n\nAssistant: Hi!\n\nHuman: Tell me about {number}\n\nAssistant:"
        tag = "helpful" if number % 4 == 0 else "harmful"
        rows.append({"chosen": f"{prompt} Here is a long reply to {number}", "rejected": f"{prompt} No", "tags": [tag]})
    path = tmp_path_factory.mktemp("hh") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def small(hh_file, tiny_folder):
    """The overrides that make an HH recipe small enough, with what else a test sets."""
    data = f"[{{kind: file, path: {hh_file}}}]"

    def overrides(*others: str, human: bool = True) -> list[str]:
        return [
            "policy.backend=local",
            f"policy.model={tiny_folder}",
            "policy.dtype=float32",
            "judge.backend=scripted",
            "judge.model=tests.scripted_judge:likes_short",
            f"prompts.sources={data}",
            "prompts.heldout=6",
            "sample.max_tokens=4",
            "sample.responses_per_prompt=2",
            "reward={lora: {rank: 2}, minibatch_size: 16}",
            "ppo={steps: 1, rollouts_per_step: 4, minibatch_size: 4, epochs: 1, max_tokens: 4, lora: null}",
            "optimise.learning_rate=0.1",
            "evaluate.bootstrap_samples=50",
            *([f"preferences.labels.human_data={data}"] if human else []),
            *others,
        ]

    return overrides


def run_small(folder, name, overrides):
    """The run, its preferences and its evaluation."""
    run = run_recipe(load_recipe(name, overrides), folder / name)
    return run, read_jsonl(run.preferences, Preference), json.loads(run.evaluation.read_text())


def label_small(folder, name, overrides):
    """The run as far as its preferences, and these."""
    recipe = load_recipe(name, overrides)
    run = run_recipe(recipe, folder / name, stages_until(recipe, "pairs"))
    return run, read_jsonl(run.preferences, Preference)


def sources(rows):
    return {row.source for row in rows}


def test_ai_labels_on_the_policys_own_samples(tmp_path, small):
    run, rows, evaluation = run_small(tmp_path, "hh-rlaif", small(human=False))
    assert sources(rows) == {"ai"} and run.responses.exists()
    assert list(evaluation["reward_model"]["heldout_accuracy"]["by_source"]) == ["ai"]


def test_human_labels_need_neither_samples_nor_judge_to_train(tmp_path, small):
    run, rows, evaluation = run_small(tmp_path, "hh-rlhf", small())
    assert len(rows) == ROWS - 6, "labels on the held-out prompts are not trained on"
    assert sources(rows) == {"human"} and {row.p_chosen for row in rows} == {1.0}
    assert all(row.chosen[0].content.startswith("Here is a long reply") for row in rows)
    assert not run.responses.exists() and not run.judgments.exists()
    assert evaluation["cost"]["judge_calls"] > 0, "evaluation asks the judge all the same: equal terms"
    assert "policy" in evaluation and "kl" in evaluation["policy"]


def test_hybrid_by_tag(tmp_path, small):
    run, rows = label_small(tmp_path, "hh-hybrid", small())
    for asked in (read_jsonl(run.responses, Response), [j.pair for j in read_jsonl(run.judgments, Judgment)]):
        assert {item.tags for item in asked} == {("harmful",)}, "nothing is asked whose label would be dropped"
    assert {(row.source, tag) for row in rows for tag in row.tags} == {("human", "helpful"), ("ai", "harmful")}


def test_hybrid_where_the_human_wins(tmp_path, small):
    """Both label the same pairs and disagree about all of them: only the human labels stay."""
    overrides = small("preferences.labels.policy={kind: human_wins}", "preferences.labels.pairs=human")
    run, rows, evaluation = run_small(tmp_path, "hh-hybrid", overrides)
    assert sources(rows) == {"human"} and len(rows) == ROWS - 6
    assert len(read_jsonl(run.judgments, Judgment)) == ROWS - 6
    assert evaluation["judge"]["coverage"]["value"] == 1


def test_ai_labels_on_the_human_pairs_do_not_see_the_human_labels(tmp_path, small):
    run, rows = label_small(tmp_path, "hh-rlaif", small("preferences.labels.pairs=human"))
    assert sources(rows) == {"ai"} and len(rows) == ROWS - 6
    assert {row.chosen[0].content for row in rows} == {"No"}, "the scripted judge likes what is short"
    assert not run.responses.exists(), "the pairs are there already"
