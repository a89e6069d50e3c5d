"""The memory plan: against what a process really takes, against arithmetic, and that the impossible is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from rlaif.config.optimise import ChosenDemonstrations, Dpo, Grpo, Ppo, Sft
from rlaif.config.reward import Ensemble, RewardSection
from rlaif.config.training import ComputeSection, Lora
from rlaif.errors import ConfigError, TrainingError
from rlaif.models.local.machine import multiplies_bf16
from rlaif.models.local.packing import Row, hidden_states
from rlaif.testing import save_tiny, tiny_model, tiny_tokenizer
from rlaif.training import memory
from rlaif.training.compute import recompute
from rlaif.training.lora import trainable
from rlaif.training.memory import MemoryPlan, plan_memory, rollout_rows, within
from rlaif.training.policy_model import PolicyModel
from rlaif.training.sizes import MemoryItem, ModelRequest, sizes
from tests.forked import exit_code
from tests.memory_process import measure
from tests.tiny_training import LORA, prompts, random_rows, tiny_recipe

CHOSEN = ChosenDemonstrations()
ROWS = random_rows(1, prompts=4, responses=2)
LONG = [Row((1,) * 600, (2,) * 700)]
"""Beyond what plain products compute."""


def by_name(plan: MemoryPlan) -> dict[str, float]:
    return {item.name: item.bytes for item in [*plan.stays, *plan.learning, *plan.writing]}


def plan_of(folder: str, stage: str = "optimise", rows: Any = ROWS, **changes: Any) -> dict[str, float]:
    return by_name(plan_memory(tiny_recipe(folder, **changes), stage, rows))


# ---------------------------------------------------------------------------------------------- one model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("rows", [ROWS, random_rows(1, prompts=8, responses=1, longest=120), LONG])
def test_the_formula_is_what_the_loaded_model_has_and_keeps(
    rows: list[Row], lora: Lora | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path, num_hidden_layers=4, hidden_size=96, intermediate_size=256)
    found = sizes(ModelRequest(folder, None, dtype, lora, scalar=False, recompute=False), rows)
    policy = learner(folder, dtype, lora)
    assert found.weights == sum(p.numel() for p in policy.model.parameters())
    assert found.trained == sum(p.numel() for p in trainable(policy.model).values())
    assert found.activations == pytest.approx(kept(policy, rows), rel=0.05)
    assert found.cached == 2 * 4 * 2 * 24  # keys and values, layers, key heads, head size
    assert found.unknown == ()


@pytest.mark.parametrize("lora", [None, LORA])
def test_recomputing_keeps_what_enters_each_layer(lora: Lora | None, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, num_hidden_layers=12)
    whole, again = (
        sizes(ModelRequest(folder, None, torch.float32, lora, scalar=False, recompute=again), ROWS)
        for again in (False, True)
    )
    policy = learner(folder, torch.float32, lora)
    one_layer = kept(policy, ROWS) / 12
    recompute(policy.backbone)
    assert again.activations == pytest.approx(kept(policy, ROWS) + one_layer, rel=0.1)
    assert again.activations < 0.35 * whole.activations


@pytest.mark.parametrize("lora", [None, LORA])
def test_norms_over_heads_are_counted(lora: Lora | None, tmp_path: Path) -> None:
    """Qwen 3 has one over each head's queries and keys."""
    folder = str(tmp_path)
    settings = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=262, num_key_value_heads=2, head_dim=32, tie_word_embeddings=False, **settings)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    found = sizes(ModelRequest(folder, None, torch.float32, lora, scalar=False, recompute=False), ROWS)
    policy = learner(folder, torch.float32, lora)
    assert found.weights == sum(p.numel() for p in policy.model.parameters())
    assert found.activations == pytest.approx(kept(policy, ROWS), rel=0.05)


