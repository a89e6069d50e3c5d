"""A run folder as a finished run leaves it, made without any model, to test the report and the comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_expit

from rlaif.config.recipe import EvaluateSection
from rlaif.constitution import Constitution
from rlaif.evaluation.evaluate import EvaluationInputs, evaluate, sample_rows
from rlaif.evaluation.winrate import evaluation_pairs
from rlaif.records import (
    Failure,
    Judgment,
    Message,
    Pair,
    PrincipleJudgment,
    Prompt,
    Response,
    Verdict,
)

CONSTITUTION = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "plain-and-brief",
        "version": "1.0.0",
        "title": "Short and plain",
        "principles": [
            {"id": "brief", "check": {"kind": "max_words", "limit": 12}},
            {"id": "whole-sentence", "check": {"kind": "ends_in_sentence"}},
            {"id": "no-list", "check": {"kind": "no_list"}},
            {"id": "plain-words", "compare": "Which response is easier to understand?"},
            {"id": "on-topic", "compare": "Which response keeps closer to what was asked?", "weight": 2.0},
        ],
    }
)
QUESTIONS = (
    "Why is the sky blue?",
    "How do I keep bread fresh?",
    "What does a compiler do?",
    "Tell me about tides.",
)
LONG = (
    "There are several things to consider here, and the answer depends on who you ask and when you ask it",
    "1. First of all, let us look at the history.\n2. Then let us look at the present.\n3. Finally, the future.",
    "The short version is that light is scattered, but the long version takes a whole book to explain well.",
)
SHORT = (
    "Air scatters blue light more than red.",
    "Keep it in a cloth bag, away from heat.",
    "It turns source code into machine code.",
)


def prompt(i: int) -> Prompt:
    return Prompt.of((Message(role="user", content=f"{QUESTIONS[i % len(QUESTIONS)]} ({i})"),))


def response(of: Prompt, text: str, index: int = 0, finished: bool = True) -> Response:
    return Response(
        id=f"{of.id}-{index}",
        prompt_id=of.id,
        prompt=of.messages,
        index=index,
        text=text,
        finished=finished,
        tokens=len(text.split()),
        model="fake",
    )


def judged(pair: Pair, principle: str, logit_ab: float, logit_ba: float) -> PrincipleJudgment:
    """A principle's judgment from log-odds of the response shown first, in order (a, b) and in order (b, a)."""
    verdicts = tuple(
        Verdict(first=side, logprob_first=float(log_expit(x)), logprob_second=float(log_expit(-x)))
        for side, x in (("a", logit_ab), ("b", logit_ba))
    )
    p_a = 1 / (1 + np.exp(-(logit_ab - logit_ba) / 2))
    return PrincipleJudgment(principle=principle, checked=False, p_a=float(p_a), verdicts=verdicts)


def judge(pair: Pair, rng: np.random.Generator, skill: float, position: float) -> Judgment:
    """A judge that likes short responses by `skill` and the first one by `position`."""
    liking = skill * float(np.sign(len(pair.b) - len(pair.a)))
    principles = tuple(
        judged(pair, p.id, *(position + rng.normal(0, 1, 2) + np.array([liking, -liking])))
        for p in CONSTITUTION.principles
        if p.judged
    )
    p_a = float(np.mean([p.p_a for p in principles]))
    return Judgment(pair=pair, source="ai", annotator="fake-judge", p_a=p_a, principles=principles)


