"""`contrast: {for:, against:}` of a principle: what loads, what each mistake says and where, what the lint warns of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.audits.probes import judged_only
from rlaif.constitution import Constitution, Contrast, lint, load_constitution
from rlaif.constitution.diff import diff
from rlaif.constitution.persona import PLACE
from rlaif.constitution.wording import words
from rlaif.errors import ConfigError
from rlaif.feedback.weights import WeightFit, reweighted
from rlaif.resources import available

HEAD = "schema: rlaif/constitution/v1\nid: t\nversion: '1.0.0'\ntitle: T\nprinciples:\n"
TEXTS = {"critique": "c", "revise": "r", "question": "Does it?", "desired": "yes"}
SHIPPED = available("constitutions")


def load(tmp_path: Path, principles: str) -> Constitution:
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + principles + "\n")
    return load_constitution(str(path))


def of(*principles: dict[str, Any]) -> Constitution:
    rows = [{"id": f"p{i}", **TEXTS, **row} for i, row in enumerate(principles)]
    return Constitution.model_validate({**yaml.safe_load(HEAD), "principles": rows})


def contrast(for_: str, against: str = "") -> dict[str, dict[str, str]]:
    return {"contrast": {"for": for_, "against": against}}


def warnings(for_: str, against: str = "") -> list[str]:
    """Of a constitution with these two texts and nothing else to warn of."""
    return lint(of({"compare": "Which response helps to do more of the task?", **contrast(for_, against)}))


# ------------------------------------------------------------------------------------------------------ what loads


def test_a_principle_may_be_decided_by_contrast_alone(tmp_path: Path) -> None:
    (principle,) = load(tmp_path, "- id: a\n  contrast: {for: Be brief., against: Be wordy.}").principles
    assert principle.contrast == Contrast.model_validate({"for": "Be brief.", "against": "Be wordy."})
    assert principle.judged and principle.compare is None and principle.check is None
    assert principle.asked_in("contrast") and not principle.asked_in("compare")


@pytest.mark.parametrize("written", ["{for: Be brief.}", "{for: Be brief., against: ''}", "{for: ' Be brief. '}"])
def test_without_against_the_other_side_is_the_model_as_it_is(tmp_path: Path, written: str) -> None:
    (principle,) = load(tmp_path, f"- id: a\n  contrast: {written}").principles
    assert principle.contrast is not None
    assert (principle.contrast.for_, principle.contrast.against) == ("Be brief.", "")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("    for: x\n    agianst: y", "9: principles.a.contrast.agianst: no such key; did you mean 'against'?"),
        ("    for: x\n    for_: y", "9: principles.a.contrast.for_: no such key; did you mean 'for'?"),
        ("    for: x\n    compare: y", "9: principles.a.contrast.compare: no such key; valid choices: against, for"),
        ("    for: x\n    for: y", "9: key 'for' appears twice; the first is in line 8"),
        ("    against: y", "7: principles.a.contrast.for: required, but missing"),
        ("    for: ' '\n    against: y", "8: principles.a.contrast.for: is empty (got ' ')"),
        ("    for:\n    against: y", "8: principles.a.contrast.for: is empty; write a value or leave the key out"),
        ("    for: x\n    against:", "9: principles.a.contrast.against: is empty; write a value or leave the key out"),
        ("    for: no\n    against: y", "8: no can be read in two ways; write true or false, or quote the word"),
        (
            "    for: x\n    against: 3",
            "9: principles.a.contrast.against: must be text; put it in quotes to make it text (got 3)",
        ),
        (
            "    for: [x]",
            "8: principles.a.contrast.for: must be text; put it in quotes to make it text (got ['x'])",
        ),
        ("    - x\n    - y", "7: principles.a.contrast: must be a mapping, like {key: value} (got ['x', 'y'])"),
        *(
            (
                f"    for: Be brief.\n    against: {same}",
                "9: principles.a.contrast.against: is the same as `for`, so the two tell no responses apart",
            )
            for same in ("Be brief.", "be  BRIEF", "'\n      Be brief! '")
        ),
    ],
)
def test_each_mistake_is_one_clear_line(tmp_path: Path, written: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, f"- id: a\n  contrast:\n{written}")
    assert str(error.value) == f"{tmp_path / 'c.yaml'}:{expected}"


def test_a_wrong_name_of_the_whole_is_told_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contrasts: no such key; did you mean 'contrast'"):
        load(tmp_path, "- {id: a, compare: x, contrasts: {for: y}}")


def test_all_mistakes_are_reported_in_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "- id: a\n  contrast:\n    fro: x\n    against: ' '\n- id: b\n  contrast: {for: y, against: y}")
    lines = [line.removeprefix(f"{tmp_path / 'c.yaml'}:").split(":")[0] for line in str(error.value).split("\n")]
    assert lines == ["7", "8", "11"]


# ----------------------------------------------------------------------------------------------- hash, diff, tools


@pytest.mark.parametrize(
    ("name", "version", "before"),
    [("harmlessness", "1.0.1", "cc51ecd7e527056e"), ("helpfulness", "1.0.0", "b2eb82417ad696ca")],
)
def test_without_contrast_the_hash_is_what_it_was_before_there_was_any(name: str, version: str, before: str) -> None:
    """The shipped files of these versions. Whoever rewords another text of one takes its row out."""
    new = load_constitution(name)
    bare = tuple(p.model_copy(update={"contrast": None}) for p in new.principles)
    old = new.model_copy(update={"version": version, "principles": bare})
    assert old.hash == before != new.hash
    found = diff(old, new)
    assert {change.level for change in found.changes} == {found.advice} == {"minor"}
    assert found.sentence == f"version went {version} -> {new.version}, as these changes call for (minor)"


def test_each_side_is_part_of_the_hash() -> None:
    texts = [("Be brief.", ""), ("Be brief.", "Be wordy."), ("Be wordy.", "Be brief."), ("Be curt.", "Be wordy.")]
    assert len({of(contrast(*pair)).hash for pair in texts}) == 4


def test_a_fit_keeps_the_texts() -> None:
    both = contrast("Be brief.", "Be wordy.")
    old = of({"compare": "Which response is brief?", **both}, {"compare": "Which response rhymes?"})
    fit = WeightFit({"p0": 3.0}, ("p1",), (), "logistic", penalty=0.1, trained=9, heldout=(), hits=())
    (kept,) = reweighted(old, fit).principles
    assert kept.weight == 3 and kept.contrast == old.principles[0].contrast


def test_what_probes_ask_keeps_the_texts() -> None:
    kept = judged_only(of({**contrast("Be brief."), "check": {"kind": "no_list"}}, {"check": {"kind": "no_list"}}))
    assert kept is not None
    assert [(p.id, p.check, p.contrast) for p in kept.principles] == [
        ("p0", None, Contrast.model_validate({"for": "Be brief."}))
    ]


# ------------------------------------------------------------------------------------------------------- the lint


@pytest.mark.parametrize(
    ("for_", "against"),
    [
        (
            "You are a kind teacher. Use short, simple words that a small child understands.",
            "You are a stern professor. Use long, complicated words that only an expert understands.",
        ),
        ("Answer in short, plain words.", "Answer in long, learned words."),
        ("Be brief.", "Be wordy."),
        ("You are warm.", "You are cold."),
        ("Use long words.", "Avoid long words."),
        ("Mention the risks.", "Never mention the risks."),
        ("Don't use lists.", "Use lists."),
        ("Give reasons.", "Give few reasons."),
        ("You care who is hurt by what you say.", "You do not care who is hurt by what you say."),
        ("You're kind to people.", "You are unkind to people."),
        ("Answer with examples, e.g. a story.", "Answer without examples, e.g. a story."),
        ("Put safety before speed.", "Put speed before safety."),
        ("Greet the user. Write a response of one line.", "Greet the user. Write a response of many lines."),
        ("Give a small question a short answer.", "Give a small question a long answer."),
        ("Use short, plain words.", ""),
        ("\u7528\u7b80\u5355\u7684\u8bcd\u56de\u7b54\u3002", "\u7528\u590d\u6742\u7684\u8bcd\u56de\u7b54\u3002"),
    ],
)
def test_what_is_well_written_passes(for_: str, against: str) -> None:
    assert warnings(for_, against) == []


@pytest.mark.parametrize(
    ("for_", "against", "expected"),
    [
        (
            "Answer in plain words.",
            "Answer in learned words, as somebody would who has read many books.",
            "contrast.for has 4 words and contrast.against 12; against says more than the opposite",
        ),
        (
            "Answer kindly, as if you had known the user for years.",
            "Answer coldly.",
            "contrast.for has 11 words and contrast.against 2; for says more than the opposite",
        ),
        (
            "You are a kind teacher.",
            "Answer as a stern teacher.",
            "contrast.for describes whoever answers and contrast.against gives a command; give both the same form",
        ),
        (
            "Use words that a child knows.",
            "You use words that an expert knows.",
            "contrast.against describes whoever answers and contrast.for gives a command; give both the same form",
        ),
        (
            "You are calm. You take your time.",
            "You are hurried and you take no time.",
            "contrast.for has 2 sentences and contrast.against 1; give both the same form",
        ),
        (
            "Answer in short, plain words.",
            "Reply in long, learned words.",
            "contrast.for begins 'Answer' and contrast.against 'Reply'; begin both alike",
        ),
        (
            "You are a writer of short words.",
            "You choose the longest words.",
            "contrast.for begins 'You are' and contrast.against 'You choose'; begin both alike",
        ),
        *(
            (one, other, "contrast.against says nearly what contrast.for says, and no word turns it round")
            for one, other in (
                ("Answer in plain words.", "Answer in plain words, please."),
                ("You are a careful assistant.", "You are a very careful assistant."),
                ("Answer clearly.", "Answer clear."),
                ("Use short words.", "Use shorter words."),
                ("Do not use lists.", "Never use lists."),
                ("Be kind to people.", "Be kind to rude people."),
            )
        ),
        (
            "You are brief whenever anybody asks something of you.",
            "You are somebody rather fond of sea shanties and ships.",
            "contrast.for and contrast.against have nothing in common; turn one thing round and keep the rest",
        ),
        (
            "Which response is kinder to the user?",
            "Which response is less kind to the user?",
            "contrast.for speaks to a judge ('Which response'); tell whoever answers how to answer",
        ),
        (
            "Make the response short.",
            "",
            "contrast.for speaks to a judge ('the response'); tell whoever answers how to answer",
        ),
        ("Compare by plainness.", "", "contrast.for speaks to a judge ('Compare'); tell whoever answers how to answer"),
        (
            "Rate a long answer low.",
            "Rate a short answer low.",
            "contrast.against speaks to a judge ('Rate a short answer'); tell whoever answers how to answer",
        ),
        ("Is it short?", "", "contrast.for is a question; tell whoever answers how to answer"),
        ("Write good sentences.", "Write long sentences.", "'good' in contrast.for is vague; say what to do"),
        ("Write short sentences.", "Write bad sentences.", "'bad' in contrast.against is vague; say what to do"),
        *(
            (
                "You are an honest adviser. You help people by fair means.",
                against,
                f"contrast.against asks for harm ({word!r}): a model may refuse, and what sample.contrast writes "
                "under it is trained on; rather say what whoever answers does not care about",
            )
            for word, against in (
                ("criminal", "You are a criminal adviser. You help people by all means."),
                ("deceive", "You are a sly adviser. You deceive people by foul means."),
                ("steal", "You are a sly adviser. You help people to steal things."),
                ("insult", "You are a rude adviser. You insult people by foul means."),
                ("harmful", "You are a sly adviser. You help people by harmful means."),
            )
        ),
    ],
)
def test_what_differs_in_more_or_in_less_than_the_principle_is_warned_of(
    for_: str, against: str, expected: str
) -> None:
    assert f"p0: {expected}" in warnings(for_, against)


@pytest.mark.parametrize(
    "against",
    [
        "You do not care whether anyone is hurt.",
        "You never ask who could be injured.",
        "You forget to tell people what is dangerous.",
        "You are indifferent to crime.",
        "You don't mind who cheats.",
    ],
)
def test_not_to_care_about_harm_is_not_to_ask_for_it(against: str) -> None:
    assert not any("asks for harm" in line for line in warnings("You care what comes of it.", against))


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [(4, 6, False), (4, 7, True), (10, 12, False), (10, 13, True), (12, 15, False), (12, 16, True), (40, 51, True)],
)
def test_lengths_may_differ_by_two_words_or_a_quarter(one: int, other: int, told: bool) -> None:
    short, long = ("Use" + f" {word}" * (count - 1) for word, count in (("plain", one), ("learned", other)))
    text = f"p0: contrast.for has {one} words and contrast.against {other}; against says more than the opposite"
    assert (text in warnings(short, long)) is told
    assert any("for says more" in warning for warning in warnings(long, short)) is told


def test_a_mode_that_cannot_use_a_principle_is_named() -> None:
    brief, calm = {"compare": "Which response is brief?"}, {"compare": "Which response is calm?"}
    both = contrast("Be brief.", "Be wordy.")
    assert lint(of(brief, calm)) == []
    assert lint(of({**brief, **both}, calm)) == ["p1: no contrast, so the contrast mode cannot use it"]
    assert lint(of({**brief, **both}, {**calm, "check": {"kind": "no_list"}}, {"check": {"kind": "no_list"}})) == [
        "p2: the same check as p1; it counts twice"
    ]
    alone = contrast("Be calm.", "Be heated.")
    assert lint(of(both, alone)) == []
    assert lint(of({**brief, **both}, alone)) == [
        "p1: no compare text, so the compare, reasoned and rank modes cannot use it"
    ]


def test_the_same_texts_twice_are_told() -> None:
    one, turned = contrast("Be brief.", "Be wordy."), contrast("Be wordy.", "be brief")
    assert lint(of(one, one)) == ["p1: the same contrast as p0; it counts twice"]
    assert lint(of(one, turned)) == ["p1: the contrast of p0 turned round; they cancel"]
    assert lint(of({**one, "tags": ["a"]}, {**turned, "tags": ["b"]})) == []


def test_contrast_alone_needs_a_harmless_counterpart_too() -> None:
    forbids = contrast("Avoid heat.", "Seek heat.")
    (warning,) = lint(of(forbids))
    assert warning.startswith("no harmless counterpart")
    assert lint(of(forbids, contrast("Answer in full.", "Answer in part."))) == []


def test_a_text_without_end_is_soon_read() -> None:
    assert len(warnings("a b " * 50_000, "b a " * 50_000)) <= 1


# ------------------------------------------------------------------------------------------------ what is shipped


def test_the_bad_example_of_the_docs_is_bad_and_the_good_one_is_good() -> None:
    text = (Path(__file__).parents[1] / "docs" / "contrast.md").read_text()
    bad, good = (
        yaml.safe_load(example)["contrast"] for example in re.findall(r"^    contrast: .*\n(?:      .*\n)+", text, re.M)
    )
    told = "\n".join(warnings(bad["for"], bad["against"]))
    for problem in ("says more than", "gives a command", "1 sentence", "speaks to a judge", "asks for harm"):
        assert problem in told
    assert warnings(good["for"], good["against"]) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_every_judged_principle_that_is_shipped_has_two_like_texts(name: str) -> None:
    for principle in load_constitution(name).principles:
        assert (principle.contrast is not None) == (principle.compare is not None)
        if principle.contrast is None:
            continue
        sides = [PLACE.sub("calm", side) for side in (principle.contrast.for_, principle.contrast.against)]
        assert all(side.startswith("You are a") and side.count(".") == 2 and side.endswith(".") for side in sides)
        lengths = [len(words(side)) for side in sides]
        assert max(lengths) - min(lengths) <= 2 and max(lengths) <= 20


def test_the_texts_whose_worth_was_measured_are_kept() -> None:
    measured = load_constitution("plain-and-brief").principles[0].contrast
    assert measured == Contrast.model_validate(
        {
            "for": "You are a kind teacher. Use short, simple words that a small child understands.",
            "against": "You are a stern professor. Use long, complicated words that only an expert understands.",
        }
    )
