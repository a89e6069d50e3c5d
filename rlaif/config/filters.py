"""Which prompts are worth training on: rules for a row, near-duplicates, held-out sets, coverage.

A section that is absent filters nothing. `quality`, `repetition` and `languages` look at the user's turns; `personal`,
`duplicates` and `decontaminate` at the whole conversation. Every prompt that is dropped is counted by its cause.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlaif.config.base import Count, Section, Seed, Share
from rlaif.config.sources import DataSource

PersonalKind = Literal["email", "iban", "card", "ip", "phone"]
PERSONAL: tuple[PersonalKind, ...] = ("email", "iban", "card", "ip", "phone")


class Shape(Section):
    """A conversation begins with the user, after at most one system turn, and its turns alternate."""

    max_turns: Count | None = None
    """Without the system turn."""
    max_words: Count | None = None
    """In all turns."""


class Quality(Section):
    """The rules of Gopher (arXiv 2112.11446, appendix A1.1) with its limits, but for those that are made for long
    documents: it wants 50 words, 3 letters of each on average, letters in 0.8 of them, and two stop words. A share
    counts where more than one word or line breaks the rule."""

    min_words: Count = 1
    max_words: Count = 100_000
    min_mean_word: float = Field(default=2, ge=0)
    """Letters of a word, on average. Not asked of scripts without spaces."""
    max_mean_word: float = Field(default=10, gt=0)
    max_symbols: float = Field(default=0.1, ge=0)
    """Hash signs per word, and ellipses per word."""
    max_bullets: Share = 0.9
    """Share of lines that begin with a bullet."""
    max_ellipses: Share = 0.3
    """Share of lines that end with an ellipsis."""
    min_alphabetic: Share = 0.5
    """Share of words that hold a letter."""
    stop_words: int = Field(default=0, ge=0, le=8)
    """At least so many of: the be to of and that have with. For English; Gopher wants 2."""


class Repetition(Section):
    """Texts that say the same again."""

    n: Count = 4
    max_share: Share = 0.2
    """Of the runs of `n` words, those that repeat an earlier one."""
    max_lines: Share = 0.3
    """Of the lines that are not empty, those that repeat an earlier one (Gopher's limit)."""


class Languages(Section):
    """What lingua surely takes for another language goes; where it is unsure, as of two words, the prompt stays."""

    keep: tuple[str, ...] = Field(min_length=1)
    """ISO 639-1 codes: en, de, zh."""
    among: tuple[str, ...] = ()
    """The languages that may occur. Few are told apart better, and in less memory, than all 75 (1 GB); none = all."""
    min_confidence: float = Field(default=0.5, gt=0, le=1)


class Personal(Section):
    """What tells of a person: e-mail and IP addresses, telephone numbers, IBANs and card numbers whose check digits
    are right."""

    action: Literal["mask", "drop"] = "mask"
    """`mask`: `[email]` stands in its place, and the prompt keeps its id; `drop`: the prompt goes."""
    kinds: tuple[PersonalKind, ...] = Field(default=PERSONAL, min_length=1)


class Duplicates(Section):
    """Of prompts that are nearly the same the first row stays. Compared are the sets of five letters in a row, without
    case and the marks of sentences, of the whole conversation and of its last turn; system turns must be equal. MinHash
    finds candidates and misses one of a thousand pairs at the threshold; what is found is compared exactly."""

    threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard: shared over all."""


class Decontaminate(Section):
    """Training prompts that overlap with a held-out prompt, of this run or of these sets, go."""

    against: tuple[DataSource, ...] = ()
    """Prompts of benchmarks and other runs; the run's own held-out prompts always count."""
    ngram: Count = 13
    """So many words in a row (GPT-3, arXiv 2005.14165, appendix C); a held-out text of 8 words or more, but fewer than
    these, counts whole."""
    common: Count = 10
    """Words that stand in more training prompts than these are a form of words, and no overlap (GPT-3's rule)."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """Or nearly the same, as in `duplicates`."""


class Coverage(Section):
    """Training prompts in clusters of their embeddings (k-means), taken from each in turn until a quota is full.
    `prompts.limit` then takes from all clusters alike."""

    clusters: Count = 20
    per_cluster: Count | None = None
    """At most so many of a cluster."""
    per_tag: Count | None = None
    """At most so many of a tag."""
    tags: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Quotas of single tags, instead of `per_tag`; 0 leaves a tag out."""
    seed: Seed = 0


class Filters(Section):
    """Applied in this order. The last two look at training prompts alone, after the held-out ones were taken."""

    shape: Shape | None = None
    quality: Quality | None = None
    repetition: Repetition | None = None
    languages: Languages | None = None
    personal: Personal | None = None
    duplicates: Duplicates | None = None
    decontaminate: Decontaminate | None = None
    coverage: Coverage | None = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # quotas are a mapping
