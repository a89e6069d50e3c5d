"""A world in which every mode of a judge is right by plan: each response says which modes prefer it.

A judge here reads the plan that stands in the responses, so how often a mode agrees with people, on which pairs, and
what it costs is known before it is asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from rlaif.config import Recipe, load_recipe
from rlaif.models.engine import ChatRequest, Likelihood, Reply
from rlaif.models.scripted import RequestFailed
from rlaif.testing import choose
from tests.audited import shown
from tests.scripted_judge import RESPONSE

FOR = "Answer well."
CONSTITUTION = f"""\
schema: rlaif/constitution/v1
id: planned
version: 1.0.0
title: As planned
principles:
  - id: good
    compare: Which response is better?
    question: Is it good?
    desired: "yes"
    contrast: {{for: {FOR}, against: Answer badly.}}
"""
TOKENS = {"compare": 100, "checklist": 30, "score": 40, "contrast": 20}
"""Of one request: two make a pair's judgment, but for contrast, which takes four."""


def planned(request: ChatRequest) -> Reply:
    """The judge: whichever response the plan of its mode prefers."""
    if request.answer is not None:
        told = request.messages[0].content == FOR
        logprob = -20.0 + (4 if told else 0) * preferred(request.answer, "contrast")
        likely = Likelihood(logprob=logprob, end_logprob=0.0, tokens=4)
        return Reply(likelihood=likely, prompt_tokens=TOKENS["contrast"])
    if request.labels == ("A", "B"):
        first, second = (preferred(text, "compare") for text in shown(request))
        return Reply(label_logprobs=choose(float(first - second)), prompt_tokens=TOKENS["compare"])
    (text,) = RESPONSE.findall(request.messages[-1].content)
    if request.labels == ("Yes", "No", "Unknown"):
        good = preferred(text, "checklist") > 0
        odds = {"Yes": 0.8 if good else 0.1, "No": 0.1 if good else 0.8, "Unknown": 0.05}
        return Reply(label_logprobs={k: math.log(p) for k, p in odds.items()}, prompt_tokens=TOKENS["checklist"])
    digit = "8" if preferred(text, "score") > 0 else "2"
    odds = {label: 0.9 if label == digit else 0.005 for label in request.labels}
    return Reply(label_logprobs={k: math.log(p) for k, p in odds.items()}, prompt_tokens=TOKENS["score"])


def first_come(request: ChatRequest) -> Reply:
    """The same judge, who in `compare` takes the first response: at even after both orders."""
    if request.labels == ("A", "B"):
        return Reply(label_logprobs=choose(2.0), prompt_tokens=TOKENS["compare"])
    return planned(request)


def preferred(text: str, mode: str) -> int:
    """1 where the plan prefers this response in this mode, -1 where it does not."""
    found = re.search(rf"{mode}=([-+?])", text)
    assert found is not None, f"no plan for {mode} in {text!r}"
    if found[1] == "?":
        raise RequestFailed(f"{mode} is to fail here")
    return 1 if found[1] == "+" else -1


def write_plan(
    path: Path, rights: Mapping[str, Sequence[bool | None]], *, pairs_per_prompt: int = 2, first: int = 0
) -> Path:
    """Human labels, and in each row whether each mode is right on it; None: it fails to answer."""
    rows = []
    for number, plan in enumerate(zip(*rights.values(), strict=True)):
        prompt = f"\n\nHuman: Question {first + number // pairs_per_prompt}?\n\nAssistant: "
        texts = []
        for better in (True, False):
            marks = (
                f"{mode}={'?' if right is None else '+' if right == better else '-'}"
                for mode, right in zip(rights, plan, strict=True)
            )
            texts.append(f"reply {first + number} {'one' if better else 'two'} {' '.join(marks)}")
        rows.append({"chosen": prompt + texts[0], "rejected": prompt + texts[1]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tosses(pairs: int, seed: int, **accuracy: float) -> dict[str, list[bool | None]]:
    """Independent errors: each mode is right with its probability."""
    random = Random(seed)
    return {mode: [random.random() < p for _ in range(pairs)] for mode, p in accuracy.items()}


def planned_recipe(folder: Path, *overrides: str, constitution: str = CONSTITUTION, **more: Any) -> Recipe:
    """A recipe whose judge is `planned`."""
    return load_recipe("quickstart", planned_words(folder, *overrides, constitution=constitution), **more)


def planned_words(folder: Path, *overrides: str, constitution: str = CONSTITUTION) -> list[str]:
    """Its overrides."""
    file = folder / "planned.yaml"
    file.write_text(constitution)
    return [
        "judge.backend=scripted",
        "judge.model=tests.tried_modes:planned",
        f"constitution={file}",
        "sample.contrast=null",
        "label.mode={kind: compare}",
        "label.pairs_per_prompt=3",
        "evaluate.bootstrap_samples=400",
        *overrides,
    ]
