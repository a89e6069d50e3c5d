"""The proof of the audit's statistics: a judge whose faults are known is recovered within the reported intervals.

The simulated judge is right as often as its inner log-odds say, states them too boldly (a temperature), is drawn to
the longer response, and leans to a position that differs by prompt. The true value of every figure is an integral over
one normal variable, computed here by quadrature and never by the code under test.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import quad
from scipy.special import expit, log_expit
from scipy.stats import norm

from rlaif.audit.labelled import match
from rlaif.audit.metrics import summarise
from rlaif.config.sections import LabelSection
from rlaif.constitution import Constitution
from rlaif.evaluation.agreement import Bootstrap
from rlaif.feedback.judge import judge_pairs
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.pairs import oriented
from rlaif.feedback.verdict import judged
from rlaif.models.chat import ChatRequest
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Judgment, Message, Pair, Prompt, Verdict
from rlaif.templates import load_template
from tests.scripted_judge import choose, shown

PROMPTS = 240
REPETITIONS = 400
"""The least share of them in which an interval must hold the truth is 0.93. With 100 a sound 95 % interval would miss
that one time in eight by luck alone; with 400 one time in thirty."""
SAMPLES = 500

LENGTH_PULL = 0.5  # inner log-odds for the longer response
SPREADS = (0.6, 2.2)  # of the inner log-odds: half of the prompts are hard, half easy
TEMPERATURE = 2.0  # stated log-odds are this many times the inner ones
LEAN, LEAN_SPREAD = 0.7, 0.9  # stated log-odds for whatever stands first, normal over prompts


# ------------------------------------------------------------------------------------------------- the truth


def mean_over_pairs(value: Callable[[float], float]) -> float:
    """E of a function of the inner log-odds for the longer response, N(LENGTH_PULL, spread^2)."""
    by_spread = []
    for spread in SPREADS:
        law = norm(LENGTH_PULL, spread)
        low, high = LENGTH_PULL - 12 * spread, LENGTH_PULL + 12 * spread
        by_spread.append(quad(lambda x, law=law: value(x) * law.pdf(x), low, high, points=[0], epsabs=1e-10)[0])
    return float(np.mean(by_spread))


def truths() -> dict[str, float]:
    """Every figure's true value. The human prefers the longer with the judge's own inner probability sigma(x)."""
    lean = norm(LEAN, LEAN_SPREAD)
    longer = mean_over_pairs(lambda x: float(expit(x)))
    wrong_of_shorter = mean_over_pairs(lambda x: float(expit(-x)) if x > 0 else 0.0) / (1 - longer)
    wrong_of_longer = mean_over_pairs(lambda x: float(expit(x)) if x < 0 else 0.0) / longer
    accuracy = mean_over_pairs(lambda x: float(expit(abs(x))))
    first = mean_over_pairs(lambda x: float(lean.sf(TEMPERATURE * abs(x))))
    second = mean_over_pairs(lambda x: float(lean.cdf(-TEMPERATURE * abs(x))))
    return {
        "accuracy": accuracy,
        "kappa": 2 * accuracy - 1,
        "always longer": longer,
        "consistency": 1 - first - second,
        "both first": first,
        "both second": second,
        "wrong when shorter": wrong_of_shorter,
        "wrong when longer": wrong_of_longer,
        "verbosity bias": wrong_of_shorter - wrong_of_longer,
        "temperature": TEMPERATURE,
    }


# --------------------------------------------------------------------------------------------- the simulation


class World(NamedTuple):
    """What is the same in every repetition: pairs of known lengths, 1 to 4 to a prompt."""

    pairs: list[Pair]
    prompt_of: np.ndarray
    sign: np.ndarray
    """1 where a is the longer response, -1 where b is."""


class Draw(NamedTuple):
    """What one repetition draws, pair by pair."""

    stated: np.ndarray
    """The judge's log-odds for a, before its lean."""
    lean: np.ndarray
    human: np.ndarray
    """1 where the human prefers a, 0 where b."""


