"""The scalar model: what Hugging Face reads from its folder, its head, its reference score, the critic made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlaif.config.training import Lora
from rlaif.errors import ModelError
from rlaif.models.local.packing import Row, right_pad
from rlaif.models.local.tokens import encode_prompt
from rlaif.records import Message, plain
from rlaif.testing import CHAT_TEMPLATE, tiny_tokenizer
from rlaif.training.lora import trainable
from rlaif.training.reward.train import RewardStage, set_reference
from rlaif.training.scalar_model import ScalarModel
from tests.tiny_training import LORA, random_rows, reward_section, same, tiny_scalar, weights

ROWS = random_rows(0, prompts=4, responses=2)


@pytest.fixture
def scalar(tiny_folder: str) -> ScalarModel:
    return tiny_scalar(tiny_folder)


@torch.no_grad()
def hugging_face_logits(folder: Path, rows: list[Row]) -> Tensor:
    """What the classifier says of the rows, right-padded in one batch; it finds each row's end itself."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    tokens = [[*row.prompt, *row.response] for row in rows]
    input_ids = right_pad(tokens, model.config.pad_token_id, torch.long, "cpu")
    mask = right_pad([[1] * len(row) for row in tokens], 0, torch.long, "cpu")
    return model(input_ids=input_ids, attention_mask=mask).logits.squeeze(-1)


def learn(model: ScalarModel, steps: int = 3) -> None:
    """Move all that is trainable by a few large steps."""
    optimizer = torch.optim.SGD(trainable(model.backbone, model.head).values(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        model.values(ROWS).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("lora", [None, LORA])
def test_hugging_face_reads_our_score(lora: Lora | None, scalar: ScalarModel, tmp_path: Path) -> None:
    if lora is not None:
        scalar.add_adapter(lora, seed=3)
        learn(scalar)
    scalar.reference = 1.75
    score_B = scalar.score_all(ROWS, 10_000)
    scalar.save(tmp_path, tiny_tokenizer())
    torch.testing.assert_close(hugging_face_logits(tmp_path, ROWS), score_B, atol=1e-5, rtol=0)


def test_whoever_loads_it_on_another_day_reads_the_same_prompt(scalar: ScalarModel, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = dated = "{{ strftime_now('%d %B %Y') }}" + CHAT_TEMPLATE
    scalar.save(tmp_path, tokenizer)
    assert tokenizer.chat_template == dated
    turns = (Message(role="user", content="Hi"),)
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        plain(turns), add_generation_prompt=True, return_dict=False
    )
    assert theirs == encode_prompt(tokenizer, turns)


def test_save_and_load_is_a_round_trip(scalar: ScalarModel, tmp_path: Path) -> None:
    scalar.reference = -0.3
    scalar.save(tmp_path, tiny_tokenizer())
    loaded = ScalarModel.load(tmp_path, torch.float32)
    assert loaded.reference == scalar.reference
    assert same(weights(loaded.model), weights(scalar.model))
    assert torch.equal(loaded.score_all(ROWS, 10_000), scalar.score_all(ROWS, 10_000))


def test_merging_the_adapter_keeps_the_scores(scalar: ScalarModel, tmp_path: Path) -> None:
    before = scalar.score_all(ROWS, 10_000)
    scalar.add_adapter(LORA, seed=3)
    assert torch.equal(scalar.score_all(ROWS, 10_000), before)  # a new adapter changes nothing
    learn(scalar)
    learnt = scalar.score_all(ROWS, 10_000)
    assert (learnt - before).abs().max() > 1e-2
    scalar.save(tmp_path, tiny_tokenizer())
    torch.testing.assert_close(scalar.score_all(ROWS, 10_000), learnt, atol=1e-5, rtol=0)
    loaded = ScalarModel.load(tmp_path, torch.float32)
    torch.testing.assert_close(loaded.score_all(ROWS, 10_000), learnt, atol=1e-5, rtol=0)


def test_every_linear_layer_of_the_backbone_gets_an_adapter(scalar: ScalarModel) -> None:
    scalar.add_adapter(LORA, seed=3)
    names = [name for name in trainable(scalar.backbone) if "lora_A" in name]
    assert len(names) == 7 * 2  # q k v o gate up down, two layers


def test_the_head_starts_small_and_differs_by_seed_only(tiny_folder: str) -> None:
    heads = torch.stack([tiny_scalar(tiny_folder, seed).head.weight.detach().flatten() for seed in range(40)])
    width = heads.shape[1]
    assert float(heads.square().mean()) == pytest.approx(1 / (width + 1), rel=0.12)  # 1,280 draws: 3 sigma
    assert abs(float(heads.mean())) < 3 / (width * 40 * (width + 1)) ** 0.5
    assert torch.equal(heads[3], tiny_scalar(tiny_folder, 3).head.weight.detach().flatten())
    assert not torch.equal(heads[3], heads[4])


def test_the_reference_score_is_recorded_and_moves_no_score(scalar: ScalarModel) -> None:
    stage = RewardStage(scalar, tiny_tokenizer(), reward_section(), seed=0)
    raw = scalar.score_all(ROWS, 10_000)
    for _ in range(2):
        set_reference(stage, ROWS)
        assert scalar.reference == pytest.approx(float(raw.mean()), abs=1e-5)
        assert torch.equal(scalar.score_all(ROWS, 10_000), raw)


def test_a_folder_of_another_kind_is_refused(tiny_folder: str) -> None:
    with pytest.raises(ModelError, match="rlaif_reference_score"):
        ScalarModel.load(tiny_folder, torch.float32)


def test_scores_do_not_depend_on_microbatches_or_order(scalar: ScalarModel) -> None:
    whole = scalar.score_all(ROWS, 10_000)
    torch.testing.assert_close(scalar.score_all(ROWS, 1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(scalar.score_all(ROWS[::-1], 40), whole.flip(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_critic_starts_as_the_reward_model_which_never_moves(lora: Lora | None, scalar: ScalarModel) -> None:
    scalar.reference = 0.4  # values are told from it, as rewards are
    score_B = scalar.score_all(ROWS, 10_000)
    critic = scalar.as_critic(lora, seed=3)
    # The value before a token is the score of what stands before it, so one token more shows the score itself.
    longer = [Row(row.prompt, (*row.response, 7)) for row in ROWS]
    with torch.no_grad():
        values_BT = critic.values(longer)
    at_end_B = torch.stack([values_BT[b, len(row.response)] for b, row in enumerate(ROWS)])
    torch.testing.assert_close(at_end_B, score_B - 0.4, atol=1e-5, rtol=0)

    learn(critic)
    with torch.no_grad():
        assert (critic.values(longer) - values_BT).abs().max() > 1e-2
    assert torch.equal(scalar.score_all(ROWS, 10_000), score_B)
    assert not any(p.grad is not None for p in scalar.head.parameters())


def test_with_lora_critic_and_reward_model_share_the_backbone(scalar: ScalarModel) -> None:
    critic = scalar.as_critic(LORA, seed=3)
    assert critic.backbone is scalar.backbone
    assert critic.head is not scalar.head
    names = trainable(critic.backbone, critic.head)
    assert all("lora_" in name or name == "1.weight" for name in names)


def test_a_full_critic_shares_nothing_that_learns(scalar: ScalarModel) -> None:
    critic = scalar.as_critic(None, seed=3)
    ours = {id(p) for p in scalar.model.parameters()}
    assert not any(id(p) in ours for p in trainable(critic.backbone, critic.head).values())
    assert not trainable(scalar.backbone, scalar.head)
    assert len(trainable(critic.backbone, critic.head)) == len(list(scalar.model.parameters()))
