"""Which pairs should people see? The routers of `rlaif route` at equal budget, labelled pairs, SIMULATED annotators.

    python benchmarks/routing.py PAIRS.jsonl.gz [--judgments JUDGMENTS.jsonl] [--repetitions 20] [--noise 0.1]

PAIRS are rows of {"chosen": ..., "rejected": ...} transcripts, whose labels count as the truth here. The judge is
either simulated (right more often on easy pairs, drawn to the longer response), or the real judgments of a run on the
same pairs (`--judgments runs/.../judgments.jsonl`). The annotators are simulated: the truth, flipped with probability
`--noise`. Pairs that no person sees keep the judge's label.

Two figures a router and budget: the share of training labels that are true, and the accuracy on held-out prompts of a
reward model learnt from them: Bradley-Terry, linear in the embedded model's mean hidden state of the response
and its log length (a transformer for each of some thousand cells would take weeks). Every repetition splits, simulates
and trains anew; differences from the random router are paired by repetition, with 95 % t intervals.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import t as student_t

from rlaif.annotate import routers
from rlaif.console import bar, say
from rlaif.errors import DataError
from rlaif.feedback.annotators.simulate import crew_of, simulate
from rlaif.feedback.human import read_human
from rlaif.feedback.pairs import choice
from rlaif.formats import HumanFile
from rlaif.jsonl import read_jsonl
from rlaif.models.local.load import load_language_model
from rlaif.models.local.tokens import encode_prompt, encode_response
from rlaif.records import Judgment, PrincipleJudgment
from rlaif.run_folder import Run

BUDGETS = (0.05, 0.1, 0.2, 0.4)
HELDOUT = 0.25
COMPONENTS = 48
PENALTY = 0.02
PROMPT_TOKENS, RESPONSE_TOKENS = 128, 192
"""The last of the prompt and the first of the response: what the features see."""
ROUTERS = ("random", "uncertainty", "swap_gap", "margin", "predicted")


class World(NamedTuple):
    """Labelled pairs, and the difference of features between a and b of each."""

    truth: list[Judgment]
    differences: np.ndarray


# ------------------------------------------------------------------------------------------------- features


def read_world(path: Path, model: str, work: Path) -> World:
    """Each pair once. Features are kept in `work`: they take minutes."""
    found = {j.pair.id: j for j in read_human([HumanFile(path=str(path))], Run(work)).judgments if j.p_a != 0.5}
    truth = list(found.values())
    kept = work / f"features-{hashlib.sha256(''.join(found).encode()).hexdigest()[:12]}.npy"
    if not kept.exists():
        work.mkdir(parents=True, exist_ok=True)
        np.save(kept, _hidden_states(truth, model))
    hidden = np.load(kept)
    differences = hidden[0::2] - hidden[1::2]
    differences /= differences.std(axis=0) + 1e-9
    _, _, directions = np.linalg.svd(differences, full_matrices=False)
    reduced = differences @ directions[:COMPONENTS].T
    words = np.array([[math.log(1 + len(text.split())) for text in (j.pair.a, j.pair.b)] for j in truth])
    table = np.column_stack([reduced, words[:, 0] - words[:, 1]])
    return World(truth, table / table.std(axis=0))


@torch.no_grad()
def _hidden_states(truth: Sequence[Judgment], model: str) -> np.ndarray:
    """The mean last hidden state over each response's tokens: two rows a pair. B rows, S tokens, H wide."""
    loaded = load_language_model(model, None, torch.bfloat16)
    rows = []
    for judgment in truth:
        before = encode_prompt(loaded.tokenizer, judgment.pair.prompt, PROMPT_TOKENS)
        for text in (judgment.pair.a, judgment.pair.b):
            rows.append((before, encode_response(loaded.tokenizer, text, True)[:RESPONSE_TOKENS]))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    found: dict[int, np.ndarray] = {}
    with bar("features", len(rows), "responses") as advance:
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            longest = max(len(rows[i][0]) + len(rows[i][1]) for i in batch)
            ids_BS = torch.zeros(len(batch), longest, dtype=torch.long)
            real_BS, response_BS = torch.zeros_like(ids_BS), torch.zeros(len(batch), longest)
            for b, i in enumerate(batch):
                before, after = rows[i]
                ids_BS[b, : len(before) + len(after)] = torch.tensor([*before, *after])
                real_BS[b, : len(before) + len(after)] = 1
                response_BS[b, len(before) : len(before) + len(after)] = 1
            hidden_BSH = loaded.model.base_model(input_ids=ids_BS, attention_mask=real_BS).last_hidden_state.float()
            mean_BH = (hidden_BSH * response_BS[..., None]).sum(1) / response_BS.sum(1, keepdim=True).clamp_min(1)
            found.update(zip(batch, mean_BH.numpy(), strict=True))
            advance(len(batch))
    return np.stack([found[i] for i in range(len(rows))])


