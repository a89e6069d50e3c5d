"""What a training stage will need, item by item, before it starts: printed, and refused where the machine has less.

The numbers are for one process. Weights, masters and moments stay; beside them stands whichever is more, what
learning keeps (gradients, activations, logits) or what rollouts need (the models that are only read, keys and values,
merged weights). A judge in the same process is not counted. How much each thing is, is in sizes.py.
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
from rlaif.config.optimise import Offline, OnPolicy
from rlaif.console import say
from rlaif.errors import ConfigError, TrainingError
from rlaif.models.local.load import device, load_tokenizer
from rlaif.models.local.packing import Row
from rlaif.models.local.tokens import encode_prompt
from rlaif.records import Prompt
from rlaif.training import needs
from rlaif.training.needs import MemoryItem, total

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
    there: float
    refuses: bool

    unknown: tuple[str, ...] = ()
    """Parts of the models that are counted too low."""

    @property
    def items(self) -> list[MemoryItem]:
        """At the moment when most is needed."""
        return self.stays + max(self.learning, self.writing, key=total)

    @property
    def together(self) -> float:
        """Bytes at that moment."""
        return total(self.items)

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
        found = needs.reward(recipe, rows)
    elif stage == "judge_training":
        found = needs.judge(recipe, rows)
    elif isinstance(recipe.optimise, OnPolicy):
        found = needs.from_rollouts(recipe, recipe.optimise, rows)
    elif isinstance(recipe.optimise, Offline):
        found = needs.from_texts(recipe, recipe.optimise, rows)
    else:
        found = needs.Needs([], [], [], ())  # best of n trains nothing
    has = sum(p.numel() * p.element_size() for p in loaded.parameters()) if loaded is not None else 0
    if found.stays:
        found.stays.append(MemoryItem("libraries", LIBRARIES, ""))
    there, refuses = available() + has, recipe.compute.check_memory
    return MemoryPlan(stage, found.stays, found.learning, found.writing, there, refuses, found.unknown)


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
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise TrainingError(
            f"{plan.stage}: out of memory; planned were {plan.together / 1e9:.1f} GB, {plan.there / 1e9:.1f} GB were "
            f"free at the start; {plan.advice}; checkpoints are kept"
        ) from None


def ran_out(error: BaseException) -> bool:
    """Whether it says that there is no memory left: torch's on a GPU and on a CPU, the system's, or a library's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in NO_MEMORY)


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
