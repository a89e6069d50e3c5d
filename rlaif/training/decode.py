"""A search of how tokens are drawn: Optuna proposes settings, each is measured, and its cost is its KL to the run's own
sampler.

Shape suffixes: T response tokens of a row, V vocabulary.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from pydantic import Field

from rlaif.config import Recipe
from rlaif.config.decode import Decode
from rlaif.errors import ConfigError
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.models.decoding import Decoding, Shape
from rlaif.models.local.architecture import output_of
from rlaif.models.local.machine import torch_dtype
from rlaif.models.local.packing import microbatches
from rlaif.models.local.shaping import Shaper, draw_logprobs
from rlaif.records import Record, Response, derive_seed
from rlaif.signals import needs
from rlaif.training import parallel
from rlaif.training.policy_model import PolicyModel, rows_of

Params = dict[str, float | int | bool | None]
"""What a trial sets, by name; `system` is the place in the section's list, None the prompt as it is."""
SLICE = 128
"""Tokens whose logits are held at once."""
DIGITS = 4


class Measured(NamedTuple):
    """What a setting is worth."""

    reward: float
    """The mean over responses that have one."""
    kl: float
    """To the run's own sampler, nats per response."""
    unscored: int = 0
    """Responses without a reward."""
    asked: Mapping[str, int] = MappingProxyType({})
    """What the reward took of a judge."""


class Trial(Record):
    """A setting that was measured; `value` is what is maximised."""

    number: int
    params: Params
    reward: float
    kl: float
    value: float
    unscored: int = 0
    asked: Mapping[str, int] = Field(default_factory=dict, exclude_if=operator.not_)


def search(section: Decode, seed: int, measure: Callable[[Params], Measured], kept: Path) -> list[Trial]:
    """All trials, in order. Those in the file `kept` are not measured again: from the same seed and values the same is
    proposed, so a search that was killed goes on to the same trials. (Optuna's own storage would bring the state of
    CMA-ES back as a pickle.) ConfigError where Optuna is not installed."""
    optuna, own = require_optuna(section), derive_seed(seed, "decode", section.search) % 2**32
    sampler = optuna.samplers.TPESampler(seed=own)
    if section.search == "cma_es":  # what is no number, and the first trial, go by the other
        cma = optuna.samplers.CmaEsSampler
        sampler = cma(seed=own, independent_sampler=sampler, warn_independent_sampling=False)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    known = parallel.first(lambda: read_jsonl(kept, Trial) if kept.exists() else [])
    trials: list[Trial] = []
    for number in range(section.trials):
        asked = study.ask()
        params = suggest(asked, section)
        if number < len(known) and known[number].params == params:
            trial = known[number]
        else:
            trial, known = valued(section, number, params, measure(params)), []
            write_jsonl(kept, [*trials, trial])
        trials.append(trial)
        study.tell(asked, trial.value)
    return trials


def valued(section: Decode, number: int, params: Params, found: Measured) -> Trial:
    """reward - kl_coef x KL."""
    value = found.reward - section.kl_coef * found.kl
    return Trial(number=number, params=params, value=value, **found._asdict())


def require_optuna(section: Decode) -> Any:
    """The library. ConfigError where it, or what CMA-ES needs, is not installed."""
    needs("optimise.kind=decode", ["optuna", *(["cmaes"] if section.search == "cma_es" else [])])
    import optuna  # noqa: PLC0415 (an extra)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def suggest(trial: Any, section: Decode) -> Params:
    """What Optuna proposes, rounded."""
    found: Params = {}
    for name, (low, high) in section.ranges.items():
        if name == "top_k":
            found[name] = trial.suggest_int(name, low, high, log=True)
        else:
            found[name] = round(trial.suggest_float(name, low, high), DIGITS)
    for token in section.ban:
        found[f"ban {token}"] = trial.suggest_categorical(f"ban {token}", [False, True])
    if section.system:
        found["system"] = trial.suggest_categorical("system", [None, *range(len(section.system))])
    return found