# ------------------------------------------------------------------------------------- judge and annotators


def simulated_judge(truth: Sequence[Judgment], rng: np.random.Generator) -> list[Judgment]:
    """Right on about 70 %: log-odds for the true side, of a strength that each pair draws, and a pull to the longer."""
    found = []
    for judgment in truth:
        side = 1 if judgment.p_a > 0.5 else -1
        longer = math.log((1 + len(judgment.pair.a.split())) / (1 + len(judgment.pair.b.split())))
        lead = side * rng.exponential(1.2) + 0.8 * longer + rng.normal(0, 1.2)
        shift = abs(rng.normal(0, 0.8))
        gap = abs(expit(lead + shift) - expit(lead - shift))
        part = PrincipleJudgment(principle="simulated", checked=False, p_a=float(expit(lead)), swap_gap=float(gap))
        found.append(
            Judgment(pair=judgment.pair, source="ai", annotator="simulated", p_a=float(expit(lead)), principles=(part,))
        )
    return found


def annotate(truth: Sequence[Judgment], noise: float, seed: int) -> dict[str, Judgment]:
    """What a simulated annotator would say of every pair: the truth, but for this share."""
    answers = simulate(truth, crew_of(f"careful:1:{noise}"), 1, seed)
    return {judgment.pair.id: judgment for judgment in answers}


# ------------------------------------------------------------------------------------------------ one cell