def inputs(
    prompts: int = 48, gain: float = 0.6, skill: float = 0.2, position: float = 1.2, seed: int = 0
) -> EvaluationInputs:
    """A policy that learned to be brief on a share `gain` of the prompts, and a judge with a taste for position."""
    rng = np.random.default_rng(seed)
    before, after = [], []
    for i in range(prompts):
        of = prompt(i)
        before.append(response(of, str(rng.choice(LONG if rng.random() < 0.7 else SHORT)), finished=i % 3 > 0))
        after.append(response(of, str(rng.choice(SHORT if rng.random() < 0.2 + gain else LONG))))
    judgments = [judge(pair, rng, skill, position) for pair in evaluation_pairs(before, after)]
    rows = [
        {
            "pair_id": str(i),
            "prompt_id": str(i // 3),
            "source": "ai" if i % 4 else "human",
            "p_chosen": 0.8,
            "margin": float(rng.normal(0.6, 1)),
        }
        for i in range(150)
    ]
    return EvaluationInputs(
        constitution=CONSTITUTION,
        before=before,
        after=after,
        judgments=judgments,
        failures=[
            Failure(
                stage="label",
                id="p1",
                reason="no label token",
                detail="label mass 0.002",
                principle="on-topic",
            ),
            Failure(stage="label", id="p2", reason="timed out", detail="timed out after 5 tries"),
        ],
        heldout_rows=rows,
        kl=[float(x) for x in rng.gamma(4, 1.5, prompts)],
        scores_before=[float(x) for x in rng.normal(0, 1, prompts)],
        scores_after=[float(x) for x in rng.normal(1.6, 1, prompts)],
        cost={
            "judge_calls": 4_812,
            "prompt_tokens": 1_934_204,
            "completion_tokens": 4_812,
            "seconds": {"sample": 212.4, "label": 840.0},
        },
    )


def metrics(steps: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in range(40):
        loss = 0.69 - 0.12 * (1 - np.exp(-step / 12)) + rng.normal(0, 0.02)
        accuracy = 0.5 + 0.2 * (1 - np.exp(-step / 12)) + rng.normal(0, 0.04)
        rows.append({"stage": "reward", "step": step, "loss": loss, "accuracy": accuracy, "learning_rate": 2e-4})
    for step in range(steps):
        way = 1 - np.exp(-step / 20)
        row = {
            "score": 1.6 * way + rng.normal(0, 0.12),
            "reward": 1.2 * way + rng.normal(0, 0.12),
            "kl": 6 * way + rng.normal(0, 0.4),
            "response_tokens": 60 - 30 * way + rng.normal(0, 2),
            "finished": min(1.0, 0.7 + 0.28 * way),
            "entropy": 2.1 - 0.6 * way,
            "clip_fraction": 0.05 + 0.1 * way,
            "explained_variance": 0.7 * way,
            "policy_loss": -0.01,
            "value_loss": 0.4 * (1 - way),
            "kl_coef": 0.05,
            "seconds": 8.0,
            "pass/brief": min(1, 0.3 + 0.6 * way + rng.normal(0, 0.03)),
            "pass/whole-sentence": min(1, 0.6 + 0.35 * way + rng.normal(0, 0.03)),
            "pass/no-list": min(1, 0.8 + 0.15 * way + rng.normal(0, 0.03)),
            "pass/all": min(1, 0.2 + 0.6 * way + rng.normal(0, 0.03)),
        }
        rows.append({"stage": "optimise", "step": step} | {k: float(v) for k, v in row.items()})
    return rows


RECIPE = """\
name: quickstart
title: Short, plain answers from a small model
constitution: plain-and-brief
policy: {backend: local, model: smollm2-135m}
judge: {backend: local, model: smollm2-135m}
preferences:
  labels: {kind: ai, pairs: sampled}
optimise: {kind: ppo, steps: 60}
evaluate: {examples: 6}
"""
MANIFEST = {
    "versions": {"rlaif": "0.1.0", "torch": "2.9.0"},
    "git": {"commit": "92d63d4", "dirty": False},
    "stages": {
        "sample": {"seconds": 212.4, "inputs": "ab", "outputs": {"responses.jsonl": "cd"}},
        "label": {"seconds": 840.0, "inputs": "cd", "outputs": {"judgments.jsonl": "ef"}},
        "reward": {"seconds": 95.1},
        "optimise": {"seconds": 5210.0},
        "evaluate": {"seconds": 48.0},
    },
}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(folder: Path, given: EvaluationInputs, recipe: str = RECIPE) -> Path:
    """The folder, with every file that a report reads."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    section = EvaluateSection(bootstrap_samples=300)
    (folder / "evaluation.json").write_text(json.dumps(evaluate(given, section, 0)))
    write_jsonl(folder / "metrics.jsonl", metrics())
    write_jsonl(folder / "failures.jsonl", [f.model_dump() for f in given.failures])
    write_jsonl(folder / "evaluation_samples.jsonl", sample_rows(given))
    preferences = [{"source": "ai", "split": "train"}] * 800 + [{"source": "ai", "split": "heldout"}] * 150
    write_jsonl(folder / "preferences.jsonl", preferences)
    return folder
