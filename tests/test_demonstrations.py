"""Rewards from demonstrations: on a world whose reward is known the order of responses is recovered, without a label
and round after round; preferences join by their weight; and a constitution is distilled."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from rlaif.config import Recipe
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.demonstrations import against, preferences_of
from rlaif.feedback.prompts import DemonstrationText
from rlaif.iterate import iterate
from rlaif.jsonl import read_jsonl
from rlaif.pipeline import run_recipe, stages_of
from rlaif.records import Message, Prompt, Response
from rlaif.rewards.model import FolderReward
from rlaif.run_folder import Run
from rlaif.stages.reward import REWARD
from rlaif.testing import letters, small_recipe
from rlaif.training.losses.preference import hinge_loss
from rlaif.training.session import Session

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
NOISE = "\ufffd" * 24 + "0123456789!?#+="
"""What else the tiny policy writes: mostly bytes that are no text."""


def written(share: float, draw: random.Random, length: int = 12) -> str:
    """A text whose true reward, its share of letters, is about this."""
    return "".join(draw.choice(LETTERS if draw.random() < share else NOISE) for _ in range(length))


def true_reward(text: str) -> float:
    return letters(text) / len(text)


def world(folder: Path, model: str, **changes: Any) -> Recipe:
    """An expert who writes nine letters in ten, to half of the prompts; nobody compares anything."""
    draw = random.Random(1)
    rows = [{"prompt": f"Say {i}", "completion": written(0.9, draw)} for i in range(0, 120, 2)]
    (folder / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loss = {"kind": "demonstrations", "data": {"kind": "file", "path": str(folder / "shown.jsonl")}}
    optimise = {"steps": 8, "rollouts_per_step": 32, "minibatch_size": 32, "responses_per_prompt": 4}
    optimise |= {"learning_rate": 1e-2, "lora": None, "temperature": 1.0, "max_tokens": 12, "missing_eos_penalty": 0.0}
    settings: dict[str, Any] = {
        "optimise": {"kind": "rloo", "kl": {"kind": "fixed", "coef": 0.02}, **optimise},
        "sample__responses_per_prompt": 3,
        "sample__max_tokens": 12,
        "prompts__heldout": 16,
        "evaluate__bootstrap_samples": 50,
        "evaluate__prompts": 12,
        "evaluate__measures": [{"kind": "words"}],
        "reward__epochs": 6,
        "reward__loss": loss,
    }
    return small_recipe(folder, model, **(settings | changes))


def correlation(run: Run, more: list[str]) -> float:
    """Of the reward model with the truth, over new texts of every worth to new prompts."""
    draw = random.Random(7)
    texts = [*(written(i / 39, draw) for i in range(40)), *more]
    prompts = [Prompt.of((Message(role="user", content=f"New {i}"),)) for i in range(len(texts))]
    scores = FolderReward(run.reward_model, torch.float32, 4096).score(prompts, texts)
    return float(spearmanr(scores, [true_reward(text) for text in texts]).statistic)


@pytest.mark.parametrize("form", ["logistic", "hinge"])
def test_the_order_of_responses_is_recovered_without_a_label(form: str, tmp_path: Path, tiny_folder: str) -> None:
    recipe = world(tmp_path, tiny_folder, reward__loss__form=form)
    assert stages_of(recipe) == ["sample", "reward", "optimise", "evaluate", "report"]
    run = run_recipe(recipe, tmp_path / "run", ["sample", "reward"])
    assert not run.judgments.exists() and not run.preferences.exists()
    facts = run.read_manifest()["stages"]["reward"]
    assert 40 < facts["demonstrations"] < 60
    assert facts["demonstrations"] + facts["dropped"] == 60 and facts["without_samples"] == 0
    assert facts["heldout_correct"] > 0.8 * facts["heldout_pairs"] > 0
    assert correlation(run, []) > 0.7


@pytest.mark.slow
@pytest.mark.usefixtures("blank_plots")
def test_reward_and_policy_take_turns(tmp_path: Path, tiny_folder: str) -> None:
    """In the second round the new policy's samples, and the first one's, stand against the demonstrations; the policy
    rises by a reward that it never saw, and the order still holds, on its own texts too. Over four seeds the means rose
    by 0.16 to 0.38 and 0.64 to 0.67, the correlation was 0.71 to 0.88."""
    table = iterate(world(tmp_path, tiny_folder, optimise__steps=16), 2, tmp_path / "rounds")
    assert len(table) == 3
    runs = [Run(tmp_path / "rounds" / f"round-{number}") for number in (1, 2)]
    loss: Any = runs[1].earlier().reward.loss  # type: ignore[union-attr]
    assert loss.earlier == (str(runs[0].responses),)
    means, texts = [], []
    for run in runs:
        wrote = [row.text for row in read_jsonl(run.responses, Response) if row.text]
        means.append(sum(map(true_reward, wrote)) / len(wrote))
        texts.append(wrote[:40])
    after = [row["after"] for row in map(json.loads, runs[1].samples.read_text().splitlines()) if row["after"]]
    last = sum(map(true_reward, after)) / len(after)
    assert means[0] < means[1] - 0.08 and last > means[0] + 0.4
    assert min(correlation(runs[0], texts[0]), correlation(runs[1], [*texts[0], *texts[1]])) > 0.5
    assert "demonstrations, against the policy" in runs[1].report.read_text()


def test_preferences_join_by_their_weight(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = Prompt.of((Message(role="user", content="Why?"),))
    responses = [
        Response(
            id=str(i), prompt_id="own", prompt=prompt.messages, index=i, text=text, finished=True, tokens=1, model="m"
        )
        for i, text in enumerate(["a", "b", "", "shown", "b"])
    ]
    shown = [DemonstrationText(prompt, "shown"), DemonstrationText(prompt, "shown"), _other("To nobody", "x")]
    found, alone = against(shown, responses, "here")
    assert [one.samples for one in found] == [("a", "b")] and alone == {"without_samples": 1, "reached": 0}
    also = [*shown, DemonstrationText(prompt, "a")]  # what is demonstrated is no worse than another demonstration
    assert [(one.text, one.samples) for one in against(also, responses, "here")[0]] == [
        ("shown", ("b",)),
        ("a", ("b",)),
    ]
    assert "1 answer no sampled prompt, of 0 all" in capsys.readouterr().out
    reached = [DemonstrationText(prompt, text) for text in ("a", "b", "shown")]
    with pytest.raises(DataError, match="of 3 demonstrations none stands against a sample: 0 answer no sampled"):
        against(reached, responses, "here")
    rows = preferences_of(found, "human", [], 1.0, 0.2)
    assert [(row.chosen[0].content, row.rejected[0].content, row.weight) for row in rows] == [
        ("shown", "a", 0.5),
        ("shown", "b", 0.5),
    ]
    assert {row.prompt_id for row in rows} == {"own"}
    held = rows[0].model_copy(update={"split": "heldout", "source": "ai", "weight": 2.0, "p_chosen": 0.8})
    joined = preferences_of(found, "human", [held], 0.25, 0.2)
    assert [row.weight for row in joined] == [0.5, 0.5, 0.5] and {row.split for row in joined} == {"heldout"}
    assert preferences_of(found, "human", [held], 0.0, 0.2)[2:] == []
    with pytest.raises(DataError, match="here: of 1 demonstrations none stands against a sample: 1 answer no sampled"):
        against(shown[2:], responses, "here")


def _other(question: str, text: str) -> DemonstrationText:
    return DemonstrationText(Prompt.of((Message(role="user", content=question),)), text)


@pytest.mark.slow
def test_each_teaches_what_the_other_does_not_know(tmp_path: Path, tiny_folder: str) -> None:
    """People's preferences are about exclamation marks alone, demonstrations about letters: joined, both are learnt."""
    draw = random.Random(3)
    rows = []
    for i in range(120):
        text = written(0.5, draw, 10).replace("!", "?")
        rows.append({"prompt": f"Say {i}", "chosen": text + "!!", "rejected": text + "??"})
    (tmp_path / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    people = {"kind": "human", "human_data": [{"kind": "file", "path": str(tmp_path / "human.jsonl")}]}
    marks = []
    for weight in (0.0, 1.0):
        recipe = world(tmp_path, tiny_folder, preferences__labels=people, reward__loss__preferences=weight)
        assert ("pairs" in stages_of(recipe)) == (weight > 0) and "label" not in stages_of(recipe)
        stages = [name for name in stages_of(recipe) if name in ("sample", "pairs", "reward")]
        run = run_recipe(recipe, tmp_path / f"run-{weight}", stages)
        assert correlation(run, []) > 0.6
        reward = FolderReward(run.reward_model, torch.float32, 4096)
        texts = [written(0.5, draw, 10).replace("!", "?") for _ in range(60)]
        prompts = [Prompt.of((Message(role="user", content=f"New {i}"),)) for i in range(60)]
        with_marks, without = (reward.score(prompts, [text + end for text in texts]) for end in ("!!", "??"))
        marks.append(sum(a > b for a, b in zip(with_marks, without, strict=True)) / 60)  # type: ignore[operator]
    assert marks[1] > 0.9 and marks[1] - marks[0] > 0.2


def test_the_hinge_asks_for_its_margin_and_no_more() -> None:
    margin_N = torch.tensor([2.0, 0.5, -1.0, 0.5], dtype=torch.float64)
    p_N, weight_N = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, 1.0, 1.0, 0.75], [1.0, 2.0, 1.0, 1.0]))
    wanted = [0.0, 1.0, 2.0, 0.75 * 0.5 + 0.25 * 1.5]
    assert hinge_loss(margin_N, p_N, weight_N, 1.0).tolist() == pytest.approx(wanted)


