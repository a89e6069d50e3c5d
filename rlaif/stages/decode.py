"""optimise.kind=decode: the policy's own weights, and the setting of its sampler that a search found best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from pydantic_core import to_jsonable_python

from rlaif.config import Recipe
from rlaif.config.decode import Decode
from rlaif.console import bar
from rlaif.errors import ConfigError, DataError, ModelError
from rlaif.feedback.prompts import read_prompts
from rlaif.feedback.sample import SampleResult, Speakers, check_sample_failures, sample_responses
from rlaif.jsonl import write_json
from rlaif.models.decoded import DecodedModel
from rlaif.models.decoding import DECODE, Decoding
from rlaif.processes import leads
from rlaif.records import Message, content_id
from rlaif.rewards.open import open_rewards
from rlaif.run_folder import Run
from rlaif.stages.stage import asking, made, publishing


def check_decode(recipe: Recipe) -> None:
    """ConfigError, before any work, where the search cannot be: Optuna is missing, a text to ban or bias is no token,
    or the chat template refuses a system turn."""
    section = recipe.optimise
    if not isinstance(section, Decode):
        return
    from rlaif.models.local.load import load_tokenizer
    from rlaif.models.local.tokens import encode_prompt
    from rlaif.training.decode import require_optuna, token_ids

    require_optuna(section)
    tokenizer = load_tokenizer(recipe.policy.model, recipe.policy.revision)
    token_ids(tokenizer, section)
    for text in section.system:
        try:
            encode_prompt(tokenizer, (Message(role="system", content=text), Message(role="user", content="Why?")))
        except ModelError as error:
            raise ConfigError(f"optimise.system: {error}") from None


def decode(recipe: Recipe, run: Run, section: Decode) -> dict[str, Any]:
    """policy/: the untrained policy, its generation_config.json as found, and decode.json with every trial. The run's
    own sampler stands where no trial is better."""
    from rlaif.models.local.machine import torch_dtype
    from rlaif.training import parallel
    from rlaif.training.decode import Measured, decoding_of, sampler_kl, search, token_ids, valued
    from rlaif.training.policy_model import PolicyModel, worth
    from rlaif.training.reward.ensemble import RewardModels
    from rlaif.training.tracking import tracking

    dtype, limit = torch_dtype(recipe.policy.dtype), recipe.label.max_failures
    plain = Decoding(temperature=recipe.sample.temperature, top_p=recipe.sample.top_p)
    models = RewardModels(made(run.reward_model, "reward") if section.reads_reward_model else None, dtype)
    with ExitStack() as stack:
        rewards = open_rewards(recipe, lambda judge: asking(judge, run), models, section.microbatch_tokens)
        reward = stack.enter_context(rewards)(section.scoring)
        engine: Any = stack.enter_context(asking(recipe.policy, run)) if leads() else None
        policy = PolicyModel.load(recipe.policy.model, recipe.policy.revision, dtype)
        by_hash = sorted(read_prompts(recipe.prompts).train, key=lambda prompt: content_id("decode", prompt.id))
        prompts, n = by_hash[: section.prompts], section.responses_per_prompt
        ids = token_ids(policy.tokenizer, section)
        tracker = stack.enter_context(tracking(run, "optimise", section.trials + 1, recipe))
        advance = stack.enter_context(bar("optimise", section.trials + 1, "settings"))

        def measure(decoding: Decoding) -> Measured:
            """The same prompts and seeds for every setting, so that two differ by the setting alone. DataError where
            too many responses failed or have no reward."""

            def write() -> SampleResult:  # the first process, for all
                drawn = DecodedModel(engine, decoding)
                return sample_responses(Speakers(drawn), prompts, recipe.sample, recipe.seed, "decode", n=n)

            result = parallel.first(write)
            check_sample_failures(result, limit, "optimise")
            found = worth(reward, policy.tokenizer, result.responses)
            score, unscored = _mean(found.values, limit)
            most = section.microbatch_tokens
            kl = sampler_kl((policy, policy), decoding, result.responses, plain.temperature, most)
            advance(1)
            return Measured(score, sum(kl) / len(kl), unscored, dict(found.asked))

        reference = valued(section, -1, {}, measure(plain))
        kept = run.checkpoints / "optimise" / "trials.jsonl"
        trials = search(section, recipe.seed, lambda params: measure(decoding_of(params, section, ids, plain)), kept)
        tracker.rewind(0)
        for step, trial in enumerate([reference, *trials]):
            tracker.log(step, {"score": trial.reward, "kl": trial.kl, "value": trial.value, "unscored": trial.unscored})
    best = max([reference, *trials], key=lambda trial: trial.value)  # of equal ones the first
    found = plain if best is reference else decoding_of(best.params, section, ids, plain)
    own = policy.model.generation_config  # of which only what ends a response stays
    ends = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    policy.model.generation_config = type(own)(**ends, **found.generation_config)
    with publishing(run.policy) as folder:
        policy.save(folder)
        told = {"reference": reference, "best": best, "trials": trials}
        said = {"system": found.system, "kl_coef": section.kl_coef, **to_jsonable_python(told)}
        write_json(folder / DECODE, said)
    facts = {"trials": len(trials), "reference_value": reference.value, "best_value": best.value}
    facts |= sum((Counter(trial.asked) for trial in (reference, *trials)), Counter())
    return {**facts, "kept": "reference" if best is reference else f"trial {best.number}", "kl": best.kl}


def _mean(values: Sequence[float | None], limit: float) -> tuple[float, int]:
    """Of the responses that have a reward, and how many have none. DataError where these are too many."""
    scored = [value for value in values if value is not None]
    unscored = len(values) - len(scored)
    if unscored > limit * len(values) or not scored:
        raise DataError(
            f"optimise: {unscored} of {len(values)} responses have no reward (limit {limit:.1%}); look at the "
            "judge, or raise label.max_failures"
        )
    return sum(scored) / len(scored), unscored
