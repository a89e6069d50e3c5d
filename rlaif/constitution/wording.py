"""What the words of texts tell without understanding them: of one text, of two, and of the two sides of a `contrast`.

Word patterns for English, as hints to reread. `lint.py` and the merging of distilled principles read by them. The two
instructions of a contrast should differ in what the principle is about and in nothing else: whatever else tells them
apart is in every ratio of their probabilities too. What is no pattern (two words that mean the same) is left to the
audit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from rlaif.constitution.schema import Contrast

_VAGUE = re.compile(
    r"\b(good|better|best|bad|worse|worst|nice|nicer|appropriate|appropriately|proper|properly|suitable|ideal"
    r"|reasonable|quality|overall|great|ethical)\b",
    re.I,
)
_OPENING = re.compile(
    r"^(?:in )?which response (?:is |does |would )?(?:the )?(?:less|more|least|most)?(?: likely to)?", re.I
)
# Words that turn a comparison round: an odd number more of them in one of two like texts makes it the opposite.
_TURNS = re.compile(
    r"\b(less|least|fewer|fewest|lower|shorter|briefer|weaker|not|no|never|without|avoids?|lacks?|refuses?|declines?)\b",
    re.I,
)
NEAR = 0.75
"""Two texts with at least this share of words in common are near-duplicates."""
_LONGER, _WORDS = 1.25, 2
"""To turn a text round takes a word or two ("not", "do not"). What is longer by more words than that, and by more than
a quarter, says something of its own, and the ratio measures that too."""
_SHORT = 5
"""Up to so many words, two texts may have nothing in common but "You are a": "You are warm.", "You are cold."."""
_MOST = 400
"""Words of a text that are compared: an instruction has twenty, and the time grows with the square."""

_TASK = re.compile(
    r"\bwhich (?:of the |one |two )?(?:responses?|answers?|repl(?:y|ies))\b"
    r"|\b(?:the|this|that|each|both|either|two|first|second|better|other) responses?\b|\bresponse [AB12]\b"
    r"|^compare\b|\bcompare (?:the |both |these |two )+(?:responses?|answers?|replies|texts?)\b"
    r"|\b(?:judge|rate|grade|score) (?:\w+ ){1,3}(?:responses?|answers?|repl(?:y|ies)|texts?)\b",
    re.I,
)
# What turns a text round where it stands in one of the two alone; plain negations say the same as each other.
_NEGATION = re.compile(r"not|no|never|cannot|\w+n't")
_TURN = re.compile(
    r"(?:less|least|few|fewer|fewest|little|none|nothing|nobody|neither|nor|without|hardly|rarely|seldom|too|only"
    r"|wrong(?:ly)?|false(?:ly)?|instead|otherwise|un\w+ly|(?:avoid|ignore|refuse|fail|lack|skip|stop|forget|decline"
    r"|omit|hide)s?)"
)
_FILLERS = {"a", "an", "the", "and", "very", "really", "quite", "rather", "just", "also", "please", "always"} | {
    *("do", "does", "is", "are", "be", "in", "with", "of", "to", "by", "that", "which")
}
_STRUCTURE = _FILLERS | {"you", "your", "it", "for", "from", "as", "at", "on", "or", "if", "not", "who", "what", "when"}
"""Words that two texts about different things have in common."""
_SUFFIX = re.compile(r"(?<=...)(?:fully|ful|ing|ed|ily|ly|iest|est|ier|er|ies|es|s|e|y)$")
_BEFORE_THE_VERB = {"please", "always", "never", "do", "not", "don't"}

_HARM = re.compile(
    r"\b(?:kill\w*|murder\w*|injur\w+|hurt\w*|harm(?:s|ful|ing)?|attack\w*|rap(?:e|ist)|molest\w*|abus\w+|tortur\w+"
    r"|poison\w*|bombs?|weapons?|explosives?|steal\w*|rob|hack\w*|crimes?|criminal\w*|illegal\w*|fraud\w*|scam\w*"
    r"|cheat\w*|lies?|lying|deceiv\w+|insult\w*|humiliat\w+|threat\w*|bull(?:y|ies|ying)|harass\w*|stalk\w*|slurs?"
    r"|racis[mt]\w*|sexis[mt]\w*|hat(?:e|eful|red)|toxic\w*|offensive\w*|porn\w*|violen\w+|suicid\w+|self-harm|evil"
    r"|unethical\w*|immoral\w*|malicious\w*|dangerous\w*|cruel\w*|swear\w*)\b",
    re.I,
)
# A sentence with one of these names the harm as what is not thought of, or not done.
_HEEDLESS = re.compile(
    r"\b(?:car(?:e|es|ing)|mind|whether|matters?|worr\w+|heed\w*|notice|ask\w*|think\w*|thought|forget\w*|overlook\w*"
    r"|regard\w*|attention|ignor\w+|indifferent|no|not|never|nobody|nothing|without|unless)\b|n't\b",
    re.I,
)


def words(text: str) -> list[str]:
    """The words of a text in order, without case and signs."""
    return re.findall(r"[\w'-]+", text.casefold().replace("\u2019", "'"))


def shared(one: list[str], other: list[str]) -> float:
    """Share of words in common and in order; symmetric."""
    first, second = sorted((one, other))
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()


def vague(text: str) -> str | None:
    """The first word that leaves the reader to choose a standard of their own, if there is one."""
    found = _VAGUE.search(text)
    return found[0] if found else None


def similarity(one: str, other: str) -> float:
    """Share of words that two compare texts have in common and in order, their usual opening aside; symmetric."""
    return shared(*(words(_OPENING.sub("", text)) for text in (one, other)))


def opposed(one: str, other: str) -> bool:
    """Whether one text turns round what the other asks ("less" for "more"), as far as single words show it."""
    return (len(_TURNS.findall(one)) - len(_TURNS.findall(other))) % 2 == 1


def contrast_problems(contrast: Contrast) -> Iterator[str]:
    """What is wrong with a contrast's two instructions, each a sentence without the principle's id."""
    for side, text in (("for", contrast.for_), ("against", contrast.against)):
        if word := vague(text):
            yield f"{word!r} in contrast.{side} is vague; say what to do"
        if task := _TASK.search(text):
            yield f"contrast.{side} speaks to a judge ({task[0]!r}); tell whoever answers how to answer"
        elif text.endswith("?"):
            yield f"contrast.{side} is a question; tell whoever answers how to answer"
    if contrast.against:
        yield from _unlike(contrast.for_, contrast.against)
        yield from _not_opposite(words(contrast.for_)[:_MOST], words(contrast.against)[:_MOST])
        yield from _harm(contrast.against)


def _unlike(for_: str, against: str) -> Iterator[str]:
    """Of unlike length or form."""
    one, other = len(words(for_)), len(words(against))
    if abs(one - other) > _WORDS and max(one, other) > _LONGER * min(one, other):
        longer = "for" if one > other else "against"
        yield f"contrast.for has {one} words and contrast.against {other}; {longer} says more than the opposite"
    one, other = len(_sentences(for_)), len(_sentences(against))
    if one != other:
        counted = f"{one} sentence{'s' if one > 1 else ''}"
        yield f"contrast.for has {counted} and contrast.against {other}; give both the same form"
    mine, theirs = _opening(for_), _opening(against)
    # The openings may be what is opposed, as in "Use long words." and "Avoid long words.".
    rests = [words(text)[len(_opening(text).split()) :][:_MOST] for text in (for_, against)]
    if mine.casefold() == theirs.casefold() or shared(*rests) > NEAR:
        return
    if _describes(mine) != _describes(theirs):
        said, told = ("for", "against") if _describes(mine) else ("against", "for")
        yield f"contrast.{said} describes whoever answers and contrast.{told} gives a command; give both the same form"
    else:
        yield f"contrast.for begins {mine!r} and contrast.against {theirs!r}; begin both alike"


def _sentences(text: str) -> list[str]:
    """A full stop ends a sentence where a capital follows: "e.g. this" is one."""
    return re.split(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z])", text)


def _opening(text: str) -> str:
    """The first word, or two after "You", without what turns or strengthens them ("Never", "Do not", "Please")."""
    plain = text.replace("\u2019", "'").replace("You're", "You are")
    kept = [word for word in re.findall(r"[\w'-]+", plain) if word.casefold() not in _BEFORE_THE_VERB]
    return " ".join(kept[: 1 + _describes(" ".join(kept[:1]))])


def _describes(opening: str) -> bool:
    return opening.casefold().partition(" ")[0] in {"you", "your"}


def _not_opposite(one: list[str], other: list[str]) -> Iterator[str]:
    stems = [{_SUFFIX.sub("", word) for word in text if word not in _STRUCTURE} for text in (one, other)]
    if min(len(one), len(other)) > _SHORT and stems[0].isdisjoint(stems[1]):
        yield "contrast.for and contrast.against have nothing in common; turn one thing round and keep the rest"
    elif one and not _turned(one, other):
        yield "contrast.against says nearly what contrast.for says, and no word turns it round"


def _turned(one: list[str], other: list[str]) -> bool:
    """Whether a turning word stands in one alone, or words stand in the place of others that are not of their stem."""
    gone: list[str] = []
    come: list[str] = []
    for kind, i, j, m, n in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind != "equal":
            gone += one[i:j]
            come += other[m:n]
    return _turns(gone) != _turns(come) or (bool(gone and come) and _stems(gone) != _stems(come))


def _turns(changed: list[str]) -> list[str]:
    turns = ["not" if _NEGATION.fullmatch(word) else word for word in changed]
    return sorted(word for word in turns if word == "not" or _TURN.fullmatch(word))


def _stems(changed: list[str]) -> list[str]:
    kept = (word for word in changed if word not in _FILLERS and not _NEGATION.fullmatch(word))
    return [_SUFFIX.sub("", word) for word in kept]


def _harm(against: str) -> Iterator[str]:
    for sentence in _sentences(against):
        found = _HARM.search(sentence)
        if found and not _HEEDLESS.search(sentence):
            yield (
                f"contrast.against asks for harm ({found[0]!r}): a model may refuse, and what sample.contrast writes "
                "under it is trained on; rather say what whoever answers does not care about"
            )
            return