def test_of_a_layer_that_is_not_known_the_rest_is_counted_and_it_is_named(tmp_path: Path) -> None:
    """A mixture of experts: its weights are, and what attention and norms keep, but not what the experts do."""
    config = Qwen3MoeConfig(
        vocab_size=262, hidden_size=32, intermediate_size=64, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    found, adapted = (
        sizes(ModelRequest(str(tmp_path), None, torch.float32, lora, scalar=False, recompute=False), ROWS)
        for lora in (None, LORA)
    )
    model = PolicyModel.load(str(tmp_path), None, torch.float32).model
    assert found.weights == sum(p.numel() for p in model.parameters())
    with pytest.warns(RuntimeWarning, match="any targeted module"):  # peft's own, of experts
        model = learner(str(tmp_path), torch.float32, LORA).model
    assert adapted.weights == sum(p.numel() for p in model.parameters())
    assert adapted.trained == sum(p.numel() for p in trainable(model).values())
    assert found.unknown == ("Qwen3MoeSparseMoeBlock",)
    assert found.activations > 0
    plan = plan_memory(tiny_recipe(str(tmp_path), optimise=Sft(data=CHOSEN)), "optimise", ROWS)
    assert "not known: what else Qwen3MoeSparseMoeBlock keeps" in str(plan)


def test_by_blocks_no_scores_are_kept(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; plain products keep those of every token against every other."""
    wanted = ModelRequest(tiny_folder, None, torch.bfloat16, None, scalar=False, recompute=False)
    rows = [Row((1, 2, 3), (4,) * 500)]
    plain = sizes(wanted, rows).activations
    monkeypatch.setattr("rlaif.training.sizes.device", lambda: torch.device("cuda"))
    scores = 2 * 4 * 503**2 * 2  # layers, heads, tokens by tokens, bytes
    assert 0 < sizes(wanted, rows).activations < scores < plain


def learner(folder: str, dtype: torch.dtype, lora: Lora | None) -> PolicyModel:
    policy = PolicyModel.load(folder, None, dtype)
    policy.make_trainable(lora, 0)
    return policy


def kept(policy: PolicyModel, rows: list[Row]) -> int:
    """Bytes that a real pass keeps, weights aside."""
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = hidden_states(policy.backbone, rows).states_NH
    assert states.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


# ------------------------------------------------------------------------------------------------ a stage


def test_what_a_full_reward_model_needs(tiny_folder: str) -> None:
    found = plan_of(tiny_folder, "reward", reward=RewardSection(lora=None))
    policy = PolicyModel.load(tiny_folder, None, torch.float32)
    count = sum(p.numel() for p in policy.model.parameters()) + 32  # the head
    assert found["reward model"] == found["gradients"] == 4 * count
    assert found["optimiser"] == 8 * count  # float32 weights are their own masters
    assert "logits" not in found and "KV cache" not in found


def test_bf16_has_masters(tiny_folder: str) -> None:
    recipe = tiny_recipe(tiny_folder, reward=RewardSection(lora=None))
    recipe = recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"dtype": "bfloat16"})})
    found = by_name(plan_memory(recipe, "reward", ROWS))
    assert found["optimiser"] == 5 * found["reward model"]  # two moments in float32, and half a master


def test_what_kinds_of_stage_need(tiny_folder: str) -> None:
    """Which items there are, and which grow with which knob."""
    lora = plan_of(tiny_folder, optimise=Ppo(lora=LORA, critic_lora=LORA))
    full = plan_of(tiny_folder, optimise=Ppo(lora=None, critic_lora=None))
    shared = plan_of(tiny_folder, optimise=Ppo(lora=None, critic="shared"))
    grpo = plan_of(tiny_folder, optimise=Grpo(lora=None))
    assert lora["reference"] == 0 < full["reference"] == full["policy"]
    assert 0 < lora["critic"] < 0.5 * full["critic"]
    assert "critic" not in shared and "critic" not in grpo
    assert full["optimiser"] > 1.9 * shared["optimiser"] == 1.9 * grpo["optimiser"]
    assert lora["merged weights"] > 0 and "merged weights" not in full
    assert lora["KV cache"] == full["KV cache"] > 0
    twice = plan_of(tiny_folder, optimise=Ppo(rollouts_per_step=128))
    assert twice["KV cache"] == 2 * lora["KV cache"]
    for section in (Dpo(lora=None), Sft(data=CHOSEN, lora=None)):
        offline = plan_of(tiny_folder, optimise=section)
        assert "reference" not in offline and "KV cache" not in offline and offline["logits"] > 0


def test_the_microbatch_bounds_what_learning_keeps(tiny_folder: str) -> None:
    """Without known rows the longest are assumed; known ones are shorter, and never more than the microbatch."""
    small, large = (plan_of(tiny_folder, rows=(), optimise=Sft(data=CHOSEN, microbatch_tokens=n)) for n in (2048, 4096))
    assert large["activations"] == pytest.approx(2 * small["activations"], rel=0.05)
    assert large["logits"] == small["logits"] == 12 * 128 * 262
    learns = plan_of(tiny_folder, rows=(), optimise=Sft(data=CHOSEN, lora=None, microbatch_tokens=4096))
    assert learns["logits"] == small["logits"]  # none wait for the backward pass
    assert plan_of(tiny_folder, optimise=Sft(data=CHOSEN))["activations"] < 0.1 * small["activations"]
    less = plan_of(
        tiny_folder,
        rows=(),
        optimise=Sft(data=CHOSEN, microbatch_tokens=2048),
        compute=ComputeSection(gradient_checkpointing=True),
    )
    assert less["activations"] < small["activations"] and less["logits"] == small["logits"]


def test_rollouts_are_planned_at_their_longest(tiny_folder: str) -> None:
    section = Ppo(minibatch_size=4, rollouts_per_step=8, responses_per_prompt=2, max_tokens=9)
    rows = rollout_rows(tiny_recipe(tiny_folder, optimise=section), prompts(6))
    assert [len(row.response) for row in rows] == [9] * 4
    assert len({row.prompt for row in rows}) == 2
    assert len(set(rows)) == 4
    assert max(len(p.messages[0].content) for p in prompts(6)) < max(len(row.prompt) for row in rows)


def test_an_ensemble_of_whole_models_is_trained_whole_and_scores_with_all_members(tiny_folder: str) -> None:
    ensemble = RewardSection(ensemble=Ensemble(members=3, kind="independent"))
    one, three = (plan_of(tiny_folder, reward=section) for section in (RewardSection(), ensemble))
    assert three["reward model"] == 3 * one["reward model"]
    trained = plan_of(tiny_folder, "reward", reward=ensemble)
    assert trained["gradients"] == trained["reward model"]


# ----------------------------------------------------------------------------------------------- the check


def plan(there: float, refuses: bool = True) -> MemoryPlan:
    stays = [
        MemoryItem("policy", 2e9, "a smaller one", "1,000.0 M x 2 B"),
        MemoryItem("reference", 0, "", "adapter off"),
    ]
    learning = [
        MemoryItem("gradients", 1e9, "none"),
        MemoryItem("activations", 4e9, "lower optimise.microbatch_tokens"),
    ]
    return MemoryPlan("optimise", stays, learning, [MemoryItem("KV cache", 3e9, "fewer")], there, refuses)


SMALL_PLAN = MemoryPlan("reward", [MemoryItem("policy", 2e9, "a smaller one")], [], [], 3e9, True)


def allowed(plan: MemoryPlan) -> None:
    with within(plan):
        pass


def test_what_is_printed_and_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    allowed(plan(there=7.5e9))
    assert capsys.readouterr().out == (
        "  memory: about 7.0 of 7.5 GB\n"
        "    always    policy 2.00 GB (1,000.0 M x 2 B), reference 0 (adapter off)\n"
        "    learning  gradients 1.00 GB, activations 4.00 GB\n"
        "    writing   KV cache 3.00 GB\n"
    )
    with pytest.raises(ConfigError) as error:
        allowed(plan(there=6.9e9))
    assert str(error.value) == (
        "optimise: needs about 7.0 GB of memory and 6.9 GB are free; most is activations (4.0 GB): "
        "lower optimise.microbatch_tokens; compute.check_memory=false goes on anyway"
    )
    allowed(plan(there=1.0, refuses=False))


def test_writing_counts_where_it_is_more_than_learning() -> None:
    writing = plan(there=1e12)._replace(writing=[MemoryItem("KV cache", 9e9, "fewer")])
    assert writing.together == 11e9
    assert [item.name for item in writing.items] == ["policy", "reference", "KV cache"]


def test_an_impossible_recipe_is_refused_and_its_knob_lets_it_go_on(
    tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1e9)
    rows = [Row(tuple(range(3, 103)), (number,) * 400) for number in range(200)]
    sft = {"optimise": Sft(data=CHOSEN, lora=None, microbatch_tokens=100_000, minibatch_size=200)}
    recipe = tiny_recipe(tiny_folder, **sft)
    with pytest.raises(ConfigError, match=r"most is activations \(.*microbatch_tokens or set compute.gradient_check"):
        allowed(plan_memory(recipe, "optimise", rows))
    allowed(plan_memory(tiny_recipe(tiny_folder, compute=ComputeSection(check_memory=False), **sft), "optimise", rows))


def test_a_container_has_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = memory.available()
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    for name, text in (("memory.max", "1000000"), ("memory.current", "600000"), ("memory.stat", "inactive_file 9\n")):
        (tmp_path / name).write_text(text)
    assert memory.available() == 400_009
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.available() == 400_009 / 4
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() == pytest.approx(machine, rel=0.5)


# --------------------------------------------------------------------------------------- against the machine

REAL = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
"""SmolLM2-135M."""
FEW_LAYERS = 10
"""Where bf16 is emulated and all weights learn, which then takes one to two minutes. (With adapters the fixed part of
the plan would be most of it.)"""
SMALL = REAL | {"num_hidden_layers": 8, "vocab_size": 16384}


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """By dtype and adapters: a model of a real one's shape, of random weights, in bf16 as models are published."""

    @cache
    def saved(layers: int) -> str:
        folder = tmp_path_factory.mktemp("real")
        tiny_model(**REAL | {"num_hidden_layers": layers}).bfloat16().save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return str(folder)

    def chosen(dtype: str, adapters: str) -> str:
        slow = dtype == "bfloat16" and adapters == "full" and not multiplies_bf16()
        return saved(FEW_LAYERS if slow else REAL["num_hidden_layers"])

    return chosen


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_plan_is_what_a_small_process_takes(tmp_path: Path) -> None:
    assert_planned(tmp_path, save_tiny(tmp_path, **SMALL), "sft", "float32", "lora")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapters", ["full", "lora"])
@pytest.mark.parametrize("stage", ["reward", "sft", "ppo"])
def test_the_plan_is_what_a_process_takes(
    stage: str, adapters: str, dtype: str, real_folder: Callable[[str, str], str], tmp_path: Path
) -> None:
    assert_planned(tmp_path, real_folder(dtype, adapters), stage, dtype, adapters)


def assert_planned(folder: Path, *case: str) -> None:
    """Within 30 % of the peak of a process of its own, through the stage's own loop."""
    told = folder / "told.json"
    assert exit_code(measure, told, *case) == 0
    found = json.loads(told.read_text())
    assert found["planned"] == pytest.approx(found["measured"], rel=0.3), found["plan"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space")
def test_running_out_of_memory_ends_in_the_plans_advice_and_keeps_checkpoints(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", num_hidden_layers=8)
    done = own_process("tests.out_of_memory", str(tmp_path), folder, code=2)
    assert "Traceback" not in done.stderr + done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert re.fullmatch(
        r"error: optimise: out of memory; planned were .* GB, .* GB were free at the start; most is activations "
        r"\(.* GB\): lower optimise.microbatch_tokens .*; checkpoints are kept",
        said[0],
    )
    assert [path.name for path in (tmp_path / "run/checkpoints/optimise").glob("*.pt")] == ["step-000001.pt"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_errors_that_say_there_is_no_memory(error: Exception) -> None:
    with (
        pytest.raises(TrainingError, match=r"out of memory; .* most is policy \(2.0 GB\): a smaller one"),
        within(SMALL_PLAN),
    ):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shapes do not match"), OSError(2, "No such file"), ConfigError("nonsense")):
        with pytest.raises(type(error)), within(SMALL_PLAN):
            raise error


def own_process(module: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Of this interpreter; what it said, where it ended with this code."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == code, done.stderr[-2000:]
    return done
