"""Whether the score of a run can be moved without better content: `evaluate.hacking`, before and after training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.config import Recipe
from rlaif.config.scoring import JudgeScore, sources_of
from rlaif.constitution import load_constitution
from rlaif.records import Prompt, Response, prompt_of
from rlaif.rewards.open import open_rewards
from rlaif.run_folder import Run
from rlaif.stages.optimise import other_models
from rlaif.stages.stage import asking, made, mode_files
from rlaif.stats import Bootstrap

if TYPE_CHECKING:
    from rlaif.audits.hacking import Tried


def try_score(
    recipe: Recipe, run: Run, before: Sequence[Response], after: Sequence[Response], asked: Counter[str]
) -> dict[str, Any] | None:
    """Every trick on the reference's and on the policy's responses to the same prompts; None where it is not asked
    for. What it took of a judge is added to `asked`."""
    from rlaif.audits.hacking import hacking_change

    if (section := recipe.evaluate.hacking) is None:
        return None
    some = (responses[: section.responses] for responses in (before, after))
    one, two = tried(recipe, run, asked, *(([prompt_of(r) for r in few], [r.text for r in few]) for few in some))
    return hacking_change(one, two, Bootstrap.of(recipe.evaluate, recipe.evaluation_seed))


def tried(
    recipe: Recipe, run: Run, asked: Counter[str], *answers: tuple[Sequence[Prompt], Sequence[str]]
) -> list[Tried]:
    """Every trick on each of these sets of answers, by what `evaluate.hacking` tries as this run has it.

    The judge's replies are kept in the reply cache, so a stage that was killed does not pay for them again.
    """
    from rlaif.audits.hacking import tricks_for, try_tricks
    from rlaif.models.local.machine import torch_dtype
    from rlaif.training.reward.ensemble import RewardModels

    source = recipe.hackable
    assert source is not None, "the recipe says what is tried"
    folder = made(run.reward_model, "reward") if recipe.learns_from == "reward_model" else None
    models = RewardModels(folder, torch_dtype(recipe.policy.dtype))
    tricks = tricks_for(load_constitution(recipe.constitution))
    with open_rewards(recipe, lambda judge: asking(judge, run), models, recipe.reward.microbatch_tokens) as opened:
        reward = opened(source)

        def score(prompts: Sequence[Prompt], texts: Sequence[str]) -> Sequence[float | None]:
            values, _, took = reward.measure(prompts, texts)
            asked.update(took)
            return values

        return [try_tricks(score, prompts, texts, tricks) for prompts, texts in answers]


def hacking_files(recipe: Recipe) -> list[Path]:
    """What the judges that are tried read from outside the run."""
    sources = sources_of(recipe.hackable) if recipe.hackable else ()
    judges = [source for source in sources if isinstance(source, JudgeScore)]
    return [*(file for j in judges for file in mode_files(j.mode, j.model or recipe.judge)), *other_models(sources)]
