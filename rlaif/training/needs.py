"""What each kind of training stage needs, as items: which models, what learns, and what its rollouts take.

A microbatch is assumed to be the longest that the rows, or without any the recipe's limits, allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rlaif.config import Recipe
from rlaif.config.models import LocalModel, VllmModel
from rlaif.config.optimise import Dpo, LocalRollouts, Offline, OnPolicy, Ppo
from rlaif.config.reward import RewardSection
from rlaif.config.training import Lora
from rlaif.models.local.dtype import torch_dtype
from rlaif.models.local.load import device
from rlaif.models.local.packing import Row, microbatches, packs
from rlaif.training import parallel
from rlaif.training.head import ROWS as HEAD_ROWS
from rlaif.training.sizes import ModelRequest, Sizes, sizes


class MemoryItem(NamedTuple):
    """One use of memory, in bytes, what makes it smaller, and how it is reckoned."""

    name: str
    bytes: float
    remedy: str
    note: str = ""

    def __str__(self) -> str:
        size = (
            f"{self.bytes / 1e9:.2f} GB" if self.bytes >= 1e8 else f"{self.bytes / 1e6:.1f} MB" if self.bytes else "0"
        )
        return f"{self.name} {size}{f' ({self.note})' if self.note else ''}"


def total(items: Sequence[MemoryItem]) -> float:
    """Bytes of all of them."""
    return sum(item.bytes for item in items)


class Needs(NamedTuple):
    """Of a stage, as in `Plan`."""

    stays: list[MemoryItem]
    learning: list[MemoryItem]
    writing: list[MemoryItem]
    unknown: tuple[str, ...]


def reward(recipe: Recipe, rows: Sequence[Row]) -> Needs:
    section = recipe.reward
    whole = section.ensemble is not None and section.ensemble.kind == "independent"
    lora = None if whole else section.lora
    half = max(1, section.max_length // 2)
    batch = _microbatch(rows, _longest(half, half, 2), section.microbatch_tokens, 2 * section.minibatch_size)
    model = sizes(_backbone(recipe, section, lora), batch)
    learner = _Learner(recipe, "reward", model, lora)
    return Needs([learner.weights("reward model"), learner.optimiser()], learner.learning(), [], model.unknown)


def from_texts(recipe: Recipe, section: Offline, rows: Sequence[Row]) -> Needs:
    half = max(1, section.max_length // 2)
    sides = 2 if isinstance(section, Dpo) else 1
    batch = _microbatch(rows, _longest(half, half, sides), section.microbatch_tokens, sides * section.minibatch_size)
    model = sizes(_policy(recipe, section.lora), batch)
    learner = _Learner(recipe, "optimise", model, section.lora)
    learning = [*learner.learning(), learner.logits(batch)]
    return Needs([learner.weights("policy"), learner.optimiser()], learning, [], model.unknown)


def judge(recipe: Recipe, rows: Sequence[Row]) -> Needs:
    """`rows` are one pass."""
    section, base = recipe.judge_training, recipe.judge
    assert isinstance(base, LocalModel | VllmModel)
    again, dtype = recipe.compute.gradient_checkpointing, torch_dtype(base.dtype)
    model = sizes(ModelRequest(base.model, base.revision, dtype, section.lora, scalar=False, recompute=again), rows)
    learner = _Learner(recipe, "judge_training", model, section.lora)
    logits = learner.logits(rows) if recipe.label.mode.kind == "contrast" else learner.last_logits(rows)
    merged = _weights("merged weights", model.adapted, model.e, "a smaller judge.model")  # to judge by, between epochs
    writing = [merged] if section.lora is not None else []
    return Needs([learner.weights("judge"), learner.optimiser()], [*learner.learning(), logits], writing, model.unknown)


def from_rollouts(recipe: Recipe, section: OnPolicy, rows: Sequence[Row]) -> Needs:
    """Policy and critic learn one after the other, and the frozen models rest meanwhile (on a CPU: resting.py)."""
    longest = _longest(section.max_prompt_tokens, section.max_tokens, section.responses_per_prompt)
    batch = _microbatch(rows, longest, section.microbatch_tokens, section.minibatch_size)
    learner = _Learner(recipe, "optimise", sizes(_policy(recipe, section.lora), batch), section.lora)
    stays, writing = [learner.weights("policy")], _writing(section, learner, rows)
    resting = writing if device().type == "cpu" else stays
    (resting if section.lora is None else stays).append(learner.reference())
    learning, optimiser, unknown = (
        [*learner.learning(), learner.logits(batch)],
        learner.optimiser(),
        learner.model.unknown,
    )
    own = section if isinstance(section, Ppo) and section.critic == "own" else None
    over = own is not None and own.critic_lora is not None and section.reads_reward_model
    if section.reads_reward_model:
        members = 1 if recipe.reward.ensemble is None else recipe.reward.ensemble.members
        scorer = sizes(_backbone(recipe, recipe.reward, None), ())
        (stays if over else resting).append(
            _weights("reward model", scorer.weights, members * scorer.e, "a smaller reward.model")
        )
    if own is not None:
        critic = _Learner(recipe, "optimise", _critic(recipe, own, batch), own.critic_lora)
        stays.append(critic.adapters("critic") if over else critic.weights("critic"))
        learning = max(learning, critic.learning(), key=total)
        optimiser, unknown = critic.optimiser(beside=learner), tuple(dict.fromkeys(unknown + critic.model.unknown))
    return Needs([*stays, optimiser], learning, writing, unknown)


def _critic(recipe: Recipe, section: Ppo, rows: Sequence[Row]) -> Sizes:
    wanted = _backbone(recipe, recipe.reward, section.critic_lora)
    if not section.reads_reward_model:
        wanted = _policy(recipe, section.critic_lora)._replace(scalar=True)
    return sizes(wanted, rows)


def _writing(section: OnPolicy, learner: _Learner, rows: Sequence[Row]) -> list[MemoryItem]:
    """Rollouts are divided among the processes; of a sharded policy each has all the weights meanwhile."""
    if not isinstance(section.rollouts, LocalRollouts):
        return []
    prompt = max((len(row.prompt) for row in rows), default=section.max_prompt_tokens)
    tokens = -(-section.rollouts_per_step // parallel.size()) * (prompt + section.max_tokens)
    model = learner.model
    token = model.cached * model.e
    note = f"{tokens:,} tokens x {token / 1e3:.1f} kB"
    cache = MemoryItem("KV cache", tokens * token, "lower optimise.rollouts_per_step or max_tokens", note)
    merged = model.adapted + (model.weights if learner.parts > 1 else 0)
    return [cache, *([_weights("merged weights", merged, model.e, "a smaller policy.model")] if merged else [])]


# ------------------------------------------------------------------------------------------------------ its parts


class _Learner(NamedTuple):
    """A model that learns, as items."""

    recipe: Recipe
    stage: str
    model: Sizes
    lora: Lora | None

    @property
    def parts(self) -> int:
        """Among how many processes it is divided."""
        return parallel.size() if self.recipe.compute.sharding == "fsdp" else 1

    @property
    def remedy(self) -> str:
        if self.stage == "judge_training":
            adapters = "" if self.lora else "judge_training.lora, "
            return f"{adapters}a smaller judge.model or judge.dtype=bfloat16"
        if self.lora is None:
            return f"learn through adapters ({self.stage}.lora), or several processes with compute.sharding=fsdp"
        return "a smaller policy.model, policy.dtype=bfloat16, or several processes with compute.sharding=fsdp"

    def weights(self, name: str) -> MemoryItem:
        return _weights(name, self.model.weights / self.parts, self.model.e, self.remedy)

    def adapters(self, name: str) -> MemoryItem:
        item = _weights(name, self.model.trained / self.parts, self.model.e, self.remedy)
        return item._replace(note=f"adapter over the reward model, {item.note}")

    def reference(self) -> MemoryItem:
        if self.lora is not None:
            return MemoryItem("reference", 0, "", "adapter off")
        return _weights("reference", self.model.weights, self.model.e, self.remedy)

    def optimiser(self, beside: _Learner | None = None) -> MemoryItem:
        """AdamW's two moments in float32, and of bf16 weights the 16 bits that their masters have more."""
        trained = self.model.trained / self.parts + (beside.model.trained / beside.parts if beside else 0)
        return _weights("optimiser", trained, 8 if self.model.e == 4 else 10, self.remedy)

    def learning(self) -> list[MemoryItem]:
        again = " or set compute.gradient_checkpointing=true"
        remedy = f"lower {self.stage}.microbatch_tokens{'' if self.recipe.compute.gradient_checkpointing else again}"
        model = self.model
        token = model.activations / max(1, model.tokens * model.layers)
        note = f"{model.tokens:,} tokens x {model.layers} layers x {token / 1e3:.1f} kB"
        return [
            _weights("gradients", model.trained / self.parts, model.e, self.remedy),
            MemoryItem("activations", model.activations, remedy, note),
        ]

    def logits(self, rows: Sequence[Row]) -> MemoryItem:
        """Of the few rows computed at a time: in the weights' format and twice in float32. A divided output layer has
        float32 logits of all rows wait for the backward pass."""
        count = sum(len(row.response) for row in rows)
        few = min(count, HEAD_ROWS)
        each, kept = self.model.e + 8, 0 if self.parts == 1 else 4 * count
        note = f"{few} rows x {self.model.vocabulary:,} words x {each} B" if not kept else f"{count} rows"
        size = (each * few + kept) * self.model.vocabulary
        return MemoryItem("logits", size, f"lower {self.stage}.microbatch_tokens", note)

    def last_logits(self, rows: Sequence[Row]) -> MemoryItem:
        """Of one state of each row, in float32: they, their softmax and the gradients of both; bf16 weights are widened
        for that."""
        wide = 0 if self.model.e == 4 else 4 * self.model.vocabulary * self.model.width
        size = 16 * len(rows) * self.model.vocabulary + wide
        return MemoryItem("logits", size, f"lower {self.stage}.microbatch_tokens", f"{len(rows)} rows")


def _weights(name: str, count: float, each: int, remedy: str) -> MemoryItem:
    return MemoryItem(name, count * each, remedy, f"{count / 1e6:,.1f} M x {each} B")


def _policy(recipe: Recipe, lora: Lora | None) -> ModelRequest:
    model, again = recipe.policy, recipe.compute.gradient_checkpointing
    return ModelRequest(model.model, model.revision, torch_dtype(model.dtype), lora, scalar=False, recompute=again)


def _backbone(recipe: Recipe, section: RewardSection, lora: Lora | None) -> ModelRequest:
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
