"""How far the people who labelled are believed. `feedback/annotators/` does it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlaif.config.base import Count, Positive, Section, Share
from rlaif.formats import HumanSource


class MeanOfAnnotators(Section):
    """Every annotator counts the same: the mean of their p. A pair that one person labelled keeps that label."""

    kind: Literal["mean"] = "mean"


class DawidSkene(Section):
    """Each counts by an error rate of its own, estimated from agreement alone (Dawid and Skene 1979)."""

    kind: Literal["dawid_skene"] = "dawid_skene"


class Removal(Section):
    """Whose labels are all left out: user-level removal beats removing examples (arXiv 2208.03295).

    A share counts against somebody only when the whole 95 % interval lies beyond the limit: few answers remove nobody.
    None: the rule is off. With all of them off nobody is removed.
    """

    min_labels: Count = 10
    """With fewer, nobody is judged."""
    min_gold_accuracy: Share | None = None
    """On gold questions. A coin gets 0.5; 0.6 to 0.7 keeps honest people who often disagree."""
    min_agreement: Share | None = None
    """With the majority of the other annotators, on pairs that both labelled. HH-RLHF's crowd workers agreed with its
    authors on about 0.63 (arXiv 2204.05862)."""
    min_seconds: Positive | None = None
    """The median time an answer took."""
    max_same_side: Share | None = Field(default=None, ge=0.5)
    """Share of answers that preferred what stood first, or of those that preferred what stood second."""


class AnnotatorsSection(Section):
    """From several people's labels of one pair to one."""

    aggregate: Annotated[MeanOfAnnotators | DawidSkene, Field(discriminator="kind")] = MeanOfAnnotators()
    min_shared: Count = 10
    """Labels on pairs that somebody else labelled too, before an annotator is estimated from agreement. With fewer
    `dawid_skene` takes the mean accuracy of the others; where nobody has so many it is `mean`."""
    gold: tuple[HumanSource, ...] = ()
    """Pairs whose right answer is known; they test annotators and train nothing."""
    remove: Removal = Removal()
