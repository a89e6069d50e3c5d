"""What a person watches, and the rules that stop a run which has gone wrong: one number per step each.

Reward and loss alone do not show a policy that games its reward (MOSS-RLHF, arXiv 2307.04964): KL, length, entropy,
repetition and a held-out score do. Shape suffixes: B responses, T response tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rlaif.config.optimise import OnPolicy
from rlaif.config.rollouts import StopRules
from rlaif.signals.tally import repetition_rate
from rlaif.training.losses import policy as losses
from rlaif.training.optimise.estimators import State, Targets
from rlaif.training.optimise.rewards import Rewards
from rlaif.training.optimise.rollout import Rollouts


def summarise(rollouts: Rollouts, targets: Targets, state: State) -> dict[str, float]:
    """Of the step's rollouts: score and its parts, KL, length, entropy, repetition, critic, constraints."""
    mask_BT = rollouts.mask_BT
    lengths_B = mask_BT.sum(1).float()
    row = {
        "score": float(rollouts.score_B.mean()),
        "score_std": float(rollouts.score_B.std(unbiased=False)),
        "reward": float(targets.reward_B.mean()),
        "kl": float(targets.kl_BT.sum(1).mean()),
        "kl_coef": state.kl_coef,
        "response_tokens": float(lengths_B.mean()),
        "finished": sum(rollouts.finished) / len(rollouts.finished),
        "entropy": float(losses.masked_mean(rollouts.entropy_BT, mask_BT)),
        "repetition": sum(map(repetition_rate, rollouts.texts)) / len(rollouts.texts),
        "ref_perplexity": math.exp(-float(losses.masked_mean(rollouts.ref_logprobs_BT, mask_BT))),
        "unscored": rollouts.unscored,
    }
    row |= {f"score/{name}": float(part_B.mean()) for name, part_B in rollouts.parts.items()}
    row |= {f"cost/{name}": float(cost_B.mean()) for name, cost_B in rollouts.cost_B.items()}
    row |= {f"asked/{name}": count for name, count in rollouts.asked.items()}
    row |= {f"lambda/{name}": multiplier for name, multiplier in state.multipliers.items()}
    if rollouts.values_BT is not None and targets.returns_BT is not None:
        row["value"] = float(losses.masked_mean(rollouts.values_BT, mask_BT))
        row["explained_variance"] = float(losses.explained_variance(rollouts.values_BT, targets.returns_BT, mask_BT))
    if rollouts.sampler_logprobs_BT is not None:
        gap_BT = (rollouts.logprobs_BT - rollouts.sampler_logprobs_BT).abs()
        row["sampler_gap"] = float(losses.masked_mean(gap_BT, mask_BT))
    if state.baseline is not None:
        row["baseline"] = state.baseline
    return row


def ask_gold(rewards: Rewards, section: OnPolicy, rollouts: Rollouts, step: int) -> dict[str, float]:
    """What the held-out source says of the step's first rollouts, in the steps that are its turn.

    Responses it cannot score are left out of the mean and counted.
    """
    if section.gold is None or rewards.gold is None or step % section.gold.every:
        return {}
    some = slice(section.gold.responses)
    values, _, asked = rewards.gold.measure(rollouts.prompts[some], rollouts.texts[some])
    scored = [value for value in values if value is not None]
    row = {"gold_unscored": 1 - len(scored) / len(values)} | {f"gold/{name}": count for name, count in asked.items()}
    return row | ({"gold": sum(scored) / len(scored)} if scored else {})


class Limit(NamedTuple):
    """One stop rule held against one step."""

    name: str
    value: float
    limit: float
    passed: bool
    advice: str


def limits(rules: StopRules, row: dict[str, float], state: State) -> list[Limit]:
    """Every rule that is set, against this step's row."""
    found = []
    if rules.kl is not None:
        advice = "raise optimise.kl.coef or lower optimise.learning_rate"
        found.append(Limit("kl", row["kl"], rules.kl, row["kl"] > rules.kl, advice))
    if rules.entropy is not None:
        advice = "lower optimise.learning_rate or raise optimise.temperature"
        found.append(Limit("entropy", row["entropy"], rules.entropy, row["entropy"] < rules.entropy, advice))
    if rules.length_factor is not None:
        factor = row["response_tokens"] / (state.first_tokens or row["response_tokens"])
        advice = "look at what the score gives for length; raise optimise.kl.coef or lower optimise.max_tokens"
        found.append(Limit("length_factor", factor, rules.length_factor, factor > rules.length_factor, advice))
    return found


def beyond(found: Sequence[Limit], state: State) -> dict[str, int]:
    """For how many steps in a row each limit has been passed, this one included; only those that are."""
    return {limit.name: state.beyond.get(limit.name, 0) + 1 for limit in found if limit.passed}


def broken(rules: StopRules, found: Sequence[Limit], counts: dict[str, int]) -> Limit | None:
    """The rule that stops the run now."""
    return next((limit for limit in found if counts.get(limit.name, 0) >= rules.patience), None)


def describe_stop(limit: Limit, where: str, patience: int, rollouts: Rollouts, kept: str) -> str:
    """The one line that a stopped run ends with."""
    side = "below" if limit.name == "entropy" else "above"
    steps = f"{patience} steps in a row" if patience > 1 else "this step"
    ids = list(dict.fromkeys(prompt.id for prompt in rollouts.prompts))
    more = f" and {len(ids) - 4} more" if len(ids) > 4 else ""
    return (
        f"{where}: {limit.name} is {limit.value:.4g}, {side} optimise.stop.{limit.name} ({limit.limit:g}) for {steps}; "
        f"prompts {ids[:4]}{more}; the state after the last good step is in {kept}; {limit.advice}"
    )
