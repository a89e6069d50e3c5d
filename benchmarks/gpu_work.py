"""The work of gpu.py, made in code: models of random weights, a tokenizer of bytes, texts, and the methods."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlaif.records import Message, Preference, Prompt, content_id
from rlaif.testing import tiny_tokenizer
from rlaif.training.scalar_model import ScalarModel

RATE = 1e-5


class Shape(NamedTuple):
    """How much of it: pairs (or rollouts) an update, longest prompt and response in bytes, updates, and the tokens of
    one forward pass."""

    rows: int
    prompt: int
    response: int
    steps: int
    microbatch_tokens: int


class Size(NamedTuple):
    """A model, what is measured with it, and the few short rows on which it is checked against the CPU."""

    config: dict[str, int]
    measured: Shape
    checked: Shape


def _config(layers: int, hidden: int, inner: int, heads: int, vocabulary: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
    }


SIZES = {
    "tiny": Size(_config(2, 64, 128, 4, 320), Shape(8, 24, 8, 1, 512), Shape(8, 24, 8, 1, 512)),
    "0.5b": Size(_config(24, 896, 4864, 14, 151936), Shape(64, 192, 96, 3, 8192), Shape(8, 32, 16, 1, 1024)),
    "1.5b": Size(_config(28, 1536, 8960, 12, 151936), Shape(32, 192, 96, 3, 4096), Shape(4, 24, 8, 1, 1024)),
}
"""The larger two have the widths of Qwen2.5 0.5B and 1.5B."""


class Case(NamedTuple):
    """A method, and whether it learns through adapters."""

    method: str
    lora: bool

    def __str__(self) -> str:
        return f"{self.method}, {'LoRA' if self.lora else 'all weights'}"

    @property
    def kind(self) -> str:
        """As `optimise.kind` has it."""
        return self.method.partition(",")[0]

    @property
    def on_policy(self) -> bool:
        return self.kind not in {"sft", "dpo", "reward"}

    @property
    def critic(self) -> str | None:
        return {"ppo, own critic": "own", "ppo, shared trunk": "shared"}.get(self.method)

    @property
    def responses(self) -> int:
        """To each prompt."""
        return 4 if self.kind in {"rloo", "grpo"} else 1

    @property
    def epochs(self) -> int:
        return 2 if self.kind == "ppo" else 1


METHODS = ("sft", "dpo", "reward", "ppo, own critic", "ppo, shared trunk", "reinforce", "rloo", "grpo")
CASES = [Case(method, lora) for method in METHODS for lora in (True, False)]


# --------------------------------------------------------------------------------------------- what it is done with


def make_models(size: Size, folder: Path) -> int:
    """A random policy and a random reward model, in bf16, as folders; returns the policy's number of weights."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(Qwen2Config(**size.config, **ids, tie_word_embeddings=True))
    model.to(torch.bfloat16).save_pretrained(folder / "policy")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "policy")
    scorer = ScalarModel.from_language_model(folder / "policy", None, torch.bfloat16, pad_id=0, seed=1)
    scorer.save(folder / "reward_model", tokenizer)
    return int(model.num_parameters())


def texts(count: int, longest: int, seed: int) -> list[str]:
    """Random words, from half to all of the longest length."""
    chance = random.Random(seed)
    lengths = [chance.randint(longest // 2, longest) for _ in range(count)]
    return ["".join(chance.choice("abcdefghij     ") for _ in range(length)) for length in lengths]


def preferences(shape: Shape) -> list[Preference]:
    """As many pairs as an update has, each after a prompt of its own."""
    prompt, *sides = (
        [Message(role=role, content=text) for text in texts(shape.rows, longest, seed)]
        for role, longest, seed in (
            ("user", shape.prompt, 1),
            ("assistant", shape.response, 2),
            ("assistant", shape.response, 3),
        )
    )
    return [
        Preference(
            prompt=(asked,),
            chosen=(chosen,),
            rejected=(rejected,),
            p_chosen=1.0,
            source="ai",
            weight=1.0,
            split="train",
            prompt_id=content_id(number),
            pair_id=content_id(number),
        )
        for number, (asked, chosen, rejected) in enumerate(zip(prompt, *sides, strict=True))
    ]


def prompts(shape: Shape, count: int) -> list[Prompt]:
    return [Prompt.of((Message(role="user", content=text),)) for text in texts(count, shape.prompt, 4)]
