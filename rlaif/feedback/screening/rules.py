"""What a rule has against one prompt: a short fixed reason and the figure behind it, or nothing.

Shape, Gopher's rules of quality (arXiv 2112.11446, appendix A1.1), repetition, language. Pure but for lingua's models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from rlaif.config.filters import Filters, Languages, Quality, Repetition, Shape
from rlaif.errors import ConfigError, did_you_mean
from rlaif.records import Messages
from rlaif.signals.language import known_codes, likeliest
from rlaif.signals.tally import SPACELESS, repetition_rate, words

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLET = re.compile(r"\s*[-*+\u2022\u2023\u25e6\u25aa\u2043]\s")
ELLIPSIS = re.compile(r"\.\.\.|\u2026")
Objection = tuple[str, str]
"""Why a prompt goes: the reason, and the figure."""


def objection(filters: Filters, messages: Messages) -> Objection | None:
    """The first that a rule for single prompts has."""
    return next(_objections(filters, messages), None)


def asked(messages: Messages) -> str:
    """What the user says, in all turns."""
    return "\n".join(turn.content for turn in messages if turn.role == "user")


def _objections(filters: Filters, messages: Messages) -> Iterator[Objection]:
    text = asked(messages)
    if filters.shape is not None:
        yield from _shape(filters.shape, messages)
    if filters.quality is not None:
        yield from _quality(filters.quality, text)
    if filters.repetition is not None:
        yield from _repetition(filters.repetition, text)
    if filters.languages is not None:
        yield from _language(filters.languages, text)


def _shape(section: Shape, messages: Messages) -> Iterator[Objection]:
    turns = messages[messages[0].role == "system" :]
    if turns[0].role != "user":
        yield "does not begin with a user turn", turns[0].role
    for place, (one, other) in enumerate(pairwise(turns), start=2):
        if {one.role, other.role} != {"user", "assistant"}:
            yield "turns do not alternate", f"turn {place}: {other.role} after {one.role}"
    if section.max_turns is not None and len(turns) > section.max_turns:
        yield "too many turns", f"{len(turns)}, at most {section.max_turns}"
    count = sum(len(words(turn.content)) for turn in messages)
    if section.max_words is not None and count > section.max_words:
        yield "conversation too long", f"{count} words, at most {section.max_words}"


def _quality(section: Quality, text: str) -> Iterator[Objection]:
    spaceless, found = len(SPACELESS.findall(text)) * 2 > sum(c.isalpha() for c in text), words(text)
    count = len(found)
    if not section.min_words <= count <= section.max_words:
        few = count < section.min_words
        yield "too few words" if few else "too many words", f"{count}"
    mean = sum(map(len, found)) / max(count, 1)
    if not spaceless and count and not section.min_mean_word <= mean <= section.max_mean_word:
        yield "odd mean word length", f"{mean:.1f}"
    lines = [line for line in text.splitlines() if line.strip()]
    bullets = sum(bool(BULLET.match(line)) for line in lines)
    ends = sum(line.rstrip().endswith(("...", "\u2026")) for line in lines)
    bare = sum(not any(map(str.isalpha, word)) for word in found)
    for reason, number, of, most in (
        ("too many hash signs", text.count("#"), count, section.max_symbols),
        ("too many ellipses", len(ELLIPSIS.findall(text)), count, section.max_symbols),
        ("too many bullet lines", bullets, len(lines), section.max_bullets),
        ("too many lines end in an ellipsis", ends, len(lines), section.max_ellipses),
        ("too few words with letters", bare, count, 1 - section.min_alphabetic),
    ):
        if number > 1 and number > most * of + 1e-9:
            yield reason, f"{number} of {of}"
    stops = len(STOP_WORDS & {word.casefold() for word in found})
    if stops < section.stop_words:
        yield "too few stop words", f"{stops}, at least {section.stop_words}"


def _repetition(section: Repetition, text: str) -> Iterator[Objection]:
    rate = repetition_rate(text, section.n)
    if rate > section.max_share:
        yield "repeats itself", f"{rate:.0%} of runs of {section.n} words"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    again = len(lines) - len(set(lines))
    if again > section.max_lines * len(lines):
        yield "repeats its lines", f"{again} of {len(lines)}"


def _language(section: Languages, text: str) -> Iterator[Objection]:
    for code in (*section.keep, *section.among):
        if code not in known_codes():
            raise ConfigError(f"prompts.filters.languages: no language {code!r}{did_you_mean(code, known_codes())}")
    for code in section.keep:
        if section.among and code not in section.among:
            raise ConfigError(f"prompts.filters.languages: keep has {code!r}, which is not in `among`")
    if len(set(section.among)) == 1:
        raise ConfigError("prompts.filters.languages: `among` needs two languages to tell apart")
    known = likeliest(text, section.among)
    if known is not None and known[0] not in section.keep and known[1] >= section.min_confidence:
        yield "another language", f"{known[0]} ({known[1]:.2f})"