def decoding_of(params: Params, section: Decode, ids: dict[str, int], plain: Decoding) -> Decoding:
    """The setting of a trial; `plain` is the run's own sampler, `ids` the tokens of the section's texts."""
    numbers: Any = params
    biases = ((ids[each.token], numbers[f"bias {each.token}"]) for each in section.bias)
    shape = Shape(
        top_k=numbers.get("top_k", 0),
        repetition_penalty=numbers.get("repetition_penalty", 1.0),
        banned=tuple(sorted(ids[token] for token in section.ban if params[f"ban {token}"])),
        bias=tuple(sorted((token, value) for token, value in biases if value)),
    )
    system = numbers.get("system")
    return Decoding(
        temperature=numbers.get("temperature", plain.temperature),
        top_p=numbers.get("top_p", plain.top_p),
        shape=None if shape == Shape() else shape,
        system=None if system is None else section.system[system],
    )


def token_ids(tokenizer: Any, section: Decode) -> dict[str, int]:
    """The token of each text that the section names. ConfigError for one that is several tokens, or unknown."""
    found = {}
    for place, text in [*(("ban", text) for text in section.ban), *(("bias", each.token) for each in section.bias)]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1 and text in (vocabulary := tokenizer.get_vocab()):
            ids = [vocabulary[text]]  # as the tokenizer itself spells it
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            pieces = ", ".join(repr(piece) for piece in tokenizer.convert_ids_to_tokens(ids)[:8])
            raise ConfigError(f"optimise.{place}: {text!r} is not one token of the policy's tokenizer but {pieces}")
        found[text] = ids[0]
    return found


@torch.no_grad()
def sampler_kl(
    policies: tuple[PolicyModel, PolicyModel],
    decoding: Decoding,
    responses: Sequence[Response],
    temperature: float,
    max_tokens: int,
) -> list[float]:
    """Of each response, in nats, an estimate of KL(drawn by `decoding` || reference at this temperature).

    The first policy is who wrote, after the system turn that it was given; the second is the reference, after the
    prompt itself. At each place of what was written the divergence of the two next-token distributions is taken
    whole, over the vocabulary, and these are added up: unbiased for the KL of whole responses, never negative, and of
    less variance than the log-ratio of the tokens drawn, which is one draw of each term.
    """
    writer, reference = policies
    asked = [r.model_copy(update={"prompt": decoding.messages(r.prompt)}) for r in responses]
    written, plain = (rows_of(writer.tokenizer, each) for each in (asked, responses))
    found = [0.0] * len(written)
    for group in microbatches(written, max_tokens):
        own = writer.choices([written[i] for i in group])[0]
        other = reference.choices([plain[i] for i in group])[0]
        counts = [len(written[i].response) for i in group]
        for i, own_TH, other_TH in zip(group, own.split(counts), other.split(counts), strict=True):
            row = written[i]
            for at in range(0, len(row.response), SLICE):
                logits_TV = output_of(writer.model)(own_TH[at : at + SLICE])
                if decoding.shape:
                    before = [(*row.prompt, *row.response[: at + t]) for t in range(len(logits_TV))]
                    logits_TV = Shaper(decoding.shape, before, logits_TV.shape[1], logits_TV.device).shaped(logits_TV)
                own_TV = draw_logprobs(logits_TV, decoding.temperature, decoding.top_p)
                other_TV = draw_logprobs(output_of(reference.model)(other_TH[at : at + SLICE]), temperature, 1.0)
                term_TV = torch.where(own_TV.isfinite(), own_TV.exp() * (own_TV - other_TV), 0.0)
                found[i] += float(term_TV.sum(-1).clamp(min=0).sum())  # rounding
    return found


def kl_after(recipe: Recipe, folder: Path, decoding: Decoding, responses: Sequence[Response]) -> list[float]:
    """As `sampler_kl`, of a policy's folder against what evaluation compares with."""
    dtype, reference = torch_dtype(recipe.policy.dtype), recipe.compared_with
    writer = PolicyModel.load(str(folder), None, dtype)
    other = writer if recipe.reference is None else PolicyModel.load(reference.model, reference.revision, dtype)
    most = recipe.reward.microbatch_tokens
    found = sampler_kl((writer, other), decoding, responses, recipe.sample.temperature, most)
    return [round(value, 4) for value in found]
