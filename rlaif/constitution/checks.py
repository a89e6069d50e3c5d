"""What code can decide about a response: small pure checks, each a parameter model with `passes(text)`.

A `check` is decided here, without the judge. Nothing here knows a language: words are what white space
separates, and a Chinese or Japanese character counts as one word. To add a check, write a class and name it
in `Check`; `rlaif check --list-checks`, the YAML schema and the error messages follow.
"""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rlaif.patterns import check_pattern, search
from rlaif.signals.tally import TERMINALS, repetition_rate, sentences, words

_OPEN_OR_CLOSE = frozenset({"Pe", "Pf", "Pi"})  # what one language opens a quotation with, another closes it with
_LIST_LINE = re.compile(r"^[ \t]*(?:[-*+\u2022\u2023\u25e6\u25aa\u2043]|\(?(?:\d{1,3}|[A-Za-z])[.)])[ \t]+\S", re.M)
_LIST_NUMBER = re.compile(r"\(?\d{1,3}[.)]")


class _Check(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    @abstractmethod
    def passes(self, text: str) -> bool:
        """Whether the response text does what the check asks. Endless where a pattern does not tell in time."""


class MaxWords(_Check):
    """At most `limit` words."""

    kind: Literal["max_words"] = "max_words"
    limit: int = Field(ge=1)

    def passes(self, text: str) -> bool:
        return len(words(text)) <= self.limit


class MinWords(_Check):
    """At least `limit` words."""

    kind: Literal["min_words"] = "min_words"
    limit: int = Field(ge=1)

    def passes(self, text: str) -> bool:
        return len(words(text)) >= self.limit


class MaxSentences(_Check):
    """At most `limit` sentences."""

    kind: Literal["max_sentences"] = "max_sentences"
    limit: int = Field(ge=1)

    def passes(self, text: str) -> bool:
        return sentences(text) <= self.limit


class _Regex(_Check):
    pattern: str = Field(min_length=1)
    """A Python regular expression, searched anywhere in the text; start it with (?i) to ignore case. A text on which it
    comes to no end is not decided."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        check_pattern(pattern)
        return pattern


class RegexPresent(_Regex):
    """The regular expression `pattern` is found."""

    kind: Literal["regex_present"] = "regex_present"

    def passes(self, text: str) -> bool:
        return search(self.pattern, text)


class RegexAbsent(_Regex):
    """The regular expression `pattern` is not found."""

    kind: Literal["regex_absent"] = "regex_absent"

    def passes(self, text: str) -> bool:
        return not search(self.pattern, text)


class EndsInSentence(_Check):
    """Ends like a whole sentence: . ! ? or another script's mark, then perhaps closing quotes or brackets."""

    kind: Literal["ends_in_sentence"] = "ends_in_sentence"

    def passes(self, text: str) -> bool:
        body = text.rstrip()
        end = len(body)
        while end and (body[end - 1] in "\"'`*_" or unicodedata.category(body[end - 1]) in _OPEN_OR_CLOSE):
            end -= 1
        body = body[:end]
        *above, last = body.split("\n")
        cut_in_list = any(line.strip() for line in above) and _LIST_NUMBER.fullmatch(last.strip())
        return body[-1:] in TERMINALS and any(c.isalnum() for c in body) and not cut_in_list


class NoRepetition(_Check):
    """At most `max_share` of the runs of `n` words repeat an earlier one; a text under `n` words passes."""

    kind: Literal["no_repetition"] = "no_repetition"
    n: int = Field(default=4, ge=1, le=100)
    max_share: float = Field(default=0.2, ge=0, le=1)

    def passes(self, text: str) -> bool:
        return repetition_rate(text, self.n) <= self.max_share


class StartsWith(_Check):
    """Begins with exactly `text`, white space before it aside."""

    kind: Literal["starts_with"] = "starts_with"
    text: str = Field(min_length=1)

    def passes(self, text: str) -> bool:
        return text.lstrip().startswith(self.text.lstrip())


class NoList(_Check):
    """No line is an item of a bullet list or a numbered list."""

    kind: Literal["no_list"] = "no_list"

    def passes(self, text: str) -> bool:
        return _LIST_LINE.search(text) is None


Check = Annotated[
    MaxWords
    | MinWords
    | MaxSentences
    | RegexPresent
    | RegexAbsent
    | EndsInSentence
    | NoRepetition
    | StartsWith
    | NoList,
    Field(discriminator="kind"),
]

CHECKS: dict[str, type[_Check]] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Check)[0])}
