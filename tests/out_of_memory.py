"""`rlaif optimise` of a recipe whose second step has far longer rollouts, for which the address space has no room.

python -m tests.out_of_memory FOLDER MODEL_DIR
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import yaml

from rlaif.cli import main
from rlaif.feedback.prompts import read_prompts
from rlaif.testing import small_recipe
from rlaif.training.optimise.rollout import prompts_of_step
from rlaif.training.session import Session
from tests.memory_process import status

ROOM = 2**25
METHOD = {
    "kind": "rloo",
    "scoring": {"kind": "length", "per": 4},
    "steps": 2,
    "rollouts_per_step": 2,
    "responses_per_prompt": 2,
    "minibatch_size": 2,
    "max_tokens": 4,
    "max_prompt_tokens": 1000,
    "checkpoint_every": 1,
    "lora": None,
}


def limit_after_saving() -> None:
    """Once the first checkpoint is written, the address space may grow by no more than ROOM."""
    save = Session.save

    def saves(self: Session, *args: Any) -> None:
        save(self, *args)
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + ROOM,) * 2)

    Session.save = saves  # type: ignore[method-assign]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    recipe = small_recipe(folder, sys.argv[2], prompts__heldout=2)
    texts = [f"{number} " * length for number in range(4) for length in (1, 450)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    values = recipe.model_dump(mode="json") | {"optimise": METHOD}
    prompts = read_prompts(recipe.prompts).train

    def length(step: int, seed: int) -> int:
        return len(prompts_of_step(prompts, 1, step, seed)[0].messages[0].content)

    seed = next(seed for seed in range(100) if length(0, seed) < 10 < length(1, seed))
    values["seed"] = seed
    values["policy"]["dtype"] = "bfloat16"  # its attention is plain products, which keep the scores of all tokens
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    limit_after_saving()
    sys.argv = ["rlaif", "optimise", str(folder / "recipe.yaml"), "--out", str(folder / "run")]
    main()
