"""The annotation page without a browser: what is asked, who is given what, what is kept, and what is published."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections import Counter
from itertools import permutations

import pytest
from filelock import FileLock
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.annotate import app
from rlaif.annotate.app import serve_page
from rlaif.annotate.desk import GOLD_EVERY, HOLD_S, Desk, Questions, gold_due, read_questions, shown_first
from rlaif.annotate.publish import publish
from rlaif.annotate.store import AnswerStore
from rlaif.errors import ConfigError, DataError
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.records import Edit, Judgment, Message, Pair, PrincipleJudgment, Prompt, Response
from rlaif.records.core import Given
from rlaif.run_folder import Run
from tests.annotated import CONSTITUTION, given, good, make_run, pair, pairs, questions


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def store(tmp_path):
    opened = AnswerStore(tmp_path / "answers.sqlite")
    yield opened
    opened.close()


def desk_of(store, count=6, gold=0, per_pair=1, clock=None):
    asked = Questions(tuple(pairs(count)), tuple(pairs(gold, "Gold")), ())
    return Desk(store, asked, per_pair, clock or Clock())


def label_all(desk, annotator, choose=good):
    """Answer until nothing is left; the pair ids in their order."""
    seen, work = [], desk.work(annotator)
    while work.items:
        seen.append(work.items[0].pair_id)
        work = desk.answer(given(work.items[0], annotator, choose(work.items[0])))
    return seen


# -------------------------------------------------------------------------------------------------- what is asked


def response(of, text, index):
    return Response(
        id=f"{of.prompt_id}-{index}", prompt_id=of.prompt_id, prompt=of.prompt, index=index, text=text,
        finished=True, tokens=2, model="m",
    )  # fmt: skip


def test_pairs_come_from_the_route_then_the_judgments_then_the_responses(tmp_path):
    run = Run(tmp_path)
    one, two, three = pairs(3)
    with pytest.raises(ConfigError, match=r"nothing to compare: no route\.jsonl, judgments\.jsonl or responses\.jsonl"):
        questions(run)
    write_jsonl(run.responses, [response(one, text, i) for i, text in enumerate("xyz")])
    assert {frozenset((p.a, p.b)) for p in questions(run).pairs} == {frozenset(c) for c in permutations("xyz", 2)}
    write_jsonl(run.judgments, [Judgment(pair=p, source="ai", annotator="j", p_a=0.7) for p in (two, two, one)])
    assert [p.id for p in questions(run).pairs] == [two.id, one.id]
    write_jsonl(run.route, [three, one, three.swapped()])
    assert [p.id for p in questions(run).pairs] == [three.id, one.id]
    named = tmp_path / "named.jsonl"
    write_jsonl(named, [two, Judgment(pair=three, source="ai", annotator="j", p_a=0.7)])
    assert [p.id for p in read_questions(run, named, None, True).pairs] == [two.id, three.id]


def test_a_and_b_do_not_depend_on_how_the_file_has_them(tmp_path):
    rows = pairs(30)
    run = make_run(tmp_path, rows)
    straight = questions(run).pairs
    make_run(tmp_path, [p.swapped() for p in rows])
    assert questions(run).pairs == straight
    assert {p.a.startswith("Good") for p in straight} == {True, False}


def plain_pair():
    return pair("Why?").model_dump(mode="json")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "x"}, r"p\.jsonl:2: neither a pair nor a judgment: prompt_id: Field required"),
        (pair("Why?", "same", "same"), r"p\.jsonl:2: a and b are the same text"),
        ({"pair": {}}, r"p\.jsonl:2: neither a pair nor a judgment: pair\.id"),
        (
            {**plain_pair(), "prompt": [{"role": "assistant", "content": "Hi"}]},
            r"p\.jsonl:2: .* must end with a user turn",
        ),
    ],
)
def test_a_row_that_is_no_pair_has_its_place(tmp_path, row, said):
    write_jsonl(tmp_path / "p.jsonl", [pair("Why?"), row])
    with pytest.raises(DataError, match=said):
        read_questions(Run(tmp_path), tmp_path / "p.jsonl", None, True)


def test_no_pairs_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no pairs to ask about"):
        questions(make_run(tmp_path, []))


def test_gold_questions_come_from_a_file_of_any_form_and_are_not_asked_twice(tmp_path):
    one, two = pairs(2)
    run = make_run(tmp_path, [one, two])
    write_jsonl(tmp_path / "gold.jsonl", [Judgment(pair=two, source="human", annotator="x", p_a=1.0)])
    found = read_questions(run, None, tmp_path / "gold.jsonl", True)
    assert ([p.id for p in found.pairs], [p.id for p in found.gold]) == ([one.id], [two.id])
    write_jsonl(
        tmp_path / "gold.jsonl",
        [{"prompt": "Question 1?", "chosen": "Good Question 1.", "rejected": "Bad Question 1."}],
    )
    assert read_questions(run, None, tmp_path / "gold.jsonl", True) == found


def test_principles_have_words_and_apply_by_tag(tmp_path):
    run = make_run(tmp_path, [pair("Hi?"), pair("2 + 2?", tags=("maths",))], recipe=True)
    found = questions(run)
    assert [p.id for p in found.principles] == ["kind", "sums"]  # not `brief`, which code decides
    kind, sums = "Which response is kinder?", "Which response adds up?"
    assert [found.principles_for(p) for p in found.pairs] == [{"kind": kind}, {"kind": kind, "sums": sums}]
    assert read_questions(run, None, None, False).principles == ()


def test_a_persona_is_in_the_words_of_the_prompts_profile_and_not_asked_about_without(tmp_path):
    named, nameless = (
        Prompt.of((Message(role="user", content="Hi?"),), given=Given(profile=profile) if profile else None)
        for profile in ({"tone": "dry", "name": "Bo"}, {"name": "Bo"})
    )
    asked = [Pair.of(prompt, "Good.", "Bad.") for prompt in (named, nameless, Prompt.of(pair("Why?").prompt))]
    run = make_run(tmp_path, asked, recipe=True)
    (tmp_path / "two.yaml").write_text(
        CONSTITUTION.replace("title:", "profile: [name, tone]\ntitle:").replace("kinder?", "more {profile.tone}?")
    )
    found = questions(run)
    words = {p.id: found.principles_for(p) for p in found.pairs}
    assert words == {asked[0].id: {"kind": "Which response is more dry?"}, asked[1].id: {}, asked[2].id: {}}


# -------------------------------------------------------------------------------------------------- who is given what


def test_pairs_go_out_in_their_order_and_what_one_holds_nobody_else_gets(store):
    desk = desk_of(store)
    order = [p.id for p in pairs(6)]
    held = {name: [item.pair_id for item in desk.work(name).items] for name in ("Ada", "Ben", "Cleo", "Dan")}
    assert held == {"Ada": order[:2], "Ben": order[2:4], "Cleo": order[4:], "Dan": []}
    assert desk.work("Dan").waiting == 6 and desk.work("Dan").left == 0
    assert [item.pair_id for item in desk.work("Ada").items] == order[:2]  # a reload keeps the place


@given_by(st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_every_pair_gets_as_many_answers_as_are_wanted_whoever_comes_when(tmp_path_factory, chance, per_pair):
    store = AnswerStore(tmp_path_factory.mktemp("s") / "answers.sqlite")
    desk, names, counts = desk_of(store, 7, per_pair=per_pair), ["Ada", "Ben", "Cleo"], Counter()
    busy = True
    while busy:
        busy = False
        for name in chance.sample(names, 3):
            work = desk.work(name)
            if work.items:
                busy = True
                counts[work.items[0].pair_id, name] += 1
                desk.answer(given(work.items[0], name))
    store.close()
    assert set(counts.values()) == {1}
    assert Counter(pair_id for pair_id, _ in counts) == {p.id: per_pair for p in pairs(7)}


def test_a_pair_comes_free_when_its_holder_is_not_heard_of_and_a_late_answer_is_kept(store, tmp_path):
    clock = Clock()
    desk = desk_of(store, 2, clock=clock)
    (first, _) = desk.work("Ada").items
    clock.now += HOLD_S - 1
    assert desk.work("Ben").items == ()
    desk.work("Ada")  # heard of
    clock.now += HOLD_S - 1
    assert desk.work("Ben").items == ()
    clock.now += 2
    assert desk.work("Ben").items[0].pair_id == first.pair_id
    desk.answer(given(first, "Ada"))
    desk.answer(given(first, "Ben"))
    assert [a.annotator for a in store.standing()] == ["Ada", "Ben"]


def test_who_comes_back_after_a_long_time_or_a_restart_has_the_place_still(store):
    clock = Clock()
    before = desk_of(store, clock=clock).work("Ada").items
    clock.now += 100 * HOLD_S
    assert desk_of(store, clock=clock).work("Ada").items == before


def test_skipped_pairs_stay_open_to_others_only(store):
    desk = desk_of(store, 1)
    (item,) = desk.work("Ada").items
    work = desk.answer(given(item, "Ada", "skip"))
    assert (work.items, work.done, len(work.skipped), work.left, work.all_done) == ((), 0, 1, 0, 0)
    assert desk.work("Ben").items[0].pair_id == item.pair_id


def test_undo_shows_the_pair_again_first_and_twice_goes_back_two(store):
    desk = desk_of(store, 5)
    seen = []
    for _ in range(3):
        item = desk.work("Ada").items[0]
        seen.append(item.pair_id)
        work = desk.answer(given(item))
    assert (work.done, work.left, work.all_done, work.all_total) == (3, 2, 3, 5)
    for pair_id in reversed(seen):
        work = desk.undo("Ada", work.last)
        assert work.items[0].pair_id == pair_id
    assert (work.last, work.done, work.left) == (None, 0, 5)
    assert [item.pair_id for item in work.items[:3]] == seen


def test_undo_takes_back_only_what_is_ones_own_and_may_come_before_its_answer(store):
    desk = desk_of(store)
    mine = given(desk.work("Ada").items[0], "Ada")
    desk.answer(mine)
    desk.undo("Ben", mine.id)
    assert [a.id for a in store.standing()] == [mine.id]
    late = given(desk.work("Ada").items[0], "Ada")
    desk.undo("Ada", late.id)
    desk.answer(late)
    assert [a.id for a in store.standing()] == [mine.id]


def test_what_stands_first_is_random_blind_and_the_same_at_every_look():
    asked = Questions(tuple(pairs(200)), (), ()).pairs
    first = {name: [shown_first(p, name) for p in asked] for name in ("Ada", "Ben")}
    assert first["Ada"] != first["Ben"]
    for sides in first.values():
        assert 75 < sides.count("a") < 125  # 3.5 standard deviations
    assert first["Ada"] == [shown_first(p, "Ada") for p in asked]
    assert {shown_first(p, "Ada") == shown_first(p.swapped(), "Ada") for p in asked} == {True}


def test_gold_questions_are_scattered_and_go_to_everybody(store):
    desk = desk_of(store, 28, gold=3, per_pair=2)
    orders = {name: label_all(desk, name) for name in ("Ada", "Ben")}
    gold = {p.id for p in pairs(3, "Gold")}
    places = {name: [i for i, key in enumerate(order) if key in gold] for name, order in orders.items()}
    for name, order in orders.items():
        assert len(order) == 31 and len(set(order)) == 31
        assert [place // GOLD_EVERY for place in places[name]] == [0, 1, 2]
        assert places[name] == [number for number in range(3 * GOLD_EVERY) if gold_due(name, number)]
    assert places["Ada"] != places["Ben"]
    work = desk.work("Cleo")
    assert (work.items, work.all_done, work.all_total) == ((), 62, 62)


def test_progress_does_not_tell_which_question_was_gold(store):
    desk = desk_of(store, 20, gold=2)
    work, steps = desk.work("Ada"), []
    while work.items:
        before, work = work, desk.answer(given(work.items[0]))
        steps.append((work.done - before.done, before.left - work.left, work.all_done - before.all_done))
    assert set(steps) == {(1, 1, 1)} and len(steps) == 22
    assert work.all_done == work.all_total == 22


# -------------------------------------------------------------------------------------------------- what is kept


def test_an_answer_sent_twice_counts_once_and_the_last_of_two_counts(store):
    desk = desk_of(store)
    item = desk.work("Ada").items[0]
    first = given(item, choice="a")
    desk.answer(first)
    desk.answer(first.model_copy(update={"choice": "b"}))
    assert [a.choice for a in store.standing()] == ["a"]
    desk.answer(given(item, choice="tie"))
    assert [a.choice for a in store.standing()] == ["tie"]


def test_everything_said_is_kept_and_nothing_is_ever_removed(store, tmp_path):
    desk = desk_of(store)
    said = given(
        desk.work("Ada").items[0], reason="'); DROP TABLE answers; --", principles={"kind": "b", "sums": "tie"},
        choice="b", edited="<b>Better</b>\n☃", seconds=0.25,
    )  # fmt: skip
    desk.answer(said)
    assert store.standing() == [said]
    desk.undo("Ada", said.id)
    assert store.standing() == []
    rows = sqlite3.connect(tmp_path / "answers.sqlite")
    assert rows.execute("SELECT id FROM answers").fetchall() == [(said.id,)]
    assert rows.execute("SELECT * FROM undone").fetchall() == [(said.id, "Ada")]
    rows.close()


def test_the_file_survives_power_cuts_as_far_as_sqlite_can(store, tmp_path):
    assert store._base.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._base.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_was_kept_is_there_without_closing(store, tmp_path):
    desk_of(store).answer(given(pairs(1)[0]))
    other = AnswerStore(tmp_path / "answers.sqlite")
    assert len(other.standing()) == 1
    other.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"choice": "left"}, {"seconds": -1}, {"seconds": float("nan")}, {"annotator": "  "}, {"annotator": "x" * 61},
        {"annotator": "a\x00b"}, {"id": "1"}, {"principles": {"kind": "skip"}}, {"edited": " "},
        {"choice": "tie", "edited": "text"}, {"extra": 1}, {"shown_first": "left"},
    ],
    ids=str,
)  # fmt: skip
def test_answers_are_checked(wrong):
    with pytest.raises(ValidationError):
        given(pairs(1)[0], **wrong)


def test_one_person_is_one_annotator():
    assert given(pairs(1)[0], "  Zoe\u0308   Ng ").annotator == "Zo\u00eb Ng"


def test_an_answer_to_a_pair_that_nobody_was_shown_is_refused(store):
    with pytest.raises(DataError, match="was shown to anybody"):
        desk_of(store).answer(given(pair("Never asked?")))
    assert store.standing() == []


def test_a_file_that_holds_something_else_is_one_line(tmp_path):
    path = tmp_path / "answers.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE things (x)")
    other.close()
    with pytest.raises(DataError, match="not answers of this rlaif"):
        AnswerStore(path)
    path.write_bytes(b"no database at all, but a text of some length" * 30)
    with pytest.raises(DataError, match=r"answers\.sqlite: answers cannot be kept or read: file is not a database"):
        AnswerStore(path)


# -------------------------------------------------------------------------------------------------- what is published


def test_answers_become_judgments_and_edits(tmp_path):
    run = make_run(tmp_path, pairs(4))
    store = AnswerStore(run.answers)
    desk = Desk(store, questions(run), clock=Clock())
    chosen = desk.work("Ada").items[0]
    original = chosen.a
    desk.answer(
        given(chosen, choice="a", edited=original + "\nReally.", reason="kind", principles={"sums": "b", "kind": "tie"})
    )
    tied = desk.work("Ada").items[0]
    desk.answer(given(tied, choice="tie"))
    skipped = desk.work("Ada").items[0]
    desk.answer(given(skipped, choice="skip"))
    undone = given(desk.work("Ada").items[0], choice="b")
    desk.answer(undone)
    desk.undo("Ada", undone.id)
    store.close()
    assert publish(run) == (2, 1, 1)

    judgments = {judgment.pair.id: judgment for judgment in read_jsonl(run.annotations, Judgment)}
    assert set(judgments) == {chosen.pair_id, tied.pair_id}
    first = judgments[chosen.pair_id]
    assert (first.source, first.annotator, first.p_a, judgments[tied.pair_id].p_a) == ("human", "Ada", 1.0, 0.5)
    assert first.principles == (
        PrincipleJudgment(principle="kind", checked=False, p_a=0.5),
        PrincipleJudgment(principle="sums", checked=False, p_a=0.0),
    )
    assert first.answer.model_dump() == {
        "shown_first": chosen.shown_first, "seconds": 2.5, "reason": "kind", "simulated": False,
    }  # fmt: skip
    (edit,) = read_jsonl(run.annotation_edits, Edit)
    assert (edit.original, edit.edited, edit.annotator) == (original, original + "\nReally.", "Ada")
    assert edit.diff == ("@@ -1 +1,2 @@", f" {original}", "+Really.")


def test_a_tie_is_a_tie_and_the_label_follows_the_text(tmp_path):
    rows = pairs(12)
    run = make_run(tmp_path, rows)
    store = AnswerStore(run.answers)
    label_all(Desk(store, questions(run), clock=Clock()), "Ada")
    store.close()
    publish(run)
    judgments = read_jsonl(run.annotations, Judgment)
    assert {j.p_a for j in judgments} == {0.0, 1.0} and {j.answer.shown_first for j in judgments} == {"a", "b"}
    assert all((j.pair.a if j.p_a else j.pair.b).startswith("Good") for j in judgments)


def test_the_same_answers_are_the_same_bytes_in_whatever_order_they_came(tmp_path):
    rows = pairs(5)
    said = [
        given(p, name, random.Random(p.id + name).choice(["a", "b", "tie"])) for p in rows for name in ("Ada", "Ben")
    ]
    found = set()
    for seed in range(4):
        run = make_run(tmp_path / str(seed), rows)
        store = AnswerStore(run.answers)
        for answer in random.Random(seed).sample(said, len(said)):
            store.add(answer, next(p for p in rows if p.id == answer.pair_id))
        store.close()
        publish(run)
        found.add(run.annotations.read_bytes())
    assert len(found) == 1 and found.pop().count(b"\n") == 10


def test_publishing_writes_only_what_changed_and_needs_no_answers(tmp_path):
    run = make_run(tmp_path, pairs(2))
    assert publish(run) == (0, 0, 0)
    assert not run.annotations.exists() and not run.answers.exists()
    store = AnswerStore(run.answers)
    Desk(store, questions(run), clock=Clock()).answer(given(pairs(2)[0]))
    publish(run)
    assert run.annotations.exists() and not run.annotation_edits.exists()
    before = run.annotations.stat()
    publish(run)
    assert run.annotations.stat() == before
    store.undo("Ada", store.standing()[0].id)
    store.close()
    publish(run)
    assert run.annotations.read_bytes() == b""


# -------------------------------------------------------------------------------------------------- the command


def test_a_second_server_is_one_line(tmp_path):
    make_run(tmp_path, pairs(1))
    with FileLock(tmp_path / ".annotate.lock"), pytest.raises(ConfigError, match="serves this run already"):
        serve_page(tmp_path)


def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no such run folder"):
        serve_page(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"--per-pair: at least 1 \(got 0\)"):
        serve_page(tmp_path, per_pair=0)
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "rlaif\[annotate\]"'):
        serve_page(tmp_path)


def test_the_next_free_port_is_taken_unless_one_was_named(monkeypatch):
    taken = app._listen(0)
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"--port: cannot listen on {port}: Address already in use"):
        app._listen(port)
    monkeypatch.setattr(app, "PORT", port)
    other = app._listen(None)
    assert port < other.getsockname()[1] < port + app.PORTS_TRIED
    taken.close()
    other.close()
    with pytest.raises(ConfigError, match="--port: cannot listen on 70000"):
        app._listen(70000)


def test_answers_are_their_users_alone(store, tmp_path):
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("answers.sqlite*")} == {0o600}


def test_a_file_that_another_program_writes_to_is_one_line_soon_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("rlaif.annotate.store.BUSY_TIMEOUT_S", 0.05)
    store = AnswerStore(tmp_path / "answers.sqlite")
    desk = desk_of(store)
    item = desk.work("Ada").items[0]
    answer = given(item, "Ada")
    other = sqlite3.connect(tmp_path / "answers.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    for request in (lambda: desk.answer(answer), lambda: desk.work("Ben"), lambda: desk.undo("Ada", answer.id)):
        with pytest.raises(DataError, match=r"answers\.sqlite: another program is writing to it; try again"):
            request()
    assert time.monotonic() - began < 5
    assert store.standing() == [] and len(store.pairs()) >= 1, "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    assert desk.answer(answer).done == 1 and store.standing() == [answer]
    store.close()


@pytest.mark.parametrize("place", ["a link", "a pipe", "a folder"])
def test_something_else_in_the_place_of_answers_is_one_line(tmp_path, place):
    path, target = tmp_path / "answers.sqlite", tmp_path / "elsewhere"
    target.write_bytes(b"")
    {"a link": lambda: path.symlink_to(target), "a pipe": lambda: os.mkfifo(path), "a folder": path.mkdir}[place]()
    with pytest.raises(DataError, match=r"answers\.sqlite: "):
        AnswerStore(path)
    assert target.read_bytes() == b""
