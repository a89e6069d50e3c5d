"""Training against TRL on the same work: seconds and peak memory of both sides, in turns, as ratios of medians.

    python benchmarks/training.py reward MODEL_DIR PAIRS.jsonl.gz --peer trl_reward.py --peer-path TRL_1_16
    python benchmarks/training.py ppo    MODEL_DIR PAIRS.jsonl.gz --peer trl_ppo.py    --peer-path TRL_1_12 \
        --variants own lora-shared

MODEL_DIR is a safetensors folder of the model, PAIRS.jsonl.gz rows of {"chosen": ..., "rejected": ...} transcripts
(HH-RLHF). --dtype is of both sides; by default it is what suits the machine. The peer is a script
`SCRIPT MODEL_DIR PAIRS ... --dtype NAME` that prints one JSON line; TRL itself is installed apart
(`pip install --no-deps --target TRL_1_16 trl==1.16.0`). Without --peer only our side runs. Every run is a process of
its own: its peak memory is the kernel's figure for it.

The floor is what the machine needs for the multiplications alone: 6 operations a parameter and trained token, 2 a
token that is only read, over the rate of matrix products of this model's own shapes, measured in the same session.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlaif.config import Recipe
from rlaif.config.reward import RewardSection
from rlaif.config.training import Lora
from rlaif.models.local.load import load_tokenizer
from rlaif.models.local.machine import resolve, torch_dtype
from rlaif.records import Message, Preference, Prompt, content_id
from rlaif.rewards.open import open_rewards
from rlaif.run_folder import Run
from rlaif.training.optimise.actors import open_actors
from rlaif.training.optimise.loop import train_policy
from rlaif.training.reward.ensemble import RewardModels
from rlaif.training.reward.train import RewardStage, train_reward_model
from rlaif.training.scalar_model import ScalarModel
from rlaif.training.tracking import Tracker

BATCH = 8
ROLLOUTS, RESPONSE, EPOCHS = 16, 48, 4


def transcripts(path: str, count: int) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line, _ in zip(file, range(count), strict=False)]


def turns(transcript: str) -> list[dict[str, str]]:
    """The messages of an HH-RLHF transcript, as the peer's script reads them."""
    found: list[dict[str, str]] = []
    for part in transcript.split("\n\n"):
        if part.startswith("Human:"):
            found.append({"role": "user", "content": part[6:].strip()})
        elif part.startswith("Assistant:"):
            found.append({"role": "assistant", "content": part[10:].strip()})
        elif found and part:
            found[-1]["content"] += "\n\n" + part
    return found


