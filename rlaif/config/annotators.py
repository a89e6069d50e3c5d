"""How far the people who labelled are believed. `feedback/annotators/` does it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlaif.config.base import Positive, Section, Share
from rlaif.config.human import HumanSource


class MeanOfAnnotators(Section):
    """Every annotator counts the same: the mean of their p."""

    kind: Literal["mean"] = "mean"


class DawidSkene(Section):
    """Each counts by an error rate of its own, estimated from agreement alone (Dawid and Skene 1979)."""

    kind: Literal["dawid_skene"] = "dawid_skene"


class NoisyBradleyTerry(Section):
    """Each has a skill and a bias to one side; responses that were compared often gain strength (Chen et al. 2013)."""

    kind: Literal["noisy_bradley_terry"] = "noisy_bradley_terry"


class Removal(Section):
    """Whose labels are all left out: user-level removal beats removing examples (arXiv 2208.03295)."""

    min_labels: int = Field(default=10, ge=1)
    """With fewer, nobody is judged."""
    min_gold_accuracy: Share | None = None
    """On gold questions."""
    min_agreement: Share | None = None
    """With the other annotators, on pairs that both labelled."""
    min_seconds: Positive | None = None
    """The median time an answer took."""
    max_same_side: Share | None = None
    """Share of answers that preferred what stood first, or of those that preferred what stood second."""


class AnnotatorsSection(Section):
    """From several people's labels of one pair to one."""

    aggregate: Annotated[MeanOfAnnotators | DawidSkene | NoisyBradleyTerry, Field(discriminator="kind")] = (
        MeanOfAnnotators()
    )
    gold: tuple[HumanSource, ...] = ()
    """Pairs whose right answer is known; they test annotators and train nothing."""
    remove: Removal = Removal()
