"""JSONL: whatever a record holds comes back, whatever a file holds is a record or one line that names the place."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rlaif.jsonl
from rlaif import records
from rlaif.errors import DataError
from rlaif.jsonl import RowWriter, dumps, read_jsonl, read_objects, write_atomic, write_json, write_jsonl

# What breaks naive writers: template syntax, our delimiters, line separators JSON allows inside strings, NUL, emoji.
NASTY = [
    "{}",
    "{{ x }}",
    "{% raw %}",
    "$a",
    "\u2028",
    "\u2029",
    "\x85",
    "\x0b",
    "\r\n",
    "\n",
    "\0",
    '"',
    "\\u0041",
    "\U0001f600",
]
TEXT = st.lists(st.sampled_from(NASTY) | st.text(max_size=5), max_size=5).map("".join)
SHARE = st.floats(0, 1)
NUMBER = st.floats(allow_nan=False)
OPTIONAL = st.none() | TEXT
MESSAGE = st.builds(records.Message, role=st.sampled_from(["system", "user", "assistant"]), content=TEXT)
TURN = st.builds(records.Message, role=st.just("user"), content=TEXT)
MESSAGES = st.builds(lambda before, last: (*before, last), st.lists(MESSAGE, max_size=2), TURN)
PROMPT = st.builds(records.Prompt.of, MESSAGES, st.lists(TEXT, max_size=2).map(tuple))
PAIR = st.builds(records.Pair.of, PROMPT, TEXT, TEXT)
VERDICT = st.builds(
    records.Verdict, first=st.sampled_from("ab"), logprob_first=NUMBER, logprob_second=NUMBER
)  # -inf is what a label without any probability has
PRINCIPLE = st.builds(
    records.PrincipleJudgment,
    principle=TEXT,
    checked=st.booleans(),
    p_a=SHARE,
    swap_gap=st.none() | SHARE,
    verdicts=st.lists(VERDICT, max_size=2).map(tuple),
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PROVENANCE = st.builds(records.Provenance, sampling=st.dictionaries(TEXT, FINITE | st.integers() | TEXT, max_size=3))
OWN_TURN = st.builds(records.OwnTurn, text=TEXT, token_ids=st.lists(st.integers(0, 10**6), max_size=2).map(tuple))
RECORDS = {
    records.Message: MESSAGE,
    records.Prompt: PROMPT,
    records.OwnTurn: OWN_TURN,
    records.Response: st.builds(
        records.Response, prompt=MESSAGES, text=TEXT, turns=st.lists(OWN_TURN, max_size=2).map(tuple)
    ),
    records.Pair: PAIR,
    records.Verdict: VERDICT,
    records.DensityRatio: st.builds(
        records.DensityRatio, logprob_for=FINITE, logprob_against=FINITE, tokens=st.integers(0, 10**6)
    ),
    records.Given: st.builds(records.Given, gold=st.lists(TEXT, max_size=2).map(tuple), opposed=st.none() | TEXT),
    records.Origin: st.builds(records.Origin, principle=TEXT),
    records.PrincipleJudgment: PRINCIPLE,
    records.Provenance: PROVENANCE,
    records.Judgment: st.builds(
        records.Judgment,
        pair=PAIR,
        annotator=TEXT,
        p_a=SHARE,
        principles=st.lists(PRINCIPLE, max_size=2).map(tuple),
        provenance=st.none() | PROVENANCE,
    ),
    records.Preference: st.builds(
        records.Preference,
        prompt=MESSAGES,
        chosen=MESSAGES,
        rejected=MESSAGES,
        p_chosen=st.floats(0.5, 1),
        weight=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    ),
    records.Answer: st.builds(records.Answer, seconds=st.none() | st.floats(0, 1e4), reason=TEXT),
    records.Edit: st.builds(records.Edit, prompt=MESSAGES, original=TEXT, edited=TEXT, annotator=TEXT),
    records.Failure: st.builds(records.Failure, reason=TEXT, detail=TEXT, principle=OPTIONAL),
}


OF_MODES = {
    records.AnswerGrade,
    records.Claim,
    records.TurnVerdict,
    records.MemberJudgment,
    records.PrincipleScore,
    records.Score,
    records.Ranking,
    records.Round,
    records.Revision,
    records.Demonstration,
    records.Reliability,
}
"""Written and read back by the stages themselves, in test_modes.py."""


def test_every_record_is_tried():
    kinds = {value for value in vars(records).values() if isinstance(value, type) and issubclass(value, records.Record)}
    assert kinds - {records.Record} - OF_MODES == set(RECORDS)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_record_comes_back(kind, data, tmp_path):
    rows = data.draw(st.lists(RECORDS[kind], max_size=3))
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows)
    assert path.read_bytes().count(b"\n") == len(rows)
    assert read_jsonl(path, kind) == rows
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_jsonl(packed, kind) == rows


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=60)
    | st.text(max_size=40).map(str.encode)
    | st.lists(st.sampled_from(['{"role":', '"user"', "}", "\n", ",", "[", "NaN", "1e999", '"\\ud800"', "\ufeff"])).map(
        lambda parts: "".join(parts).encode()
    ),
    suffix=st.sampled_from([".jsonl", ".jsonl.gz"]),
    packed=st.booleans(),
)
def test_any_bytes_are_rows_or_a_data_error(data, suffix, packed, tmp_path):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(data) if packed else data)
    try:
        rows = read_jsonl(path, records.Message)
    except DataError as error:
        assert str(error).startswith(f"{path}:") and "\n" not in str(error)
    else:
        assert all(isinstance(row, records.Message) for row in rows)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"role": "user"}', "content: Field required"),
        ('{"role": "user", "content": 3}', r"content: Input should be a valid string \(got 3\)"),
        ('{"role": "user", "content": "x", "id": "y"}', r"id: Extra inputs are not permitted \(got 'y'\)"),
        ('{"role": "user", "content": "x"', "not a JSON object: "),
        ('["user"]', "not a JSON object: "),
        (
            '{"role": "user", "content": "x", "role": "system"}',
            "not a JSON object: line contains invalid json: key 'role' appears twice",
        ),
        (
            '{"role": "user", "content": "x", "more": [{"a": 1, "a": 1}]}',
            "not a JSON object: line contains invalid json: key 'a' appea",
        ),
        ("[" * 100_000, "not a JSON object: "),
        ('{"n": ' + "1" * 5000 + "}", "not a JSON object: "),
        (r'{"role": "user", "content": "\ud800"}', r"not text: half of a surrogate pair \('\\ud800'\)"),
        (r'{"role": "user", "\uDFFF": "x"}', "not text: half of a surrogate pair"),
    ],
    ids=[
        "missing",
        "type",
        "extra",
        "cut",
        "list",
        "twice",
        "twice-inside",
        "deep",
        "huge",
        "surrogate",
        "surrogate-key",
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"role": "user", "content": "ok"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=rf"^{path}:3: {reason}"):
        read_jsonl(path, records.Message)


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(r'{"text": "\ud83d\ude00"}')
    assert list(read_objects(path)) == [(1, {"text": "\U0001f600"})]


@pytest.mark.parametrize("name", ["gone.jsonl", "folder.jsonl", "broken.jsonl.gz", "cut.jsonl.gz", "latin.jsonl"])
def test_an_unreadable_file_is_named(tmp_path, name):
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
    elif name.startswith("broken"):
        path.write_bytes(gzip.compress(b"{}\n" * 50)[:10] + b"\xff" * 30)  # a good header, a bad stream
    elif name.startswith("cut"):
        path.write_bytes(gzip.compress(b"{}\n" * 50)[:-9])
    elif name.startswith("latin"):
        path.write_bytes('{"a": "\u00e9"}'.encode("latin-1"))
    with pytest.raises(DataError, match=rf"^{path}: (no such file|cannot be read)"):
        list(read_objects(path))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])

    def rows():
        yield {"a": 2}
        raise RuntimeError("the stage broke")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert json.loads(path.read_text()) == {"a": 1}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rlaif.jsonl.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*\.jsonl?'"):
        write_atomic(path, b"half")
    assert json.loads(path.read_text()) == {"a": 1}
    monkeypatch.undo()
    monkeypatch.setattr(rlaif.jsonl.os, "getpid", lambda: -1)  # a later process
    write_jsonl(path, [{"a": 3}])
    assert [row for _, row in read_objects(path)] == [{"a": 3}]
    assert os.listdir(path.parent) == ["rows.jsonl"]  # what was left half-written is overwritten


def test_json_documents_are_for_people_to_read(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, records.Message(role="user", content="gr\u00f6\u00dfer \U0001f600"))
    assert path.read_text(encoding="utf-8") == '{\n  "role": "user",\n  "content": "gr\u00f6\u00dfer \U0001f600"\n}\n'
    assert dumps({"b": 1, "a": "\u2028"}) == '{"b": 1, "a": "\u2028"}'


def test_a_file_that_would_fill_the_memory_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.jsonl.gz"
    rows = b'{"x": 1}\n' * 10_000
    path.write_bytes(gzip.compress(rows))
    assert sum(1 for _ in read_objects(path)) == 10_000
    for limits in ((1000, 20, 2**31), (1000, 10_000, len(rows) - 1)):
        monkeypatch.setattr(rlaif.jsonl, "UNPACKED", limits)
        with pytest.raises(DataError, match=r"bomb.jsonl.gz: \d+ bytes unpack to more than \d+: ") as caught:
            next(read_objects(path))
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(rlaif.jsonl, "UNPACKED", (len(rows), 1, 2**31))
    path.write_bytes(gzip.compress(rows[:900]) + gzip.compress(rows[:900]))  # two members, as `cat` makes them
    assert sum(1 for _ in read_objects(path)) == 200


def test_rows_on_a_full_disk_leave_nothing_behind_and_name_the_file(tmp_path, monkeypatch):
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def begin(path, *_, **__):
        path.touch()
        return io.BufferedWriter(Full())

    monkeypatch.setattr(rlaif.jsonl, "open", begin, raising=False)
    writer = RowWriter(tmp_path / "rows.jsonl")
    with pytest.raises(OSError, match="No space left") as said:
        try:
            writer.write([{"row": number} for number in range(10_000)])
        finally:
            writer.close()
    assert said.value.filename == str(tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []
