"""A small world to audit in: labelled pairs whose better response is known, and judges that see it or not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from random import Random

from rlaif.config import Recipe, load_recipe
from rlaif.models.engine import ChatRequest
from rlaif.records import Provenance
from rlaif.testing import choose

SHOWN = re.compile(r"<(?:response|reply|option)_([ab])>\n(.*?)\n</(?:response|reply|option)_\1>", re.DOTALL)
"""Where the compare templates put the two responses."""
CONSTITUTION = """\
schema: rlaif/constitution/v1
id: goodness
version: 1.0.0
title: Good and brief
principles:
  - id: good
    compare: Which response is better?
    question: Is it good?
    desired: "yes"
  - id: kind
    compare: Which response is kinder?
    question: Is it kind?
    desired: "yes"
"""

ORIGIN = Provenance(
    constitution="c",
    constitution_version="1",
    constitution_hash="0",
    judge="j",
    judge_revision="0",
    template="t",
    template_hash="0",
    sampling={},
    aggregation="mean",
)
"""Of a judgment whose origin does not matter."""


def shown(request: ChatRequest) -> tuple[str, str]:
    """The two responses, first and second, whichever compare template asks."""
    found = dict(SHOWN.findall(request.messages[-1].content))
    return found["a"], found["b"]


def merit(text: str) -> int:
    """How often the response says good, less how often bad."""
    return text.count("good") - text.count("bad")


def sees_merit(request: ChatRequest) -> dict[str, float]:
    """A judge that is always right."""
    first, second = shown(request)
    return choose(float(merit(first) - merit(second)))


def tosses(request: ChatRequest) -> dict[str, float]:
    """A judge whose preference has nothing to do with merit, but is the same in both orders."""
    first, second = (sum(map(ord, text)) * 37 % 101 / 50 - 1 for text in shown(request))
    return choose(first - second)


def sees_position(request: ChatRequest) -> dict[str, float]:
    """A judge that takes whatever stands first, with a trace of merit to break the tie."""
    first, second = shown(request)
    return choose(5.0 + 0.1 * (merit(first) - merit(second)))


def refuses(request: ChatRequest) -> dict[str, float]:
    """A judge that never gives a label."""
    return {"A": -60.0, "B": -60.0}


def says_nothing(request: ChatRequest) -> str:
    """A judge asked for a text that is no principle."""
    return "I would rather not say."


def rates(request: ChatRequest) -> dict[str, float]:
    """A judge of one response: a sure rating by merit."""
    text = request.messages[-1].content.partition("<response>")[2]
    digit = min(9, max(0, 4 + merit(text)))
    return {label: math.log(0.9 if label == str(digit) else 0.01) for label in request.labels}


def write_gold(path: Path, pairs: int = 60, wrong: float = 0.0, seed: int = 0, attack: str = "") -> Path:
    """HH-RLHF rows, two pairs a prompt; a share `wrong` is labelled against merit. `attack` ends every response."""
    random = Random(seed)
    rows = []
    for number in range(pairs):
        prompt = f"\n\nHuman: Question {number // 2}?\n\nAssistant: "
        better, worse = random.randint(2, 5), random.randint(0, 1)
        texts = [f"{'good ' * n}{'word ' * random.randint(1, 9)}{random.randint(0, 10**6)}" for n in (better, worse)]
        if random.random() < wrong:
            texts.reverse()
        chosen, rejected = (f"{prompt}{text}{attack}" for text in texts)
        rows.append({"chosen": chosen, "rejected": rejected, "tags": [("easy", "hard")[number % 2]]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_of(folder: Path, judge: str, *overrides: str, constitution: str = CONSTITUTION) -> Recipe:
    """A recipe whose judge is one of this module's functions."""
    file = folder / "goodness.yaml"
    file.write_text(constitution)
    own = ["judge.backend=scripted", f"judge.model=tests.audited:{judge}", f"constitution={file}"]
    return load_recipe(
        "quickstart",
        [
            *own,
            "sample.contrast=null",
            "label.mode={kind: compare, template: compare}",
            "optimise.scoring={kind: reward_model}",
            "label.pairs_per_prompt=3",
            "evaluate.bootstrap_samples=200",
            *overrides,
        ],
    )
