"""The knobs of a distillation."""

from __future__ import annotations

from pydantic import Field

from rlaif.config.base import Count, Positive, Section


class DistillSettings(Section):
    """How many pairs and candidates, and what a candidate must show. The judge is asked at most
    `proposals * per_pair + 2 * candidates * votes` times."""

    proposals: Count = 100
    """At most so many pairs for which the judge proposes principles."""
    per_pair: Count = 1
    """Proposals a pair. One is greedy; several are sampled at `temperature`."""
    temperature: Positive = 0.7
    max_tokens: Count = 60
    """Of a proposal: 30 words and their marks."""
    candidates: Count = 24
    """At most so many are tested, those proposed for the most pairs."""
    votes: Count = 100
    """At most so many pairs, of other prompts, on which each candidate is tested."""
    decided: float = Field(default=0.05, ge=0, lt=0.5)
    """A candidate says nothing of a pair where its |p - 0.5| is at most this."""
    least_prompts: Count = 10
    """A candidate that decides pairs of fewer prompts is not believed, however right it is."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance that any candidate without merit survives: the level of the test after Holm's correction."""
    redundant: float = Field(default=0.9, gt=0, le=1)
    """A candidate that votes as a better one does on more than this share of the pairs is left out."""
    keep: Count = 8
    """At most so many principles."""
