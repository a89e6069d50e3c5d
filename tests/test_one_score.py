"""One score everywhere: whoever reads the saved reward model reads what rlaif read, wherever turns end and pads lie.

The readers are transformers' classifier and pipeline, TRL (its own lines, as it is no dependency) and vLLM.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rlaif.config.models import VllmModel
from rlaif.models.embedded import ResolvedModel
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt, encode_response
from rlaif.models.server import start_server, stop_server
from rlaif.records import Message, Prompt, plain
from rlaif.rewards.model import ModelReward
from rlaif.testing import save_tiny
from rlaif.training.lessons import encode_scored
from rlaif.training.scalar_model import ScalarModel
from tests.tiny import FAMILIES, save_family

PROMPT = (Message(role="user", content="Name a fruit."),)
LONGER = (*PROMPT, Message(role="assistant", content="A plum."), Message(role="user", content="And another?"))
TEXTS = ("A pear.", "A stone and a cloud, and much else that is long.", "", "Say no.\n", "Ünder")
RAW = 0.37
EVERY = [*((PROMPT, text) for text in TEXTS), *((LONGER, text) for text in TEXTS[:2])]
families = pytest.mark.parametrize("family", ["chatml", *FAMILIES])


def conversation(prompt: Sequence[Message], text: str) -> list[dict[str, str]]:
    return [*plain(tuple(prompt)), {"role": "assistant", "content": text}]


def saved(folder: str, target: Path) -> list[float]:
    """Writes a reward model over the policy in `folder`; returns our scores of `EVERY`, of whole packs at once."""
    tokenizer = load_tokenizer(folder)
    model = ScalarModel.from_language_model(folder, None, torch.float32, pad_id=tokenizer.pad_token_id, seed=1)
    model.reference = RAW
    rows = [encode_scored(tokenizer, prompt, [text], 1000)[0] for prompt, text in EVERY]
    scores = model.score_all(rows, 10_000)
    model.save(target, tokenizer)
    assert torch.allclose(model.score_all(rows, 10_000), scores, atol=1e-5)
    assert torch.allclose(ScalarModel.load(target, torch.float32).score_all(rows, 10_000), scores, atol=1e-5)
    assert scores.std() > 0.1  # initial weights are wide enough for places to matter
    return scores.tolist()


def policy_of(family: str, tmp_path: Path) -> str:
    return saved_policy(family, tmp_path / "policy", initializer_range=0.2)


def saved_policy(family: str, folder: Path, **shape: Any) -> str:
    return save_tiny(folder, **shape) if family == "chatml" else save_family(family, folder, **shape)


@families
def test_transformers_and_trl_read_our_score(family: str, tmp_path: Path) -> None:
    ours = saved(policy_of(family, tmp_path), tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward", dtype=torch.float32).eval()
    texts = [tokenizer.apply_chat_template(conversation(*one), tokenize=False) for one in EVERY]

    with torch.no_grad():
        alone = [
            model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item() for text in texts
        ]
    assert alone == pytest.approx(ours, abs=1e-4)

    classify = pipeline("text-classification", model=str(tmp_path / "reward"), dtype=torch.float32)
    assert [one["score"] for one in classify(texts)] == pytest.approx(ours, abs=1e-4)
    assert [one["score"] for one in classify(texts, batch_size=4)] == pytest.approx(ours, abs=1e-4)

    if tokenizer.pad_token_id is None:  # the lines of TRL's GRPOTrainer, batched
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    batch = tokenizer(text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    with torch.no_grad():
        assert model(**batch).logits[:, 0].tolist() == pytest.approx(ours, abs=1e-4)


@families
def test_rollouts_score_as_their_texts_do(family: str, tmp_path: Path) -> None:
    """But for the reference score, which is what rewards are told from."""
    folder = policy_of(family, tmp_path)
    expected = [score - RAW for (_, text), score in zip(EVERY, saved(folder, tmp_path / "reward"), strict=True)]
    tokenizer = load_tokenizer(folder)
    model = ScalarModel.load(tmp_path / "reward", torch.float32)
    reward = ModelReward(lambda: [model], lambda: tokenizer, 60)
    rows = [Row(tuple(encode_prompt(tokenizer, p)), tuple(encode_response(tokenizer, text))) for p, text in EVERY]
    prompts, texts = [Prompt.of(prompt) for prompt, _ in EVERY], [text for _, text in EVERY]
    assert reward.measure(prompts, texts, rows).values == pytest.approx(expected, abs=1e-4)
    assert reward.score(prompts, texts) == pytest.approx(expected, abs=1e-4)


def test_a_cut_prompt_is_scored_as_far_as_the_policy_read_it(tmp_path: Path) -> None:
    folder = policy_of("always thinks", tmp_path)
    tokenizer = load_tokenizer(folder)
    model = ScalarModel.from_language_model(folder, None, torch.float32, pad_id=tokenizer.pad_token_id, seed=1)
    reward = ModelReward(lambda: [model], lambda: tokenizer, 60)
    whole = encode_prompt(tokenizer, PROMPT)
    (row,) = encode_scored(tokenizer, PROMPT, ["A pear."], 1000)
    cut = Row(tuple(whole[5:]), tuple(encode_response(tokenizer, "A pear.")))
    found = torch.tensor(reward.measure([Prompt.of(PROMPT)], ["A pear."], [cut]).values)
    assert torch.allclose(found, model.score_all([row._replace(prompt=row.prompt[5:])], 100), atol=1e-5)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize("family", ["chatml", "llama3"])
def test_vllm_classifies_with_our_score(family: str, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    ours = saved(saved_policy(family, tmp_path / "policy", initializer_range=0.2, **shape), tmp_path / "reward")
    config = VllmModel(model="reward", dtype="float32", max_model_len=512, arguments=("--runner", "pooling"))
    url, process = start_server(config, ResolvedModel(str(tmp_path / "reward"), ""))
    try:
        root = url.removesuffix("/v1")
        found = [
            httpx.post(f"{root}/classify", json={"model": "reward", "messages": conversation(*one)}, timeout=60)
            for one in EVERY
        ]
        assert [reply.json()["data"][0]["probs"][0] for reply in found] == pytest.approx(ours, abs=1e-3)
    finally:
        stop_server(process)
