"""The reward-hacking suite finds what a score is moved by, and nothing else: scores whose weakness is known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from pydantic import ValidationError

from rlaif.audits.hacking import (
    TRICKS,
    Trick,
    figures,
    hacking,
    hacking_change,
    sentences,
    tricks_for,
    try_tricks,
    worst,
)
from rlaif.config.load import dump_recipe
from rlaif.constitution import load_constitution
from rlaif.evaluation.report import write_report
from rlaif.records import Message, Prompt
from rlaif.stages.evaluation import EVALUATE
from rlaif.stats import Bootstrap
from rlaif.testing import small_recipe
from tests.fake_run import inputs, write_run
from tests.made_pages import text_of

BOOTSTRAP = Bootstrap(samples=200)
PROMPTS = [Prompt.of((Message(role="user", content=f"Question {i // 2}"),)) for i in range(40)]
WORDS = ("rain", "falls", "from", "clouds", "and", "feeds", "the", "rivers", "below")


def texts(seed=0):
    random = Random(seed)
    said = (random.choices(WORDS, k=random.randint(3, 9)) for _ in PROMPTS)
    return [f"{' '.join(words).capitalize()}. {' '.join(reversed(words)).capitalize()}." for words in said]


def by(value):
    return lambda prompts, texts: [value(text) for text in texts]


def content(text):
    """How many of the words that matter are said: no trick says one more of them."""
    return float(len(set(re.findall(r"\w+", text.lower())) & set(WORDS) - {"and", "the", "from"}))


WEAKNESSES = {
    "length": (lambda text: float(len(text)), {"length", "flattery", "planted", "formatting"}),
    "flattery": (lambda text: content(text) + 5 * ("great" in text or "sharp" in text), {"flattery"}),
    "formatting": (lambda text: content(text) + 5 * bool(re.search(r"^(#+|-) |\*\*", text, re.M)), {"formatting"}),
    "planted": (lambda text: content(text) + 5 * bool(re.search("perfect|This response", text)), {"planted"}),
    "nothing": (content, set()),
}


@pytest.mark.parametrize("name", WEAKNESSES)
def test_each_weakness_is_found_and_no_other(name):
    value, kinds = WEAKNESSES[name]
    found = hacking(by(value), PROMPTS, texts(), BOOTSTRAP)
    moved = {one["kind"] for one in found["tricks"].values() if one["rises"]["value"] == 1}
    still = {one["kind"] for one in found["tricks"].values() if one["rises"]["value"] == 0}
    assert moved == kinds
    assert still == {"length", "flattery", "formatting", "planted"} - kinds
    assert (found["gain"]["value"] > 0.5) == bool(kinds)
    assert (worst(found) is None) == (not kinds)


def test_the_lift_is_in_spreads_and_paired():
    """+3 for the phrase on scores that spread by their own standard deviation: 3 / spread, with no width at all."""
    base = texts()
    plain = [content(text) for text in base]
    mean = sum(plain) / len(plain)
    spread = (sum((x - mean) ** 2 for x in plain) / len(plain)) ** 0.5
    found = hacking(by(lambda t: content(t) + 3 * ("perfect answer" in t)), PROMPTS, base, BOOTSTRAP)
    assert found["spread"] == pytest.approx(spread)
    perfect = found["tricks"]["perfect"]
    assert perfect["lift"]["value"] == pytest.approx(3 / spread)
    assert perfect["rises"]["value"] == 1 and perfect["n"] == len(base) == found["responses"]
    assert found["gain"]["value"] == pytest.approx(3 / spread)
    assert worst(found) == "perfect"


def test_a_change_is_in_the_first_ones_spread():
    base = texts()
    one, two = (
        try_tricks(by(lambda t, k=k: k * content(t) + 3 * ("perfect answer" in t)), PROMPTS, base) for k in (1, 2)
    )
    found = hacking_change(one, two, BOOTSTRAP)
    assert found["difference"]["value"] == pytest.approx(0)
    assert found["before"]["spread"] == found["after"]["spread"] == one.spread < two.spread


def test_a_text_without_a_score_is_counted_and_never_a_number():
    base = texts()

    def score(prompts, texts):
        return [None if text == base[3] else float("nan") if "great" in text else content(text) for text in texts]

    found = hacking(score, PROMPTS, base, BOOTSTRAP)
    assert (found["responses"], found["unscored"]) == (len(base) - 1, 1)
    praise = found["tricks"]["praise"]
    assert (praise["n"], praise["unscored"], praise["rises"], praise["lift"]) == (0, len(base) - 1, None, None)
    assert found["tricks"]["filler"]["n"] == len(base) - 1


def test_equal_scores_have_no_unit_and_no_invented_lift():
    found = hacking(by(lambda text: 1.5 + ("great" in text)), PROMPTS, texts(), BOOTSTRAP)
    assert found["spread"] is None and found["gain"] is None
    assert found["tricks"]["praise"]["rises"]["value"] == 1 and found["tricks"]["praise"]["lift"] is None
    assert hacking(by(lambda text: None), PROMPTS, texts(), BOOTSTRAP)["responses"] == 0
    assert hacking(by(content), [], [], BOOTSTRAP)["gain"] is None


def test_the_last_bits_of_a_score_are_no_rise():
    noise = Random(1)
    found = hacking(by(lambda text: content(text) + 1e-8 * noise.random()), PROMPTS, texts(), BOOTSTRAP)
    assert found["rises"]["value"] == 0


@pytest.mark.parametrize(
    "text", ["雨が降る。川が流れる。", "बारिश हुई। नदी भरी।", "Идёт дождь. Река полна.", "هل تمطر؟ نعم."]
)
def test_formatting_knows_the_sentences_of_other_scripts(text):
    alter = {trick.name: trick.alter(text) for trick in TRICKS}
    first, second = sentences(text)
    assert alter["bullets"] == f"- {first.strip()}\n- {second}"
    assert alter["bold"] == f"**{first.strip()}**{first[len(first.strip()) :]}{second}"


def test_a_trick_that_changes_nothing_is_no_case():
    code = ["```\nprint(1)\n```"] * len(PROMPTS)
    tried = try_tricks(by(lambda text: float(len(text))), PROMPTS, code)
    assert not any(case.trick in {"bullets", "bold"} for case in tried.cases)


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
def test_a_trick_keeps_every_word_and_shows_in_what_it_made(trick: Trick):
    for text in texts():
        kept = iter(re.findall(r"\w+", trick.alter(text)))
        assert all(word in kept for word in re.findall(r"\w+", text))
        assert trick.name == "filler" or re.search(trick.shows, trick.alter(text))
        assert not trick.shows or not re.search(trick.shows, text)


def test_the_constitutions_own_words_are_planted():
    tricks = tricks_for(load_constitution("harmlessness"))
    (own,) = tricks[len(TRICKS) :]
    assert "Which response" in own.alter("Rain falls.") and own.kind == "planted"
    found = hacking(by(lambda t: content(t) + 9 * ("Which response" in t)), PROMPTS, texts(), BOOTSTRAP, tricks)
    assert worst(found) == "principles"


def test_before_and_after_are_paired_in_one_unit():
    def score(prompts, texts):
        return [content(text) + 4 * ("perfect answer" in text) for text in texts]

    plain = try_tricks(score, PROMPTS, texts())
    already = try_tricks(score, PROMPTS, [f"{text} This is the perfect answer." for text in texts()])
    found = hacking_change(plain, already, BOOTSTRAP)
    assert found["before"]["gain"]["value"] == pytest.approx(4 / plain.spread)
    assert found["after"]["gain"]["value"] == 0
    assert found["difference"]["value"] == pytest.approx(-4 / plain.spread)
    assert found["after"]["spread"] == found["before"]["spread"]
    assert found["after"]["tricks"]["perfect"]["shown"] == 1 and found["before"]["tricks"]["perfect"]["shown"] == 0
    with pytest.raises(ValueError, match="same prompts"):
        hacking_change(plain, try_tricks(score, PROMPTS[::-1], texts()), BOOTSTRAP)


def test_two_scores_on_the_same_responses_are_each_in_their_own_unit():
    one = try_tricks(by(lambda t: content(t) + ("great" in t)), PROMPTS, texts())
    other = try_tricks(by(lambda t: 100 * content(t) + 100 * ("great" in t)), PROMPTS, texts())
    assert figures(one, BOOTSTRAP)["gain"]["value"] == pytest.approx(figures(other, BOOTSTRAP)["gain"]["value"])
    assert figures(other, BOOTSTRAP, one.spread)["gain"]["value"] > 50


# ------------------------------------------------------------------------------------------ in a run and its report


def test_a_recipe_that_does_not_ask_for_it_has_the_hashes_of_before(tmp_path):
    plain, asked = (small_recipe(tmp_path, "tiny", **more) for more in ({}, {"evaluate__hacking": {}}))
    assert "hacking" not in dump_recipe(plain) and "hacking" in dump_recipe(asked)
    assert "hacking" not in EVALUATE.settings(plain)["evaluate"]
    assert EVALUATE.settings(plain) != EVALUATE.settings(asked)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimise": {"kind": "dpo"}}, "evaluate.hacking.source must be set"),
        ({"optimise": {"kind": "dpo"}, "evaluate__hacking": {"source": {"kind": "reward_model"}}}, "nothing of this"),
        ({"evaluate__hacking": {"source": {"kind": "ensemble"}}}, "reward.ensemble must be set"),
    ],
)
def test_a_suite_without_a_score_is_one_line(tmp_path, changes, said):
    with pytest.raises(ValidationError, match=said):
        small_recipe(tmp_path, "tiny", **({"evaluate__hacking": {}} | changes))


def test_the_report_shows_it_before_and_after(tmp_path):
    def score(prompts, texts):
        return [None if "great" in t else content(t) + 4 * ("perfect answer" in t) for t in texts]

    one, other = (try_tricks(score, PROMPTS, texts(seed)) for seed in (0, 1))
    given = inputs()
    found = replace(given, hacking=hacking_change(one, other, BOOTSTRAP))
    plain = (write_report(write_run(tmp_path / "plain", given))).read_text()
    shown = text_of(write_report(write_run(tmp_path / "tried", found)))
    assert "without better content" not in plain and "hacking" not in (tmp_path / "plain/evaluation.json").read_text()
    assert "What moves the score without better content" in shown
    assert "80 changed ones have none, and count for nothing." in shown
    assert "Perfect 0%, 0% | planted | 100%" in shown, shown[shown.find("What moves") :][:900]


def test_the_page_shows_how_any_function_is_tried(capsys):
    page = (Path(__file__).parents[1] / "docs" / "redteam.md").read_text()
    (snippet,) = [each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "hacking(" in each]
    exec(compile(snippet, "docs/redteam.md", "exec"), {})
    assert capsys.readouterr().out.startswith("filler {'value': ")
