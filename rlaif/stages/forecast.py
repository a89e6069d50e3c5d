"""How long a run will take on this machine, said before it starts: the tokens that its models read, write and learn
from, times the products of a token, over the rate of products that this machine was just measured at.

Only for models in this process on a CPU, judged by `compare` and trained by PPO: what the quickstart is. A forecast of
half or double the true time is still a help; constants that were measured say so.
"""

from __future__ import annotations

from typing import NamedTuple

from rlaif.config import Recipe
from rlaif.config.judging import CompareMode
from rlaif.config.optimise import LocalRollouts, Ppo
from rlaif.config.sections import AiLabels, LocalModel
from rlaif.constitution import load_constitution
from rlaif.feedback.prompts import read_prompts

WRITING, LEARNING = 3.0, 2.4
"""Cost of a token that is written (few rows at a time), and of one learnt from through an adapter, in tokens read."""
QUESTION, PRINCIPLE = 75, 30
"""Tokens of the template `compare`: once per pair and order, and once more per principle."""
WORD = 1.6
"""Tokens per word of a conversation, its turn's delimiters among them."""
FILLED = 0.8
"""Of the most that a response may have."""
EFFICIENCY = 0.9
"""Of the measured rate, which is the best of a short burst: what whole passes reach, with all that is no product."""


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
        and isinstance(recipe.label.mode, CompareMode)
        and isinstance(labels, AiLabels)
        and isinstance(method, Ppo)
        and isinstance(method.rollouts, LocalRollouts)
    ):
        return None
    found = read_prompts(recipe.prompts)
    texts = [" ".join(m.content for m in prompt.messages) for prompt in [*found.train, *found.heldout]]
    prompt = WORD * sum(len(text.split()) for text in texts) / max(1, len(texts)) + 12
    train, heldout = len(found.train), len(found.heldout[: recipe.evaluate.prompts])
    n, response = recipe.sample.responses_per_prompt, FILLED * recipe.sample.max_tokens
    principles = sum(p.judged for p in load_constitution(recipe.constitution).principles)
    asked = 2 * (QUESTION + prompt + 2 * response + principles * PRINCIPLE) if principles else 0.0
    pairs = min(recipe.label.pairs_per_prompt or n * n, n * (n - 1) // 2)
    rows = prompt + n * response
    rollouts, written = method.rollouts_per_step, FILLED * method.max_tokens
    step = rollouts * (prompt / method.responses_per_prompt + written)
    own = method.critic == "own"
    answers = recipe.evaluate.responses_per_prompt * heldout
    learnt = 1 - recipe.preferences.heldout_share
    return Work(
        sample=train * (prompt + WRITING * n * response),
        label=train * pairs * asked,
        reward=train * rows * (1 + learnt * recipe.reward.epochs * LEARNING),
        optimise=method.steps
        * (WRITING * rollouts * written + step * (3 + own + (1 + own) * method.epochs * LEARNING)),
        evaluate=answers * (2 * (prompt + WRITING * response) + asked + 4 * (prompt + response)),
    )


def forecast(recipe: Recipe) -> str | None:
    """One line: about how long the run takes here, in which number format. None where that is not known."""
    found = work(recipe)
    if found is None:
        return None
    from rlaif.models.local.dtype import product_rate, resolve, torch_dtype
    from rlaif.models.local.load import count_parameters, device
    from rlaif.models.local.threads import share_cores

    if device().type != "cpu":
        return None
    threads = share_cores()
    rate = product_rate(torch_dtype(recipe.policy.dtype))
    operations = 2.0 * count_parameters(recipe.policy.model, recipe.policy.revision)
    minutes = sum(found) * operations / (EFFICIENCY * rate) / 60
    return (
        f"expected: about {max(1, round(minutes))} minutes ({threads} thread{'s' if threads > 1 else ''} here, "
        f"{resolve(recipe.policy.dtype)}, {rate / 1e9:.0f} GFLOP/s)"
    )
