"""Rollouts: the policy writes, the frozen models say what they think, and everything a step needs is in one place.

With several processes the writing is divided by place and the passes by microbatch; every process ends up with the
whole step, in the same order. Shape suffixes: B responses, T response tokens, N real tokens.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlaif.config.optimise import OnPolicy
from rlaif.errors import TrainingError
from rlaif.formats.given import opposite
from rlaif.formats.turns import as_text
from rlaif.models.local.packing import Row, microbatches, response_mask, right_pad
from rlaif.records import Prompt, derive_seed
from rlaif.training import parallel
from rlaif.training.optimise.actors import Actors, SharedCritic
from rlaif.training.optimise.episodes import Written, write
from rlaif.training.optimise.rewards import Rewards, Values


@dataclass(frozen=True)
class Rollouts:
    """One step's responses that have a score, with all that is fixed while the policy learns from them."""

    prompts: list[Prompt]
    rows: list[Row]
    texts: list[str]
    finished: list[bool]
    """Whether the policy ended the response itself."""
    mask_BT: Tensor
    logprobs_BT: Tensor
    """Of the policy that wrote them, from the training forward pass, at the sampling temperature."""
    ref_logprobs_BT: Tensor
    entropy_BT: Tensor
    score_B: Tensor
    """As the recipe's source gives it, vetoes included, before any penalty."""
    places: list[int]
    """Of each in its step, counted from 0: those of one prompt are neighbours."""
    values_BT: Tensor | None = None
    """What the critic expected, where there is one."""
    sampler_logprobs_BT: Tensor | None = None
    """Where another program wrote them: the log-probabilities that it had."""
    cost_B: dict[str, Tensor] = field(default_factory=dict)
    """Of the constraints, by name."""
    credit_BT: Tensor | None = None
    """What each token did to the score, where it is spread over them."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """Of the score, for a person to see."""
    written: int = 0
    """How many there were before those without a score went."""
    unscored: float = 0.0
    """Share of the step's responses that have no score and are not here."""
    asked: Mapping[str, int] = field(default_factory=dict)
    """What scores and costs took of a judge: calls and tokens, by name."""

    def groups(self, responses_per_prompt: int) -> list[int]:
        """Which responses are to the same prompt of the step: equal numbers."""
        return [place // responses_per_prompt for place in self.places]


@lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(derive_seed(seed, "ppo", "order", epoch)).shuffle(order)
    return order


def prompts_of_step(prompts: Sequence[Prompt], per_step: int, step: int, seed: int) -> list[Prompt]:
    """The prompts of one step: every prompt once an epoch, each epoch in a fresh order derived from the seed."""
    positions = range(step * per_step, (step + 1) * per_step)
    places = (divmod(position, len(prompts)) for position in positions)
    return [prompts[_order(len(prompts), epoch, seed)[place]] for epoch, place in places]


def roll_out(actors: Actors, prompts: Sequence[Prompt], section: OnPolicy, step: int, seed: int) -> Rollouts:
    """Sample `responses_per_prompt` responses to each prompt, score them and evaluate them with every model."""
    if section.both_sides:
        prompts = [side for p in prompts for side in (p, opposite(p)) if side is not None]
    repeated = [p for p in prompts for _ in range(section.responses_per_prompt)]
    written = write(actors, repeated, section, step, seed)
    scores = _score_episodes(actors.rewards, section, repeated, written)
    # From here on B is the responses that have a score.
    kept = _scored(scores, actors.rewards.max_failures, f"{section.kind} step {step}", written.prompts)
    rows = [written.rows[i] for i in kept]
    device = actors.policy.model.device
    told = [logprobs for i in kept if (logprobs := written.samples[i].logprobs) is not None]
    return Rollouts(
        prompts=[written.prompts[i] for i in kept],
        rows=rows,
        texts=[written.texts[i] for i in kept],
        finished=[written.samples[i].finished for i in kept],
        mask_BT=response_mask(rows, device),
        **_evaluate(actors, rows, section),
        score_B=scores.score_B[kept].to(device),
        places=kept,
        credit_BT=None if actors.credit is None else actors.credit(rows).to(device),
        sampler_logprobs_BT=right_pad(told, 0.0, torch.float32, device) if told else None,
        cost_B={name: cost_B[kept].to(device) for name, cost_B in scores.cost_B.items()},
        parts={name: part_B[kept] for name, part_B in scores.parts.items()},
        written=len(written.rows),
        unscored=1 - len(kept) / len(written.rows),
        asked=scores.asked,
    )


class _Scores(NamedTuple):
    score_B: Tensor
    cost_B: dict[str, Tensor]
    parts: dict[str, Tensor]
    asked: Mapping[str, int]


def _score_episodes(rewards: Rewards, section: OnPolicy, prompts: Sequence[Prompt], written: Written) -> _Scores:
    """As `_score`, of each row: all turns of an episode have what the whole conversation has."""
    if section.turns == 1:
        return _score(rewards, section, prompts, written.texts, written.rows)
    whole = [place for place, later in enumerate(written.later) if later is not None]
    texts = [as_text(written.later[place] or ()) for place in whole]
    found = _score(rewards, section, [prompts[place] for place in whole], texts, None)

    def spread(value_B: Tensor) -> Tensor:
        every_B = torch.full((len(prompts),), float("nan"))
        every_B[whole] = value_B
        return every_B.repeat(section.turns)

    costs, parts = ({name: spread(each) for name, each in named.items()} for named in (found.cost_B, found.parts))
    return _Scores(spread(found.score_B), costs, parts, found.asked)


def _score(
    rewards: Rewards, section: OnPolicy, prompts: Sequence[Prompt], texts: Sequence[str], rows: Sequence[Row] | None
) -> _Scores:
    """Scores and costs of all responses, NaN where there is none."""
    found = rewards.score.measure(prompts, texts, rows)
    score_B, parts = as_scores(found.values), {name: as_scores(part) for name, part in found.parts.items()}
    if rewards.veto is not None and section.veto is not None:
        veto_B = as_scores(rewards.veto.score(prompts, texts))
        struck_B = veto_B == 0  # NaN is not struck, but has no score either
        score_B = torch.where(struck_B, torch.tensor(section.veto.score), score_B)
        score_B = torch.where(veto_B.isnan(), veto_B, score_B)
        parts = parts | {"vetoed": struck_B.float()}
    costs = {name: cost.measure(prompts, texts, rows) for name, cost in rewards.costs.items()}
    cost_B = {name: rewards.signs[name] * as_scores(cost.values) for name, cost in costs.items()}
    return _Scores(score_B, cost_B, parts, sum((Counter(each.asked) for each in (found, *costs.values())), Counter()))


def as_scores(values: Values) -> Tensor:
    """score_B, on the CPU; NaN for None."""
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float32)


