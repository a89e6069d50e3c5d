"""What several processes do together, for test_parallel.py: started once as `python -m tests.together FOLDER TINY`.

The same functions run in the test's own process, alone: their results are what the others are held against.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from rlaif.config.optimise import Sft
from rlaif.config.training import ComputeSection, Lora
from rlaif.errors import ConfigError, TrainingError
from rlaif.models.local.packing import microbatches
from rlaif.run_folder import Run
from rlaif.training import parallel
from rlaif.training.compute import gather, prepare
from rlaif.training.lessons import Text
from rlaif.training.lora import trainable
from rlaif.training.offline import SftExample, SftMethod, make_learner, train
from rlaif.training.optimise.loop import train_policy
from rlaif.training.policy_model import PolicyModel
from rlaif.training.reward.train import RewardStage, train_reward_model
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.session import Group, Session
from tests.tiny_training import (
    LORA,
    no_checks,
    planted,
    prompts,
    random_rows,
    reward_section,
    tiny_actors,
    tiny_method,
    tiny_scalar,
    tiny_tracker,
    weights,
)

WHOLE = ComputeSection()
SHARDED = ComputeSection(sharding="fsdp")
THRIFTY = ComputeSection(sharding="fsdp", gradient_checkpointing=True)
PREFERENCES = planted(40)
Found = dict[str, Any]


def learn_rewards(tiny: str, folder: Path, lora: Lora | None = None, compute: ComputeSection = WHOLE) -> Found:
    """Metrics and final weights of a reward model, trained in microbatches of a few rows each."""
    section = reward_section(lora=lora, learning_rate=1e-3, epochs=2, microbatch_tokens=150)
    stage = RewardStage(tiny_scalar(tiny), None, section, 0, compute=compute)._replace(tokenizer=tokenizer(tiny))
    train_reward_model(stage, PREFERENCES, folder / "checkpoints", tiny_tracker(folder, "reward"))
    stage.model.finish()
    stage.model.save(folder / "model", stage.tokenizer)
    return {"rows": Run(folder).read_metrics("reward"), "weights": weights(stage.model.model)}


def learn_policy(
    tiny: str, folder: Path, kind: str, lora: Lora | None = LORA, compute: ComputeSection = WHOLE, **changes: Any
) -> Found:
    """Metrics and final weights of a policy that learns from its rollouts."""
    changes = {"learning_rate": 1e-4, "lora": lora, "steps": 2, "microbatch_tokens": 40, "max_tokens": 5} | changes
    if kind == "ppo" and changes.get("critic") != "shared":
        changes |= {"critic_lora": lora, "critic_learning_rate": 1e-4}
    section = tiny_method(kind, **changes)
    actors = tiny_actors(tiny, section)
    prepare(actors.policy, compute)
    if isinstance(actors.critic, ScalarModel):
        prepare(actors.critic, compute)
    train_policy(actors, prompts(6), section, 0, folder / "checkpoints", tiny_tracker(folder), no_checks)
    actors.policy.save(folder / "model")
    return {"rows": Run(folder).read_metrics("optimise"), "weights": weights(actors.policy.model)}


def imitate(tiny: str, folder: Path, lora: Lora | None = None, compute: ComputeSection = WHOLE) -> Found:
    """Metrics and final weights of supervised fine-tuning."""
    policy = PolicyModel.load(tiny, None, torch.float32)
    shown = [SftExample(p.prompt_id, p.prompt, Text(p.chosen[-1].content)) for p in PREFERENCES]
    method = SftMethod.of(policy.tokenizer, shown, 200)
    section = Sft(lora=lora, minibatch_size=10, learning_rate=1e-3, microbatch_tokens=100)
    make_learner(policy, lora, 0, compute)
    train(policy, method, section, 0, folder / "checkpoints", tiny_tracker(folder))
    policy.save(folder / "model")
    return {"rows": Run(folder).read_metrics("optimise"), "weights": weights(policy.model)}


def some_updates(tiny: str, folder: Path, compute: ComputeSection, stop: int | None = None) -> Found:
    """Six updates of a policy by its own likelihood of some rows; with `stop` given up after so many, then resumed."""
    rows = random_rows(1, 6, 2)
    found = []
    for last in [6] if stop is None else [stop, 6]:
        policy = PolicyModel.load(tiny, None, torch.float32)
        policy.model.requires_grad_(True)
        prepare(policy, compute)
        session = Session([Group(trainable(policy.model), 1e-2)], folder, 0.5, 0.1)
        done, _ = session.restore()
        for step in range(done, last):
            for group, counts in parallel.turns(list(microbatches(rows, 30))):
                (-policy.token_logprobs([rows[i] for i in group], 1.0).sum() / 100 * counts).backward()
            found.append(session.update("here"))
            if step % 2:
                session.save(step + 1, {"step": step})
    gather(policy)
    return {"rows": found, "weights": weights(policy.model), "files": sorted(path.name for path in folder.iterdir())}


def tokenizer(tiny: str) -> Any:
    return PolicyModel.load(tiny, None, torch.float32).tokenizer


def of_one_gradient() -> Found:
    """What becomes of a parameter that only the second process has a gradient of, of a frozen and a foreign one."""
    parameters = [{name: torch.ones(3, requires_grad=True) for name in ("both", "second", "none")} for _ in range(2)]
    session = Session([Group(each, 0.1) for each in parameters], Path("nowhere"), 100.0)
    for each in parameters:
        each["both"].grad = torch.full((3,), 1.0 + parallel.rank())
        if parallel.rank() == parallel.size() - 1:
            each["second"].grad = torch.full((3,), 2.0)
    norm = session.update("here", moving=(0,))
    return {"norm": norm, "weights": [{name: p.detach() for name, p in each.items()} for each in parameters]}


def refuse() -> str:
    raise ConfigError("the first process says no")


def basics() -> Found:
    """What the functions of parallel.py give on this process."""
    try:
        refused = parallel.first(refuse)
    except ConfigError as error:
        refused = str(error)
    return {
        "turns": [list(parallel.turns("abcdefg"[:count])) for count in range(8)],
        "sum": parallel.add_up(torch.tensor([1.0, parallel.rank()])),
        "gathered": parallel.gather(f"from {parallel.rank()}"),
        "first": parallel.first(lambda: f"by {parallel.rank()}"),
        "refused": refused,
        "gradient": of_one_gradient(),
        "speaks": parallel.speaks_first(),
    }


def everything(tiny: str, folder: Path) -> Found:
    """All there is to compare, by name."""
    return {
        "reward": learn_rewards(tiny, folder / "reward"),
        "reward lora": learn_rewards(tiny, folder / "reward lora", LORA),
        "reward fsdp": learn_rewards(tiny, folder / "reward fsdp", None, SHARDED),
        "reward lora fsdp": learn_rewards(tiny, folder / "reward lora fsdp", LORA, THRIFTY),
        "ppo": learn_policy(tiny, folder / "ppo", "ppo"),
        "ppo fsdp": learn_policy(tiny, folder / "ppo fsdp", "ppo", None, THRIFTY),
        "ppo shared fsdp": learn_policy(tiny, folder / "ppo shared fsdp", "ppo", LORA, SHARDED, critic="shared"),
        "grpo fsdp": learn_policy(tiny, folder / "grpo fsdp", "grpo", None, SHARDED),
        "sft": imitate(tiny, folder / "sft"),
        "sft fsdp": imitate(tiny, folder / "sft fsdp", None, SHARDED),
    }


def main(folder: Path, tiny: str) -> None:
    torch.set_num_threads(1)
    parallel.start()
    rank = parallel.rank()
    found = everything(tiny, folder) | {
        "basics": basics(),
        "undisturbed": some_updates(tiny, folder / "undisturbed", SHARDED),
        "resumed": some_updates(tiny, folder / "resumed", SHARDED, stop=5),
    }
    torch.save(found, folder / f"{rank}.pt")
    parallel.wait()
    if rank == 1:
        os._exit(9)  # killed, without a word
    try:
        parallel.add_up(torch.ones(1))
    except TrainingError as error:
        (folder / "left alone").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