def world(prompts: int = PROMPTS) -> World:
    pairs, prompt_of = [], []
    for i in range(prompts):
        prompt = Prompt.of((Message(role="user", content=f"question {i}"),))
        for k in range(1 + i % 4):
            short, long = f"brief {i} {k}", f"a long reply {i} {k}"
            pairs.append(oriented(prompt, short, long))
            prompt_of.append(i)
    sign = np.array([1 if pair.a.startswith("a long") else -1 for pair in pairs])
    return World(pairs, np.array(prompt_of), sign)


WORLD = world()


def draw(world: World, seed: int) -> Draw:
    rng = np.random.default_rng(seed)
    prompts = world.prompt_of[-1] + 1
    spread = rng.choice(SPREADS, prompts)[world.prompt_of]
    lean = rng.normal(LEAN, LEAN_SPREAD, prompts)[world.prompt_of]
    inner = LENGTH_PULL + spread * rng.normal(size=len(world.sign))
    longer = rng.random(len(inner)) < expit(inner)
    human = np.where(world.sign > 0, longer, ~longer).astype(float)
    return Draw(TEMPERATURE * inner * world.sign, lean, human)


CONSTITUTION = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "c",
        "version": "1.0.0",
        "title": "C",
        "principles": [{"id": "better", "compare": "Which response is better?"}],
    }
)


def judge_directly(world: World, drawn: Draw) -> list[Judgment]:
    """The judgments that `judge_pairs` would make, without prompts and replies."""
    judgments = []
    for pair, stated, lean in zip(world.pairs, drawn.stated, drawn.lean, strict=True):
        principle = judged("better", verdict("a", stated + lean), verdict("b", lean - stated))
        judgments.append(Judgment(pair=pair, source="ai", annotator="j", p_a=principle.p_a, principles=(principle,)))
    return judgments


def verdict(first: Any, log_odds: float) -> Verdict:
    log_p = log_expit((log_odds, -log_odds))
    return Verdict(first=first, logprob_first=float(log_p[0]), logprob_second=float(log_p[1]))


def judge_really(world: World, drawn: Draw) -> list[Judgment]:
    """The same judge behind a model's interface: it reads the rendered prompt and gives its labels' log-probs."""
    by_text = {}
    for pair, stated, lean in zip(world.pairs, drawn.stated, drawn.lean, strict=True):
        by_text |= {pair.a: (float(stated), float(lean)), pair.b: (-float(stated), float(lean))}

    def opinion(request: ChatRequest) -> dict[str, float]:
        first, second = shown(request)
        assert re.sub(r"\D+", " ", first).split() == re.sub(r"\D+", " ", second).split()
        stated, lean = by_text[first]
        return choose(stated + lean)

    model = ScriptedChatModel(opinion)
    result = judge_pairs(model, world.pairs, CONSTITUTION, load_template("compare"), LabelSection(), seed=0)
    assert not result.failures
    return list(result.judgments)


def gold(world: World, drawn: Draw) -> list[Judgment]:
    return [
        Judgment(pair=pair, source="human", annotator="h", p_a=float(p))
        for pair, p in zip(world.pairs, drawn.human, strict=True)
    ]


def audit(judgments: list[Judgment], labels: list[Judgment], seed: int, samples: int = SAMPLES) -> dict[str, Any]:
    return summarise(match(judgments, labels), judgments, (), Cost(), Bootstrap(samples, 0.95, seed))


def estimates(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The figures that `truths` knows."""
    length = found["verbosity"]
    return {
        "accuracy": found["accuracy"],
        "kappa": found["kappa"],
        "always longer": found["baselines"]["always_longer"],
        "consistency": found["consistency"],
        "both first": found["consistency"]["both_first"],
        "both second": found["consistency"]["both_second"],
        "wrong when shorter": length["wrong_when_human_prefers_shorter"],
        "wrong when longer": length["wrong_when_human_prefers_longer"],
        "verbosity bias": length["bias"],
        "temperature": found["calibration"]["temperature"],
    }
