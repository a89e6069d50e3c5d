"""Human labels from every shape they come in: nothing is dropped silently, and nothing depends on order."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.annotate.desk import _gold
from rlaif.annotate.route import known_labels
from rlaif.audits.gold import read_gold
from rlaif.audits.judge_training.labels import read_labels as teaching_labels
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.human import read_labels
from rlaif.jsonl import dumps, write_jsonl
from rlaif.records import Judgment, Message, Pair, Preference, Prompt
from rlaif.run_folder import Run
from rlaif.testing import small_recipe

TALK = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: What is a pen?\n\nAssistant: "
PROMPT = Prompt.of(
    (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello."),
        Message(role="user", content="What is a pen?"),
    )
)


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else dumps(row)) + "\n" for row in rows))
    return path


def hh(chosen="It writes.", rejected="No idea.", **more):
    return {"chosen": TALK + chosen, "rejected": TALK + rejected, **more}


def hhh(good="It writes.", bad="No idea.", **more):
    return {
        "prompt": "Consider the following conversation ...",
        "corrects": [" (B)"],
        "incorrects": [" (A)"],
        "text_correct": TALK + good,
        "text_incorrect": TALK + bad,
        **more,
    }


def preference(source="human", p_chosen=1.0):
    return Preference(
        prompt=PROMPT.messages,
        chosen=(Message(role="assistant", content="It writes."),),
        rejected=(Message(role="assistant", content="No idea."),),
        p_chosen=p_chosen,
        source=source,
        weight=1.0,
        split="train",
        prompt_id="other",
        pair_id="other",
    )


def own(p_a=1.0, source="human", a="It writes.", b="No idea."):
    return Judgment(pair=Pair.of(PROMPT, a, b), source=source, annotator="someone", p_a=p_a)


def of_text(judgment, text):
    """P that this response is the better one."""
    return judgment.p_a if judgment.pair.a == text else 1 - judgment.p_a


@pytest.mark.parametrize(
    "row",
    [hh(), hhh(), preference(), own(), own(p_a=0.0, a="No idea.", b="It writes.")],
    ids=["hh", "hhh", "preference", "judgment", "judgment, swapped"],
)
def test_every_shape_is_the_same_label(tmp_path, row):
    gold = read_gold([write(tmp_path / "g.jsonl", row)])
    (found,) = gold.judgments
    assert found.pair == Pair.of(PROMPT, found.pair.a, found.pair.b).model_copy(update={"tags": found.pair.tags})
    assert {found.pair.a, found.pair.b} == {"It writes.", "No idea."}
    assert of_text(found, "It writes.") == 1.0 and found.source == "human"
    assert gold.failures == () and gold.files[0].pairs == gold.files[0].rows == 1


def test_shapes_may_be_mixed_and_meet_in_one_pair(tmp_path):
    gold = read_gold([write(tmp_path / "g.jsonl", hh(), hhh(), preference(), own())])
    assert len(gold.judgments) == 1 and gold.repeated == 3 and gold.contradicted == 0
    assert of_text(gold.judgments[0], "It writes.") == 1.0


def test_rows_of_one_form_are_read_together_wherever_they_stand(tmp_path):
    def thumb(text, label):
        return {"prompt": "What is a pen?", "completion": text, "label": label}

    apart = read_gold([write(tmp_path / "g.jsonl", thumb("It writes.", True), hh("A", "B"), thumb("No idea.", False))])
    assert len(apart.judgments) == 2
    assert of_text(apart.judgments[0], "It writes.") == 1.0


def test_contradicting_labels_become_the_mean(tmp_path):
    paths = [
        write(tmp_path / "one.jsonl", hh(), hh(tags=["x"])),
        write(tmp_path / "two.jsonl", hh("No idea.", "It writes."), hh("A", "B")),
    ]
    gold = read_gold(paths)
    assert [of_text(j, "It writes.") for j in gold.judgments[:1]] == [pytest.approx(2 / 3, abs=1e-12)]
    assert gold.repeated == 2 and gold.contradicted == 1
    assert gold.judgments[0].pair.tags == ("x",)
    even = read_gold([write(tmp_path / "even.jsonl", hh(), hh("No idea.", "It writes."))])
    assert even.judgments[0].p_a == 0.5
    assert [file.pairs for file in gold.files] == [1, 1]
    assert gold.file_of == {gold.judgments[0].pair.id: "one.jsonl", gold.judgments[1].pair.id: "two.jsonl"}


@settings(deadline=None, max_examples=20)
@given(st.permutations([0.0, 1.0, 0.5, 0.75]), st.booleans())
def test_the_label_depends_on_neither_the_order_of_rows_nor_on_what_is_called_a(tmp_path_factory, ps, turn):
    def named(p):
        return own(p_a=1 - p, a="No idea.", b="It writes.") if turn else own(p_a=p)

    gold = read_gold([write(tmp_path_factory.mktemp("g") / "g.jsonl", *(named(p) for p in ps))])
    assert of_text(gold.judgments[0], "It writes.") == 2.25 / 4


def test_a_kept_tie_is_one(tmp_path):
    gold = read_gold([write(tmp_path / "g.jsonl", preference(p_chosen=0.5))])
    assert gold.judgments[0].p_a == 0.5


def test_categories_and_tags_become_tags(tmp_path):
    gold = read_gold([write(tmp_path / "g.jsonl", hhh(category="honest", tags=["x"]), hh("A", "B", tags=["y"]))])
    assert [judgment.pair.tags for judgment in gold.judgments] == [("x", "honest"), ("y",)]


def test_no_system_turn_is_added_and_none_is_lost(tmp_path):
    gold = read_gold([write(tmp_path / "g.jsonl", hhh())])
    assert gold.judgments[0].pair.prompt == PROMPT.messages


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (hh(rejected=""), "rejected has an empty response"),
        (hh("same", "same"), "chosen and rejected are the same text"),
        ({"chosen": TALK + "x", "rejected": "\n\nHuman: Else?\n\nAssistant: y"}, "answer different prompts"),
        (preference(source="ai"), "labelled by a judge"),
        (own(source="ai"), "labelled by a judge"),
        (hhh(bad=""), "rejected has an empty response"),
    ],
)
def test_a_row_that_is_no_pair_is_a_failure_with_its_place(tmp_path, row, reason):
    path = write(tmp_path / "g.jsonl", hh("fine", "worse"), row)
    gold = read_gold([path])
    assert len(gold.judgments) == 1
    (failure,) = gold.failures
    assert failure.id == f"{path}:2" and reason in failure.reason
    assert gold.files[0].unusable == 1 and gold.files[0].rows == 2
    with pytest.raises(DataError, match=r"g\.jsonl: not one usable pair .* in 1 rows; first: .*g\.jsonl:1: "):
        read_gold([write(path, row)])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "x", "label": 1}, r":2: no human label of a pair \(keys: label, question\)"),
        ({"chosen": TALK + "x"}, r":2: no key 'rejected'"),
        ({"text_correct": TALK + "x"}, r":2: no key 'text_incorrect'"),
        (hhh() | {"text_correct": 3}, r":2: text_correct: must be a transcript \(got 3\)"),
        (own().model_dump() | {"p_a": 2}, r":2: p_a: .* \(got 2\)"),
        (hh(tags="x"), r":2: tags: must be a list"),
        ("{half", r":2: not a JSON object"),
    ],
)
def test_a_row_of_no_known_shape_is_one_clear_line(tmp_path, row, said):
    with pytest.raises(DataError, match=rf"g\.jsonl{said}") as caught:
        read_gold([write(tmp_path / "g.jsonl", hh(), row)])
    assert "\n" not in str(caught.value)


def test_what_is_not_there_or_empty_is_one_clear_line(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        read_gold([tmp_path / "nowhere.jsonl"])
    with pytest.raises(DataError, match=r"g\.jsonl: not one usable pair with a human label in 0 rows$"):
        read_gold([write(tmp_path / "g.jsonl")])
    with pytest.raises(DataError, match="name at least one file"):
        read_gold([])


def test_compressed_files_and_equal_names(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    data = gzip.compress((dumps(hh()) + "\n").encode(), mtime=0)
    (tmp_path / "one" / "dev.jsonl.gz").write_bytes(data)
    (tmp_path / "two" / "dev.jsonl.gz").write_bytes(gzip.compress((dumps(hh("A", "B")) + "\n").encode(), mtime=0))
    gold = read_gold([tmp_path / name / "dev.jsonl.gz" for name in ("one", "two")])
    assert [file.name for file in gold.files] == ["one/dev.jsonl.gz", "two/dev.jsonl.gz"]
    assert gold.files[0].sha256 == hashlib.sha256(data).hexdigest()


def test_the_limit_takes_the_same_pairs_whatever_the_order(tmp_path):
    rows = [hh(f"good {number}", f"bad {number}") for number in range(30)]
    gold = read_gold([write(tmp_path / "g.jsonl", *rows)], 10)
    Random(1).shuffle(rows)
    other = read_gold([write(tmp_path / "h.jsonl", *rows)], 10)
    few = read_gold([tmp_path / "h.jsonl"], 4)
    ids = {judgment.pair.id for judgment in gold.judgments}
    assert ids == {judgment.pair.id for judgment in other.judgments} and len(ids) == 10
    assert {judgment.pair.id for judgment in few.judgments} < ids
    assert gold.left_out == 20 and gold.files[0].pairs == 10
    assert len(read_gold([tmp_path / "g.jsonl"], 99).judgments) == 30


SIGNED = [{"prompt": "Which?", "first": "pear", "second": "stone", "score": -3}]
HUB = "{kind: hub, dataset: some/set}"
FORM = "{kind: likert, points: 7, scale: signed, response_a: first, response_b: second, rating: score}"


def test_gold_is_what_a_recipe_takes_at_every_door(tmp_path):
    """A file of any form by its keys, a source as a recipe has it, and a run folder, for every reader of labels."""
    constitution = load_constitution("harmlessness")
    signed, table = write(tmp_path / "signed.jsonl", *SIGNED), tmp_path / "c.csv"
    table.write_text("prompt,response_a,response_b,choice\nWhich?,stone,pear,b\n")
    (pair,) = (judgment.pair for judgment in read_gold([table]).judgments)
    run = Run(tmp_path / "run")
    write_jsonl(run.annotations, [Judgment(pair=pair, source="human", annotator="kim", p_a=float(pair.a == "pear"))])
    for where in (table, f"{{kind: file, path: {signed}, form: {FORM}}}", run.folder):
        (gold,) = read_gold([where]).judgments
        (label,) = read_labels(where)
        (taught,) = teaching_labels([where], constitution).labels
        (known,) = known_labels(small_recipe(tmp_path, "tiny"), Run(tmp_path / "none"), [where])
        assert {one.pair.id for one in (gold, label, taught, known)} == {pair.id}
        assert {one.p_of("pear") for one in (gold, label, known)} == {1.0}
        assert (taught.p_a if taught.pair.a == "pear" else 1 - taught.p_a) == 1
        assert [one.id for one in _gold(Run(tmp_path / "none"), None, where)] == [pair.id]
    assert [file.name for file in read_gold([table, run.folder]).files] == ["c.csv", "annotations.jsonl"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{kind: file}", r"source.path: required, but missing"),
        ("{kind: file, path: x, form: {kind: likrt}}", r"no kind 'likrt'; did you mean 'likert'"),
        ("{kind: annotations}", r"name the run"),
        ("{kind: [}", r"--gold "),
    ],
)
def test_a_source_that_is_none_is_one_line(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read_gold([text])
    assert "\n" not in str(caught.value) and str(caught.value).startswith("--gold ")


def test_a_data_set_of_the_hub_is_gold(monkeypatch):
    """Its hash is that of what it says: the same rows with another choice have another."""
    tables = [[{"prompt": "Which?", "chosen": x, "rejected": y}] for x, y in (("pear", "stone"), ("stone", "pear"))]
    constitution = load_constitution("harmlessness")
    hashes = []
    for table in tables:
        monkeypatch.setattr("datasets.load_dataset", lambda *_, table=table, **__: table)
        for found in (read_gold([HUB]), teaching_labels([HUB], constitution)):
            assert (found.files[0].name, found.files[0].rows, found.files[0].pairs) == ("set", 1, 1)
            hashes.append(found.files[0].sha256)
    assert len(set(hashes)) == 4


OPTION = re.compile(r"\n \(([AB])\) \[\[\[(.*?)\]\]\](?=\n)", re.DOTALL)


def test_the_hhh_evaluation_is_read_exactly(shared_data):
    path = shared_data / "hhh" / "dev.jsonl"
    gold = read_gold([path])
    assert len(gold.judgments) == 218 and gold.failures == () and gold.repeated == 0
    for line, judgment in zip(path.read_text().split("\n"), gold.judgments, strict=False):
        row = json.loads(line)
        options = dict(OPTION.findall(row["prompt"]))
        right, wrong = (options[row[key][0].strip(" ()")].strip() for key in ("corrects", "incorrects"))
        assert {judgment.pair.a, judgment.pair.b} == {right, wrong}
        assert of_text(judgment, right) == 1.0
        for message in judgment.pair.prompt:
            assert message.content in row["prompt"]


def test_harmless_base_is_read_and_its_two_bad_rows_are_named(shared_data):
    gold = read_gold([shared_data / "hh_harmless" / "dev.jsonl.gz"])
    assert len(gold.judgments) == 1498
    assert [row.id.rpartition(":")[2] for row in gold.failures] == ["346", "606"]
    assert {row.reason for row in gold.failures} == {"chosen has an empty response"}
