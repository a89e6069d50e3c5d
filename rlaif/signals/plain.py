"""How plain an English text is: its reading grade and its words' syllables, by textstat's formulas."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import Literal

import textstat_rs

ENGLISH = "en_US"
_LETTER = "[A-Za-z\u00c0-\u024f]"
_WORD = re.compile(rf"{_LETTER}+(?:'{_LETTER}+)*")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_JOINT = re.compile(r"[-\u2010-\u2015/]")
_syllables = cache(partial(textstat_rs.syllable_count, lang=ENGLISH))

Formula = Literal["coleman_liau", "flesch_kincaid"]


def grade(text: str, formula: Formula, min_words: int) -> float | None:
    """The school grade that the text asks for; None where it has fewer words in Latin letters."""
    plain = _running_text(text)
    if len(_WORD.findall(plain)) < min_words:
        return None
    if formula == "flesch_kincaid":
        return textstat_rs.flesch_kincaid_grade(plain, lang=ENGLISH)
    return textstat_rs.coleman_liau_index(plain)


def syllable_counts(text: str) -> list[int]:
    """Of each word in Latin letters."""
    return [_syllables(word) for word in _WORD.findall(text.replace("\u2019", "'"))]


def _running_text(text: str) -> str:
    """The text as the formulas want it and the library does not make it: without numerals, which are no words; hyphens
    and slashes divide words; a line ends a sentence."""
    text = text.encode("utf-8", "replace").decode().replace("\u2019", "'")
    return ".\n".join(line for line in _JOINT.sub(" ", _NUMBER.sub(" ", text)).splitlines() if line.strip())
