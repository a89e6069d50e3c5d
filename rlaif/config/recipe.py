"""The recipe: every section together, and what they need of each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from rlaif.config.base import Count, Section, Seed, repeated
from rlaif.config.feedback import (
    AiLabels,
    DebiasedMix,
    HumanLabels,
    LabelSection,
    MixedLabels,
    PreferencesSection,
    PromptsSection,
    SampleSection,
)
from rlaif.config.gates import IterateSection
from rlaif.config.judging import ChecklistMode, ReviseMode, ScoreMode
from rlaif.config.measures import Measure, Slices, title
from rlaif.config.models import JudgeModel, LocalModel, PolicyModel, VllmModel, engine_of
from rlaif.config.optimise import (
    ChosenDemonstrations,
    Dpo,
    HumanDemonstrations,
    Optimise,
    Ppo,
    RunDemonstrations,
    Sft,
)
from rlaif.config.reward import Demonstrations, Regression, RewardSection
from rlaif.config.scoring import EnsembleScore, ModelScore, Scored, Scoring, Tricks, reads_reward_model, sources_of
from rlaif.config.training import ComputeSection, JudgeTrainSection, TrackingSection
from rlaif.errors import shown
from rlaif.records.core import absent

Artefact = Literal["demonstrations", "preferences", "reward_model"]
OF_NO_RUN = {"judge_training", "iterate"}
"""Sections that no stage reads: a run is the same whatever they say."""
OF_NO_OUTPUT = (
    "tracking",
    "compute.check_memory",
    *(f"{section}.{knob}" for section in ("policy", "judge") for knob in ("workers", "gpus", "window")),
    "prompts.max_failures",
    "label.max_failures",
    "preferences.max_human_failures",
    "reward.max_truncated",
    "optimise.max_truncated",
)
"""What stages read and what changes nothing that they write: trackers, workers, limits above which a stage fails. A
finished stage stays finished when one of these changes."""


class EvaluateSection(Section):
    """Policy against reference on held-out prompts."""

    responses_per_prompt: Count = 1
    prompts: Count | None = None
    """At most so many of the held-out prompts are answered, those with the smallest hashes; none = all. The others
    still train nothing."""
    seed: Seed | None = None
    """Of the samples; none = the recipe's. `rlaif iterate` gives all rounds one, so that they answer alike."""
    bootstrap_samples: Count = 2000
    confidence: float = Field(default=0.95, gt=0, lt=1)
    examples: Count = 12
    """Prompts shown with before and after in the report."""
    hacking: Tricks | None = Field(default=None, exclude_if=absent)
    """Whether the score can be moved without better content; none = not tried."""
    measures: tuple[Measure, ...] = ()
    """What else is measured of every response, before and after. Take what neither the constitution, the judge nor the
    reward looks at: then it can confirm what the run says of itself."""

    slices: Slices | None = Field(default=None, exclude_if=absent)
    """The same for parts of the held-out prompts and for sets that training never saw; none = the whole alone."""

    @field_validator("measures")
    @classmethod
    def _names_differ(cls, measures: tuple[Measure, ...]) -> tuple[Measure, ...]:
        names = [title(measure) for measure in measures]
        for index in repeated(names):
            raise ValueError(f"two are called {names[index]!r}; give one of them another `name`")
        return measures