def test_demonstrations_of_other_prompts_are_refused(tmp_path: Path, tiny_folder: str) -> None:
    recipe = world(tmp_path, tiny_folder)
    (tmp_path / "shown.jsonl").write_text(json.dumps({"prompt": "say 2", "completion": "Two."}) + "\n")
    with pytest.raises(DataError, match=r"reward\.loss\.data: of 1 .* none stands against .* word for word"):
        run_recipe(recipe, tmp_path / "run", ["sample", "reward"])


@pytest.mark.parametrize(
    "changes",
    [
        {"reward__loss": {"kind": "demonstrations", "data": {"kind": "file", "path": "none.jsonl"}}},
        {"optimise": {"kind": "sft", "data": {"kind": "file", "path": "none.jsonl"}}},
        {"optimise__scoring": {"kind": "reward_model", "path": "none.jsonl"}},
    ],
)
def test_a_file_that_is_not_there_is_said_before_anything_is_sampled(tmp_path: Path, changes: Any) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl: no such file"):
        run_recipe(small_recipe(tmp_path, "tiny", **changes), tmp_path / "run")
    assert not Run(tmp_path / "run").responses.exists()


def test_revisions_need_their_mode_and_heads_their_labels(tmp_path: Path, tiny_folder: str) -> None:
    revised = {"kind": "demonstrations", "data": {"kind": "revisions"}}
    with pytest.raises(ValueError, match=r"label\.mode\.kind=revise makes"):
        world(tmp_path, tiny_folder, reward__loss=revised)
    with pytest.raises(ValueError, match=r"loss\.preferences is 0"):
        world(tmp_path, tiny_folder, reward__principle_heads=True)


def test_a_killed_reward_stage_ends_the_same(tmp_path: Path, tiny_folder: str, monkeypatch: Any) -> None:
    recipe = world(tmp_path, tiny_folder, reward__epochs=1, reward__checkpoint_every=1)
    whole = run_recipe(recipe, tmp_path / "whole", ["sample", "reward"])
    save, calls = Session.save, []

    def dies(self: Session, *arguments: Any) -> None:
        save(self, *arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, tmp_path / "killed", ["sample", "reward"])
    again = run_recipe(recipe, tmp_path / "killed", ["reward"])
    assert again.hash(again.reward_model) == whole.hash(whole.reward_model)


def test_the_rows_that_were_kept_for_pairs_are_read_as_before(tmp_path: Path, tiny_folder: str) -> None:
    """A recipe without demonstrations declares what it did."""
    recipe = small_recipe(tmp_path, tiny_folder)
    assert "prompts" not in REWARD.settings(recipe) and "prompts" in REWARD.settings(world(tmp_path, tiny_folder))
