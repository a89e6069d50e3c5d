"""Prompts, samples, labels, how far the people who labelled are believed, and the preferences made of all that."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Count, Positive, Section, Share
from rlaif.config.filters import Filters
from rlaif.config.judging import AuditRequirement, CompareMode, WrittenMode
from rlaif.config.rollouts import Dialogue
from rlaif.config.sources import DataSource, FileSource
from rlaif.formats import HumanSource
from rlaif.records.core import absent


class PromptsSection(Section):
    """The prompts that the policy answers."""

    sources: tuple[DataSource, ...] = Field(min_length=1)
    system: str | None = None
    """A system turn put before every prompt that has none."""
    heldout: Count = 64
    """Prompts kept out of all training, for evaluation. Chosen by hash of the prompt, not by position."""
    limit: Count | None = None
    """Use at most this many training prompts."""
    max_failures: Share = 0.2
    """Where surely more of the rows hold no prompt (blank, a tool's turn, a picture) the sources are refused."""
    filters: Filters | None = Field(default=None, exclude_if=absent)
    """Which prompts are worth training on; none = all."""

    @classmethod
    def unsplit(cls, path: str) -> PromptsSection:
        """A file that no run has split yet: nothing of it is held out, so one prompt is enough."""
        return cls.model_construct(sources=(FileSource(path=path),), heldout=0)


class ContrastSample(Section):
    """Responses written under both instructions of a principle's `contrast` (RLCD, arXiv 2307.12950): half of a
    prompt's responses under `for`, half under `against`. Whatever trains on them sees the plain prompt.

    Each prompt has one principle, drawn by weight among those that apply to its tags and have a `contrast`. Only pairs
    of a `for` with an `against` response are labelled.
    """

    principles: tuple[str, ...] = ()
    """Ids of the principles to draw among; none = all that have a `contrast`."""
    template: str = "contrast"
    """As in label.mode.kind=contrast."""
    labels: Literal["origin", "judge", "both"] = "origin"
    """Who labels a pair of the two: where they came from; the judge; or both: then the judge, and a pair on which it
    does not prefer the response written under `for` is a tie."""
    p_origin: float = Field(default=0.9, gt=0.5, le=1)
    """p(the response written under `for`), where the origin says it."""


class SampleSection(Section):
    """How the policy's responses are drawn."""

    responses_per_prompt: int = Field(default=4, ge=2, le=9)
    temperature: Positive = 0.7
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: Count = 256
    contrast: ContrastSample | None = None
    """Under which instructions; none = the prompt alone."""
    dialogue: Dialogue | None = Field(default=None, exclude_if=absent)
    """Responses are conversations of several turns, those of the evaluation too; none = one turn."""

    @model_validator(mode="after")
    def _two_halves(self) -> Self:
        if self.contrast is not None and self.responses_per_prompt % 2:
            raise ValueError(
                "responses_per_prompt must be even with `contrast`, half for each of the two instructions (got "
                f"{self.responses_per_prompt})"
            )
        return self


class Mean(Section):
    """Mean of the principles' log-odds, by weight."""

    kind: Literal["mean"] = "mean"


class SampleOne(Section):
    """One principle a pair, drawn by weight and seeded by the pair (Constitutional AI, arXiv 2212.08073)."""

    kind: Literal["sample"] = "sample"


class Lexicographic(Section):
    """The lowest priority number that is decided decides."""

    kind: Literal["lexicographic"] = "lexicographic"
    decided: float = Field(default=0.1, ge=0, le=0.5)
    """A group is decided when its |p(a) - 0.5| is above this."""


class LabelSection(Section):
    """How the judge labels pairs of responses."""

    mode: WrittenMode = CompareMode()
    audit: AuditRequirement | None = None
    """An audit that this judge must have passed before it labels."""
    aggregation: Annotated[Mean | SampleOne | Lexicographic, Field(discriminator="kind")] = Mean()
    pairs_per_prompt: Count | None = None
    """At most this many of the n(n-1)/2 pairs of a prompt; none = all."""
    pair_choice: Literal["random", "checks"] = "random"
    """Which those are: any, or first the pairs whose responses the constitution's checks tell apart most."""
    check_margin: Positive = 4.0
    """Log-odds with which a checked principle prefers the response that passes."""
    min_label_mass: Share = 0.05
    """A reply whose label tokens together have less probability than this is a failure, not a label. The embedded model
    gives them 0.08 or more, a judge that follows instructions nearly all: ask 0.5 of it."""
    max_failures: Share = 0.02
    """Above this share of failed pairs the stage fails."""
    parts: Count | None = None
    """The judgments in judgments/part-*.jsonl, at least so many pairs in each; a killed stage goes on after the last
    part. None: one judgments.jsonl, and a killed stage finds what was answered in the reply cache."""


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


class HumanWinsMix(Section):
    """Where both sources label a pair the human label stands."""

    kind: Literal["human_wins"] = "human_wins"


class WeightedMix(Section):
    """All labels are kept, weighted by source."""

    kind: Literal["weighted"] = "weighted"
    ai: float = Field(default=1.0, ge=1e-6, le=1e6)
    human: float = Field(default=1.0, ge=1e-6, le=1e6)


class TagMix(Section):
    """Human labels for these tags, AI labels for those (Constitutional AI: human-helpful, AI-harmless)."""

    kind: Literal["by_tag"] = "by_tag"
    human: tuple[str, ...]
    ai: tuple[str, ...]

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        both = set(self.human) & set(self.ai)
        if both:
            raise ValueError(f"tag {sorted(both)[0]!r} is given to both sources")
        return self


class CalibratedMix(Section):
    """Human labels stand; the judge's are mapped to what people said where both labelled."""

    kind: Literal["calibrated"] = "calibrated"
    map: Literal["temperature", "isotonic"] = "temperature"
    min_overlap: Count = 50
    """Pairs that both labelled. Only those that people got by chance count (`rlaif route` keeps a share for that)."""


class ReliabilityMix(Section):
    """Human labels stand; the judge's count by how often it agrees where both labelled."""

    kind: Literal["reliability"] = "reliability"
    use: Literal["smooth", "weight"] = "smooth"
    """`smooth`: as label smoothing; `weight`: as the weight of the row."""
    min_overlap: Count = 50
    """Pairs that both labelled. Only those that people got by chance count (`rlaif route` keeps a share for that)."""


class DebiasedMix(Section):
    """Human labels stand; the judge's lose that part of its taste for length which people do not share."""

    kind: Literal["debiased"] = "debiased"
    min_overlap: Count = 150
    """Pairs that both labelled. Only those that people got by chance count (`rlaif route` keeps a share for that)."""


MixPolicy = Annotated[
    HumanWinsMix | WeightedMix | TagMix | CalibratedMix | ReliabilityMix | DebiasedMix, Field(discriminator="kind")
]


class AiLabels(Section):
    """RLAIF: the judge labels pairs."""

    kind: Literal["ai"] = "ai"
    pairs: Literal["sampled", "human"] = "sampled"
    """`sampled`: pairs of the policy's responses; `human`: the pairs of `human_data`, their labels unseen."""
    human_data: tuple[HumanSource, ...] = ()


class HumanLabels(Section):
    """RLHF: labels read from HH-RLHF-format data."""

    kind: Literal["human"] = "human"
    human_data: tuple[HumanSource, ...] = Field(min_length=1)


class MixedLabels(Section):
    """Both, joined by policy."""

    kind: Literal["mix"] = "mix"
    pairs: Literal["sampled", "human"] = "sampled"
    human_data: tuple[HumanSource, ...] = Field(min_length=1)
    human_share: float = Field(default=1.0, gt=0, le=1)
    """Of the pairs that people labelled, the share whose labels are used, chosen by hash: a budget for people."""
    policy: MixPolicy = HumanWinsMix()


class PreferencesSection(Section):
    """From judgments to training rows. RLAIF, RLHF and hybrid recipes differ in this section only."""

    labels: Annotated[AiLabels | HumanLabels | MixedLabels, Field(discriminator="kind")] = AiLabels()
    annotators: AnnotatorsSection = AnnotatorsSection()
    max_human_failures: Share = 0.2
    """Where surely more of the rows of `human_data` or of gold questions cannot be used the stage fails."""
    tie_margin: float = Field(default=0.0, ge=0, lt=0.5)
    """A judgment with |p(a) - 0.5| at or below this is a tie."""
    ties: Literal["drop", "keep"] = "drop"
    """A kept tie trains towards p = 0.5, with its own soft label."""
    include: tuple[str, ...] = ()
    """Further preferences.jsonl files, of earlier rounds: their rows join, less those whose pair is here already. A
    prompt that is held out in any of them is held out in all, and one kept for evaluation is left out."""
    heldout_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of prompts whose pairs only measure the reward model."""

    @property
    def pairs(self) -> Literal["sampled", "human"]:
        """Whose pairs are labelled: of the policy's responses, or those of `human_data`."""
        return "human" if isinstance(self.labels, HumanLabels) else self.labels.pairs

    @property
    def human_data(self) -> tuple[HumanSource, ...]:
        """Where people's labels are read."""
        return self.labels.human_data

    @property
    def judged_tags(self) -> tuple[str, ...] | None:
        """With `by_tag` the tags of what the judge labels; None: it labels everything."""
        policy = self.labels.policy if isinstance(self.labels, MixedLabels) else None
        return policy.ai if isinstance(policy, TagMix) else None
