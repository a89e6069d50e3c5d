"""The memory plan: against what a process really takes, against arithmetic, and that the impossible is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.config.sections import (
    ChosenDemonstrations,
    ComputeSection,
    Dpo,
    Ensemble,
    Grpo,
    Lora,
    Ppo,
    RewardSection,
    Sft,
)
from rlaif.errors import ConfigError
from rlaif.models.local.packing import Row, hidden_states
from rlaif.training import memory
from rlaif.training.footprint import Wanted, footprint
from rlaif.training.lora import trainable
from rlaif.training.memory import Item, Plan, check, plan_memory, rollout_rows
from rlaif.training.policy_model import PolicyModel
from rlaif.training.recompute import recompute
from tests.tiny import save_tiny
from tests.tiny_training import LORA, prompts, random_rows, tiny_recipe

CHOSEN = ChosenDemonstrations()
ROWS = random_rows(1, prompts=4, responses=2)


def sizes(plan: Plan) -> dict[str, float]:
    return {item.name: item.bytes for item in [*plan.stays, *plan.learning, *plan.writing]}


def plan_of(folder: str, stage: str = "optimise", rows: Any = ROWS, **changes: Any) -> dict[str, float]:
    return sizes(plan_memory(tiny_recipe(folder, **changes), stage, rows))


# ---------------------------------------------------------------------------------------------- one model


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("again", [False, True])
def test_a_footprint_is_what_the_loaded_model_has_and_keeps(lora: Lora | None, again: bool, tmp_path: Path) -> None:
    """Six layers, of which the plan looks at two."""
    folder = save_tiny(tmp_path, num_hidden_layers=6)
    found = footprint(Wanted(folder, None, torch.float32, lora, scalar=False, recompute=again), ROWS)
    policy = PolicyModel.load(folder, None, torch.float32)
    if lora is not None:
        policy.make_trainable(lora, 0)
    else:
        policy.model.requires_grad_(True)
    assert found.weights == sum(p.numel() * 4 for p in policy.model.parameters())
    assert found.trained == sum(p.numel() for p in trainable(policy.model).values())
    whole = kept(policy)
    if again:
        recompute(policy.backbone)
        assert found.activations == kept(policy) + whole // 6
        assert found.activations < 0.35 * whole
    else:
        assert found.activations == whole


def kept(policy: PolicyModel) -> int:
    """Bytes that a real pass keeps, weights aside."""
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = hidden_states(policy.backbone, ROWS).states_NH
    assert states.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def test_half_the_dtype_is_half_the_weights_and_half_of_each_adapter(tiny_folder: str) -> None:
    whole, half = (
        footprint(Wanted(tiny_folder, None, dtype, LORA, scalar=True, recompute=False), ROWS)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (whole.weights, whole.trained_weights) == (2 * half.weights, 2 * half.trained_weights)
    assert half.cached_token == 2 * 2 * 2 * 8 * 2  # keys and values, layers, key heads, head size, bytes


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
    found = sizes(plan_memory(recipe, "reward", ROWS))
    assert found["optimiser"] == 6 * found["reward model"]


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
    assert large["logits"] == small["logits"] == 10 * 128 * 262
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


def plan(there: float, refuses: bool = True) -> Plan:
    stays = [Item("policy", 2e9, "a smaller one"), Item("reference", 0, "", "adapter off")]
    learning = [Item("gradients", 1e9, "none"), Item("activations", 4e9, "lower optimise.microbatch_tokens")]
    return Plan("optimise", stays, learning, [Item("KV cache", 3e9, "fewer")], there, refuses)


def test_what_is_printed_and_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    check(plan(there=7.5e9))
    assert capsys.readouterr().out == (
        "  memory: policy 2.00 GB, reference 0 (adapter off), gradients 1.00 GB, activations 4.00 GB, "
        "KV cache 3.00 GB; together 7.0 of 7.5 GB\n"
    )
    with pytest.raises(ConfigError) as error:
        check(plan(there=6.9e9))
    assert str(error.value) == (
        "optimise: needs about 7.0 GB of memory and 6.9 GB are free; most is activations (4.0 GB): "
        "lower optimise.microbatch_tokens; compute.check_memory=false goes on anyway"
    )
    check(plan(there=1.0, refuses=False))


def test_writing_counts_where_it_is_more_than_learning() -> None:
    writing = plan(there=1e12)._replace(writing=[Item("KV cache", 9e9, "fewer")])
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
        check(plan_memory(recipe, "optimise", rows))
    check(plan_memory(tiny_recipe(tiny_folder, compute=ComputeSection(check_memory=False), **sft), "optimise", rows))


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

STEPS = """
import json, resource, sys, tempfile
from pathlib import Path
import psutil, torch
torch.set_num_threads(1)
from rlaif.config.sections import RewardSection
from rlaif.models.local.packing import Row
from rlaif.training.lora import trainable
from rlaif.training.memory import plan_memory
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.session import Group, Session
from tests.tiny_training import LORA, tiny_recipe

rows = [Row(tuple(range(5 + i, 69 + i)), tuple(range(7 + j, 71 + j))) for i in range(2) for j in range(2)]
found = {}
before = psutil.Process().memory_info().rss
for name, lora in (("lora", LORA), ("full", None)):
    recipe = tiny_recipe(sys.argv[1], reward=RewardSection(lora=lora))
    recipe = recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"dtype": "bfloat16"})})
    model = ScalarModel.from_language_model(sys.argv[1], None, torch.bfloat16, pad_id=0, seed=1)
    if lora:
        model.add_adapter(lora, 0)
        model.head.requires_grad_(True)
    session = Session([Group(trainable(model.backbone, model.head), 1e-4)], Path(tempfile.gettempdir()), 1.0)
    for step in range(2):
        model.scores(rows).square().mean().backward()
        session.update("here")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    del model, session
    found[name] = [grown, plan_memory(recipe, "reward", rows).together]
print(json.dumps(found))
"""


@pytest.mark.embedded
def test_the_plan_is_what_a_process_takes(embedded_folder: str) -> None:
    """Peak growth of a process that takes reward steps of the embedded model, within 30 %.

    With LoRA within 45 %: alone such a process takes 0.75 GB every time, and among the other tests it has taken 1.2 to
    1.3 on three occasions; what the half gigabyte is, is not known yet.
    """
    both = [_peaks(embedded_folder) for _ in range(2)]
    for name, (_, planned) in both[0].items():
        measured = min(peaks[name][0] for peaks in both)
        assert planned == pytest.approx(measured, rel=0.45 if name == "lora" else 0.3), (name, measured, planned)


def _peaks(folder: str) -> dict[str, list[float]]:
    """By kind: the peak of a process of its own, and what was planned for it, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, folder],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found
