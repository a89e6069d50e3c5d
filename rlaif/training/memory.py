"""What a training stage will need, item by item, before it starts: printed, and refused where the machine has less.

The numbers are for one process. Weights, masters and moments stay; beside them stands whichever is more, what
learning keeps (gradients, activations, logits) or what rollouts need (the models that are only read, keys and values,
merged weights). A microbatch is assumed to be the longest that the rows, or without any the recipe's limits, allow. A
judge in the same process is not counted. How much one model takes is in sizes.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from rlaif.config import Recipe
from rlaif.config.models import LocalModel, VllmModel
from rlaif.config.optimise import Dpo, Offline, OnPolicy, Ppo
from rlaif.config.reward import RewardSection
from rlaif.config.rollouts import LocalRollouts
from rlaif.config.training import Lora
from rlaif.console import say
from rlaif.errors import ConfigError, TrainingError
from rlaif.models.local.load import device, load_tokenizer
from rlaif.models.local.machine import heap_within, torch_dtype
from rlaif.models.local.packing import Row, microbatches, packs
from rlaif.models.local.tokens import encode_prompt
from rlaif.records import Prompt
from rlaif.training import parallel
from rlaif.training.sizes import LearnerSizes, MemoryItem, ModelRequest, sizes, weights_item

LIBRARIES = 1.2e8
"""What kernels and threads take, and holes in the C library's heap (measured on a CPU)."""
NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")
CGROUP = Path("/sys/fs/cgroup")


class MemoryPlan(NamedTuple):
    """The needs of one stage, and what there is."""

    stage: str
    stays: list[MemoryItem]
    """All the time."""
    learning: list[MemoryItem]
    """While it learns."""
    writing: list[MemoryItem]
    """While the policy writes."""
    there: float = 0.0
    refuses: bool = True
    unknown: tuple[str, ...] = ()
    """Parts of the models that are counted too low."""

    @property
    def items(self) -> list[MemoryItem]:
        """At the moment when most is needed."""
        return self.stays + max(self.learning, self.writing, key=_total)

    @property
    def together(self) -> float:
        """Bytes at that moment."""
        return _total(self.items)

    @property
    def advice(self) -> str:
        """What takes most at that moment, and what makes it smaller."""
        most = max((item for item in self.items if item.remedy), key=lambda item: item.bytes)
        return f"most is {most.name} ({most.bytes / 1e9:.1f} GB): {most.remedy}"

    def __str__(self) -> str:
        kinds = (("always", self.stays), ("learning", self.learning), ("writing", self.writing))
        lines = [f"memory: about {self.together / 1e9:.1f} of {self.there / 1e9:.1f} GB"]
        lines += [f"  {when:<9} {', '.join(map(str, items))}" for when, items in kinds if items]
        if self.unknown:
            lines.append(f"  not known: what else {', '.join(self.unknown)} keeps beside the inputs of its matrices")
        return "\n  ".join(lines)


def plan_memory(recipe: Recipe, stage: str, rows: Sequence[Row] = (), loaded: Any = None) -> MemoryPlan:
    """What `reward`, `optimise` or `judge_training` needs. `rows` are what it will learn from, as far as is known;
    without any the longest that the recipe allows are assumed. `loaded`: a model of it that is in memory already."""
    if stage == "reward":
        plan = _reward(recipe, rows)
    elif stage == "judge_training":
        plan = _judge(recipe, rows)
    elif isinstance(recipe.optimise, OnPolicy):
        plan = _rollouts(recipe, recipe.optimise, rows)
    elif isinstance(recipe.optimise, Offline):
        plan = _texts(recipe, recipe.optimise, rows)
    else:
        plan = MemoryPlan(stage, [], [], [])  # best of n trains nothing
    has = sum(p.numel() * p.element_size() for p in loaded.parameters()) if loaded is not None else 0
    if plan.stays:
        plan.stays.append(MemoryItem("libraries", LIBRARIES, ""))
    return plan._replace(there=available() + has, refuses=recipe.compute.check_memory)


