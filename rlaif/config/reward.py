"""The reward model: what it learns, from how many members, and how it treats doubtful labels."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlaif.config.base import Count, Positive, Section, Share
from rlaif.config.optimise import HumanDemonstrations, RunDemonstrations
from rlaif.config.sources import FileSource
from rlaif.config.training import Lora


class BradleyTerry(Section):
    """-p log sigma(d - m) - (1 - p) log sigma(-d - m), with d = score(chosen) - score(rejected)."""

    kind: Literal["bradley_terry"] = "bradley_terry"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """p becomes (1 - s) p + s (1 - p)."""
    margin: float = Field(default=0.0, ge=0)
    """m = margin x (2p - 1): surer preferences must be further apart (Llama 2, arXiv 2307.09288, eq. 2)."""


class RaoKupper(Section):
    """Bradley-Terry with ties: P(chosen wins) = sigma(d - log theta), P(tie) is the rest (Rao and Kupper, 1967)."""

    kind: Literal["rao_kupper"] = "rao_kupper"
    theta: float = Field(default=2.0, gt=1)


class Davidson(Section):
    """Bradley-Terry with ties: P(tie) is in proportion to nu x sqrt(P(win) P(loss)) (Davidson, 1970)."""

    kind: Literal["davidson"] = "davidson"
    nu: Positive = 1.0


class Regression(Section):
    """Squared error to the ratings of single responses in scores.jsonl (`label.mode` score, checklist)."""

    kind: Literal["regression"] = "regression"


class Demonstrations(Section):
    """Demonstrations against the policy's samples (inverse RL; SPIN, arXiv 2401.01335): -log sigma(d), or with `hinge`
    max(0, margin - d) (maximum margin, Abbeel and Ng, 2004), with d = score(demonstration) - score(sample)."""

    kind: Literal["demonstrations"] = "demonstrations"
    data: Annotated[RunDemonstrations | HumanDemonstrations | FileSource, Field(discriminator="kind")]
    """`prompt` and `completion`; the prompts must be among those that are sampled."""
    form: Literal["logistic", "hinge"] = "logistic"
    margin: Positive = 1.0
    """Of `hinge`."""
    preferences: float = Field(default=0.0, ge=0, le=1e6)
    """What a preference of the run weighs beside a demonstration; 0: none is made, and no judge is asked to label."""
    earlier: tuple[str, ...] = ()
    """responses.jsonl of earlier rounds, to stand beside the policy's own samples: `rlaif iterate` names them."""


RewardLoss = Annotated[BradleyTerry | RaoKupper | Davidson | Regression | Demonstrations, Field(discriminator="kind")]


class KeepLabels(Section):
    """Every label as it is."""

    kind: Literal["keep"] = "keep"


class FlipLabels(Section):
    """The pairs that an ensemble of reward models contradicts most are turned round (MOSS II, arXiv 2401.06080)."""

    kind: Literal["flip"] = "flip"
    share: Share = 0.1
    """Of all training pairs, those with the lowest mean strength (and only where it is negative)."""
    members: int = Field(default=5, ge=2)
    """Reward models trained first, in different orders, to measure strength."""


class SoftenLabels(Section):
    """The same pairs keep their direction and lose their certainty."""

    kind: Literal["soften"] = "soften"
    share: Share = 0.1
    smoothing: float = Field(default=0.4, gt=0, le=0.5)
    members: int = Field(default=5, ge=2)


class StrengthMargin(Section):
    """Every pair gets its mean strength as the margin inside the sigmoid."""

    kind: Literal["margin"] = "margin"
    members: int = Field(default=5, ge=2)


Denoise = Annotated[KeepLabels | FlipLabels | SoftenLabels | StrengthMargin, Field(discriminator="kind")]


class Ensemble(Section):
    """Several reward models on the same preferences, each with its own head, order and, with LoRA, adapter."""

    members: int = Field(default=4, ge=2, le=10)
    kind: Literal["lora", "independent"] = "lora"
    """`lora`: adapters over one frozen backbone; `independent`: whole models."""


class RewardSection(Section):
    """The reward model. Defaults: InstructGPT (arXiv 2203.02155) and N+ (arXiv 2403.17031)."""

    model: str | None = None
    """Backbone; none = the policy's model (its tokenizer must be the policy's)."""
    lora: Lora | None = Lora()
    loss: RewardLoss = BradleyTerry()
    pair_weighting: Literal["pair", "prompt"] = "pair"
    """`prompt`: the C(K,2) pairs of a prompt share a weight of 1 (InstructGPT, eq. 1)."""
    ensemble: Ensemble | None = None
    denoise: Denoise = KeepLabels()
    principle_heads: bool = False
    """A further head for every judged principle, taught by that principle's own labels."""
    learning_rate: Positive = 2e-4
    epochs: Count = 1
    minibatch_size: Count = 64
    """Pairs an update; the pairs of one prompt stay together."""
    microbatch_tokens: Count = 4096
    """Tokens, padding included, in one forward pass."""
    max_length: Count = 1024
    """Longer conversations lose their oldest tokens, then their responses the last ones."""
    max_truncated: Share = 0.5
    """Where more of the texts are longer than that the stage fails."""
    warmup_share: Share = 0.05
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: Positive = 1.0
    checkpoint_every: Count = 10

    @model_validator(mode="after")
    def _members_are_adapters(self) -> Self:
        if self.ensemble is not None and self.ensemble.kind == "lora" and self.lora is None:
            raise ValueError("ensemble.kind is 'lora', so reward.lora must be set; or use ensemble.kind=independent")
        return self

    @model_validator(mode="after")
    def _ratings_have_no_pairs(self) -> Self:
        pairwise = {
            "denoise": not isinstance(self.denoise, KeepLabels),
            "principle_heads": self.principle_heads,
            "pair_weighting": self.pair_weighting != "pair",
        }
        wrong = [name for name, chosen in pairwise.items() if chosen]
        if isinstance(self.loss, Regression) and wrong:
            raise ValueError(f"reward.loss.kind is 'regression', which learns from no pairs: leave out {wrong[0]}")
        return self

    @model_validator(mode="after")
    def _heads_have_labels(self) -> Self:
        if self.principle_heads and isinstance(self.loss, Demonstrations) and not self.loss.preferences:
            raise ValueError("principle_heads learn preferences, of which loss.preferences is 0")
        return self

    @model_validator(mode="after")
    def _one_margin(self) -> Self:
        if isinstance(self.denoise, StrengthMargin):
            if not isinstance(self.loss, BradleyTerry):
                raise ValueError(f"denoise.kind is 'margin', which reward.loss.kind {self.loss.kind!r} has none of")
            if self.loss.margin:
                raise ValueError("denoise.kind is 'margin', so reward.loss.margin must be 0")
        return self
