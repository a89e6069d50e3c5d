"""Every form of human feedback, from golden files: what each row says, and what became of those that say nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from pydantic import TypeAdapter, ValidationError

from rlaif.audits.gold import read_gold
from rlaif.errors import DataError
from rlaif.feedback.human import read_human
from rlaif.formats import Annotations, Argilla, Form, HumanFile, HumanHub, Ratings
from rlaif.formats.judgments import edit_of
from rlaif.formats.sheet import HumanData
from rlaif.jsonl import read_items, write_jsonl
from rlaif.records import Answer, Judgment, Message, Pair, PrincipleJudgment, Prompt, plain
from rlaif.run_folder import Run

GOLDEN = Path(__file__).parent / "golden" / "human"
NO_RUN = Run(Path("no-run"))
FORM: TypeAdapter[Form] = TypeAdapter(Form)


def file(path: Path, form: dict[str, Any], **knobs: Any) -> HumanFile:
    return HumanFile(path=str(path), form=FORM.validate_python(form), **knobs)


def golden(name: str, **form: Any) -> HumanData:
    return read_human([file(GOLDEN / name, form)], NO_RUN)


def rows_in(tmp_path: Path, *rows: dict[str, Any], kind: str = "comparisons", **form: Any) -> HumanData:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_human([file(path, {"kind": kind, **form})], NO_RUN)


def said(judgment: Judgment) -> str:
    """`better > worse`, with p unless it is 1; `one = other` for a tie."""
    pair, p = judgment.pair, judgment.p_a
    if p == 0.5:
        return " = ".join(sorted((pair.a, pair.b)))
    better, worse = (pair.a, pair.b) if p > 0.5 else (pair.b, pair.a)
    strength = judgment.p_of(better)
    return f"{better} > {worse}" + ("" if strength == 1 else f" ({strength:.3f})")


def all_said(data: HumanData) -> list[str]:
    return [said(judgment) for judgment in data.judgments]


def failed(data: HumanData) -> list[tuple[str, str]]:
    """(place after the file's name, reason)."""
    return [(failure.id.partition(".json")[2].partition(":")[2], failure.reason) for failure in data.failures]


def left(data: HumanData) -> dict[str, int]:
    """What is in order and no label, counted."""
    return {what: number for what, number in data.counts.items() if what not in ("rows", "failed")}


def test_hh_rlhf_of_several_turns() -> None:
    data = golden("hh.jsonl", kind="comparisons")
    assert all_said(data) == ["It scatters blue light. > Who knows."]
    assert [m.content for m in data.judgments[0].pair.prompt] == ["Hi", "Hello", "Why is the sky blue?"]
    assert failed(data) == [("2", "chosen and rejected answer different prompts")]
    assert data.counts == {"rows": 2, "failed": 1}


def test_trl_rows_and_who_said_them() -> None:
    data = golden("trl.jsonl", kind="comparisons")
    assert all_said(data) == ["A pear. > A stone.", "A fig. > A stone.", "A pear. > A fig."]
    assert [judgment.annotator for judgment in data.judgments] == ["kim", "7", "human"]
    assert [judgment.answer for judgment in data.judgments] == [Answer(seconds=4.5), None, None]
    assert len({judgment.pair.prompt_id for judgment in data.judgments}) == 1


def test_ultrafeedback_binarized_has_ties_and_contradictions() -> None:
    data = golden("ultrafeedback_binarized.jsonl", kind="comparisons")
    assert all_said(data) == ["A pear. > A stone.", "A hazel. = A walnut.", "A wren. > A bat."]
    assert failed(data) == [("3", "the row's own figures say that rejected is better")]
    assert data.failures[0].detail == "score_chosen 3, score_rejected 9"


def test_shp() -> None:
    data = golden("shp.jsonl", kind="shp")
    assert all_said(data) == ["Eight minutes. > Ask a hen.", "Under water. > Throw it.", "With a spoon. > With salt."]
    assert failed(data) == [("4", "human_ref_B has an empty response")]
    assert left(data) == {}
    strict = golden("shp.jsonl", kind="shp", min_ratio=3)
    assert all_said(strict) == ["Eight minutes. > Ask a hen.", "Under water. > Throw it."]
    assert left(strict) == {"below_min_ratio": 1}


def test_ratings_past_the_gap_by_annotator() -> None:
    data = golden("ratings.jsonl", kind="ratings")
    assert sorted(all_said(data)) == ["A fig. > A stone.", "A pear. > A stone."]
    assert {judgment.annotator for judgment in data.judgments} == {"kim"}
    assert {said(judgment): judgment.answer for judgment in data.judgments} == {
        "A fig. > A stone.": None,
        "A pear. > A stone.": Answer(seconds=5.0),
    }
    assert failed(data) == []
    assert left(data) == {"closer_than_gap": 1, "unpaired": 2}


def test_the_gap_is_met_exactly_and_one_wider_is_not(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": text, "rating": rating} for text, rating in (("x", 1), ("y", 3), ("z", 4.5))]
    assert sorted(all_said(rows_in(tmp_path, *rows, kind="ratings", gap=2))) == ["y > x", "z > x"]
    assert sorted(all_said(rows_in(tmp_path, *rows, kind="ratings", gap=1.5))) == ["y > x", "z > x", "z > y"]
    wide = rows_in(tmp_path, *rows, kind="ratings", gap=3.5)
    assert (all_said(wide), left(wide)) == (["z > x"], {"closer_than_gap": 2, "unpaired": 1})


def test_a_column_that_the_form_names_may_be_spelled_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"prompt": "q", "response": r, "rating": n, "Annotator": "kim"} for r, n in (("x", 1), ("y", 5))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_human([file(path, {"kind": "ratings", "annotator": "Annotator"})], NO_RUN)
    assert [judgment.annotator for judgment in data.judgments] == ["kim"]
    with pytest.raises(DataError, match=rf"^{path}:1: key 'Annotator' is not read; write 'annotator'$"):
        read_human([file(path, {"kind": "ratings"})], NO_RUN)


def test_a_pair_has_the_tags_and_reasons_of_both_ratings_in_one_order(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "response": "x", "rating": 1, "tags": ["s", "t"], "reason": "dull"},
        {"prompt": "q", "response": "y", "rating": 5, "tags": ["u", "s"], "reason": "keen"},
    ]
    (judgment,) = rows_in(tmp_path, *rows, kind="ratings").judgments
    assert judgment.pair.tags == ("s", "t", "u")
    assert judgment.answer == Answer(reason="dull; keen")
    assert rows_in(tmp_path, *reversed(rows), kind="ratings").judgments == [judgment]


