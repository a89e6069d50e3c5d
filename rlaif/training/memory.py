"""What a training stage will need, item by item, before it starts: printed, and refused where the machine has less.

The numbers are for one process. Weights, masters and moments stay; beside them stands whichever is more, what
learning keeps (gradients, activations, logits) or what writing rollouts does (keys and values, merged weights).
A judge in the same process is not counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from rlaif.config import Recipe
from rlaif.config.sections import Dpo, LocalRollouts, Lora, Offline, OnPolicy, Ppo, RewardSection
from rlaif.console import say
from rlaif.errors import ConfigError
from rlaif.models.local.dtype import torch_dtype
from rlaif.models.local.load import device, load_tokenizer
from rlaif.models.local.packing import Row, microbatches, packs
from rlaif.models.local.tokens import encode_prompt
from rlaif.records import Prompt
from rlaif.training import parallel
from rlaif.training.footprint import Footprint, Wanted, footprint
from rlaif.training.head import ROWS as HEAD_ROWS

LOGIT_BYTES, KEPT_LOGIT_BYTES = 10, 4
"""Of the few rows of logits that are computed at a time (head.py), and of all where the output layer is divided: their
log-probabilities wait for the backward pass."""
SCRATCH = 2.5e8
"""What libraries, kernels and the allocator take beside all that is counted (measured on a CPU)."""
CGROUP = Path("/sys/fs/cgroup")


class Item(NamedTuple):
    """One use of memory, in bytes, and what makes it smaller."""

    name: str
    bytes: float
    remedy: str
    note: str = ""

    def __str__(self) -> str:
        size = f"{self.bytes / 1e9:.2f} GB" if self.bytes else "0"
        return f"{self.name} {size}{f' ({self.note})' if self.note else ''}"


class Plan(NamedTuple):
    """The needs of one stage, and what there is."""

    stage: str
    stays: list[Item]
    """All the time."""
    learning: list[Item]
    """While it learns."""
    writing: list[Item]
    """While the policy writes."""
    there: float
    refuses: bool

    @property
    def items(self) -> list[Item]:
        """At the moment when most is needed."""
        return self.stays + max(self.learning, self.writing, key=_sum)

    @property
    def together(self) -> float:
        """Bytes at that moment."""
        return _sum(self.items)

    def __str__(self) -> str:
        parts = ", ".join(map(str, [*self.stays, *self.learning, *self.writing]))
        return f"memory: {parts}; together {self.together / 1e9:.1f} of {self.there / 1e9:.1f} GB"


def plan_memory(recipe: Recipe, stage: str, rows: Sequence[Row] = (), loaded: Any = None) -> Plan:
    """What `reward` or `optimise` needs. `rows` are what it will learn from, as far as is known; without any the
    longest that the recipe allows are assumed. `loaded`: a model of the stage that is in memory already."""
    if stage == "reward":
        stays, learning, writing = _reward(recipe, rows)
    elif isinstance(recipe.optimise, OnPolicy):
        stays, learning, writing = _from_rollouts(recipe, recipe.optimise, rows)
    elif isinstance(recipe.optimise, Offline):
        stays, learning, writing = _from_texts(recipe, recipe.optimise, rows)
    else:
        stays, learning, writing = [], [], []  # best of n trains nothing
    has = sum(p.numel() * p.element_size() for p in loaded.parameters()) if loaded is not None else 0
    if stays:
        stays.append(Item("scratch", SCRATCH, "a smaller policy.model"))
    return Plan(stage, stays, learning, writing, available() + has, recipe.compute.check_memory)


def rollout_rows(recipe: Recipe, prompts: Sequence[Prompt]) -> list[Row]:
    """A minibatch of rollouts as long as they can be: the longest of these prompts, responses up to the limit."""
    section = recipe.optimise
    assert isinstance(section, OnPolicy)
    tokenizer = load_tokenizer(recipe.policy.model, recipe.policy.revision)
    longest = sorted(prompts, key=lambda prompt: -sum(len(message.content) for message in prompt.messages))
    return [
        Row(tuple(encode_prompt(tokenizer, prompt.messages, section.max_prompt_tokens)), (number,) * section.max_tokens)
        for prompt in longest[: -(-section.minibatch_size // section.responses_per_prompt)]
        for number in range(section.responses_per_prompt)
    ]


def check(plan: Plan) -> None:
    """Print the plan. ConfigError, naming the largest item and what makes it smaller, where it does not fit."""
    if not plan.items:
        return
    say(f"  {plan}")
    if plan.refuses and plan.together > plan.there:
        most = max(plan.items, key=lambda item: item.bytes)
        raise ConfigError(
            f"{plan.stage}: needs about {plan.together / 1e9:.1f} GB of memory and {plan.there / 1e9:.1f} GB are free; "
            f"most is {most.name} ({most.bytes / 1e9:.1f} GB): {most.remedy}; compute.check_memory=false goes on anyway"
        )


def available() -> float:
    """Bytes that this process may still take: of its GPU, or its share of the machine's (or container's) memory."""
    if device().type == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return float(torch.cuda.mem_get_info()[0] + kept)
    free = float(psutil.virtual_memory().available)
    return min(free, _container()) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _container() -> float:
    """What is left below the control group's limit (files that could be dropped from memory count as free)."""
    try:
        limit = float((CGROUP / "memory.max").read_text())  # "max" is no number: no limit
        used = float((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return float("inf")
    return limit - used + float(statistics.get("inactive_file", 0))


def _sum(items: Sequence[Item]) -> float:
    return sum(item.bytes for item in items)


# ------------------------------------------------------------------------------------------------ the kinds of stage

Needs = tuple[list[Item], list[Item], list[Item]]
"""What stays, what learning keeps, what writing keeps."""


def _reward(recipe: Recipe, rows: Sequence[Row]) -> Needs:
    section = recipe.reward
    whole = section.ensemble is not None and section.ensemble.kind == "independent"
    lora = None if whole else section.lora
    half = max(1, section.max_length // 2)
    batch = _microbatch(rows, _longest(half, half, 2), section.microbatch_tokens, 2 * section.minibatch_size)
    model = footprint(_backbone(recipe, section, lora), batch)
    learner = _Learner(recipe, "reward", model, lora)
    return [learner.weights("reward model"), learner.optimiser()], learner.learning(), []


def _from_texts(recipe: Recipe, section: Offline, rows: Sequence[Row]) -> Needs:
    half = max(1, section.max_length // 2)
    sides = 2 if isinstance(section, Dpo) else 1
    batch = _microbatch(rows, _longest(half, half, sides), section.microbatch_tokens, sides * section.minibatch_size)
    learner = _Learner(recipe, "optimise", footprint(_policy(recipe, section.lora), batch), section.lora)
    return [learner.weights("policy"), learner.optimiser()], [*learner.learning(), learner.logits(batch)], []


def _from_rollouts(recipe: Recipe, section: OnPolicy, rows: Sequence[Row]) -> Needs:
    longest = _longest(section.max_prompt_tokens, section.max_tokens, section.responses_per_prompt)
    batch = _microbatch(rows, longest, section.microbatch_tokens, section.minibatch_size)
    policy = footprint(_policy(recipe, section.lora), batch)
    learner = _Learner(recipe, "optimise", policy, section.lora)
    stays = [learner.weights("policy"), learner.reference()]
    learners = [learner]
    if section.reads_reward_model:
        members = 1 if recipe.reward.ensemble is None else recipe.reward.ensemble.members
        scorer = footprint(_backbone(recipe, recipe.reward, None), ())
        stays.append(Item("reward model", scorer.weights * members, "a smaller reward.model"))
    if isinstance(section, Ppo) and section.critic == "own":
        critic = _Learner(recipe, "optimise", _critic(recipe, section), section.critic_lora)
        shared = section.critic_lora is not None and section.reads_reward_model
        stays.append(critic.adapters("critic") if shared else critic.weights("critic"))
        learners.append(critic)
    stays.append(_joined([each.optimiser() for each in learners]))
    learning = [_joined([each.learning()[0] for each in learners]), learner.learning()[1], learner.logits(batch)]
    return stays, learning, _writing(section, learner, rows)


def _critic(recipe: Recipe, section: Ppo) -> Footprint:
    wanted = _backbone(recipe, recipe.reward, section.critic_lora)
    if not section.reads_reward_model:
        wanted = _policy(recipe, section.critic_lora)._replace(scalar=True)
    return footprint(wanted, ())


def _writing(section: OnPolicy, learner: _Learner, rows: Sequence[Row]) -> list[Item]:
    """Rollouts are divided among the processes; of a sharded policy each has all the weights meanwhile."""
    if not isinstance(section.rollouts, LocalRollouts):
        return []
    prompt = max((len(row.prompt) for row in rows), default=section.max_prompt_tokens)
    tokens = -(-section.rollouts_per_step // parallel.size()) * (prompt + section.max_tokens)
    cache = Item("KV cache", tokens * learner.model.cached_token, "lower optimise.rollouts_per_step or max_tokens")
    merged = learner.model.adapted + (learner.model.weights if learner.parts > 1 else 0)
    return [cache, *([Item("merged weights", merged, "a smaller policy.model")] if merged else [])]


# ------------------------------------------------------------------------------------------------------ its parts


class _Learner(NamedTuple):
    """A model that learns, as items."""

    recipe: Recipe
    stage: str
    model: Footprint
    lora: Lora | None

    @property
    def parts(self) -> int:
        """Among how many processes it is divided."""
        return parallel.size() if self.recipe.compute.sharding == "fsdp" else 1

    @property
    def remedy(self) -> str:
        if self.lora is None:
            return f"learn through adapters ({self.stage}.lora), or several processes with compute.sharding=fsdp"
        return "a smaller policy.model, policy.dtype=bfloat16, or several processes with compute.sharding=fsdp"

    def weights(self, name: str) -> Item:
        return Item(name, self.model.weights / self.parts, self.remedy)

    def adapters(self, name: str) -> Item:
        return Item(name, self.model.trained_weights / self.parts, self.remedy, "adapter over the reward model")

    def reference(self) -> Item:
        if self.lora is not None:
            return Item("reference", 0, "", "adapter off")
        return Item("reference", self.model.weights, self.remedy)

    def optimiser(self) -> Item:
        """AdamW's two moments, and masters where the weights are not float32 themselves."""
        each = 8 if torch_dtype(self.recipe.policy.dtype) == torch.float32 else 12
        return Item("optimiser", each * self.model.trained / self.parts, self.remedy)

    def learning(self) -> list[Item]:
        again = " or set compute.gradient_checkpointing=true"
        remedy = f"lower {self.stage}.microbatch_tokens{'' if self.recipe.compute.gradient_checkpointing else again}"
        return [
            Item("gradients", self.model.trained_weights / self.parts, self.remedy),
            Item("activations", self.model.activations, remedy),
        ]

    def logits(self, rows: Sequence[Row]) -> Item:
        """Of the few rows computed at a time; a divided output layer keeps all."""
        count = sum(len(row.response) for row in rows)
        kept = 0 if self.parts == 1 else KEPT_LOGIT_BYTES * count
        each = LOGIT_BYTES * min(count, HEAD_ROWS) + kept
        return Item("logits", each * self.model.vocabulary, f"lower {self.stage}.microbatch_tokens")


def _joined(items: Sequence[Item]) -> Item:
    return items[0]._replace(bytes=_sum(items))


def _policy(recipe: Recipe, lora: Lora | None) -> Wanted:
    model, again = recipe.policy, recipe.compute.gradient_checkpointing
    return Wanted(model.model, model.revision, torch_dtype(model.dtype), lora, scalar=False, recompute=again)


def _backbone(recipe: Recipe, section: RewardSection, lora: Lora | None) -> Wanted:
    wanted = _policy(recipe, lora)._replace(scalar=True)
    return wanted._replace(name=section.model, revision=None) if section.model else wanted


def _longest(prompt: int, response: int, responses: int) -> list[Row]:
    return [Row((0,) * prompt, (number,) * response) for number in range(responses)]


def _microbatch(rows: Sequence[Row], longest: Sequence[Row], max_tokens: int, count: int) -> list[Row]:
    """The most that passes through a model at once: of the `count` rows with the longest packs, or of `longest` ones
    after different prompts."""
    if rows:
        ordered = sorted(packs(rows), key=lambda pack: -pack.length)
        chosen = [rows[i] for pack in ordered for i in pack.rows][:count]
    else:
        again = range(-(-count // len(longest)))
        chosen = [Row((number, *row.prompt[1:]), row.response) for number in again for row in longest][:count]
    groups = [[chosen[i] for i in group] for group in microbatches(chosen, max_tokens)]
    return max(groups, key=lambda group: sum(pack.length for pack in packs(group)))