def reward_model(differences: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Weights of the linear Bradley-Terry model with these soft labels, L2 on top."""

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        m = differences @ w
        value = np.mean(p * np.logaddexp(0, -m) + (1 - p) * np.logaddexp(0, m)) + PENALTY * w @ w
        return float(value), differences.T @ (expit(m) - p) / len(p) + 2 * PENALTY * w

    return np.asarray(minimize(loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B").x)


class Cell(NamedTuple):
    """One repetition of one router at one budget."""

    label_accuracy: float
    model_accuracy: float


def repetition(
    world: World, judge: Sequence[Judgment] | None, noise: float, seed: int
) -> dict[tuple[str, float], Cell]:
    """Every router at every budget on one split, one judge and one annotator."""
    rng = np.random.default_rng(seed)
    prompts = sorted({j.pair.prompt_id for j in world.truth})
    out = set(rng.permutation(prompts)[: round(HELDOUT * len(prompts))].tolist())
    held = np.array([j.pair.prompt_id in out for j in world.truth])
    ai = list(judge) if judge is not None else simulated_judge(world.truth, rng)
    people = annotate(world.truth, noise, seed)
    right = np.array([j.p_a for j in world.truth])
    train = [one for one, outside in zip(ai, held, strict=True) if not outside]
    differences, truth = world.differences[~held], right[~held]
    on_ai = reward_model(differences, np.array([one.p_a for one in train]))
    margins = {j.pair.id: float(m) * (2 * choice(j.p_a) - 1) for j, m in zip(train, differences @ on_ai, strict=True)}
    cells = {}
    for name in ROUTERS:
        for budget in (0.0, *BUDGETS, 1.0):
            spent = round(budget * len(train))
            asked = set(_routed(name, train, margins, people, spent, seed))
            p = np.array([people[j.pair.id].p_a if j.pair.id in asked else j.p_a for j in train])
            side = np.array([choice(one) for one in p])
            labels = float(np.mean(np.where(side == 0.5, 0.5, side == truth)))
            margin = world.differences[held] @ reward_model(differences, p)
            cells[name, budget] = Cell(labels, float(np.mean((margin > 0) == (right[held] > 0.5))))
    return cells


def _routed(
    name: str,
    train: Sequence[Judgment],
    margins: dict[str, float],
    people: dict[str, Judgment],
    spent: int,
    seed: int,
) -> list[str]:
    """The pairs that people see. `predicted` spends the first half at random, and learns from that."""
    if name in routers.WORTHS:
        return routers.ordered(train, routers.WORTHS[name], seed)[:spent]
    if name == "margin":
        return routers.by_margin(train, margins, seed)[:spent]
    first = routers.by_hash(train, seed)[: spent // 2]
    try:
        predicted = routers.predict_errors(train, [people[one] for one in first], margins)
    except DataError:  # too few labels to learn from: the rest at random, as the command would have it
        return routers.by_hash(train, seed)[:spent]
    order = routers.ordered(train, lambda judgment: (0, predicted.p_wrong[judgment.pair.id]), seed)
    order = [one for one in order if one not in set(first)]
    return [*first, *order[: spent - len(first)]]


# -------------------------------------------------------------------------------------------------- tables


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of the 95 % t interval over repetitions, in hundredths."""
    found = 100 * np.asarray(values)
    half = student_t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return f"{found.mean():5.1f} ± {half:3.1f}"


def report(cells: Sequence[dict[tuple[str, float], Cell]]) -> None:
    """One table a figure: rows are routers, columns budgets; then differences from random."""
    budgets = (0.0, *BUDGETS, 1.0)
    for field, title in enumerate(("training labels that are true, %", "reward model, held-out accuracy, %")):
        print(f"\n{title}; budget: " + "".join(f"{budget:>15.0%}" for budget in budgets))
        for name in ROUTERS:
            row = [interval([one[name, budget][field] for one in cells]) for budget in budgets]
            print(f"{name:<38}" + "".join(f"{cell:>15}" for cell in row))
        for name in ROUTERS[1:]:
            row = [interval([one[name, b][field] - one["random", b][field] for one in cells]) for b in BUDGETS]
            print(f"  {name + ' minus random':<36}{'':>15}" + "".join(f"{cell:>15}" for cell in row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--judgments", type=Path)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--work", type=Path, default=Path("runs/routing"))
    options = parser.parse_args()
    world = read_world(options.pairs, options.model, options.work)
    judge = None
    if options.judgments:
        known = {j.pair.id: j for j in read_jsonl(options.judgments, Judgment)}
        kept = [i for i, j in enumerate(world.truth) if j.pair.id in known]
        world = World([world.truth[i] for i in kept], world.differences[kept])
        judge = [_turned(known[j.pair.id], j) for j in world.truth]
    say(f"{len(world.truth)} pairs; {'the judge of ' + str(options.judgments) if judge else 'a SIMULATED judge'}; ")
    say(f"SIMULATED annotators, {options.noise:.0%} of whose labels are flipped; {options.repetitions} repetitions")
    cells = []
    with bar("repetitions", options.repetitions, "repetitions") as advance:
        for seed in range(options.repetitions):
            cells.append(repetition(world, judge, options.noise, seed))
            advance(1)
    report(cells)


def _turned(judgment: Judgment, like: Judgment) -> Judgment:
    """The judgment with its pair held as the other one holds it."""
    if judgment.pair.a == like.pair.a:
        return judgment
    parts = tuple(part.model_copy(update={"p_a": 1 - part.p_a}) for part in judgment.principles)
    return judgment.model_copy(update={"pair": judgment.pair.swapped(), "p_a": 1 - judgment.p_a, "principles": parts})


if __name__ == "__main__":
    main()
