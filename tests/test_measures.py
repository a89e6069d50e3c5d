"""Measures of responses that no part of a run has seen: what each says of a text, and how a change of it is told."""

from __future__ import annotations

import dataclasses
import json
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config import load_recipe
from rlaif.config.measures import CodeMeasure, Lexicon, LongWords, Measure, Readability, Syllables, WordCount
from rlaif.config.recipe import EvaluateSection
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError
from rlaif.evaluation.evaluate import evaluate, sample_rows
from rlaif.evaluation.measures import (
    Instrument,
    cut_to_equal_length,
    instruments,
    instruments_of,
    measure_changes,
)
from rlaif.evaluation.tables import measures, terminal
from rlaif.evaluation.verdict import measure_sentences, verdict
from rlaif.evaluation.winrate import Match
from rlaif.pipeline import STAGES, run_recipe
from rlaif.run_folder import Run
from rlaif.stats import Bootstrap
from rlaif.testing import small_recipe
from rlaif.words import MINUS
from tests.fake_run import inputs, prompt, response

BOOTSTRAP = Bootstrap(400)
PLAIN = "The cat sat on the mat. It was warm there."
LEARNED = "Approximately seventy individuals subsequently communicated considerable dissatisfaction."


def only(measure: Measure) -> Instrument:
    (found,) = instruments([measure])
    return found