def test_standardised_ratings_are_in_each_annotators_own_spread(tmp_path: Path) -> None:
    """The mild one's 3 against 4 is as far apart as the bold one's 1 against 5; without spread there is no pair."""
    given = {"mild": (3, 4), "bold": (1, 5), "flat": (3, 3)}
    rows = [
        {"prompt": "q", "response": text, "rating": rating, "annotator": who}
        for who, ratings in given.items()
        for text, rating in zip("xy", ratings, strict=True)
    ]
    plain_data = rows_in(tmp_path, *rows, kind="ratings", gap=2)
    assert [judgment.annotator for judgment in plain_data.judgments] == ["bold"]
    data = rows_in(tmp_path, *rows, kind="ratings", gap=2, standardise=True)  # z-scores of two ratings: -1 and 1
    assert [(judgment.annotator, said(judgment)) for judgment in data.judgments] == [
        ("mild", "y > x"),
        ("bold", "y > x"),
    ]
    assert left(data) == {"closer_than_gap": 1, "unpaired": 2}
    with pytest.raises(DataError, match=r"not one usable pair: closer_than_gap 3, rows 6, unpaired 6"):
        rows_in(tmp_path, *rows, kind="ratings", gap=2.01, standardise=True)


def test_helpsteer_attributes_are_weighed() -> None:
    scale = {"kind": "ratings", "scale": [0, 4]}
    helpful = golden("helpsteer.jsonl", **scale, rating={"helpfulness": 1})
    assert sorted(all_said(helpful)) == ["A pear, which is a fruit. > A stone.", "A pear. > A stone."]
    assert left(helpful) == {"closer_than_gap": 1}
    brief = golden("helpsteer.jsonl", **scale, rating={"helpfulness": 1, "verbosity": -0.5})  # 4, 2, 0
    assert "A pear. > A pear, which is a fruit." in all_said(brief)
    with pytest.raises(DataError, match=r"helpsteer.jsonl:1: no key 'rating'"):
        golden("helpsteer.jsonl", kind="ratings")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"scale": [5, 1]}, "the lowest rating must be below the highest"),
        ({"gap": 4.5}, "no two ratings on this scale are 4.5 apart; the most is 4"),
        ({"rating": {"helpfulness": 0}}, "with a weight other than 0"),
        ({"kind": "likert", "points": 6}, "Input should be 5 or 7"),
    ],
)
def test_a_form_that_could_give_no_pair_is_refused(form: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FORM.validate_python({"kind": "ratings", **form})


def test_likert_of_5_and_of_7() -> None:
    data = golden("likert5.jsonl", kind="likert")
    assert [judgment.p_of("first") for judgment in data.judgments] == [1, 0.75, 0.5, 0.25, 0]
    assert failed(data) == []
    seven = golden("likert7.jsonl", kind="likert", points=7, response_a="left", response_b="right", rating="score")
    found = [judgment.p_of("first") for judgment in seven.judgments]
    assert found == pytest.approx([1, 5 / 6, 4 / 6, 1 / 2, 2 / 6, 1 / 6, 0], abs=1e-15)
    assert {judgment.annotator for judgment in seven.judgments} == {"kim"}


def test_thumbs() -> None:
    data = golden("thumbs.jsonl", kind="thumbs")
    assert sorted(all_said(data)) == ["A fig. > A stone.", "A pear. > A stone.", "An elm. > A rose."]
    assert failed(data) == [("7", "completion has an empty response")]
    assert left(data) == {"unpaired": 1}  # the hazel, of whose prompt nothing was disliked


def test_thumbs_are_true_or_false(tmp_path: Path) -> None:
    row = {"prompt": "q", "response": "x"}
    with pytest.raises(DataError, match=r"rows.jsonl:1: label: must be true or false \(got 'up'\)"):
        rows_in(tmp_path, {**row, "label": "up"}, kind="thumbs", response="response")


def test_rankings_are_all_pairs() -> None:
    data = golden("rankings.jsonl", kind="rankings")
    assert all_said(data) == [
        "A pear. > A fig.",
        "A pear. > A stone.",
        "A pear. > A cat.",
        "A fig. > A stone.",
        "A fig. > A cat.",
        "A stone. > A cat.",
        "A hazel. = A walnut.",
        "A walnut. > A bolt.",
        "A hazel. > A bolt.",
        "An elm. > A yew.",
        "An elm. > A yew.",
    ]
    assert failed(data) == [("3", "fewer than two responses are ranked")]
    assert left(data) == {"same_text": 1}


@pytest.mark.parametrize("k", range(4, 10))
def test_a_ranking_of_k_has_k_over_2_pairs(tmp_path: Path, k: int) -> None:
    data = rows_in(tmp_path, {"prompt": "q", "responses": [f"r{i}" for i in range(k)]}, kind="rankings")
    assert len(data.judgments) == k * (k - 1) // 2
    assert all(said(judgment) == f"r{i} > r{j}" for judgment, (i, j) in zip(data.judgments, pairs(k), strict=True))


def pairs(k: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(k) for j in range(i + 1, k)]


def test_ranks_are_as_many_as_responses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: ranks: must be a list of 2 numbers \(got \[1\]\)"):
        rows_in(tmp_path, {"prompt": "q", "responses": ["x", "y"], "ranks": [1]}, kind="rankings")


def test_ultrafeedback_and_the_10_that_was_a_1() -> None:
    data = golden("ultrafeedback.jsonl", kind="ultrafeedback")
    assert sorted(all_said(data)) == ["A fig. > A cat.", "A hazel. > An acorn.", "A pear. > A cat."]
    assert failed(data) == [
        ("1 completion 3", "overall_score 10 is not borne out by the aspects"),
        ("2 completion 2", "overall_score is not between 1 and 10"),
        ("2 completion 3", "annotations.instruction_following.Rating is not between 1 and 5"),
        ("2 completion 4", "overall_score is no number"),
    ]
    assert data.failures[0].detail == "10; helpfulness 1, honesty 2, instruction_following 1, truthfulness 1"
    assert left(data) == {"closer_than_gap": 1}  # 8.5 and 8
    assert {judgment.annotator for judgment in data.judgments} == {"gpt-4"}


@pytest.mark.parametrize(
    ("rating", "caught"), [("1", True), ("2", True), ("4", True), ("5", False), ("N/A", True), (None, True)]
)
def test_a_10_stands_only_above_a_mean_of_4(tmp_path: Path, rating: str | None, caught: bool) -> None:
    ten = {"response": "ten", "overall_score": 10, "annotations": {"honesty": {"Rating": rating}}}
    other = {"response": "six", "overall_score": 6, "annotations": {"honesty": {"Rating": "4"}}}
    last = {"response": "two", "overall_score": 2, "annotations": None}
    row = {"instruction": "q", "completions": [ten, other, last]}
    data = rows_in(tmp_path, row, kind="ultrafeedback")
    assert ("ten > six" in all_said(data)) is not caught
    assert len(data.failures) == caught


def test_ultrafeedback_by_its_aspects() -> None:
    data = golden("ultrafeedback.jsonl", kind="ultrafeedback", score="aspects", gap=3)
    assert sorted(all_said(data)) == [
        "A fig. > A cat.",
        "A fig. > A stone.",
        "A hazel. > A bolt.",
        "A pear. > A cat.",
        "A pear. > A stone.",
    ]
    assert [reason for _, reason in failed(data)] == ["annotations.instruction_following.Rating is not between 1 and 5"]


def test_completions_stored_by_column_are_the_same(tmp_path: Path) -> None:
    """As older data sets of the hub are: a Sequence of structs comes as a dictionary of lists."""
    (_, row), *_ = read_items(GOLDEN / "ultrafeedback.jsonl")
    columns = {key: [completion[key] for completion in row["completions"]] for key in row["completions"][0]}
    one = rows_in(tmp_path, row, kind="ultrafeedback")
    assert rows_in(tmp_path, row | {"completions": columns}, kind="ultrafeedback") == one


def test_edits_are_judgments_differences_and_demonstrations() -> None:
    data = golden("edits.jsonl", kind="edits")
    assert all_said(data) == ["A pear.\nA fig. > A pear.\nA stone."]
    (edit,), (demonstration,) = data.edits, data.demonstrations
    assert edit.diff == ("@@ -1,2 +1,2 @@", " A pear.", "-A stone.", "+A fig.")
    assert (edit.annotator, data.judgments[0].annotator) == ("kim", "kim")
    assert plain(demonstration.prompt) == [{"role": "user", "content": "Name two fruits."}]
    assert plain(demonstration.completion) == [{"role": "assistant", "content": "A pear.\nA fig."}]
    assert (demonstration.source, demonstration.round) == ("human", 0)
    assert demonstration.prompt_id == edit.prompt_id == data.judgments[0].pair.prompt_id
    assert failed(data) == [("2", "the edit changed nothing")]


def test_argilla_rankings_of_several_users() -> None:
    data = golden("argilla.json", kind="argilla")
    assert [(judgment.annotator, said(judgment)) for judgment in data.judgments] == [
        ("u1", "A pear. > A stone."),
        ("u2", "A stone. > A pear."),
        ("u1", "A hazel. = A walnut."),
    ]
    assert failed(data) == [("1 item 4 answer 1", "the ranking leaves out a response")]
    assert left(data) == {"unanswered": 1}


def test_argilla_flattened_says_what_was_discarded() -> None:
    data = golden("argilla_flat.jsonl", kind="argilla")
    assert [(judgment.annotator, said(judgment)) for judgment in data.judgments] == [("u1", "A pear. > A stone.")]
    assert left(data) == {"discarded": 1, "not_submitted": 1, "unanswered": 1, "suggested": 1}


def test_argillas_server_gives_ranks() -> None:
    data = golden("argilla_server.jsonl", kind="argilla")
    assert [(judgment.annotator, said(judgment)) for judgment in data.judgments] == [("u1", "A stone. > A pear.")]
    assert left(data) == {"discarded": 1}


def test_argilla_ratings() -> None:
    data = golden("argilla_rating.jsonl", kind="argilla", question={"kind": "rating"})
    assert [(judgment.annotator, said(judgment)) for judgment in data.judgments] == [("u1", "A pear. > A stone.")]
    assert failed(data) == [("2 answer 2", "rating is missing")]
    assert left(data) == {"unpaired": 1}


def test_rankings_that_argillas_sdk_made_all_alike_are_refused(tmp_path: Path) -> None:
    """Argilla issue 5712: the order is the question's, whatever people ranked."""

    def record(i: int, value: list[Any]) -> dict[str, Any]:
        fields = {"instruction": f"q{i}", "response1": "x", "response2": "y"}
        return {"fields": fields, "responses": {"ranking": [{"value": value, "user_id": "u"}]}}

    alike = [record(i, ["response1", "response2"]) for i in range(10)]
    with pytest.raises(DataError, match="Argilla's SDK drops the ranks"):
        rows_in(tmp_path, *alike, kind="argilla")
    assert len(rows_in(tmp_path, *alike[1:], kind="argilla").judgments) == 9
    mixed = [*alike, record(10, ["response2", "response1"])]
    assert len(rows_in(tmp_path, *mixed, kind="argilla").judgments) == 11
    ranked = [record(i, [{"value": "response1", "rank": 1}, {"value": "response2", "rank": 2}]) for i in range(12)]
    assert len(rows_in(tmp_path, *ranked, kind="argilla").judgments) == 12


def test_an_argilla_option_that_the_recipe_does_not_know(tmp_path: Path) -> None:
    row = {
        "fields": {"instruction": "q", "response1": "x", "response2": "y"},
        "responses": {"ranking": [{"value": ["A"]}]},
    }
    with pytest.raises(DataError, match=r"rows.jsonl:1 answer 1: ranking: 'A' is none of the responses response1,"):
        rows_in(tmp_path, row, kind="argilla")


def test_label_studio() -> None:
    data = golden("label_studio.json", kind="label_studio")
    assert [(judgment.annotator, said(judgment)) for judgment in data.judgments] == [
        ("3", "A pear. > A stone."),
        ("lee@example.org", "A stone. > A pear."),
    ]
    for judgment, seconds in zip(data.judgments, (6.25, 1.5), strict=True):
        assert judgment.answer is not None and judgment.answer.seconds == seconds
        assert getattr(judgment.pair, judgment.answer.shown_first or "") == "A pear."
    assert failed(data) == [("2 item 1 annotation 4", "no side is selected")]
    assert left(data) == {"cancelled": 1, "unanswered": 1}


def test_csv() -> None:
    data = golden("choices.csv", kind="csv")
    assert all_said(data) == [
        "A pear. > A stone.",
        "A pear, a hazel. > A stone.",
        "A hazel. = A walnut.",
        "A wren. > A bat.",
    ]
    first, second = data.judgments[:2]
    assert (first.annotator, first.pair.tags) == ("kim", ("food", "plants"))
    assert first.answer == Answer(seconds=3.5, reason="It is one, the other is not")
    assert (second.annotator, second.answer, second.pair.tags) == ("lee", None, ())
    assert second.pair.prompt[0].content == "Name a fruit\nand a nut."
    (failure,) = data.failures
    assert failure.id.endswith("choices.csv:6")  # one record before it has two lines
    assert failure.reason == "choice is missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,response_a,response_b\nq,x,y\n", r"c.csv:2: no key 'choice'"),
        ("prompt,response_a,response_b,choice\nq,x,y,a,b\n", r"c.csv:2: 5 cells, but the header has 4"),
        ('prompt,response_a,response_b,choice\nq,"x"y,z,a\n', r"c.csv:2: not CSV"),
        ("prompt,response_a,response_b,choice,choice\nq,x,y,a,b\n", r"c.csv:1: column 'choice' appears twice"),
        (
            "prompt,response_a,response_b,choice,Annotator\nq,x,y,a,b\n",
            "c.csv:2: key 'Annotator' is not read",
        ),
        ("prompt,response_a,response_b,choice,seconds\nq,x,y,a,soon\n", r"c.csv:2: seconds: must be a number"),
    ],
)
def test_a_broken_csv_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_human([file(tmp_path / "c.csv", {"kind": "csv"})], NO_RUN)