def _scored(scores: _Scores, max_failures: float, where: str, prompts: Sequence[Prompt]) -> list[int]:
    """Which responses have a score and all costs. TrainingError when too many have not."""
    missing_B = torch.isnan(torch.stack([scores.score_B, *scores.cost_B.values()])).any(0)
    missing = [i for i, gone in enumerate(missing_B.tolist()) if gone]
    total = len(prompts)
    if len(missing) > max_failures * total or len(missing) == total:
        first = list(dict.fromkeys(prompts[i].id for i in missing))[:4]
        raise TrainingError(
            f"{where}: {len(missing)} of {total} responses have no score ({len(missing) / total:.1%}, limit "
            f"{max_failures:.1%}), first those to prompts {first}; look at the judge, or raise label.max_failures"
        )
    return [i for i in range(total) if i not in set(missing)]


def _evaluate(actors: Actors, rows: Sequence[Row], section: OnPolicy) -> dict[str, Any]:
    """What policy, reference and critic say of each response token, without gradients, under the names that `Rollouts`
    has for it; each (B, T), 0 on padding."""
    policy, critic = actors.policy, actors.critic
    mask_BT = response_mask(rows, policy.model.device)
    # In one tensor, so that the processes add up once; layers L in the order of the names below.
    whole_LBT = torch.zeros(4, *mask_BT.shape, device=mask_BT.device)
    for group, weight in parallel.turns(list(microbatches(rows, section.microbatch_tokens))):
        part, part_mask_BT = [rows[i] for i in group], mask_BT[group]
        with torch.no_grad():
            scored, hidden_NH = policy.look(part, section.temperature)
            width = scored.logprobs_BT.shape[1]  # of this microbatch's longest response
            layers = [scored.logprobs_BT, scored.entropy_BT]
            layers.append(policy.reference_logprobs(part, section.temperature))
            if isinstance(critic, SharedCritic):
                layers.append(critic.values(hidden_NH, part_mask_BT[:, :width]))
            elif critic is not None:
                layers.append(critic.values(part) * part_mask_BT[:, :width])  # its padding holds garbage
        if weight:  # 0: computed for company; another process has these rows
            whole_LBT[: len(layers), group, :width] = torch.stack(layers)
    names = ("logprobs_BT", "entropy_BT", "ref_logprobs_BT", "values_BT")
    found: dict[str, Any] = dict(zip(names, parallel.add_up(whole_LBT), strict=True))
    return found if critic is not None else found | {"values_BT": None}


def describe(rollouts: Rollouts, kl_B: Tensor, index: int) -> str:
    """One whole rollout for a person to read: prompt, response, score and KL."""
    prompt: Any = rollouts.prompts[index].messages[-1].content
    ended = "" if rollouts.finished[index] else " [cut off]"
    return (
        f"    prompt    {prompt}\n    response  {rollouts.texts[index]}{ended}\n"
        f"    score {float(rollouts.score_B[index]):.2f}   KL {float(kl_B[index]):.2f} nats"
    )
