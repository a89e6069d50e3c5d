"""A file of human feedback has one scale, and its figures do not contradict its labels: held over the whole file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from rlaif.audits.gold import read_gold
from rlaif.errors import DataError
from rlaif.feedback.human import read_human
from rlaif.formats import Form, HumanFile
from rlaif.formats.sheet import HumanData
from rlaif.jsonl import dumps
from rlaif.run_folder import Run

FORM: TypeAdapter[Form] = TypeAdapter(Form)


def read(path: Path, rows: list[dict[str, Any]], **form: Any) -> HumanData:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = {"kind": "comparisons"} | form
    return read_human([HumanFile(path=str(path), form=FORM.validate_python(form))], Run(path.parent))


def opposed(*ratings: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"q{i}", "response_a": "x", "response_b": "y", "rating": r} for i, r in enumerate(ratings)]


def rated(*ratings: Any) -> list[dict[str, Any]]:
    return [{"prompt": "q", "response": f"r{i}", "rating": r} for i, r in enumerate(ratings)]


def compared(**figures: Any) -> dict[str, Any]:
    return {"prompt": "q", "chosen": "x", "rejected": "y", **figures}


def p_of_x(data: HumanData) -> list[float]:
    return [judgment.p_of("x") for judgment in data.judgments]


# ----------------------------------------------------------------------------------------------------- scales


@pytest.mark.parametrize(
    ("points", "ratings", "p"),
    [
        (7, (-3, -2, -1, 0, 1, 2, 3), (1, 5 / 6, 4 / 6, 1 / 2, 2 / 6, 1 / 6, 0)),
        (5, (-2, 0, 2.0), (1, 0.5, 0)),
    ],
)
def test_a_signed_scale_is_read_where_the_form_says_so(tmp_path: Path, points: int, ratings: Any, p: Any) -> None:
    data = read(tmp_path / "f.jsonl", opposed(*ratings), kind="likert", points=points, scale="signed")
    assert p_of_x(data) == pytest.approx(p, abs=1e-15)


@pytest.mark.parametrize(
    ("form", "ratings", "line", "message"),
    [
        ({"points": 7}, (3, -3, 1), 2, "got -3.*: if 0 is a tie, declare form: {kind: likert, points: 7, scale: sig"),
        ({}, (1, 2, -2), 3, "got -2.*points: 5, scale: signed"),
        ({}, (1, 2, -3), 3, "got -3.*points: 7, scale: signed"),
        (
            {},
            (5, 7, 6),
            2,
            "got 7.*as 2 of 3 values are; they are from 5 to 7: declare form: {kind: likert, points: 7}",
        ),
        ({"points": 7, "scale": "signed"}, (1, 7), 2, "from -3 to 3 .got 7.*declare form: {kind: likert, points: 7}"),
        ({}, (1, 0), 2, "got 0"),
        ({}, (1, 2.5), 2, "must be a point from 1 to 5 .got 2.5."),
        ({}, (1, 90), 2, "they are from 1 to 90"),
        ({}, (1, 3.5), 2, "they are from 1 to 3.5$"),
        ({"points": 7, "scale": "signed"}, (-3, 1.5), 2, "they are from -3 to 1.5$"),
    ],
)
def test_one_answer_off_its_scale_refuses_the_file(
    tmp_path: Path, form: dict[str, Any], ratings: Any, line: int, message: str
) -> None:
    with pytest.raises(DataError, match=rf"f.jsonl:{line}: rating: .*{message}") as caught:
        read(tmp_path / "f.jsonl", opposed(*ratings), kind="likert", **form)
    assert "\n" not in str(caught.value)


NO_NUMBERS = [float("nan"), float("inf"), float("-inf"), 10**400, "4", True, [3], {"value": 3}]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(value)[:9])
@pytest.mark.parametrize(
    ("form", "row"),
    [
        ({"kind": "ratings"}, {"prompt": "q", "response": "z"}),
        ({"kind": "ratings", "scale": [-1e9, 1e9]}, {"prompt": "q", "response": "z"}),
        ({"kind": "likert"}, {"prompt": "q", "response_a": "x", "response_b": "y"}),
    ],
    ids=["ratings", "wide ratings", "likert"],
)
def test_what_is_no_number_is_an_error_with_its_place(
    tmp_path: Path, form: dict[str, Any], row: dict[str, Any], value: Any
) -> None:
    rows = [row | {"rating": 1}, row | {"rating": value}]
    with pytest.raises(DataError, match=r"f.jsonl:2: rating: must be a number \(got ") as caught:
        read(tmp_path / "f.jsonl", rows, **form)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("key", "form", "row"),
    [
        ("ranks", {"kind": "rankings"}, {"prompt": "q", "responses": ["x", "y"], "ranks": [1, float("nan")]}),
        ("seconds", {"kind": "rankings"}, {"prompt": "q", "responses": ["x", "y"], "seconds": 10**400}),
        ("p_chosen", {"kind": "comparisons"}, compared(p_chosen=float("nan"))),
        ("p_chosen", {"kind": "comparisons"}, compared(p_chosen=True)),
        ("p_chosen", {"kind": "comparisons"}, compared(p_chosen=10**400)),
        ("labels", {"kind": "shp"}, {"history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": float("nan")}),
    ],
)
def test_other_numbers_as_well(tmp_path: Path, key: str, form: dict[str, Any], row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=rf"f.jsonl:1: {key}"):
        read(tmp_path / "f.jsonl", [row], **form)


def test_ratings_of_another_range_say_what_to_declare(tmp_path: Path) -> None:
    message = (
        r"f.jsonl:2: rating: must be a number from 1 to 5 \(got 0\): off the scale, as 2 of 4 values are; they are "
    )
    with pytest.raises(DataError, match=message + r"from 0 to 9: declare the form's scale, \[lowest, highest\]"):
        read(tmp_path / "f.jsonl", rated(4, 0, 9, 3), kind="ratings")
    assert len(read(tmp_path / "f.jsonl", rated(4, 0, 9, 3), kind="ratings", scale=[0, 9]).judgments) == 6


def test_a_missing_answer_is_a_failure_and_no_scale(tmp_path: Path) -> None:
    data = read(tmp_path / "f.jsonl", opposed(1, None, 5), kind="likert")
    assert [(failure.id[-1], failure.reason) for failure in data.failures] == [("2", "rating is missing")]
    assert p_of_x(data) == [1, 0]


def test_choices_are_of_one_code(tmp_path: Path) -> None:
    def found(*values: str) -> list[float]:
        path = tmp_path / "f.csv"
        rows = [f"q{number},x,y,{value}" for number, value in enumerate(values)]
        path.write_text("\n".join(["prompt,response_a,response_b,choice", *rows]))
        form = FORM.validate_python({"kind": "csv"})
        return p_of_x(read_human([HumanFile(path=str(path), form=form)], Run(tmp_path)))

    assert found("A", "b", "tie", "Tie") == [1, 0, 0.5, 0.5]
    assert found("1", "2", "0") == [1, 0, 0.5]
    assert found("a", "", "b") == [1, 0]
    with pytest.raises(DataError, match=r"f.csv:3: choice: must be one of a, 1, b, 2, tie, 0 \(got left\): .*2 of 3"):
        found("a", "left", "right")
    with pytest.raises(DataError, match=r"f.csv:3: choice: the file has 0 \(a tie\) and 1 .*write a and b"):
        found("1", "0", "0", "1")
    for words in (("tie",), ("a", "b"), ("b",)):
        with pytest.raises(DataError, match=r"f.csv:3: choice: the file has 0 \(a tie\) and 1 .*write a and b"):
            found("1", "0", *words)
    for mixed in (("1", "b"), ("a", "2"), ("tie", "1", "2"), ("0", "2", "b")):
        with pytest.raises(
            DataError, match=r"f.csv:\d: choice: the file has numbers \(\d\) and words \('\w+', .*f.csv:"
        ):
            found(*mixed)


def test_shp_labels_are_0_and_1(tmp_path: Path) -> None:
    rows = [{"history": f"q{n}", "human_ref_A": "x", "human_ref_B": "y", "labels": n} for n in (1, 2)]
    with pytest.raises(DataError, match=r"f.jsonl:2: labels: must be a point from 0 to 1 \(got 2\)"):
        read(tmp_path / "f.jsonl", rows, kind="shp")


def test_gold_files_are_held_to_their_scale_too(tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").write_text("".join(dumps(row) + "\n" for row in opposed(1, 7)))
    with pytest.raises(DataError, match=r"g.jsonl:2: rating: must be a point from 1 to 5 \(got 7\)"):
        read_gold([tmp_path / "g.jsonl"])


def test_answers_of_argilla_are_held_to_their_scale(tmp_path: Path) -> None:
    rows = [
        {"fields": {"instruction": "q", "response": text}, "responses": {"rating": [{"value": rating, "user_id": "u"}]}}
        for text, rating in (("x", 5), ("y", 9))
    ]
    form = {"kind": "argilla", "question": {"kind": "rating"}}
    with pytest.raises(
        DataError, match=r"f.jsonl:2 answer 1: rating: must be a number from 1 to 5 \(got 9\).*from 5 to 9"
    ):
        read(tmp_path / "f.jsonl", rows, **form)
    form["question"] = {"kind": "rating", "scale": [1, 10]}
    assert p_of_x(read(tmp_path / "f.jsonl", rows, **form)) == [0]


@pytest.mark.parametrize("score", ["nan", "inf", "1e999", "high"])
def test_a_score_of_ultrafeedback_that_is_no_number_costs_its_completion(tmp_path: Path, score: str) -> None:
    completions = [{"response": text, "overall_score": value} for text, value in (("x", 8), ("y", 2), ("z", score))]
    data = read(tmp_path / "f.jsonl", [{"instruction": "q", "completions": completions}], kind="ultrafeedback")
    assert (p_of_x(data), [failure.reason for failure in data.failures]) == ([1], ["overall_score is no number"])


@pytest.mark.parametrize("key", ["P_chosen", " p_chosen", "pChosen", "p-chosen"])
def test_a_miscased_strength_is_not_forgotten(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match=rf"f.jsonl:1: key '{key}' is not read; write 'p_chosen'$"):
        read(tmp_path / "f.jsonl", [compared(**{key: 0.6})])
    for other in ("Margin", "Ranks"):
        with pytest.raises(DataError, match=rf"key '{other}' is not read; write '{other.lower()}'$"):
            read(tmp_path / "f.jsonl", [compared(**{other: 0.6})])


# ---------------------------------------------------------------------------------------------------- signals

NAMES = [
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("scoreChosen", "scoreRejected"),
    ("Chosen Score", "Rejected Score"),
    ("rm_score_chosen", "rm_score_rejected"),
    ("chosen_reward", "rejected_reward"),
    ("chosen.avg_rating", "rejected.avg_rating"),
    ("votes_chosen", "votes_rejected"),
]


@pytest.mark.parametrize(("one", "other"), NAMES)
def test_figures_of_any_name_make_ties_and_contradictions(tmp_path: Path, one: str, other: str) -> None:
    rows = [compared(**{one: a, other: b}) for a, b in ((4, 4), (2.0, 4.5), (4.5, 2), (None, 2), ("3", "1"), (-1, -2))]
    data = read(tmp_path / "f.jsonl", rows)
    assert p_of_x(data) == [0.5, 1, 1, 1, 1]
    (failure,) = data.failures
    assert failure.id.endswith("f.jsonl:2")
    assert failure.reason == "the row's own figures say that rejected is better"
    assert failure.detail == f"{one} 2, {other} 4.5"


def test_a_rank_is_better_when_it_is_smaller(tmp_path: Path) -> None:
    rows = [compared(chosen_rank=a, rejected_rank=b) for a, b in ((1, 2), (2, 1), (1, 1))]
    data = read(tmp_path / "f.jsonl", rows)
    assert p_of_x(data) == [1, 0.5]
    assert [failure.id[-1] for failure in data.failures] == ["2"]


@pytest.mark.parametrize(
    "figures",
    [
        {"chosen_length": 3, "rejected_length": 90},
        {"chosen_rating_count": 3, "rejected_rating_count": 9},
        {"winner": "the first, by far", "preferred_by": "kim"},
        {"chosen_model": "m", "rejected_model": "n"},
        {"chosen_score": 1},
        {"gap": -3},
    ],
)
def test_what_says_nothing_of_the_label_is_left_alone(tmp_path: Path, figures: dict[str, Any]) -> None:
    assert p_of_x(read(tmp_path / "f.jsonl", [compared(**figures)])) == [1]


def test_margins_from_0_to_1_are_probabilities_and_others_differences(tmp_path: Path) -> None:
    def found(*margins: Any) -> list[float]:
        return p_of_x(read(tmp_path / "f.jsonl", [compared(margin=margin) for margin in margins]))

    assert found(2 * 0.55 - 1, 1, 0, 2 * 0.8 - 1, None) == [0.55, 1, 0.5, 0.8, 1]
    assert found(0.1, 3, 0) == [1, 1, 0.5]
    data = read(tmp_path / "f.jsonl", [compared(margin=margin) for margin in (0.5, -0.5)])
    assert (p_of_x(data), [failure.detail for failure in data.failures]) == ([0.75], ["margin -0.5"])
    both = compared(margin=0.5, chosen_score=0.9, rejected_score=0.4)  # the difference of its scores
    assert p_of_x(read(tmp_path / "f.jsonl", [both])) == [1]


def test_p_chosen_stands_unless_figures_contradict_it(tmp_path: Path) -> None:
    rows = [compared(p_chosen=0.75, chosen_score=a, rejected_score=b, margin=0.1) for a, b in ((3, 1), (1, 3), (2, 2))]
    data = read(tmp_path / "f.jsonl", rows)
    assert (p_of_x(data), len(data.failures)) == ([0.75, 0.75], 1)


def test_a_figure_that_is_no_finite_number_costs_its_row(tmp_path: Path) -> None:
    figures = [(float("nan"), 1), (10**400, 1), (2, 1)]
    data = read(tmp_path / "f.jsonl", [compared(chosen_score=a, rejected_score=b) for a, b in figures])
    assert p_of_x(data) == [1]
    assert {failure.reason for failure in data.failures} == {"chosen_score is no finite number"}


def test_votes_may_not_contradict_an_shp_label(tmp_path: Path) -> None:
    row = {"history": "q", "human_ref_A": "x", "human_ref_B": "y", "score_ratio": 2.0}
    rows = [row | {"labels": label, "score_A": a, "score_B": b} for label, a, b in ((1, 8, 4), (1, 4, 8), (0, 4, 8))]
    data = read(tmp_path / "f.jsonl", rows, kind="shp")
    assert p_of_x(data) == [1, 0]
    assert [failure.detail for failure in data.failures] == ["score_A 4, score_B 8"]


@pytest.mark.parametrize(
    ("one", "other", "lead"),
    [("1/5", "4/5", -1), ("3/4", "7/10", 1), ("20%", "80 %", -1), (" 4 ", 3, 1), ("50%", "50%", 0), ("", 3, 1)],
)
def test_shares_and_percents_are_figures(tmp_path: Path, one: Any, other: Any, lead: int) -> None:
    rows = [compared(chosen_score=one, rejected_score=other), {**compared(), "prompt": "other"}]
    data = read(tmp_path / "f.jsonl", rows)
    assert p_of_x(data) == {-1: [1], 0: [0.5, 1], 1: [1, 1]}[lead]


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("2,5", "4,5", "chosen_score is no number"),
        ([1, 2], [3, 4], "chosen_score is no number"),
        ({"overall": 1}, {"overall": 4}, "chosen_score is no number"),
        (4, "high", "rejected_score is no number"),
        ("1/0", "4/5", "chosen_score is no number"),
        ("80%", 4, "chosen_score and rejected_score cannot be compared"),
    ],
)
def test_figures_that_nobody_can_compare_are_failures(tmp_path: Path, one: Any, other: Any, reason: str) -> None:
    rows = [compared(), compared(chosen_score=one, rejected_score=other)]
    (failure,) = read(tmp_path / "f.jsonl", rows).failures
    assert (failure.id[-1], failure.reason) == ("2", reason)


@pytest.mark.parametrize("key", ["winner", "preference", "Preferred Response", "better_answer"])
def test_a_column_that_names_the_better_one_is_held_against_the_label(tmp_path: Path, key: str) -> None:
    rows = [compared(**{key: value}) for value in ("chosen", "Rejected", "tie", "the response of rejected, I think")]
    data = read(tmp_path / "f.jsonl", rows)
    assert (p_of_x(data), [failure.detail for failure in data.failures]) == ([1, 0.5, 1], [f"{key} Rejected"])
    rows = [{**opposed(1)[0], key: value} for value in ("response_a", "B")]
    assert [failure.id[-1] for failure in read(tmp_path / "f.jsonl", rows, kind="likert").failures] == ["2"]


@pytest.mark.parametrize(
    ("a", "b", "figures"),
    [
        ("response_1", "response_2", ("score_1", "score_2")),
        ("response2", "response1", ("rating_2", "rating_1")),
        ("left", "right", ("left_votes", "right_votes")),
        ("answerA", "answerB", ("score_a", "score_b")),
    ],
)
def test_figures_are_named_as_the_responses_are(tmp_path: Path, a: str, b: str, figures: tuple[str, str]) -> None:
    points = [(1, 9, 2), (1, 2, 9), (5, 2, 9), (1, 4, 4), (3, 9, 2)]
    rows = [
        {"prompt": f"q{i}", a: "x", b: "y", "rating": point, figures[0]: one, figures[1]: other}
        for i, (point, one, other) in enumerate(points)
    ]
    data = read(tmp_path / "f.jsonl", rows, kind="likert", response_a=a, response_b=b)
    assert p_of_x(data) == [1, 0, 0.5, 0.5]
    assert [failure.id[-1] for failure in data.failures] == ["2"]


def test_the_rating_of_the_form_is_no_figure_of_a_response(tmp_path: Path) -> None:
    row = {"prompt": "q", "response_1": "x", "response_2": "y", "rating_1": 1, "rating_2": 2}
    form = {"kind": "likert", "response_a": "response_1", "response_b": "response_2", "rating": "rating_1"}
    assert p_of_x(read(tmp_path / "f.jsonl", [row], **form)) == [1]


@pytest.mark.parametrize("margin", [True, "much better", [1], {"value": 1}])
def test_a_margin_is_a_number(tmp_path: Path, margin: Any) -> None:
    with pytest.raises(DataError, match=r"f.jsonl:1: margin: must be a number \(got "):
        read(tmp_path / "f.jsonl", [compared(margin=margin)])


def test_p_chosen_is_read_or_refused_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    cells = ["q,x,y,a,0.8", "r,x,y,b,0.8", "s,x,y,tie,0.5", "t,x,y,a,", "u,x,y,tie,0.8"]
    path.write_text("\n".join(["prompt,response_a,response_b,choice,p_chosen", *cells]))
    data = read_human([HumanFile(path=str(path), form=FORM.validate_python({"kind": "csv"}))], Run(tmp_path))
    assert p_of_x(data) == pytest.approx([0.8, 0.2, 0.5, 1])
    assert [failure.reason for failure in data.failures] == ["p_chosen says that a tie is none"]
    with pytest.raises(DataError, match=r"f.jsonl:1: p_chosen: only the forms comparisons, shp, csv have one"):
        read(tmp_path / "f.jsonl", [{**row, "p_chosen": 0.8} for row in opposed(1)], kind="likert")