def peak_gb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak begins with that of the process which started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def our_reward(model: str, data: str, variant: str, pairs: int, dtype: str) -> dict[str, float]:
    """All weights (or LoRA) on the same pairs, batch, length and precision, one epoch."""
    rows = []
    for number, row in enumerate(transcripts(data, pairs)):
        chosen, rejected = turns(row["chosen"]), turns(row["rejected"])
        rows.append(
            Preference.model_validate(
                {
                    "prompt": chosen[:-1],
                    "chosen": chosen[-1:],
                    "rejected": rejected[-1:],
                    "p_chosen": 1.0,
                    "source": "human",
                    "weight": 1.0,
                    "split": "train",
                    "prompt_id": content_id(number),
                    "pair_id": content_id(number),
                }
            )
        )
    section = RewardSection(
        lora=Lora() if variant == "lora" else None,
        learning_rate=2e-4 if variant == "lora" else 1e-5,
        minibatch_size=BATCH,
        max_length=512,
        microbatch_tokens=4096,
        checkpoint_every=10**6,
    )
    tokenizer = load_tokenizer(model)
    scorer = ScalarModel.from_language_model(model, None, getattr(torch, dtype), pad_id=tokenizer.pad_token_id, seed=0)
    folder = Path(tempfile.mkdtemp())
    tracker = Tracker(Run(folder), "reward", pairs // BATCH, lambda count: None, lambda line: None)
    began = time.perf_counter()
    train_reward_model(RewardStage(scorer, tokenizer, section, 0), rows, folder / "checkpoints", tracker)
    return {"per_s": pairs / (time.perf_counter() - began), "peak_gb": peak_gb()}


def our_ppo(model: str, data: str, variant: str, steps: int, dtype: str) -> dict[str, float]:
    """The same prompts, responses, epochs and models. Variants: own (a separate critic, all weights), shared (a value
    head on the policy's trunk), lora (adapters on policy and critic), lora-shared."""
    folder = Path(tempfile.mkdtemp())
    tokenizer = load_tokenizer(model)
    scorer = ScalarModel.from_language_model(model, None, getattr(torch, dtype), pad_id=tokenizer.pad_token_id, seed=0)
    scorer.save(folder / "reward_model", tokenizer)
    del scorer
    adapter = {"rank": 16} if "lora" in variant else None
    recipe = Recipe.model_validate(
        {
            "name": "benchmark",
            "constitution": "plain-and-brief",
            "policy": {"backend": "local", "model": model, "dtype": dtype},
            "judge": {"backend": "local", "model": model},
            "prompts": {"sources": [{"kind": "file", "path": "everyday"}]},
            "optimise": {
                "kind": "ppo",
                "microbatch_tokens": 768 if "shared" in variant else 4096,
                "critic": "shared" if "shared" in variant else "own",
                "steps": steps,
                "rollouts_per_step": ROLLOUTS,
                "minibatch_size": ROLLOUTS,
                "epochs": EPOCHS,
                "max_prompt_tokens": 96,
                "max_tokens": RESPONSE,
                "learning_rate": 3e-6,
                "critic_learning_rate": 3e-6,
                "lora": adapter,
                "critic_lora": adapter,
                "checkpoint_every": 10**6,
                "print_every": 10**6,
            },
        }
    )
    texts = [turns(row["chosen"])[0]["content"][:300] for row in transcripts(data, ROLLOUTS * steps)]
    prompts = [Prompt.of((Message(role="user", content=text),)) for text in texts]
    models = RewardModels(folder / "reward_model", torch_dtype(recipe.policy.dtype))
    with open_rewards(recipe, dict[Any, Any]().__getitem__, models, recipe.optimise.microbatch_tokens) as open_reward:
        actors = open_actors(recipe, models, open_reward, folder / "weights")
    section: Any = recipe.optimise
    tracker = Tracker(Run(folder), "optimise", steps, lambda count: None, lambda line: None)
    began = time.perf_counter()
    train_policy(actors, prompts, section, 0, folder / "checkpoints", tracker, lambda *_: {})
    return {"per_s": steps / (time.perf_counter() - began), "peak_gb": peak_gb()}


def product_rate(dtype: torch.dtype) -> float:
    """Operations per second of matrix products of SmolLM2-135M's shapes: the best of several tries."""
    best = 0.0
    for rows, inner, columns in ((1024, 576, 1536), (1024, 1536, 576), (576, 1024, 1536)):
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(10):
                torch.nn.functional.linear(a, b)
            best = max(best, 20 * rows * inner * columns / (time.perf_counter() - began))
    return best


OURS = {"reward": our_reward, "ppo": our_ppo}
UNIT = {"reward": "pairs/s", "ppo": "steps/s"}


def peer_arguments(what: str, size: int) -> tuple[int, ...]:
    return (size, BATCH) if what == "reward" else (ROLLOUTS, RESPONSE, size, EPOCHS)


def run(command: Sequence[str], path: str | None) -> dict[str, float]:
    """One run of one side in its own process; the last line of its output is its figures."""
    environment = os.environ | ({"PYTHONPATH": path} if path else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if "s_per_step" in figures:
        figures["per_s"] = 1 / figures["s_per_step"]
    elif "pairs_per_s" in figures:
        figures["per_s"] = figures["pairs_per_s"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(OURS))
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--variants", nargs="+", default=["own"], choices=["own", "shared", "lora", "lora-shared"])
    parser.add_argument("--size", type=int, help="pairs (default 128), or PPO steps (default 2)")
    parser.add_argument("--peer", help="the peer's script")
    parser.add_argument("--peer-path", help="the folder that TRL was installed into")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"], help="of both sides")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", help="one run of this variant, in this process")
    args = parser.parse_args()
    size = args.size or {"reward": 128, "ppo": 2}[args.what]
    dtype = resolve(args.dtype)
    if args.once:
        print(json.dumps(OURS[args.what](args.model, args.data, args.once, size, dtype)))
        return
    print(f"{dtype} products of this model's shapes: {product_rate(getattr(torch, dtype)) / 1e9:.0f} GFLOP/s")
    same = [args.what, args.model, args.data, "--dtype", dtype]
    commands: dict[str, tuple[list[str], str | None]] = {}
    if args.peer:
        words = [args.model, args.data, *map(str, peer_arguments(args.what, size))]
        commands["peer"] = ([sys.executable, args.peer, *words, "--dtype", dtype], args.peer_path)
    for variant in args.variants:
        commands[variant] = ([sys.executable, __file__, *same, "--size", str(size), "--once", variant], None)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for number in range(args.rounds):
        for name, (command, path) in commands.items():
            last = run(command, path)
            figures[name].append(last)
            print(
                f"round {number + 1}  {name:<12} {last['per_s']:.4f} {UNIT[args.what]}  peak {last['peak_gb']:.2f} GB"
            )
    medians = {
        name: {key: statistics.median(row[key] for row in rows) for key in ("per_s", "peak_gb")}
        for name, rows in figures.items()
    }
    for name, row in medians.items():
        line = f"median   {name:<12} {row['per_s']:.4f} {UNIT[args.what]}  peak {row['peak_gb']:.2f} GB"
        if "peer" in medians and name != "peer":
            speed, memory = (row[key] / medians["peer"][key] for key in ("per_s", "peak_gb"))
            line += f"   {speed:.2f} times the peer's speed, {memory:.2f} of its memory"
        print(line)


if __name__ == "__main__":
    main()