def matched(before: list[str], after: list[str], per_prompt: int = 1) -> list[Match]:
    return [
        Match(*(response(prompt(i // per_prompt), text, i % per_prompt) for text in pair))
        for i, pair in enumerate(zip(before, after, strict=True))
    ]


def entry(measure: Measure, before: list[str], after: list[str]):
    (found,) = measure_changes([only(measure)], matched(before, after), BOOTSTRAP)
    return found


# --------------------------------------------------------------------------------------------- one text, one number


def test_coleman_liau_is_its_formula():
    # 31 letters and 2 sentences in 10 words; the index is 0.058 L - 0.296 S - 15.8, both per 100 words.
    letters, words, sentences = 31, 10, 2
    wanted = 0.058 * 100 * letters / words - 0.296 * 100 * sentences / words - 15.8
    assert only(Readability()).value(PLAIN) == pytest.approx(wanted)


def test_flesch_kincaid_is_its_formula():
    # Ten words of one syllable each in two sentences: 0.39 words per sentence + 11.8 syllables per word - 15.59.
    found = only(Readability(formula="flesch_kincaid")).value(PLAIN)
    assert found == pytest.approx(0.39 * 5 + 11.8 - 15.59)


@pytest.mark.parametrize("formula", ["coleman_liau", "flesch_kincaid"])
def test_a_learned_text_has_the_higher_grade(formula):
    grade = only(Readability(formula=formula)).value
    assert grade(LEARNED) > 12 and grade(PLAIN) < 5


@pytest.mark.parametrize(
    "written",
    ["The cat sat on the mat, it said.", "The cat sat on the mat, it said 25.", "**The** cat sat on the mat, it said."],
)
def test_marks_and_numerals_are_no_words(written):
    assert only(Readability()).value(written) == only(Readability()).value("The cat sat on the mat it said.")


def test_hyphens_divide_words_and_a_line_ends_a_sentence():
    grade = only(Readability()).value
    assert grade("A well-known and much-loved old tale.") == grade("A well known and much loved old tale.")
    assert grade("The cat sat there\nThe dog lay here") == grade("The cat sat there. The dog lay here.")


def test_too_short_a_text_has_no_grade():
    assert only(Readability()).value("Four words are here") is None
    assert only(Readability(min_words=4)).value("Four words are here") is not None


def test_long_words_and_syllables_by_hand():
    text = "It's a beautiful 3 cat."  # 1, 1, 3 and 1 syllables; a numeral has none
    assert only(LongWords()).value(text) == 1 / 4
    assert only(LongWords(syllables=2)).value("Water, water; fire") == 1.0
    assert only(Syllables()).value(text) == 6 / 4
    assert only(Syllables()).value("It\u2019s") == 1.0


@pytest.mark.parametrize("text", ["", "  \n", "...", "42", "\u4f60\u597d", "\ud800"])
def test_a_text_without_english_words_has_no_value(text):
    for measure in (Readability(min_words=1), LongWords(), Syllables()):
        assert only(measure).value(text) is None


def test_words_are_counted_as_the_check_counts_them():
    count = only(WordCount()).value
    assert [count(text) for text in ("", "\u2013 Well, 3 cats!", "\u4f60\u597d")] == [0.0, 3.0, 2.0]


def test_a_lexicon_ignores_capitals_and_marks():
    share = only(Lexicon(name="warm words", words=("love", "CARE"))).value
    assert share('"Love", with care: yes') == 2 / 4
    assert share("...") is None


@given(st.text(max_size=80))
def test_any_text_has_a_finite_value_or_none(text):
    for measure in (Readability(), Readability(formula="flesch_kincaid"), LongWords(), Syllables(), WordCount()):
        value = only(measure).value(text)
        assert value is None or abs(value) < 1e6


def test_cutting_keeps_white_space_and_makes_equal_counts():
    assert cut_to_equal_length("a  b\nc d", "x y") == ("a  b", "x y")
    assert cut_to_equal_length("x y", "a b c") == ("x y", "a b")
    assert cut_to_equal_length("", "a b c") == ("", "")


# --------------------------------------------------------------------------------------------- a function of the user's


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "own_measures.py").write_text(
        "import numpy\n"
        "def length(text): return len(text) if text else None\n"
        "def capital(text): return text[:1].isupper()\n"
        "def of_numpy(text): return numpy.float64(0.5)\n"
        "def breaks(text): return 1 / (len(text) - 3)\n"
        "def says(text): return 'long'\n"
        "def endless(text): return float('inf')\n"
        "def leaves(text): raise SystemExit(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_measures", None)


def of(function: str, **more) -> CodeMeasure:
    return CodeMeasure(function=f"own_measures:{function}", **more)


def test_a_function_measures(functions):
    length = only(of("length"))
    assert (length.name, length.value("abc"), length.value("")) == ("length", 3.0, None)
    assert only(of("capital", unit="share", name="begins with a capital")).value("Yes") == 1.0
    assert only(of("of_numpy")).value("x") == 0.5


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("breaks", {}, r"own_measures:breaks: ZeroDivisionError: .*\(own_measures.py:5\) on 'abc'"),
        ("says", {}, r"must return a number or None \(got 'long' on 'abc'\)"),
        ("endless", {}, r"must return a number or None \(got inf on 'abc'\)"),
        ("leaves", {}, r"SystemExit"),
        ("length", {"unit": "share"}, r"unit is 'share', so it must return 0 to 1 \(got 3 on 'abc'\)"),
    ],
)
def test_a_function_that_gives_no_number_is_one_line(functions, name, more, message):
    with pytest.raises(ConfigError, match=message) as error:
        only(of(name, **more)).value("abc")
    assert "\n" not in str(error.value)


def test_a_function_that_is_not_there_is_said_before_any_work(functions, tmp_path):
    recipe = small_recipe(
        tmp_path, "unused", evaluate={"measures": [{"kind": "code", "function": "own_measures:lenght"}]}
    )
    with pytest.raises(ConfigError, match=r"evaluate.measures: function 'own_measures:lenght'.* did you mean 'length'"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "responses.jsonl").exists()


def test_evaluation_depends_on_the_functions_file(functions, tmp_path):
    measures = [{"kind": "words"}, {"kind": "code", "function": "own_measures:length"}]
    recipe = small_recipe(tmp_path, "unused", evaluate={"measures": measures})
    assert tmp_path / "own_measures.py" in STAGES["evaluate"].inputs(recipe, Run(tmp_path / "run"))


# ------------------------------------------------------------------------------------------------------ the recipe


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ("[{kind: readable}]", "evaluate.measures.0: no kind 'readable'; did you mean 'readability'?"),
        ("[{kind: words}, {kind: words}]", "two are called 'words'; give one of them another `name`"),
        ("[{kind: readability, formula: fog}]", "evaluate.measures.0.formula"),
        ("[{kind: lexicon, words: [good]}]", "evaluate.measures.0.name: required, but missing"),
        ("[{kind: lexicon, name: x, words: [two words]}]", "evaluate.measures.0.words.0"),
        ("[{kind: code, function: nothing}]", "evaluate.measures.0.function"),
        ("[{kind: long_words, syllables: 1}]", "evaluate.measures.0.syllables"),
    ],
)
def test_a_bad_measure_is_one_line(measures, message):
    with pytest.raises(ConfigError) as error:
        load_recipe("quickstart", [f"evaluate.measures={measures}"])
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_what_the_run_looks_at_itself_is_said(tmp_path):
    measures = [{"kind": "words"}, {"kind": "syllables"}, {"kind": "code", "function": "rlaif.testing:letters"}]
    recipe = small_recipe(tmp_path, "unused", evaluate={"measures": measures})
    seen = [one.seen for one in instruments_of(recipe, load_constitution(recipe.constitution))]
    assert seen == [None, None, "the judge, a function of the same module"]
    brief = load_constitution("plain-and-brief")
    assert instruments_of(recipe, brief)[0].seen == "the check brief"
    by_length = small_recipe(tmp_path, "unused", evaluate={"measures": measures}, optimise__scoring={"kind": "length"})
    assert instruments_of(by_length, load_constitution(recipe.constitution))[0].seen == "the score"