class Recipe(Section):
    """One run, whole."""

    name: str
    """Also the name of the run's folder under runs/."""
    title: str = ""
    seed: Seed = 0
    constitution: str
    """A shipped name (`harmlessness`) or a path."""
    policy: PolicyModel
    """What is trained, from how it is now. Training measures its KL from here."""
    reference: PolicyModel | None = None
    """What evaluation compares the trained policy with; none = the policy before training."""
    judge: JudgeModel
    prompts: PromptsSection
    sample: SampleSection = SampleSection()
    label: LabelSection = LabelSection()
    preferences: PreferencesSection = PreferencesSection()
    reward: RewardSection = RewardSection()
    optimise: Optimise = Ppo()
    compute: ComputeSection = ComputeSection()
    tracking: TrackingSection = TrackingSection()
    evaluate: EvaluateSection = EvaluateSection()
    judge_training: JudgeTrainSection = JudgeTrainSection()
    iterate: IterateSection | None = Field(default=None, exclude_if=absent)

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not name.strip() or name in {".", ".."} or "/" in name or not name.isprintable():
            raise ValueError(
                f"must be usable as the name of a folder, without '/' or control characters (got {shown(name)})"
            )
        return name

    @property
    def evaluation_seed(self) -> int:
        """Of evaluation's samples and bootstrap."""
        return self.seed if self.evaluate.seed is None else self.evaluate.seed

    @property
    def compared_with(self) -> PolicyModel:
        """The model that evaluation calls the reference."""
        return self.reference or self.policy

    @property
    def learns_from(self) -> Artefact | None:
        """What of the run's feedback the method learns from; None: prompts alone, or demonstrations from elsewhere."""
        method = self.optimise
        if isinstance(method, Scored):
            return "reward_model" if method.reads_reward_model else None
        if isinstance(method, Dpo):
            return "preferences"
        if isinstance(method.data, RunDemonstrations):
            return "demonstrations"
        return "preferences" if isinstance(method.data, ChosenDemonstrations | HumanDemonstrations) else None

    @property
    def hackable(self) -> Scoring | None:
        """What `evaluate.hacking` tries: its own source, or what the method scores with; None where it tries none."""
        tried, method = self.evaluate.hacking, self.optimise
        scored = method.scoring if isinstance(method, Scored) else None
        return None if tried is None else tried.source or scored

    @property
    def dtypes(self) -> dict[str, str]:
        """The number format of each model that has one, by its section: what a run's manifest and report say."""
        sections = {"policy": self.policy, "reference": self.reference, "judge": self.judge}
        models = {name: engine_of(model) for name, model in sections.items() if model is not None}
        return {name: model.dtype for name, model in models.items() if isinstance(model, LocalModel | VllmModel)}

    @model_validator(mode="after")
    def _method_finds_its_data(self) -> Self:
        method = self.optimise
        if isinstance(method, Sft):
            self._can_show("optimise.data", method.data, "chosen, judge or file")
        elif isinstance(method, Scored):
            self._can_score("optimise", method.sources)
        if isinstance(self.reward.loss, Demonstrations):
            self._can_show("reward.loss.data", self.reward.loss.data, "file")
        return self

    def _can_show(self, place: str, data: object, others: str) -> None:
        if isinstance(data, RunDemonstrations) and not isinstance(self.label.mode, ReviseMode):
            made = f"{place}.kind is 'revisions', which label.mode.kind=revise makes"
            raise ValueError(f"{made}; or use {place}.kind={others}")

    def _can_score(self, place: str, sources: Sequence[object]) -> None:
        if any(isinstance(source, EnsembleScore) for source in sources) and self.reward.ensemble is None:
            raise ValueError(f"{place} scores with kind 'ensemble', so reward.ensemble must be set")
        heads = [source.head for source in sources if isinstance(source, ModelScore) and source.head]
        if heads and not self.reward.principle_heads:
            raise ValueError(f"{place} scores with the head {heads[0]!r}, so reward.principle_heads must be true")

    @model_validator(mode="after")
    def _hacking_finds_a_score(self) -> Self:
        source = self.hackable
        if self.evaluate.hacking and source is None:
            kind = self.optimise.kind
            raise ValueError(f"evaluate.hacking.source must be set, as optimise.kind is {kind!r}, which scores nothing")
        sources = sources_of(source) if source else ()
        if reads_reward_model(sources) and self.learns_from != "reward_model":
            raise ValueError("evaluate.hacking tries the reward model, and nothing of this recipe makes use of one")
        self._can_score("evaluate.hacking", sources)
        return self

    @model_validator(mode="after")
    def _pairs_need_data(self) -> Self:
        labels = self.preferences.labels
        if isinstance(labels, AiLabels) and labels.pairs == "human" and not labels.human_data:
            raise ValueError("preferences.labels.pairs is 'human', so preferences.labels.human_data must name data")
        return self

    @model_validator(mode="after")
    def _revise_has_responses(self) -> Self:
        labels = self.preferences.labels
        if isinstance(self.label.mode, ReviseMode) and not isinstance(labels, HumanLabels) and labels.pairs == "human":
            raise ValueError("label.mode.kind is 'revise', which revises sampled responses, not human pairs")
        return self

    @model_validator(mode="after")
    def _contrast_is_used(self) -> Self:
        """Human labels alone use no sample at all, whatever the section says."""
        contrast, labels = self.sample.contrast, self.preferences.labels
        if contrast is None:
            return self
        if isinstance(self.label.mode, ReviseMode):
            raise ValueError("label.mode.kind is 'revise', which revises plain samples; set sample.contrast=null")
        if not isinstance(labels, HumanLabels) and labels.pairs == "human":
            raise ValueError(
                "preferences.labels.pairs is 'human', so nothing is sampled; set sample.contrast=null or pairs=sampled"
            )
        if contrast.labels == "origin" and self.label.audit is not None:
            raise ValueError("label.audit is about the judge, which sample.contrast.labels=origin does not ask")
        if contrast.labels == "both" and isinstance(labels, MixedLabels) and isinstance(labels.policy, DebiasedMix):
            raise ValueError(
                "preferences.labels.policy.kind is 'debiased', which would label by length alone the ties that "
                "sample.contrast.labels=both makes; set it to judge or origin"
            )
        return self

    @model_validator(mode="after")
    def _conversations_are_read_whole(self) -> Self:
        """Who learns to write whole responses would learn to write the user's turns too."""
        labels = self.preferences.labels
        sampled = not isinstance(labels, HumanLabels) and labels.pairs == "sampled"
        why = None
        if isinstance(self.label.mode, ReviseMode):
            why = "label.mode.kind is 'revise', which revises one turn"
        elif self.optimise.kind == "decode":
            why = "optimise.kind is 'decode', which draws one turn"
        elif self.learns_from == "preferences" and sampled:
            why = f"optimise.kind is {self.optimise.kind!r}, which would learn to write the user's turns too"
        if self.sample.dialogue is not None and why:
            raise ValueError(f"{why}; set sample.dialogue=null")
        return self

    @model_validator(mode="after")
    def _labels_come_in_parts(self) -> Self:
        whole = {"panel": "estimates its members over all pairs", "revise": "makes no judgments"}
        if self.label.parts is not None and (why := whole.get(self.label.mode.kind)):
            raise ValueError(f"label.mode.kind is {self.label.mode.kind!r}, which {why}; set label.parts=null")
        if self.label.parts is not None and self.sample.contrast is not None:
            raise ValueError("sample.contrast counts agreement over all pairs; set label.parts=null")
        return self

    @model_validator(mode="after")
    def _reward_finds_its_labels(self) -> Self:
        judged = not isinstance(self.preferences.labels, HumanLabels)
        if isinstance(self.reward.loss, Regression) and not (
            judged and isinstance(self.label.mode, ScoreMode | ChecklistMode)
        ):
            raise ValueError("reward.loss.kind is 'regression', which learns the ratings of label.mode.kind=score")
        contrast = self.sample.contrast
        if isinstance(self.reward.loss, Regression) and contrast is not None and contrast.labels != "judge":
            raise ValueError(
                "reward.loss.kind is 'regression', which learns the judge's ratings alone; set "
                f"sample.contrast.labels=judge (got {contrast.labels!r})"
            )
        if self.reward.principle_heads and not judged:
            raise ValueError("reward.principle_heads learn a judge's labels, and preferences.labels.kind is 'human'")
        return self
