"""A whole recipe in seconds: a tiny policy, a scripted judge that likes letters, a constitution that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlaif.config import Recipe

CONSTITUTION = """\
schema: rlaif/constitution/v1
id: letters
version: 1.0.0
title: Plain letters, no digits
principles:
  - id: plain-letters
    compare: Which response has more plain letters?
  - id: no-digits
    check: {kind: regex_absent, pattern: '[0-9]'}
"""


def small_recipe(folder: Path, model: str, prompts: int = 120, **changes: Any) -> Recipe:
    """The recipe over files it writes into the folder; `changes` name dotted keys with `__` for the dot."""
    (folder / "letters.yaml").write_text(CONSTITUTION)
    rows = [json.dumps({"prompt": f"Say {number}"}) + "\n" for number in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(rows))
    values: dict[str, Any] = {
        "name": "letters",
        "title": "A tiny model learns to write letters",
        "constitution": str(folder / "letters.yaml"),
        "policy": {"backend": "local", "model": model, "dtype": "float32"},
        "judge": {"backend": "scripted", "model": "tests.scripted_judge:likes_letters"},
        "prompts": {"sources": [{"kind": "file", "path": str(folder / "prompts.jsonl")}], "heldout": 32},
        "sample": {"temperature": 1.0, "max_tokens": 16},
        "label": {"check_margin": 0.5},
        "preferences": {"tie_margin": 0.2, "heldout_share": 0.2},
        "reward": {"lora": None, "learning_rate": 5e-3, "epochs": 4, "minibatch_size": 16},
        "optimise": {
            "kind": "ppo",
            "steps": 20,
            "rollouts_per_step": 32,
            "minibatch_size": 32,
            "learning_rate": 1e-2,
            "critic_learning_rate": 1e-2,
            "lora": None,
            "critic_lora": None,
            "temperature": 1.0,
            "max_tokens": 16,
            "missing_eos_penalty": 0.0,
            "kl": {"kind": "fixed", "coef": 0.02},
        },
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return Recipe.model_validate(values)