def own_judgment(p_a: float, **changes: Any) -> Judgment:
    pair = Pair.of(Prompt.of((Message(role="user", content="q"),), ("x",)), "one", "other")
    return Judgment(pair=pair, source="human", annotator="kim", p_a=p_a, **changes)


def test_our_own_judgments_are_the_same_however_they_hold_the_pair(tmp_path: Path) -> None:
    principle = PrincipleJudgment(principle="kind", checked=False, p_a=0.75)
    one = own_judgment(1.0, principles=(principle,), answer=Answer(shown_first="a", seconds=2))
    other = Judgment(
        pair=one.pair.swapped(),
        source="human",
        annotator="kim",
        p_a=0.0,
        principles=(principle.model_copy(update={"p_a": 0.25}),),
        answer=Answer(shown_first="b", seconds=2),
    )
    data = rows_in(tmp_path, one.model_dump(), other.model_dump(), kind="judgments")
    assert data.judgments[0] == data.judgments[1]
    assert data.judgments[0].p_of("one") == 1
    machine = one.model_dump() | {"source": "ai"}
    assert failed(rows_in(tmp_path, one.model_dump(), machine, kind="judgments")) == [
        ("2", "labelled by a judge, not by a human")
    ]


def test_annotations_and_edits_of_the_page(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(DataError, match="no answers there yet"):
        read_human([Annotations()], run)
    prompt = Prompt.of((Message(role="user", content="q"),), ("x",))
    write_jsonl(run.annotations, [own_judgment(1.0), own_judgment(0.0)])
    write_jsonl(run.annotation_edits, [edit_of(prompt, "one", "one, better", "lee")])
    data = read_human([Annotations(tags=("page",))], run, "Be brief.")
    assert all_said(data) == ["one > other", "other > one", "one, better > one"]
    assert [judgment.annotator for judgment in data.judgments] == ["kim", "kim", "lee"]
    for judgment in data.judgments:
        assert judgment.pair.tags == ("x", "page")
        assert [message.content for message in judgment.pair.prompt] == ["Be brief.", "q"]
        assert judgment.pair.prompt_id == prompt.id  # of the bare prompt, by which prompts are held out
    assert [edit.edited for edit in data.edits] == ["one, better"]
    assert [demonstration.tags for demonstration in data.demonstrations] == [("x", "page")]
    elsewhere = read_human([Annotations(run=str(run.folder))], NO_RUN)
    assert len(elsewhere.judgments) == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ratings.jsonl", "ratings"),
        ("shp.jsonl", "shp"),
        ("ultrafeedback.jsonl", "ultrafeedback"),
        ("label_studio.json", "label_studio"),
        ("argilla.json", "argilla"),
        ("argilla_flat.jsonl", "argilla"),
        ("edits.jsonl", "edits"),
        ("rankings.jsonl", "rankings"),
        ("thumbs.jsonl", "thumbs"),
        ("likert5.jsonl", "likert"),
    ],
)
def test_rows_of_another_form_say_which_form_they_look_like(name: str, kind: str) -> None:
    with pytest.raises(DataError, match=rf"no key 'chosen'; these keys look like form.kind={kind}$"):
        golden(name, kind="comparisons")