# ------------------------------------------------------------------------------------------------ before and after


def test_means_and_paired_difference_by_hand():
    found = entry(LongWords(), ["a beautiful cat", "a cat", ""], ["a cat", "a cat beautiful beautiful", "a cat"])
    assert (found["before"], found["after"]) == pytest.approx(((1 / 3 + 0) / 2, (0 + 2 / 4) / 2))
    assert found["difference"]["value"] == pytest.approx(1 / 12)
    assert found["difference"]["n"] == 2, "a pair with a text that has no value is in no figure"
    assert found["without_value"] == {"before": 1, "after": 0}
    # of two words each: "a beautiful" and "a cat", "a cat" and "a cat"
    assert found["equal_length"]["value"] == pytest.approx(((0 - 1 / 2) + (0 - 0)) / 2)


def test_what_cannot_be_measured_is_none_and_counted():
    found = entry(Syllables(), ["", "..."], ["", "word"])
    assert found["before"] is found["after"] is found["difference"] is found["equal_length"] is None
    assert found["without_value"] == {"before": 2, "after": 1}
    ((name, before, _, change, _),) = measures({"measures": [found]})
    assert (before, change.text, name.small) == ("\u2013", "\u2013", "3 responses without a value")
    assert measure_sentences({"measures": [found]}) == []


@pytest.mark.parametrize("measure", [LongWords(), Lexicon(name="x", words=("cat",))])
def test_the_same_texts_change_nothing(measure):
    texts = [PLAIN, LEARNED, "a cat and a dog"] * 4
    found = entry(measure, texts, texts)
    assert found["before"] == found["after"] and found["difference"]["value"] == 0
    assert found["difference"]["low"] < 0 < found["difference"]["high"]


def test_the_same_texts_have_a_grade_but_no_interval_where_a_value_has_no_bounds():
    found = entry(Readability(), [PLAIN] * 9, [PLAIN] * 9)
    assert found["difference"] == {"value": 0.0, "low": None, "high": None, "n": 9}


WORDS = ("cat", "dog", "warm", "water", "beautiful", "individual", "approximately", "ran", "table", "considerable")


def texts(n: int, learned: float, seed: int, length: int = 14) -> list[str]:
    """Made of short words and, each with this probability, learned ones."""
    rng = random.Random(seed)
    long, short = [w for w in WORDS if len(w) > 8], [w for w in WORDS if len(w) < 6]
    return [" ".join(rng.choice(long if rng.random() < learned else short) for _ in range(length)) for _ in range(n)]


@pytest.mark.parametrize("measure", [Readability(), Syllables(), LongWords()])
def test_a_planted_shift_is_found_and_none_where_there_is_none(measure):
    before = texts(60, 0.3, seed=1)
    plainer = entry(measure, before, texts(60, 0.1, seed=2))
    assert plainer["difference"]["high"] < 0 and plainer["equal_length"]["high"] < 0
    alike = entry(measure, before, texts(60, 0.3, seed=3))
    assert alike["difference"]["low"] < 0 < alike["difference"]["high"]


def test_at_equal_length_shorter_is_not_plainer():
    """Each sentence of the longer texts is like the shorter text, and flesch_kincaid takes one short sentence for plain
    words; cut to equal length nothing is left of that."""
    before, after = texts(80, 0.2, seed=4, length=30), texts(80, 0.2, seed=5, length=10)
    found = entry(Readability(formula="flesch_kincaid"), before, after)
    assert found["difference"]["high"] < -4
    assert found["equal_length"]["low"] < 0 < found["equal_length"]["high"]
    said = measure_sentences({"measures": [found]})
    assert "fell" in said[0] and "cut to equal length" in said[1]
    assert entry(WordCount(), before, after)["equal_length"] is None


def test_the_order_of_prompts_does_not_matter():
    pairs = matched(texts(30, 0.3, seed=6), texts(30, 0.2, seed=7), per_prompt=2)
    shuffled = random.Random(0).sample(pairs, len(pairs))
    one, two = (measure_changes([only(Syllables())], rows, BOOTSTRAP)[0] for rows in (pairs, shuffled))
    assert one["before"] == pytest.approx(two["before"]) and one["after"] == pytest.approx(two["after"])
    for key in ("difference", "equal_length"):
        assert one[key]["value"] == pytest.approx(two[key]["value"])
        assert one[key]["low"] == pytest.approx(two[key]["low"], abs=0.02)  # resampling draws positions


