"""The reward-model stage: what is computed, on which rows, against a plain loop over pairs; resuming; learning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlaif.errors import DataError
from rlaif.models.local.packing import Row
from rlaif.records import Message, Preference, Response
from rlaif.run_folder import Run
from rlaif.testing import tiny_tokenizer
from rlaif.training.lessons import Lesson, minibatches
from rlaif.training.reward.data import encode_pair, encode_pairs, pair_lessons, reference_rows
from rlaif.training.reward.train import RewardStage, learn, open_stage, train_reward_model
from rlaif.training.reward.worth import HeldoutScores, score_heldout
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.session import Session
from tests.tiny_training import (
    LORA,
    Killed,
    planted,
    preference,
    reward_section,
    same,
    tiny_recipe,
    tiny_scalar,
    tiny_tracker,
    weights,
)

TOKENIZER = tiny_tokenizer()
# Two prompts with several pairs each, soft labels and weights; "same" stands in three pairs.
PREFERENCES = [
    preference("Hi", "good", "bad one", p_chosen=0.8, weight=2.0),
    preference("Hi", "good", "same", p_chosen=1.0, weight=0.5),
    preference("Hi", "same", "bad one", p_chosen=0.5),
    preference("Why is it so?", "because", "no", p_chosen=0.65, weight=1.5),
    preference("Why is it so?", "because", "same", p_chosen=0.9),
    preference("How?", "like this", "no", p_chosen=0.7),
]


def stage_of(folder: str, seed: int = 1, **changes: Any) -> RewardStage:
    return RewardStage(tiny_scalar(folder, seed), TOKENIZER, reward_section(**changes), seed=seed)


def plain_score(model: ScalarModel, row: Row) -> Tensor:
    """One row, unpadded, nothing shared."""
    states = model.backbone(input_ids=torch.tensor([[*row.prompt, *row.response]])).last_hidden_state
    return model.head(states[0, -1])[0]


def lessons_of(preferences: Sequence[Preference], max_length: int = 1000, **changes: Any) -> list[Lesson]:
    return pair_lessons(TOKENIZER, preferences, reward_section(max_length=max_length, **changes))


def learnt(stage: RewardStage, lessons: Sequence[Lesson], max_tokens: int) -> dict[str, float]:
    return learn(stage.model, lessons, stage.section.model_copy(update={"microbatch_tokens": max_tokens}), "here")


def heldout_of(stage: RewardStage, preferences: Sequence[Preference]) -> list[HeldoutScores]:
    return score_heldout([stage.model], TOKENIZER, stage.section, preferences)


def gradients(model: ScalarModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.model.parameters()])


# ------------------------------------------------------------------------------------------------- encoding


def test_rows_are_the_conversation_and_the_response_with_its_end() -> None:
    row, _ = encode_pair(TOKENIZER, PREFERENCES[0], 1000)
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\ngood<|im_end|>\n"
    assert TOKENIZER.decode([*row.prompt, *row.response]) == text
    assert TOKENIZER.decode(row.response) == "good<|im_end|>\n"


@pytest.mark.parametrize("max_length", [1, 2, 5, 12, 40])
def test_long_pairs_lose_the_oldest_prompt_then_the_end_of_the_responses(max_length: int) -> None:
    whole = encode_pair(TOKENIZER, PREFERENCES[0], 1000)
    pair = encode_pair(TOKENIZER, PREFERENCES[0], max_length)
    assert pair[0].prompt == pair[1].prompt == whole[0].prompt[-len(pair[0].prompt) :]
    assert pair[0].prompt
    for row, full in zip(pair, whole, strict=True):
        assert len(row.prompt) + len(row.response) <= max_length
        assert row.response == full.response[: max_length - 1]


def test_pairs_identical_after_truncation_are_dropped() -> None:
    alike = preference("Hi", "abcdefgh1", "abcdefgh2")
    assert len(encode_pairs(TOKENIZER, [alike, PREFERENCES[0]], 1000)) == 2
    assert [pair.preference for pair in encode_pairs(TOKENIZER, [alike, PREFERENCES[0]], 8)] == [PREFERENCES[0]]


def test_without_training_pairs_the_stage_says_so(tiny_folder: str, tmp_path: Path) -> None:
    heldout = [p.model_copy(update={"split": "heldout"}) for p in PREFERENCES]
    with pytest.raises(DataError, match="no training pairs"):
        train_reward_model(stage_of(tiny_folder), heldout, tmp_path, tiny_tracker(tmp_path))


# --------------------------------------------------------------------------------------------------- loss


def test_each_distinct_row_is_computed_once(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of(tiny_folder)
    calls: list[list[Row]] = []
    scores = stage.model.scores_by_head

    def spy(rows: Sequence[Row]) -> Tensor:
        calls.append(list(rows))
        return scores(rows)

    monkeypatch.setattr(stage.model, "scores_by_head", spy)
    lessons = lessons_of(PREFERENCES)
    learnt(stage, lessons, 10_000)
    assert len(calls) == 1
    assert len(calls[0]) == len(set(calls[0])) == 8  # of 12 sides
    calls.clear()
    learnt(stage, lessons, 1)
    assert len(calls) == 3  # one prompt each
    assert sorted(row for rows in calls for row in rows) == sorted({row for lesson in lessons for row in lesson.rows})


@pytest.mark.parametrize("max_tokens", [1, 60, 10_000])
def test_loss_accuracy_and_gradient_are_those_of_a_loop_over_pairs(tiny_folder: str, max_tokens: int) -> None:
    stage = stage_of(tiny_folder)
    pairs = encode_pairs(TOKENIZER, PREFERENCES, 1000)
    found = learnt(stage, lessons_of(PREFERENCES), max_tokens)
    ours = gradients(stage.model)

    plain = tiny_scalar(tiny_folder)
    expected = torch.zeros(())
    correct = 0
    for pair in pairs:
        margin = plain_score(plain, pair.chosen) - plain_score(plain, pair.rejected)
        p, weight = pair.preference.p_chosen, pair.preference.weight
        expected = expected - weight * (p * F.logsigmoid(margin) + (1 - p) * F.logsigmoid(-margin))
        correct += bool(margin > 0)
    expected = expected / sum(pair.preference.weight for pair in pairs)
    expected.backward()
    assert found["loss"] == pytest.approx(float(expected.detach()), abs=1e-5)
    assert found["accuracy"] == pytest.approx(correct / len(pairs))
    torch.testing.assert_close(ours, gradients(plain), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("max_tokens", [1, 30, 10_000])
def test_pairs_of_one_prompt_that_is_cut_to_several_lengths(tiny_folder: str, max_tokens: int) -> None:
    """A longer response leaves less room for the prompt; every pair still counts once, its two rows together."""
    texts = [("short", "a much longer one"), ("short", "longer, too"), ("a much longer one", "mid")]
    preferences = [preference("A question", *pair) for pair in texts]
    pairs = encode_pairs(TOKENIZER, preferences, 24)
    assert len({pair.chosen.prompt for pair in pairs}) > 1
    stage = stage_of(tiny_folder)
    found = learnt(stage, lessons_of(preferences, 24), max_tokens)
    plain = tiny_scalar(tiny_folder)
    margins = [plain_score(plain, pair.chosen) - plain_score(plain, pair.rejected) for pair in pairs]
    expected = -F.logsigmoid(torch.stack(margins)).mean()
    expected.backward()
    assert found["loss"] == pytest.approx(float(expected.detach()), abs=1e-5)
    torch.testing.assert_close(gradients(stage.model), gradients(plain), atol=1e-5, rtol=1e-4)


def test_minibatches_are_whole_prompts_each_once_in_seeded_order() -> None:
    lessons = lessons_of(PREFERENCES)
    batches = minibatches(lessons, 2, seed=3)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lessons)))
    where = [{lessons[place].prompt_id for place in batch} for batch in batches]
    assert sum(len(ids) for ids in where) == len(set.union(*where))
    assert all(len(batch) >= 2 for batch in batches[:-1])
    assert minibatches(lessons, 2, seed=3) == batches
    orders = {tuple(lessons[b[0]].prompt_id for b in minibatches(lessons, 1, seed)) for seed in range(9)}
    assert len(orders) > 2


# ------------------------------------------------------------------------------------------------ training


def train(folder: str, run: Path, preferences: Sequence[Preference], **changes: Any) -> ScalarModel:
    stage = stage_of(folder, **changes)
    train_reward_model(stage, preferences, run / "checkpoints", tiny_tracker(run, "reward"))
    return stage.model


def test_heldout_rows_are_not_trained_on(tiny_folder: str, tmp_path: Path) -> None:
    preferences = planted(20)
    other = [preference("other", "zz", "aa", split="heldout") if p.split == "heldout" else p for p in preferences]
    one, two = (train(tiny_folder, tmp_path / name, rows) for name, rows in (("a", preferences), ("b", other)))
    assert same(weights(one.model), weights(two.model))
    three = train(tiny_folder, tmp_path / "c", [p.model_copy(update={"split": "train"}) for p in preferences])
    assert not same(weights(one.model), weights(three.model))


def test_a_killed_training_goes_on_to_the_same_bits(
    tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"lora": LORA, "minibatch_size": 2, "epochs": 1, "warmup_share": 0.2}
    undisturbed = train(tiny_folder, tmp_path / "a", planted(40), **settings)
    rows = Run(tmp_path / "a").read_metrics("reward")
    assert len(rows) == 16

    update, updates = Session.update, [0]

    def dying(self: Session, where: str, *rest: Any) -> float:
        updates[0] += 1
        if updates[0] == 14:  # after the checkpoint at 10 and three rows that will be made again
            raise Killed
        return update(self, where, *rest)

    monkeypatch.setattr(Session, "update", dying)
    with pytest.raises(Killed):
        train(tiny_folder, tmp_path / "b", planted(40), **settings)
    assert len(Run(tmp_path / "b").read_metrics("reward")) == 13
    resumed = train(tiny_folder, tmp_path / "b", planted(40), **settings)
    assert updates[0] == 14 + 6
    assert same(weights(resumed.model), weights(undisturbed.model))
    assert (tmp_path / "b" / "metrics.jsonl").read_bytes() == (tmp_path / "a" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(("lora", "rate"), [(None, 3e-3), (LORA, 2e-2)])
def test_a_planted_preference_is_learnt_and_holds_on_new_prompts(
    lora: Any, rate: float, tiny_folder: str, tmp_path: Path
) -> None:
    preferences = planted(200)
    stage = stage_of(tiny_folder, lora=lora, learning_rate=rate, epochs=3)
    train_reward_model(stage, preferences, tmp_path / "checkpoints", tiny_tracker(tmp_path, "reward"))
    heldout = heldout_of(stage, preferences)
    assert [h.pair_id for h in heldout] == [p.pair_id for p in preferences if p.split == "heldout"]
    assert sum(h.margin > 0 for h in heldout) / len(heldout) > 0.9
    first, *_, last = Run(tmp_path).read_metrics("reward")
    assert last["loss"] < 0.5 * first["loss"]


def test_heldout_margins_are_score_differences(tiny_folder: str) -> None:
    stage = stage_of(tiny_folder)
    heldout = [p.model_copy(update={"split": "heldout"}) for p in PREFERENCES]
    found = heldout_of(stage, [PREFERENCES[0], *heldout])
    pairs = encode_pairs(TOKENIZER, heldout, 1000)
    with torch.no_grad():
        expected = [float(plain_score(stage.model, p.chosen) - plain_score(stage.model, p.rejected)) for p in pairs]
    assert [h.margin for h in found] == pytest.approx(expected, abs=1e-5)
    assert [h.p_chosen for h in found] == [p.p_chosen for p in heldout]
    assert heldout_of(stage, PREFERENCES) == []


# ----------------------------------------------------------------------------------------------- reference


def test_reference_rows_are_the_policys_samples_or_else_the_distinct_training_rows() -> None:
    turn = (Message(role="user", content="Hi"),)
    settings: dict[str, Any] = {"prompt_id": "p", "prompt": turn, "tokens": 1, "model": "m"}
    samples = [
        Response(id="1", index=0, text="yes", finished=True, **settings),
        Response(id="2", index=1, text="no", finished=False, **settings),
        Response(id="3", index=2, text="", finished=False, **settings),  # nothing to score
    ]
    rows = reference_rows(TOKENIZER, samples, PREFERENCES, 1000)
    assert [TOKENIZER.decode(row.response) for row in rows] == ["yes<|im_end|>\n", "no<|im_end|>\n"]
    rows = reference_rows(TOKENIZER, [], [*PREFERENCES, preference("out", "a", "b", split="heldout")], 1000)
    assert len(rows) == len(set(rows)) == 8


def test_an_opened_stage_is_a_new_head_over_the_policys_backbone(tiny_folder: str) -> None:
    one, two = (open_stage(tiny_recipe(tiny_folder, seed=seed)) for seed in (0, 1))
    ours = weights(one.model.backbone)
    assert same(ours, weights(two.model.backbone))
    assert not torch.equal(one.model.head.weight, two.model.head.weight)
    assert one.model.model.config.pad_token_id == TOKENIZER.pad_token_id
