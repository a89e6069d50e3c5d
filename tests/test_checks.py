"""Checks against their definitions, in several scripts."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rlaif.checkup import check_table
from rlaif.constitution.checks import (
    CHECKS,
    Check,
    EndsInSentence,
    MaxSentences,
    MaxWords,
    MinWords,
    NoList,
    NoRepetition,
    RegexAbsent,
    RegexPresent,
    StartsWith,
)
from rlaif.signals.kinds import SIGNALS
from rlaif.signals.tally import TERMINALS, repetition_rate, sentences, words

texts = st.text(max_size=80)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("  \n ", 0),
        ("one", 1),
        ("Don't over-think it - really!", 4),
        ("\u6211\u559c\u6b22\u732b\u3002", 4),  # four Chinese characters and a full stop
        ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 ok", 5),  # Thai: four letters, two vowel signs, and a Latin word
        ("\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e", 2),  # two Hindi words with vowel signs
    ],
)
def test_words(text, count):
    assert len(words(text)) == count


_MARKS = re.escape("".join(sorted(TERMINALS)))
_DEFINITION = re.compile(rf"(?<=[{_MARKS}])[^\w\s]*\s+(?![a-z])|(?<=[\u3002\uff01\uff1f])|\n\s*\n")


@settings(max_examples=400)
@given(st.text(st.sampled_from('aB1.!?)"_ \n\t\u3002\uff01\u0964\u0301'), max_size=25) | st.text(max_size=25))
def test_sentences_against_their_definition(text):
    """After a mark, and what closes, comes white space and no small letter; or a full-width mark; or a blank line."""
    assert sentences(text) == sum(any(c.isalpha() for c in piece) for piece in _DEFINITION.split(text))


@pytest.mark.parametrize("piece", ["!", ".", "\u3002", "\n", " ", "! ", ".a", '"', 'a."', "1. ", "\n-", "_", "\n \t"])
def test_a_check_takes_no_longer_than_the_text_is_long(piece):
    """A quadratic one would take minutes."""
    text = "a" + piece * (200_000 // len(piece))
    for check in (MaxSentences(limit=3), MaxWords(limit=3), EndsInSentence(), NoRepetition(n=100), NoList()):
        check.passes(text)


def test_word_limits_include_the_limit():
    assert MaxWords(limit=3).passes("one two three")
    assert not MaxWords(limit=2).passes("one two three")
    assert MinWords(limit=3).passes("one two three")
    assert not MinWords(limit=4).passes("one two three")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("No mark", 1),
        ("One. Two! Three?", 3),
        ("It costs 3.50 today, e.g. in the shop.", 1),
        ('He said "Stop!" Then he left.', 2),
        ("Wait... what?", 1),
        ("A line\nwrapped by hand.", 1),
        ("A heading\n\nA sentence.", 2),
        ("\u6211\u6765\u3002\u4f60\u8d70\u3002", 2),  # Chinese, without a space between
        ("1. Wash it.\n2. Dry it.", 2),
    ],
)
def test_sentences(text, count):
    assert sentences(text) == count
    assert MaxSentences(limit=max(count, 1)).passes(text)
    assert count < 2 or not MaxSentences(limit=count - 1).passes(text)


@pytest.mark.parametrize(
    "text",
    [
        "Done.",
        "Really?!",
        'She said "yes."',
        "(It is.)",
        "**Bold end.**",
        "So it goes.  \n",
        "\u201eGut.\u201c",  # German quotes close with a mark that opens in English
        "\u00abOui !\u00bb",
        "\u597d\u7684\u3002\u300d",
        "\u0939\u093e\u0901\u0964",
        "\u0646\u0639\u0645\u061f",
        "42.",
    ],
)
def test_whole_sentences(text):
    assert EndsInSentence().passes(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "...", '"."', "and then", "first, second,", "as follows:", "Steps:\n1. Wash it.\n2.", "3.5", "end)"],
)
def test_cut_sentences(text):
    assert not EndsInSentence().passes(text)


@given(texts)
def test_white_space_after_a_text_never_matters(text):
    for check in (EndsInSentence(), MaxWords(limit=5), MaxSentences(limit=2), NoRepetition()):
        assert check.passes(text) == check.passes(text + " \n")


@given(texts)
def test_a_trailing_comma_is_never_a_whole_sentence(text):
    assert not EndsInSentence().passes(text + ",")


def test_repetition_rate_is_one_minus_distinct_over_all():
    assert repetition_rate("a b c d e f", 4) == 0
    assert repetition_rate("a b a b a b", 2) == pytest.approx(1 - 2 / 5)  # ab ba ab ba ab
    assert repetition_rate("The cat. THE CAT!", 2) == pytest.approx(1 - 2 / 3)  # the-cat cat-the the-cat
    assert repetition_rate("ha ha ha", 4) == 0


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 5))
def test_repetition_rate_against_its_definition(letters, n):
    grams = [" ".join(letters[i : i + n]) for i in range(len(letters) - n + 1)]
    expected = sum(gram in grams[:i] for i, gram in enumerate(grams)) / len(grams) if grams else 0
    assert repetition_rate(" ".join(letters), n) == pytest.approx(expected)


def test_no_repetition_compares_with_the_limit():
    text = "a b a b a b"  # rate 0.6 over pairs
    assert NoRepetition(n=2, max_share=0.6).passes(text)
    assert not NoRepetition(n=2, max_share=0.59).passes(text)
    assert not NoRepetition().passes("I like tea. " * 8)


@pytest.mark.parametrize(
    "text", ["- one", "Text:\n* one\n* two", "  1. one", "2) two", "\u2022 one", "(3) three", "a) b"]
)
def test_lists(text):
    assert not NoList().passes(text)


@pytest.mark.parametrize(
    "text", ["", "well-known", "*strong* word", "-5 degrees", "I paid 3.50.", "1984. A year", "a - b", "---"]
)
def test_no_lists(text):
    assert NoList().passes(text)


def test_patterns_and_openings():
    assert RegexPresent(pattern="(?i)sorry").passes("I am SORRY.")
    assert not RegexAbsent(pattern="(?i)sorry").passes("I am SORRY.")
    assert StartsWith(text="Yes").passes(" Yes, it is.")
    assert not StartsWith(text="Yes").passes("Oh yes")


@given(texts)
def test_absent_is_the_opposite_of_present(text):
    assert RegexAbsent(pattern=r"\d").passes(text) != RegexPresent(pattern=r"\d").passes(text)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "max_words"},
        {"kind": "max_words", "limit": 0},
        {"kind": "max_words", "limit": "40"},
        {"kind": "max_words", "limit": True},
        {"kind": "max_words", "limit": 3, "unit": "words"},
        {"kind": "no_repetition", "max_share": 1.5},
        {"kind": "no_repetition", "n": 10_000},
        {"kind": "regex_present", "pattern": "("},
        {"kind": "regex_present", "pattern": "[[a]"},
        {"kind": "regex_absent", "pattern": "[a&&b]"},
        {"kind": "regex_present", "pattern": "a{99999999999999999999}"},
        {"kind": "rhymes"},
        {"limit": 3},
    ],
)
def test_bad_parameters_are_refused(values):
    with pytest.raises(ValidationError):
        TypeAdapter(Check).validate_python(values)


def test_every_check_is_listed_with_its_parameters():
    lines = check_table().split("\n")
    assert [line.split()[0] for line in lines] == ["check:", *CHECKS, "classifier:", *SIGNALS]
    assert lines[1] == "max_words         At most `limit` words.  [limit]"
    assert any(line.endswith("  [n=4, max_share=0.2]") for line in lines)


@given(texts)
def test_checks_never_fail_and_are_pure(text):
    samples = {"limit": 2, "pattern": "a", "text": "a"}
    for kind, check in CHECKS.items():
        needed = {name: samples[name] for name, field in check.model_fields.items() if field.is_required()}
        one = TypeAdapter(Check).validate_python({"kind": kind, **needed})
        assert one.passes(text) is one.passes(text)