def test_a_json_array_is_placed_by_line_and_item(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"x": "]\\n, {"},\n\n {"x": 1}, {"x": 2}\n, {"x": []}]')
    assert [(place.partition("a.json:")[2], value["x"]) for place, value in read_items(path)] == [
        ("1 item 1", "]\n, {"),
        ("3 item 2", 1),
        ("3 item 3", 2),
        ("4 item 4", []),
    ]
    path.write_text("[]")
    assert list(read_items(path)) == []
    for text, message in (
        ('[{"x": 1},\n 2]', r"a.json:2 item 2: not a JSON object: 2"),
        ('[{"x": 1}\n{"x": 1}]', r"a.json:2: not a JSON array of objects"),
        ("[" * 100_000, r"a.json:1: not a JSON array of objects"),
        ('[{"x": "\\ud800"}]', r"a.json: not text: half of a surrogate pair"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message) as caught:
            list(read_items(path))
        assert "\n" not in str(caught.value)


NAMES = {
    "hh.jsonl": {"kind": "comparisons"},
    "trl.jsonl": {"kind": "comparisons"},
    "ultrafeedback.jsonl": {"kind": "ultrafeedback"},
    "thumbs.jsonl": {"kind": "thumbs"},
    "rankings.jsonl": {"kind": "rankings"},
    "label_studio.json": {"kind": "label_studio"},
    "argilla.json": {"kind": "argilla"},
    "argilla_server.jsonl": {"kind": "argilla"},
}


@pytest.mark.parametrize("name", ["hh.jsonl", "ultrafeedback.jsonl", "rankings.jsonl", "label_studio.json"])
def test_a_data_set_of_the_hub_reads_as_the_file_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where columns are lists of objects, which `datasets` stores by column."""
    load: Callable[..., Any] = datasets.load_dataset
    table = load("json", data_files=str(GOLDEN / name), split="train", cache_dir=str(tmp_path))
    monkeypatch.setattr("datasets.load_dataset", lambda path, **knobs: table)
    form = FORM.validate_python(NAMES[name])
    data = read_human([HumanHub(dataset="some/set", form=form)], NO_RUN)
    expected = golden(name, **NAMES[name])
    assert data.judgments == expected.judgments
    assert data.counts == expected.counts
    assert [failure.reason for failure in data.failures] == [failure.reason for failure in expected.failures]
    assert all(failure.id.startswith("some/set [train] row ") for failure in data.failures)


@pytest.mark.parametrize("name", [*NAMES, "shp.jsonl", "edits.jsonl", "likert5.jsonl", "choices.csv", "ratings.jsonl"])
def test_a_gold_file_may_have_any_form(name: str) -> None:
    kinds = {**NAMES, **{f: {"kind": f.partition(".")[0].rstrip("5")} for f in ("shp.jsonl", "edits.jsonl")}}
    kinds |= {"likert5.jsonl": {"kind": "likert"}, "choices.csv": {"kind": "csv"}, "ratings.jsonl": {"kind": "ratings"}}
    gold, data = read_gold([GOLDEN / name]), golden(name, **kinds[name])
    assert {judgment.pair.id for judgment in gold.judgments} == {judgment.pair.id for judgment in data.judgments}
    assert [failure.reason for failure in gold.failures] == [failure.reason for failure in data.failures]
    assert gold.files[0].rows == data.counts["rows"]


def test_forms_are_told_by_kind() -> None:
    source = HumanFile.model_validate({"path": "x", "form": {"kind": "ratings", "gap": 2}})
    assert source.form == Ratings(gap=2)
    assert Argilla().question.kind == "ranking"
    with pytest.raises(ValidationError, match="form"):
        HumanFile.model_validate({"path": "x", "form": {"kind": "comparisons", "gap": 2}})


def ranked(**columns: Any) -> dict[str, Any]:
    return {"prompt": "q", "responses": ["x", "y", "z"], **columns}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"ranks": [1, 2, 3]}, ["x > y", "x > z", "y > z"]),
        ({"ranks": [2, 0, 1.0]}, ["y > x", "z > x", "y > z"]),
        ({"ranks": [1, 1, 2]}, ["x = y", "x > z", "y > z"]),
        ({"scores": [9, 9, "2"]}, ["x = y", "x > z", "y > z"]),
        ({"ranks": [3, 2, 1], "ratings": ["1/5", "3/5", "5/5"]}, ["y > x", "z > x", "z > y"]),
        ({"rewards": [0.5, None, -1.5], "rating_counts": [1, 2, 3]}, ["x > y", "x > z", "y > z"]),
        ({"ranks": None, "ranking_method": "by hand", "rating": 2}, ["x > y", "x > z", "y > z"]),
    ],
)
def test_ranks_and_the_figures_beside_them(tmp_path: Path, columns: dict[str, Any], expected: list[str]) -> None:
    assert all_said(rows_in(tmp_path, ranked(**columns), kind="rankings")) == expected


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"scores": [1, 2, 3]}, "the row's own figures say that another order is better"),
        ({"ranks": [1, 1, 2], "ratings": [1, 5, 3]}, "the row's own figures say that another order is better"),
        ({"reward": [3, None, 4]}, "the row's own figures say that another order is better"),
        ({"scores": [1, 2]}, "scores and responses are not equally many"),
        ({"quality": ["good", "good", "bad"]}, "quality.0 is no number"),
    ],
)
def test_figures_that_belie_an_order_are_failures(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    assert failed(rows_in(tmp_path, ranked(), ranked(**columns), kind="rankings")) == [("2", reason)]


@pytest.mark.parametrize("ranks", [[4.5, 2, 3], [4, 2, 1], [0, 1, 3], [-1, 0, 1], [1, 1.5, 3]])
def test_figures_are_no_ranks(tmp_path: Path, ranks: list[float]) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:2: ranks.\d: must be a whole number from 1 .*are no ranks$"):
        rows_in(tmp_path, ranked(), ranked(ranks=ranks), kind="rankings")


@pytest.mark.parametrize("columns", [{"rank": [3, 2, 1]}, {"ranking": [3, 2, 1]}, {"response_ranks": [1]}, {"rank": 1}])
def test_ranks_under_another_name_are_not_forgotten(tmp_path: Path, columns: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=rf"rows.jsonl:1: key '{next(iter(columns))}' is not read; write 'ranks'"):
        rows_in(tmp_path, ranked(**columns), kind="rankings")


@pytest.mark.parametrize("kind", ["ratings", "rankings"])
def test_many_responses_to_one_prompt_are_compared_in_part(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many pairs as are drawn, all different, whatever the order of the rows; the others are counted."""
    monkeypatch.setattr("rlaif.formats.sheet.MOST_PAIRS", 50)
    rows = [{"prompt": "q", "response": f"r{i}", "rating": 1 + i / 10} for i in range(40)]
    if kind == "rankings":
        rows = [{"prompt": "q", "responses": [f"r{i}" for i in range(40)]}]
    data = rows_in(tmp_path, *rows, kind=kind, **({"gap": 0.05} if kind == "ratings" else {}))
    assert len({judgment.pair.id for judgment in data.judgments}) == len(data.judgments) == 50
    assert data.counts["not_drawn"] == 40 * 39 // 2 - 50
    assert "730 pairs are beyond" in " ".join(capsys.readouterr().out.split())
    if kind == "ratings":
        assert rows_in(tmp_path, *reversed(rows), kind=kind, gap=0.05).judgments == data.judgments


def test_three_thousand_responses_to_one_prompt_are_soon_read(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": f"r{i}", "rating": 1 + i % 5} for i in range(3000)]
    data = rows_in(tmp_path, *rows, kind="ratings")
    assert len(data.judgments) + data.counts["closer_than_gap"] == 10_000


def test_an_argilla_ranking_that_names_a_response_twice_is_a_failure(tmp_path: Path) -> None:
    def record(status: str, *names: str) -> dict[str, Any]:
        value = [{"value": name, "rank": rank} for rank, name in enumerate(names, start=1)]
        fields = {"instruction": "q", "response1": "x", "response2": "y"}
        return {"fields": fields, "responses": {"ranking": [{"value": value, "user_id": "u", "status": status}]}}

    rows = [record("Submitted", "response1", "response2"), record("submitted", "response1", "response2", "response1")]
    data = rows_in(tmp_path, *rows, record("Discarded", "response2", "response1"), kind="argilla")
    assert all_said(data) == ["x > y"]
    assert failed(data) == [("2 answer 1", "the ranking names a response twice")]
    assert left(data) == {"discarded": 1}


def test_who_said_it_and_why(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "x", "rejected": "y"}
    rows = [row | {"annotator": name} for name in ("kim", " kim ", "", None)]
    assert [judgment.annotator for judgment in rows_in(tmp_path, *rows).judgments] == ["kim", "kim", "human", "human"]
    (judgment,) = rows_in(tmp_path, row | {"reason": ["kind", "short"]}).judgments
    assert judgment.answer == Answer(reason="kind; short")
    for wrong, message in (({"annotator": "  "}, "annotator: must be"), ({"reason": {"why": "x"}}, "reason: must be")):
        with pytest.raises(DataError, match=rf"rows.jsonl:1: {message} a text"):
            rows_in(tmp_path, row | wrong)


def test_an_annotators_column_that_no_row_has(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": r, "rating": n, "worker": "kim"} for r, n in (("x", 1), ("y", 5))]
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: no row has the annotator's column 'workr'; did you mean 'worker'"
    ):
        rows_in(tmp_path, *rows, kind="ratings", annotator="workr")
    assert [j.annotator for j in rows_in(tmp_path, *rows, kind="ratings", annotator="worker").judgments] == ["kim"]


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(f"prompt,response_a,response_b,choice\nq,{'x' * 200_000},y,a\n")
    (judgment,) = read_human([file(tmp_path / "c.csv", {"kind": "csv"})], NO_RUN).judgments
    assert judgment.p_of("x" * 200_000) == 1