def rollout_rows(recipe: Recipe, prompts: Sequence[Prompt]) -> list[Row]:
    """A minibatch of rollouts as long as they can be: the longest of these prompts, responses up to the limit."""
    section = recipe.optimise
    assert isinstance(section, OnPolicy)
    tokenizer = load_tokenizer(recipe.policy.model, recipe.policy.revision)
    longest = sorted(prompts, key=lambda prompt: -sum(len(message.content) for message in prompt.messages))

    def asked(prompt: Prompt) -> tuple[int, ...]:
        ids = tuple(encode_prompt(tokenizer, prompt.messages, section.max_prompt_tokens))
        return ids if section.turns == 1 else (*ids, *ids[:1] * (section.max_prompt_tokens - len(ids)))  # it grows

    return [
        Row(asked(prompt), (number,) * section.max_tokens)
        for prompt in longest[: -(-section.minibatch_size // section.responses_per_prompt)]
        for number in range(section.responses_per_prompt)
    ]


@contextlib.contextmanager
def within(plan: MemoryPlan) -> Iterator[None]:
    """Print the plan. ConfigError, naming the largest item and what makes it smaller, where it does not fit; inside,
    TrainingError with the same advice where memory runs out all the same."""
    if not plan.items:
        yield
        return
    say(f"  {plan}")
    if plan.refuses and plan.together > plan.there:
        raise ConfigError(
            f"{plan.stage}: needs about {plan.together / 1e9:.1f} GB of memory and {plan.there / 1e9:.1f} GB are free; "
            f"{plan.advice}; compute.check_memory=false goes on anyway"
        )
    try:
        # Kept for speed as long as memory is plenty: half of what there is, where the plan is less.
        with heap_within(max(plan.together, plan.there / 2)):
            yield
    except (MemoryError, OSError, RuntimeError) as error:
        said = str(error).lower()  # torch's on a GPU and on a CPU, the system's, or a library's
        if not isinstance(error, MemoryError) and not any(words in said for words in NO_MEMORY):
            raise
        raise TrainingError(
            f"{plan.stage}: out of memory; planned were {plan.together / 1e9:.1f} GB, {plan.there / 1e9:.1f} GB were "
            f"free at the start; {plan.advice}; checkpoints are kept"
        ) from None


def available() -> float:
    """Bytes that this process may still take: of its GPU, or its share of the machine's (or container's) memory."""
    if device().type == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return float(torch.cuda.mem_get_info()[0] + kept)
    free = float(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no control group; or "max", which is no number: no limit
        limit = float((CGROUP / "memory.max").read_text())
        used = float((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + float(statistics.get("inactive_file", 0)))  # files may be dropped from memory
    return free / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


# ------------------------------------------------------------------------------------------------ a stage's items


def _reward(recipe: Recipe, rows: Sequence[Row]) -> MemoryPlan:
    section = recipe.reward
    whole = section.ensemble is not None and section.ensemble.kind == "independent"
    lora = None if whole else section.lora
    model = sizes(_scorer(recipe, lora), _of_texts(section, rows, sides=2))
    learner = LearnerSizes(recipe, "reward", model, lora)
    stays = [learner.weights("reward model"), learner.optimiser()]
    return MemoryPlan("reward", stays, learner.learning(), [], unknown=model.unknown)


def _texts(recipe: Recipe, section: Offline, rows: Sequence[Row]) -> MemoryPlan:
    batch = _of_texts(section, rows, sides=2 if isinstance(section, Dpo) else 1)
    learner = LearnerSizes(recipe, "optimise", sizes(_policy(recipe, section.lora), batch), section.lora)
    stays, learning = [learner.weights("policy"), learner.optimiser()], [*learner.learning(), learner.logits(batch)]
    return MemoryPlan("optimise", stays, learning, [], unknown=learner.model.unknown)


def _judge(recipe: Recipe, rows: Sequence[Row]) -> MemoryPlan:
    """`rows` are one pass."""
    section, base = recipe.judge_training, recipe.judge
    assert isinstance(base, LocalModel | VllmModel)
    again, dtype = recipe.compute.gradient_checkpointing, torch_dtype(base.dtype)
    model = sizes(ModelRequest(base.model, base.revision, dtype, section.lora, scalar=False, recompute=again), rows)
    learner = LearnerSizes(recipe, "judge_training", model, section.lora)
    logits = learner.logits(rows) if recipe.label.mode.kind == "contrast" else learner.last_logits(rows)
    stays, learning = [learner.weights("judge"), learner.optimiser()], [*learner.learning(), logits]
    merged = weights_item("merged weights", model.adapted, model.e, "a smaller judge.model")  # judges between epochs
    writing = [merged] if section.lora is not None else []
    return MemoryPlan("judge_training", stays, learning, writing, unknown=model.unknown)


def _rollouts(recipe: Recipe, section: OnPolicy, rows: Sequence[Row]) -> MemoryPlan:
    """Policy and critic learn one after the other, and the frozen models rest meanwhile (on a CPU: resting.py)."""
    longest = (section.max_prompt_tokens, section.max_tokens, section.responses_per_prompt)
    batch = _microbatch(rows, longest, section.microbatch_tokens, section.minibatch_size)
    learner = LearnerSizes(recipe, "optimise", sizes(_policy(recipe, section.lora), batch), section.lora)
    stays, writing = [learner.weights("policy")], _writing(section, learner, rows)
    resting = writing if device().type == "cpu" else stays
    (resting if section.lora is None else stays).append(learner.reference())
    learning, optimiser = [*learner.learning(), learner.logits(batch)], learner.optimiser()
    unknown = learner.model.unknown
    own = section if isinstance(section, Ppo) and section.critic == "own" else None
    over = own is not None and own.critic_lora is not None and section.reads_reward_model
    if section.reads_reward_model:
        members = 1 if recipe.reward.ensemble is None else recipe.reward.ensemble.members
        scorer = sizes(_scorer(recipe, None), ())
        item = weights_item("reward model", scorer.weights, members * scorer.e, "a smaller reward.model")
        (stays if over else resting).append(item)
    if own is not None:
        wanted = _scorer(recipe, own.critic_lora)
        if not section.reads_reward_model:  # it begins as the policy
            wanted = _policy(recipe, own.critic_lora)._replace(scalar=True)
        critic = LearnerSizes(recipe, "optimise", sizes(wanted, batch), own.critic_lora)
        item = critic.weights("critic")
        if over:
            item = weights_item("critic", critic.model.trained / critic.parts, critic.model.e, critic.remedy)
            item = item._replace(note=f"adapter over the reward model, {item.note}")
        stays.append(item)
        learning = max(learning, critic.learning(), key=_total)
        optimiser, unknown = critic.optimiser(beside=learner), tuple(dict.fromkeys(unknown + critic.model.unknown))
    return MemoryPlan("optimise", [*stays, optimiser], learning, writing, unknown=unknown)


def _writing(section: OnPolicy, learner: LearnerSizes, rows: Sequence[Row]) -> list[MemoryItem]:
    """Rollouts are divided among the processes; of a sharded policy each has all the weights meanwhile."""
    if not isinstance(section.rollouts, LocalRollouts):
        return []
    prompt = max((len(row.prompt) for row in rows), default=section.max_prompt_tokens)
    tokens = -(-section.rollouts_per_step * (1 + section.both_sides) // parallel.size()) * (prompt + section.max_tokens)
    model = learner.model
    token = model.cached * model.e
    note = f"{tokens:,} tokens x {token / 1e3:.1f} kB"
    cache = MemoryItem("KV cache", tokens * token, "lower optimise.rollouts_per_step or max_tokens", note)
    merged = model.adapted + (model.weights if learner.parts > 1 else 0)
    return [cache, *([weights_item("merged weights", merged, model.e, "a smaller policy.model")] if merged else [])]


def _total(items: Sequence[MemoryItem]) -> float:
    return sum(item.bytes for item in items)


def _policy(recipe: Recipe, lora: Lora | None) -> ModelRequest:
    model, again = recipe.policy, recipe.compute.gradient_checkpointing
    return ModelRequest(model.model, model.revision, torch_dtype(model.dtype), lora, scalar=False, recompute=again)


def _scorer(recipe: Recipe, lora: Lora | None) -> ModelRequest:
    wanted = _policy(recipe, lora)._replace(scalar=True)
    return wanted._replace(name=recipe.reward.model, revision=None) if recipe.reward.model else wanted


def _of_texts(section: RewardSection | Offline, rows: Sequence[Row], sides: int) -> list[Row]:
    """A microbatch of given texts; `sides` rows make one lesson."""
    half = max(1, section.max_length // 2)
    return _microbatch(rows, (half, half, sides), section.microbatch_tokens, sides * section.minibatch_size)


def _microbatch(rows: Sequence[Row], longest: tuple[int, int, int], max_tokens: int, count: int) -> list[Row]:
    """The most that passes through a model at once: of the `count` rows with the longest packs. Without rows each has
    a prompt and a response of the lengths in `longest`, whose last number is that of responses per prompt."""
    if not rows:
        prompt, response, each = longest
        rows = [Row((i // each, *(0,) * (prompt - 1)), (i % each,) * response) for i in range(count)]
    ordered = sorted(packs(rows), key=lambda pack: -pack.length)
    chosen = [rows[i] for pack in ordered for i in pack.rows][:count]
    groups = [[chosen[i] for i in group] for group in microbatches(chosen, max_tokens)]
    return max(groups, key=lambda group: sum(pack.length for pack in packs(group)))
