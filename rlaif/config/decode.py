"""A policy without training: what is searched of how its tokens are drawn (`optimise.kind=decode`)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Count, Positive, Section, Share, repeated
from rlaif.config.scoring import ModelScore, Scored, Scoring

Token = Annotated[str, Field(min_length=1, max_length=80)]
Logit = Annotated[float, Field(ge=-100, le=100)]
"""What servers take (vLLM, OpenAI)."""


class TokenBias(Section):
    """A number between these is added to the logit of a token, at every place."""

    token: Token
    low: Logit
    high: Logit


class Decode(Scored):
    """No training: the setting of the sampler with the highest mean reward - kl_coef x KL to the run's own sampler.

    Trials are Optuna's (extra `signals`). What is none or empty is not searched: it stays as `sample` has it."""

    kind: Literal["decode"] = "decode"
    search: Literal["tpe", "cma_es"] = "tpe"
    """Tree-structured Parzen estimators; or CMA-ES, the evolution strategy, for numbers (the rest goes by TPE)."""
    trials: Count = 30
    prompts: Count | None = 32
    """Training prompts that each trial answers, those with the smallest hashes; none = all."""
    responses_per_prompt: Count = 1
    scoring: Scoring = ModelScore()
    kl_coef: float = Field(default=0.05, ge=0)
    """Of nats per response, as `kl.coef` of the on-policy methods."""
    temperature: tuple[Positive, Positive] | None = (0.3, 1.5)
    """From, to; so with the other ranges."""
    top_p: tuple[Positive, Share] | None = (0.5, 1.0)
    top_k: tuple[Count, Count] | None = None
    repetition_penalty: tuple[Positive, Positive] | None = None
    """Logits of tokens that are there already, in the prompt or the response, are divided by it where positive and
    multiplied where negative (CTRL, arXiv 1909.05858), as transformers and vLLM do."""
    ban: tuple[Token, ...] = ()
    """Tokens, each of which a trial bans or not."""
    bias: tuple[TokenBias, ...] = ()
    system: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """System turns, of which a trial takes one or leaves the prompt as it is."""
    microbatch_tokens: Count = 4096

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of the numbers that are searched, by name."""
        named = ("temperature", "top_p", "top_k", "repetition_penalty")
        found = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        return found | {f"bias {each.token}": (each.low, each.high) for each in self.bias}

    @model_validator(mode="after")
    def _there_is_something_to_search(self) -> Self:
        for name, (low, high) in self.ranges.items():
            if not low < high:
                raise ValueError(f"{name}: a range from low to high, not {low:g} to {high:g}")
        if not (self.ranges or self.ban or self.system):
            raise ValueError("nothing is searched: give a range, ban, bias or system")
        if self.search == "cma_es" and len(self.ranges) < 2:
            raise ValueError("search is 'cma_es', which needs two ranges at least; use search=tpe")
        for values in (self.system, (*self.ban, *(each.token for each in self.bias))):
            for index in repeated(values):
                raise ValueError(f"{values[index]!r} is there twice")
        return self
