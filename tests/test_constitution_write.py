"""A written constitution loads again as the same one, whatever its texts hold."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.constitution import Constitution, dump_constitution, load_constitution, write_constitution
from rlaif.resources import available

TRICKY = st.sampled_from(
    ["no", "1.0", "null", "~", "=", "<<", "a: b", "# c", "- d", "&e", "*f", "!g", "'", '"', "{h}", "i\n\n  j\nk", "1e3"]
)
TEXT = st.one_of(
    TRICKY, st.text(min_size=1), st.text(st.sampled_from("aB :#-\n\t'\"\\\u2028\x85\ufeff\U0001f600"), min_size=1)
)
TEXT = TEXT.filter(lambda text: text.strip() != "")
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
CHECK = st.sampled_from(
    [{"kind": "max_words", "limit": 9}, {"kind": "no_list"}, {"kind": "no_repetition", "n": 4, "max_share": 0.125}]
)
PRINCIPLE = st.fixed_dictionaries(
    {"compare": TEXT},
    optional={
        "contrast": st.fixed_dictionaries({"for": TEXT}, optional={"against": TEXT}),
        "critique": TEXT,
        "revise": TEXT,
        "weight": st.floats(1e-6, 1e6),
        "priority": st.integers(-5, 5),
        "veto": st.booleans(),
        "tags": st.lists(TEXT, max_size=3),
        "check": CHECK | st.builds(lambda text: {"kind": "starts_with", "text": text}, TEXT),
        "classifier": st.builds(
            lambda words: {"kind": "keywords", "words": words, "at_least": 0.5},
            st.lists(TEXT.map(lambda text: f"x{text.strip()}"), min_size=1),
        ),
    },
).filter(lambda principle: not {"check", "classifier"} <= set(principle))


def constitution(principles: list[dict[str, Any]], **more: Any) -> Constitution:
    head = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "T"}
    return Constitution.model_validate(head | more | {"principles": principles})


def again(text: str) -> Constitution:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(text.encode())
        return load_constitution(str(path))


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(NAME, PRINCIPLE, min_size=1, max_size=3),
    st.fixed_dictionaries({"id": NAME, "version": TEXT, "title": TEXT}, optional={"preamble": TEXT}),
    st.text(),
)
def test_any_constitution_comes_back_the_same(
    principles: dict[str, dict[str, Any]], head: dict[str, str], header: str
) -> None:
    try:
        made = constitution([{"id": name, **fields} for name, fields in principles.items()], **head)
    except ValidationError as error:  # both sides of a contrast came out the same
        assume(all(problem["loc"][-1] != "against" for problem in error.errors()))
        raise
    text = dump_constitution(made, header)
    assert again(text).hash == made.hash
    assert dump_constitution(again(text)) == dump_constitution(made)


@pytest.mark.parametrize("name", available("constitutions"))
def test_shipped_constitutions_come_back_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    write_constitution(path, load_constitution(name), "made by a test")
    assert load_constitution(str(path)).hash == load_constitution(name).hash
    assert path.read_text().startswith("# made by a test\nschema: rlaif/constitution/v1\n")


def test_it_looks_as_a_person_would_write_it() -> None:
    made = constitution(
        [
            {"id": "kind", "compare": "Which is kind?", "question": "Is it kind?", "desired": "yes", "weight": 2.0},
            {"id": "short", "check": {"kind": "max_words", "limit": 9}, "tags": ["chat"]},
            {"id": "calm", "contrast": {"for": "Be calm.", "against": "Be heated."}},
            {"id": "bare", "contrast": {"for": "Be bare."}},
        ]
    )
    assert (
        dump_constitution(made, "Fitted.\n\nBy hand.")
        == """\
# Fitted.
#
# By hand.
schema: rlaif/constitution/v1
id: c
version: 1.0.0
title: T
principles:
  - id: kind
    compare: Which is kind?
    question: Is it kind?
    desired: 'yes'
    weight: 2.0

  - id: short
    tags:
    - chat
    check:
      kind: max_words
      limit: 9

  - id: calm
    contrast:
      for: Be calm.
      against: Be heated.

  - id: bare
    contrast:
      for: Be bare.
"""
    )
