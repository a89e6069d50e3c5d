"""How long a run will take on this machine, said before it starts: the tokens that its models read, write and learn
from, times the operations per token, over the rate that one layer of the model was just measured at here.

Only for models in this process on a CPU, judged by `compare` or `contrast`, trained on their own rollouts: what the
quickstart is. A forecast of half or double the true time is still a help; constants that were measured say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rlaif.config import Recipe
from rlaif.config.feedback import AiLabels
from rlaif.config.judging import CompareMode, ContrastMode
from rlaif.config.models import LocalModel
from rlaif.config.optimise import OnPolicy, Ppo
from rlaif.config.rollouts import LocalRollouts
from rlaif.config.scoring import FlipsCost, JudgeScore
from rlaif.constitution import Constitution, load_constitution
from rlaif.feedback.prompts import read_prompts

LEARNING = 2.4
"""Cost of a token that is learnt from through an adapter, in tokens read."""
ALONE = 48
"""Cost of reading the weights once, in tokens read: what a token costs that is written by one row alone."""
QUESTION, PRINCIPLE = 75, 30
"""Tokens of the template `compare`: once per pair and order, and once more per principle."""
INSTRUCTION, LOGITS = 25, 1.3
"""Tokens of an instruction of `contrast`; and the cost of a token whose log-probability is wanted, in tokens read."""
WORD = 1.6
"""Tokens per word of a conversation, its turn's delimiters among them."""
FILLED = 0.8
"""Of the most that a response may have."""


class Work(NamedTuple):
    """Tokens of each stage, each counted as what it costs to read one."""

    sample: float
    label: float
    reward: float
    optimise: float
    evaluate: float


def work(recipe: Recipe) -> Work | None:
    """The work of a run; None where this is no such recipe."""
    method, labels = recipe.optimise, recipe.preferences.labels
    if not (
        isinstance(recipe.policy, LocalModel)
        and isinstance(recipe.judge, LocalModel)
        and isinstance(recipe.label.mode, CompareMode | ContrastMode)
        and isinstance(labels, AiLabels)
        and isinstance(method, OnPolicy)
        and isinstance(method.rollouts, LocalRollouts)
        and all(isinstance(s.mode, ContrastMode) for s in method.sources if isinstance(s, JudgeScore | FlipsCost))
        and recipe.sample.dialogue is None
        and method.dialogue is None
    ):
        return None
    found = read_prompts(recipe.prompts)
    texts = [" ".join(m.content for m in prompt.messages) for prompt in [*found.train, *found.heldout]]
    prompt = WORD * sum(len(text.split()) for text in texts) / max(1, len(texts)) + 12
    train, heldout = len(found.train), len(found.heldout[: recipe.evaluate.prompts])
    n, response = recipe.sample.responses_per_prompt, FILLED * recipe.sample.max_tokens
    contrast = recipe.sample.contrast
    most = (n // 2) ** 2 if contrast else n * (n - 1) // 2
    pairs = min(recipe.label.pairs_per_prompt or most, most)
    asked = contrast is None or contrast.labels != "origin"
    constitution = load_constitution(recipe.constitution)
    reading, judged = _reading(constitution, prompt, response), _judging(recipe, constitution, prompt, response)
    rows = prompt + n * response
    rollouts, written = method.rollouts_per_step, FILLED * method.max_tokens
    siblings = method.responses_per_prompt
    step = rollouts * (prompt / siblings + written)
    judges = sum(isinstance(source, JudgeScore) for source in method.sources)
    own = isinstance(method, Ppo) and method.critic == "own"
    answers = recipe.evaluate.responses_per_prompt * heldout
    batch = recipe.policy.batch_size
    learnt = 1 - recipe.preferences.heldout_share
    return Work(
        sample=train
        * (
            (prompt if contrast is None else 2 * (prompt + INSTRUCTION))
            + _writing(min(batch, train * n)) * n * response
        ),
        label=train * asked * judged(min(n, 2 * pairs), pairs),
        reward=train * rows * (1 + learnt * recipe.reward.epochs * LEARNING),
        optimise=method.steps
        * (
            _writing(rollouts) * rollouts * written
            + step * (3 + own + (1 + own) * method.epochs * LEARNING)
            + judges * rollouts / siblings * reading(siblings)
        ),
        evaluate=answers
        * (2 * (prompt + _writing(min(batch, answers)) * response) + judged(2, 1) + 4 * (prompt + response)),
    )


def _writing(rows: int) -> float:
    """The work of a token that is written, of so many rows at a time."""
    return 1 + ALONE / max(1, rows)


def _reading(constitution: Constitution, prompt: float, response: float) -> Callable[[float], float]:
    """The work of reading so many responses to one prompt under the instructions of all principles that have them."""
    principles = sum(p.asked_in("contrast") for p in constitution.principles)
    return lambda responses: 2 * principles * (INSTRUCTION + prompt + responses * LOGITS * response)


def _judging(
    recipe: Recipe, constitution: Constitution, prompt: float, response: float
) -> Callable[[float, float], float]:
    """The work of judging so many pairs of so many responses to one prompt."""
    if isinstance(recipe.label.mode, ContrastMode):
        reading = _reading(constitution, prompt, response)
        return lambda responses, pairs: reading(responses)
    principles = sum(p.asked_in("compare") for p in constitution.principles)
    each = 2 * (QUESTION + prompt + 2 * response + principles * PRINCIPLE) if principles else 0.0
    return lambda responses, pairs: pairs * each


def forecast(recipe: Recipe) -> str | None:
    """One line: about how long the run takes here, in which number format. None where that is not known."""
    found = work(recipe)
    if found is None:
        return None
    from rlaif.models.local.load import count_parameters, device, pass_rate
    from rlaif.models.local.machine import resolve, share_cores, torch_dtype

    if device().type != "cpu":
        return None
    threads = share_cores()
    policy = recipe.policy
    rate = pass_rate(policy.model, policy.revision, torch_dtype(policy.dtype))
    operations = 2.0 * count_parameters(policy.model, policy.revision)
    minutes = max(1, round(sum(found) * operations / rate / 60))
    said = f"{minutes} minute{'s' if minutes > 1 else ''} ({threads} thread{'s' if threads > 1 else ''} here, "
    return f"expected: about {said}{resolve(policy.dtype)}, {rate / 1e9:.0f} GFLOP/s)"
