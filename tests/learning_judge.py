"""A world in which a judge can learn: a tiny model, short templates, and labels that follow a rule nobody told it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.config import Recipe, load_recipe
from rlaif.testing import save_tiny

MODES = ("compare", "score", "checklist", "contrast")
BEGIN = "{% block user %}<q>\n{{ conversation }}\n</q>\n"
ONE = "<r>\n{{ response }}\n</r>\n{{ principle }}"
TEMPLATES = {
    "compare": BEGIN + "<a>\n{{ response_1 }}\n</a>\n<b>\n{{ response_2 }}\n</b>\n{{ principle }}{% endblock %}"
    "{% block labels %}A B{% endblock %}",
    "score": BEGIN + ONE + " 0 to 9{% endblock %}",
    "checklist": BEGIN + ONE + "{% endblock %}{% block labels %}Y N U{% endblock %}",
}
CONSTITUTION = """\
schema: rlaif/constitution/v1
id: letters
version: 1.0.0
title: Late letters
principles:
  - id: late
    compare: L?
    question: L?
    desired: "yes"
    contrast: {for: P, against: N}
"""
TWO = (
    CONSTITUTION
    + """\
  - id: not-early
    compare: E?
    question: E?
    desired: "no"
    contrast: {for: X, against: Y}
    weight: 3.0
"""
)


def rows(count: int, seed: int = 0, better: str = "xyz", worse: str = "abc") -> list[dict[str, Any]]:
    """One pair a prompt: four letters of the better kind, four of the other."""
    rng = random.Random(seed)

    def word(letters: str) -> str:
        return "".join(rng.choice(letters) for _ in range(4))

    return [{"prompt": f"Say {seed}{n:03}", "chosen": word(better), "rejected": word(worse)} for n in range(count)]


def write(path: Path, values: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def recipe_of(folder: Path, kind: str, *overrides: str, constitution: str = CONSTITUTION, **shape: Any) -> Recipe:
    """A judge of random weights that are large enough for an adapter to move it."""
    base = folder / "base"
    if not base.exists():
        save_tiny(base, initializer_range=0.2, **shape)
    (folder / "letters.yaml").write_text(constitution)
    mode = f"label.mode={{kind: {kind}}}"
    if kind in TEMPLATES:
        (folder / f"{kind}.jinja").write_text(TEMPLATES[kind])
        mode = f"label.mode={{kind: {kind}, template: {folder / kind}.jinja}}"
    return load_recipe(
        "quickstart",
        [
            f"constitution={folder / 'letters.yaml'}",
            f"judge={{backend: local, model: {base}, dtype: float32}}",
            mode,
            "evaluate.bootstrap_samples=200",
            "judge_training.learning_rate=5.0e-3",
            "judge_training.minibatch_size=16",
            "judge_training.microbatch_tokens=2048",
            "judge_training.epochs=2",
        ],
        overrides,
    )
