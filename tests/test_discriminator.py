"""A reward model of wanted against unwanted texts, as a cost beside the run's own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from rlaif import train_reward_model
from rlaif.config.load import dump_recipe
from rlaif.config.optimise import Ppo
from rlaif.config.scoring import ModelScore, reads_reward_model
from rlaif.errors import ConfigError
from rlaif.models.local.packing import Row
from rlaif.records import Message, Preference, Prompt
from rlaif.rewards.open import Shop, open_reward
from rlaif.stages.optimise import method_files
from rlaif.testing import small_recipe
from rlaif.training.optimise.rewards import heads_read

WANTED, UNWANTED = ("rain", "lake", "hill", "tree"), ("BUY!", "WIN!", "FREE", "CASH")


def text(rng: random.Random, words: tuple[str, ...]) -> str:
    return " ".join(rng.choices(words, k=4))


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory, tiny_folder) -> Path:
    """Taught by two heaps of texts that are no answers to the same prompts."""
    rng, rows = random.Random(0), []
    asked = Prompt.of((Message(role="user", content="Say"),))
    for i in range(64):
        sides = {
            name: (Message(role="assistant", content=text(rng, words)),)
            for name, words in (("chosen", WANTED), ("rejected", UNWANTED))
        }
        more = {"p_chosen": 1.0, "source": "human", "weight": 1.0, "split": "heldout" if i % 8 == 0 else "train"}
        rows.append(Preference(prompt=asked.messages, prompt_id=f"{asked.id}-{i}", pair_id=str(i), **sides, **more))
    out = tmp_path_factory.mktemp("discriminator") / "rm"
    model = {"backend": "local", "model": tiny_folder, "dtype": "float32"}
    train_reward_model(rows, model, out, lora=None, learning_rate=1e-2, epochs=4, minibatch_size=16)
    return out


def never(head: str | None = None) -> list:
    raise AssertionError("the run's own reward model is not asked")


def test_it_tells_unwanted_text_and_reads_texts_and_not_a_policys_tokens(discriminator):
    shop = Shop(members=never, tokenizer=never, max_tokens=4096, text=lambda source: None)
    cost = open_reward(ModelScore(path=str(discriminator)), shop)
    rng = random.Random(5)
    prompts = [Prompt.of((Message(role="user", content=f"Tell {i}"),)) for i in range(40)]
    texts = [text(rng, UNWANTED if i % 2 else WANTED) for i in range(40)]
    strange = [Row((1,), (2,))] * 40
    values = cost.measure(prompts, texts, strange).values
    right = sum(values[i] > values[j] for i in range(0, 40, 2) for j in range(1, 40, 2))
    assert right >= 0.95 * 400
    assert values == cost.score(prompts, texts)


def test_a_recipe_with_it_neither_trains_nor_reads_a_reward_model_of_its_own(discriminator, tmp_path):
    other = ModelScore(path=str(discriminator))
    assert not reads_reward_model([other]) and reads_reward_model([ModelScore()])
    cost = {"name": "unwanted", "cost": other.model_dump(), "sign": -1, "limit": 0.0}
    assert heads_read(Ppo(constraints=(cost,))) == [None]
    beside = small_recipe(tmp_path, "tiny", optimise__constraints=[cost])
    assert discriminator in method_files(beside) and beside.learns_from == "reward_model"
    alone = small_recipe(tmp_path, "tiny", optimise__scoring=other.model_dump())
    assert alone.learns_from is None
    assert "path: null" not in dump_recipe(small_recipe(tmp_path, "tiny")).split("optimise:")[1].split("compute:")[0]


def test_what_is_no_reward_model_is_one_line(tmp_path):
    shop = Shop(members=never, tokenizer=never, max_tokens=4096, text=lambda source: None)
    with pytest.raises(ConfigError, match="is no reward model's folder"):
        open_reward(ModelScore(path=str(tmp_path)), shop)
    with pytest.raises(ValidationError, match="leave out one of `head` and `path`"):
        ModelScore(path="rm", head="p")
