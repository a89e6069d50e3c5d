"""What a response claims, how sure it says it is, and what that is worth: pure text and arithmetic, no model.

A claim is a sentence. Sentences end at . ! ? before white space, as the check `max_sentences` counts them, and at line
breaks, but not after "Dr." and its like; the mark of a list item goes. A question is no claim, and neither is a
sentence that says what is not known, unless it goes on with "but", nor one that only takes something back. One that
only says how sure it is belongs to the claim before. The words looked for are English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from rlaif.records import AnswerGrade
from rlaif.signals.tally import SENTENCE_END, spaced, words

_ITEM = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,3}[.)])\s+")
_SHORT = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|No|Jr|Sr|vs|cf|Fig|Eq|approx|[A-Z])\.\s+$")
_ABSTAINS = re.compile(
    r"(?i)\b(?:I|we)(?:'m| am|'re| are)? (?:really |honestly |simply |just )?(?:do not|don't|cannot|can't|"
    r"could not|couldn't|not) "
    r"(?:really |quite )?(?:know|sure|certain|aware|tell|say|answer|find|confirm|have (?:enough|any|th))"
    r"|\b(?:documents?|sources?|texts?|passages?|context) (?:do|does)(?: not|n't) (?:say|tell|mention|state|contain)"
    r"|\b(?:it is|it's|is) (?:unknown|unclear|not known|not clear|(?:hard|impossible) to (?:say|tell|know))\b"
    r"|\b(?:I|we)(?:'m| am|'re| are) (?:unsure|uncertain|unaware)\b|\b(?:no one|nobody) (?:knows|can (?:say|tell))\b"
    r"|\bno (?:idea|information|way (?:to|of) know)|\bnot something (?:I|we) know\b"
    r"|\bI (?:would|'d) need (?:more|to know)"
    r"|\b(?:documents?|sources?|texts?|passages?|context) (?:says?|tells? (?:us |me )?) ?nothing\b"
)
_BUT = re.compile(r"(?i)\b(?:but|however|though|although|still|yet)\b|[;:\u2013\u2014]| - ")
_SURE = r"(?:confiden\w+|certain\w*|sure|probab\w+|chance|odds|likel\w+|credence)"
_PUT = r"\b(?:confidence|certainty|put (?:it|that|this) at)"
_NAMED = rf"\b{_SURE}\b(?!\s+intervals?\b)(?:\s?\([^()\n]{{1,20}}\))?"
_SIGN = r"(?<![\d.,])(?:(?<!\d)-)?"
_PERCENT = rf"({_SIGN}\d{{1,3}}(?:[.,]\d+)?)\s?(?:%|per ?cent\b)(?!\s+of\b)"
_STATED = [
    (whole, re.compile(f"(?i){pattern}"))
    for whole, pattern in (
        (100, rf"{_NAMED}[^.!?\n%\d-]{{0,40}}{_PERCENT}"),
        (100, rf"{_PUT}[^\w-]{{1,4}}({_SIGN}\d{{2,3}})(?!\d|[.,]\d|\s?/|\s+of\b)"),
        (100, rf"{_PERCENT}[^.!?\n%\d]{{0,20}}{_NAMED}"),
        (10, rf"{_NAMED}\W{{1,4}}({_SIGN}\d{{1,2}})\s?(?:/|out of)\s?10\b"),
        (1, rf"{_NAMED}[^.!?\n%\d-]{{0,20}}({_SIGN}(?:[01]?[.,]\d+|[01]))(?![\d%]|[.,/-]\d|\s?(?:per|/|out of))"),
    )
]
"""What a whole is, and a pattern."""
_TENS = "ten|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred"
_UNITS = "|one|two|three|four|five|six|seven|eight|nine"
_SPELLED = re.compile(rf"(?i)\b({_TENS})[- ]?({_UNITS})(?=\s?(?:%|per ?cent\b))")
_CORRECTS = re.compile(
    r"(?i)\b(?:I was (?:wrong|mistaken|incorrect)|my mistake|I (?:made|have made) (?:a mistake|an error)|correction\b"
    r"|I (?:must |need to |have to |should )?correct (?:myself|that|what)|I misspoke|that was (?:wrong|incorrect))"
)
_ASIDE = re.compile(
    rf"(?i){_SURE}|[\d.,]+|percent|i|i'm|i'd|am|we|my|our|is|was|it|that|this|of|in|about|around|only|at|put|say|would|"
    r"overall|answer|level|sorry|made|have|had|must|should|need|to|myself|wrong|mistaken?|incorrect|error|correct|"
    r"correction|misspoke|earlier|before"
)
"""The words of a sentence that only says how sure it is, or that something was wrong."""
_WORD = re.compile(r"(?:(?<!\w)-(?=\d))?\w+(?:'\w+|(?<=\d)[.,]\d+)*(?:[+#]+(?!\w))?")
_JOINED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))|(?<=\b[^\W\d])\.(?=[^\W\d]\b)")
_UNIT = re.compile(r"(?<=\d)\s+(?=[^\W\d])")
_ARTICLES = {"a", "an", "the"}
_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d\u2212", "''\"\"-")
QUOTES = "*\"'\u201c\u201d\u2018\u2019\u00ab\u00bb` \t\n"
"""The marks around a quote, and blanks."""


def claims_of(text: str) -> list[str]:
    """The claims, in order."""
    found: list[str] = []
    for piece in sentences(text):
        if _only_aside(piece):
            if found and stated_confidence(piece) is not None:
                found[-1] += f" {piece}"
        elif not piece.endswith("?") and (not _ABSTAINS.search(_straight(piece)) or _BUT.search(piece)):
            found.append(piece)
    return found


def sentences(text: str) -> list[str]:
    """Those that hold a letter or a digit, without the marks of list items."""
    pieces = [piece for line in text.splitlines() for piece in _split(_ITEM.sub("", line))]
    return [" ".join(piece.split()) for piece in pieces if any(c.isalnum() for c in piece)]


def _split(line: str) -> list[str]:
    """With their marks: a piece ends where the white space after its mark does, but not after an abbreviation."""
    found = [match.end() for match in SENTENCE_END.finditer(line)]
    ends = [0, *(end for end in found if not _SHORT.search(line[:end])), len(line)]
    return [line[start:end].strip() for start, end in pairwise(ends)]


def _only_aside(piece: str) -> bool:
    """Whether the sentence says how sure it is, or that something was wrong, and nothing else."""
    says_so = corrects(piece) or stated_confidence(piece) is not None
    return says_so and all(_ASIDE.fullmatch(word) for word in _words(piece))


def abstains(text: str) -> bool:
    """Whether a sentence says what is not known and does not go on with "but"."""
    found = ((piece, _ABSTAINS.search(piece)) for piece in sentences(_straight(text)))
    return any(match is not None and not _BUT.search(piece, match.end()) for piece, match in found)


def corrects(text: str) -> bool:
    """Whether it takes back what was said before."""
    return _CORRECTS.search(text) is not None


def stated_confidence(text: str) -> float | None:
    """The last confidence that the text states, from 0 to 1: "90% sure", "confidence: 0.9". None where it states none,
    or none that can be."""
    digits = _SPELLED.sub(_in_digits, _straight(text))
    found = [
        (match.start(1), float(match[1].replace(",", ".")) / whole)
        for whole, pattern in _STATED
        for match in pattern.finditer(digits)
    ]
    return max(found)[1] if found and 0 <= max(found)[1] <= 1 else None


def _in_digits(number: re.Match[str]) -> str:
    ten, unit = (
        words.split("|").index(part.lower()) for words, part in zip((_TENS, _UNITS), number.groups(), strict=True)
    )
    return str(10 * (ten + 1) + unit)


def says(text: str, answer: str) -> bool:
    """Whether the answer's words stand in the text together and in order, but for case, punctuation and articles. An
    answer that is nothing else must stand there as it is."""
    if not _words(answer):
        return _stands(normal(answer), normal(text))
    both = ((text, answer), (_UNIT.sub("", text), _UNIT.sub("", answer)))  # 5 km or 5km
    return any(f" {' '.join(_words(wanted))} " in f" {' '.join(_words(whole))} " for whole, wanted in both)


def _words(text: str) -> list[str]:
    plain = _straight(unicodedata.normalize("NFKC", text)).casefold()
    plain = re.sub(r"%|\bper cent\b", " percent ", _JOINED.sub("", plain))
    return [word for word in _WORD.findall(spaced(plain)) if word not in _ARTICLES]


def _straight(text: str) -> str:
    """With straight quotes and the plain minus."""
    return text.translate(_STRAIGHT)


def graded(text: str, gold: Sequence[str], unstated: float) -> AnswerGrade:
    """An answer that has the words of a right one is right. One that has not, and says that it does not know or ends by
    asking, abstains, unless it claims something and says how sure it is. `unstated`: the confidence of one that states
    none."""
    stated = stated_confidence(text)
    right = any(says(text, answer) for answer in gold)
    claims = claims_of(text)
    unknown = abstains(text) and not (claims and stated is not None)
    abstained = not right and (unknown or not text.strip() or (not claims and text.rstrip().endswith("?")))
    confidence = unstated if stated is None else stated
    return AnswerGrade(right=float(right), abstained=float(abstained), confidence=confidence)


def loss(grade: AnswerGrade, abstain_at: float) -> float:
    """From 0 (right and certain) to 1 (wrong and certain): half of what the Brier rule takes.

    Right with confidence p (1 - p)^2 / 2, wrong (1 + p^2) / 2, abstained (1 - t^2) / 2 with t = `abstain_at`. With a
    chance q to be right the mean is least at p = q, and is then (1 - q^2) / 2: whoever is right with a chance above t
    does best to answer and to say q, and whoever is not, to abstain.
    """
    p, wrong = grade.confidence, 1 - grade.right - grade.abstained
    right = grade.right * (1 - p) ** 2
    return (right + wrong * (1 + p * p) + grade.abstained * (1 - abstain_at**2)) / 2


def normal(text: str) -> str:
    """Composed characters, straight quotes, and single spaces."""
    return spaced(_straight(unicodedata.normalize("NFC", text)))


def verified(quote: str, documents: Sequence[str], min_words: int) -> bool:
    """Whether a document has the quote word for word, white space and the form of quotes aside; one of fewer words
    only as a whole."""
    wanted = normal(quote)
    long = len(words(wanted)) >= min_words
    return bool(wanted) and any((long and _stands(wanted, one)) or wanted == one for one in map(normal, documents))


def _stands(wanted: str, text: str) -> bool:
    """Whether it is there and neither begins nor ends within a word or a number."""
    before, after = (r"(?<!\w)(?<!\d[.,])", r"(?!\w|[.,]\d)")
    begins, ends = before if wanted[:1].isalnum() else "", after if wanted[-1:].isalnum() else ""
    return bool(wanted) and re.search(begins + re.escape(wanted) + ends, text) is not None
