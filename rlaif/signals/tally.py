"""What checks and signals count in a text of any language: words, sentences, repeated runs of words.

Nothing here knows a language: words are what white space separates, and in scripts without spaces each letter counts as
one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Sentence-ending marks of the scripts in use (Unicode property Sentence_Terminal, and the ellipsis).
TERMINALS = frozenset(
    ".!?\u2026\u203c\u203d\u2047\u2048\u2049"  # Latin, Greek, Cyrillic, Hebrew
    "\u3002\uff01\uff0e\uff1f\uff61\ufe52\ufe56\ufe57"  # Chinese, Japanese
    "\u061d\u061e\u061f\u06d4"  # Arabic, Urdu
    "\u0964\u0965"  # Devanagari and its neighbours
    "\u0589\u055c\u055e"  # Armenian
    "\u1362\u1367\u1368"  # Ethiopic
    "\u104a\u104b\u17d4\u17d5\u0f0d\u0f0e"  # Burmese, Khmer, Tibetan
    "\u1803\u1809"  # Mongolian
)
SPACELESS = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
"""A sign of Thai, Lao, Burmese, Khmer, Japanese or Chinese: their words have no spaces between them."""
_MARKS = re.escape("".join(sorted(TERMINALS)))
# Each run of marks is looked at once, from its first: linear in the text, whatever it is.
SENTENCE_END = re.compile(rf"(?<![^\w\s])[^\w\s{_MARKS}]*[{_MARKS}][^\w\s]*\s+(?![a-z])|[\u3002\uff01\uff1f]|\n\s*\n")


def spaced(text: str) -> str:
    """Its pieces one space apart: what white space separates, and each sign of a script without spaces."""
    return " ".join(SPACELESS.sub(r" \1 ", text).split())


def words(text: str) -> list[str]:
    """The words: pieces that hold a letter or a digit, without outer punctuation."""
    pieces = (_trim(piece) for piece in spaced(text).split())
    return [piece for piece in pieces if any(c.isalnum() for c in piece)]


def _trim(piece: str) -> str:
    start, end = 0, len(piece)
    while start < end and unicodedata.category(piece[start])[0] in "PS":
        start += 1
    while start < end and unicodedata.category(piece[end - 1])[0] in "PS":
        end -= 1
    return piece[start:end]


def sentences(text: str) -> int:
    """How many sentences: pieces with a letter in them, each up to terminal marks and white space.

    A blank line ends a sentence too. A full stop before a small letter ("e.g. this") does not; one after an
    abbreviation and before a capital ("Dr. Ames") does.
    """
    return sum(any(c.isalpha() for c in piece) for piece in SENTENCE_END.split(text))


def runs(of: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n`, in order."""
    return [tuple(of[i : i + n]) for i in range(len(of) - n + 1)]


def repetition_rate(text: str, n: int = 4) -> float:
    """1 - (distinct n-grams / all n-grams) over lower-cased words; 0 for a text of fewer than n words.

    This is seq-rep-n of Welleck et al. 2019 (arXiv 1908.04319, section 6), over words instead of tokens.
    """
    grams = runs([word.casefold() for word in words(text)], n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