def test_samples_of_one_prompt_are_no_independent_evidence():
    before, after = texts(12, 0.3, seed=8), texts(12, 0.1, seed=9)
    alone = measure_changes([only(Syllables())], matched(before, after), BOOTSTRAP)[0]["difference"]
    four_times = [text for text in before for _ in range(4)], [text for text in after for _ in range(4)]
    together = measure_changes([only(Syllables())], matched(*four_times, per_prompt=4), BOOTSTRAP)[0]["difference"]
    assert (together["low"], together["high"]) == pytest.approx((alone["low"], alone["high"]))


# ------------------------------------------------------------------------------------------------------ what is said


def test_evaluation_and_samples_hold_the_measures():
    given = dataclasses.replace(inputs(prompts=6), instruments=instruments([Syllables(), WordCount()]))
    found = evaluate(given, EvaluateSection(bootstrap_samples=100), 0)
    assert [one["name"] for one in found["measures"]] == ["syllables per word", "words"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = sample_rows(given)
    assert rows[0]["after_measures"]["words"] == len(given.after[0].text.split())
    assert "after_measures" not in sample_rows(inputs(prompts=2))[0]


def change(unit: str, better: str | None, before: float, after: float, low: float, high: float, **more):
    difference = {"value": after - before, "low": low, "high": high, "n": 50}
    base = {"name": "m", "unit": unit, "better": better, "before": before, "after": after, "difference": difference}
    return base | {"equal_length": difference, "without_value": {"before": 0, "after": 0}} | more


@pytest.mark.parametrize(("better", "tone"), [("lower", "up"), ("higher", "down"), (None, "")])
def test_rows_are_coloured_by_what_is_wanted(better, tone):
    ((_, before, after, changed, _),) = measures({"measures": [change("number", better, 5.9, 4.1, -2.3, -1.3)]})
    assert (before, after, changed.text) == ("5.90", "4.10", f"{MINUS}1.80")
    assert (changed.small, changed.tone) == (f"{MINUS}2.30 to {MINUS}1.30", tone)


def test_a_share_is_told_to_a_tenth():
    ((_, before, after, changed, _),) = measures({"measures": [change("share", "lower", 0.153, 0.145, -0.043, 0.027)]})
    assert (before, after, changed.text) == ("15.3%", "14.5%", f"{MINUS}0.8 points")
    assert (changed.small, changed.tone) == (f"{MINUS}4.3 to 2.7", "")


def test_sentences_follow_the_interval_and_leave_out_what_was_seen():
    given = [
        change("number", "lower", 5.9, 4.1, -2.3, -1.3, name="grade"),
        change("share", "lower", 0.1, 0.15, 0.02, 0.08, name="long words"),
        change("number", None, 40, 41, -3, 5, name="x"),
        change("number", None, 40, 20, -23, -17, name="words", seen="the check brief"),
    ]
    (said,) = measure_sentences({"measures": given, "confidence": 0.9})
    head, *parts = said.replace(MINUS, "-").split("; ")
    start = "No part of the run has seen these measures: "
    assert head == f"{start}grade fell, from 5.90 to 4.10 (-1.80, 90% interval -2.30 to -1.30)"
    assert parts == [
        "long words rose, not as wanted, from 10.0% to 15.0% (+5.0 points, 90% interval 2.0 to 8.0)",
        "x did not clearly change, from 40.0 to 41.0 (+1.00, 90% interval -3.00 to 5.00).",
    ]


def test_the_last_table_of_a_run_has_a_row_per_measure():
    given = dataclasses.replace(inputs(prompts=6), instruments=instruments([Syllables(name="syllables"), LongWords()]))
    found = evaluate(given, EvaluateSection(bootstrap_samples=100), 0)
    columns = [list(column.cells) for column in terminal(found).columns]
    assert columns[0][:3] == ["Syllables", "  at equal length", "Words of 3 or more syllables"]
    assert columns[1][0].startswith("1.") and columns[2][0].startswith("1.") and " to " in columns[3][0]
    assert " to " in columns[3][1] and "points (" in columns[3][2]


@pytest.mark.parametrize(
    ("changes", "confirmed"),
    [
        ([("lower", -2.3, -1.3)], True),
        ([("lower", -2.3, 0.3)], False),
        ([("lower", -2.3, -1.3), ("higher", -1.0, 2.0)], True),
        ([("lower", -2.3, -1.3), ("higher", -2.0, -1.0)], False),
        ([(None, -2.3, -1.3)], False),
    ],
)
def test_the_heading_says_so_where_unseen_measures_confirm_it(changes, confirmed):
    evaluation = evaluate(inputs(prompts=30), EvaluateSection(bootstrap_samples=100), 0)
    evaluation["measures"] = [change("number", better, 5.0, 5.0, low, high) for better, low, high in changes]
    assert verdict(evaluation).heading.endswith("no part of the run has seen") is confirmed
    evaluation["measures"] = [one | {"seen": "the check brief"} for one in evaluation["measures"]]
    assert verdict(evaluation).heading == "Better on the checks"
