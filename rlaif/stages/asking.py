"""What stages share: models behind the reply cache, samples and judgments with a progress bar, files of this run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.config.models import JudgeModel, PolicyModel
from rlaif.console import bar
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError
from rlaif.feedback.judge import JudgeResult, judge_shards, passes
from rlaif.feedback.judge.result import Cost, Results
from rlaif.feedback.sample import SampleResult, sample_responses
from rlaif.jsonl import Row, read_jsonl
from rlaif.models.cache import CachedModel, shared
from rlaif.models.chat import ChatModel
from rlaif.models.open import open_model
from rlaif.records import Pair, Prompt
from rlaif.run_folder import Run


def made(path: Path, stage: str) -> Path:
    """The path, which this stage should have made. ConfigError when it has not."""
    if not path.exists():
        raise ConfigError(f"{path}: not there yet; run the {stage} stage first")
    return path


def read_if_there(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file that this run may not have."""
    return read_jsonl(path, kind) if path.exists() else []


@contextlib.contextmanager
def asking(model: Any, run: Run) -> Iterator[CachedModel]:
    """The model of this config, behind the reply cache that all runs share, closed at the end.

    Replies of a model of unknown revision are this run's and this config's alone.
    A server needs the GPU memory that models of this process, closed or trained before, still hold.
    """
    if "torch" in sys.modules:
        from rlaif.models.local.load import free_memory

        free_memory()
    cached = shared(open_model(model), model, run.scope())
    try:
        yield cached
    finally:
        cached.close()


def draw_samples(
    recipe: Recipe,
    run: Run,
    model: PolicyModel,
    prompts: Sequence[Prompt],
    stage: str,
    n: int | None = None,
    seed: int | None = None,
) -> SampleResult:
    """`n` responses of the model to each prompt, and a seed, where they are not the recipe's."""
    total = len(prompts) * (n or recipe.sample.responses_per_prompt)
    seed = recipe.seed if seed is None else seed
    with asking(model, run) as cached, bar(stage, total, "responses") as advance:
        return sample_responses(cached, prompts, recipe.sample, seed, stage, advance, n)


def judge_with_bar(recipe: Recipe, run: Run, pairs: Sequence[Pair], stage: str) -> JudgeResult:
    """The judge on these pairs, failures under the name of the stage."""
    return JudgeResult.total(shards_with_bar(recipe, run, pairs, len(pairs), stage))


def shards_with_bar(recipe: Recipe, run: Run, pairs: Iterable[Pair], total: int, stage: str) -> Results:
    """As `judge_with_bar`, a result for each shard; `pairs` as `judge_shards` takes them."""
    constitution = load_constitution(recipe.constitution)

    def open_judge(model: JudgeModel | None) -> AbstractContextManager[ChatModel]:
        return asking(model or recipe.judge, run)

    with bar(stage, total * passes(recipe.label.mode), "pairs") as advance:
        for result in judge_shards(open_judge, pairs, constitution, recipe.label, recipe.seed, advance):
            yield result._replace(failures=tuple(f.model_copy(update={"stage": stage}) for f in result.failures))


def cost_of(cost: Cost) -> dict[str, int]:
    return {
        "judge_calls": cost.calls,
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
    }
