"""A model made of a function: what it may return, and what a bad path says."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaif.config.sections import ScriptedModel
from rlaif.errors import ConfigError
from rlaif.models.chat import ChatRequest, Reply
from rlaif.models.open import open_model
from rlaif.models.scripted import RequestFailed, ScriptedChatModel, from_path
from rlaif.records import Message

LABELS = {"A": -0.1, "B": -2.5}


def ask(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **fields)


def script(request: ChatRequest) -> Reply | str | dict[str, float]:
    """What the judge in these tests says."""
    text = request.messages[-1].content
    if text == "fail":
        raise RequestFailed("out of ideas")
    if text == "bug":
        raise KeyError("a bug")
    if request.labels:
        return LABELS
    return Reply(text="whole", finish_reason="length") if text == "reply" else text.upper()


def not_a_reply(_: ChatRequest) -> Any:
    return 7


def test_text_reply_labels_and_failure() -> None:
    lots: list[Sequence[tuple[int, Reply]]] = []
    requests = [ask("hi there"), ask("reply"), ask("x", labels=("A", "B")), ask("fail")]
    replies = ScriptedChatModel(script).chat(requests, lots.append)
    assert replies == [
        Reply(text="HI THERE", completion_tokens=2),
        Reply(text="whole", finish_reason="length"),
        Reply(label_logprobs=LABELS),
        Reply(error="out of ideas"),
    ]
    assert lots == [[(index, reply)] for index, reply in enumerate(replies)]


def test_a_bug_in_the_script_is_not_a_failed_request() -> None:
    with pytest.raises(ConfigError, match=r"^script scripted: KeyError: 'a bug' \(test_scripted\.py:\d+\)$"):
        ScriptedChatModel(script).chat([ask("bug")])
    with pytest.raises(ConfigError, match=r"must return a Reply.*got 7"):
        ScriptedChatModel(not_a_reply).chat([ask("x")])


def test_the_revision_follows_the_source() -> None:
    assert ScriptedChatModel(script).revision == ScriptedChatModel(script).revision
    assert ScriptedChatModel(script).revision != ScriptedChatModel(not_a_reply).revision
    assert ScriptedChatModel(eval("lambda request: 'x'")).revision == "unknown"


HELPED = """
def helper():
    return {word!r}

def judge(request):
    return helper()

def with_default(request, word={word!r}):
    return word

def made(word):
    return lambda request: word

closed = made({word!r})
"""


def test_a_helper_beside_the_function_changes_the_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "judge_with_a_helper.py"

    def revision(word: str, name: str = "judge") -> str:
        file.write_text(HELPED.format(word=word))
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # made within one second of the next text
        return from_path(f"{file.stem}:{name}").revision

    assert revision("one") == revision("one") != revision("more")
    assert revision("one", "helper") != revision("one")
    assert revision("one", "closed") == revision("one", "with_default") == "unknown", (
        "what they hold is not in the text"
    )


def test_a_file_edited_later_is_not_what_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "judge_edited_later.py"
    file.write_text("def judge(request):\n    return 'old'\n")
    before = from_path(f"{file.stem}:judge")
    file.write_text("def judge(request):\n    return 'new text'\n")
    after = from_path(f"{file.stem}:judge")
    assert after.chat([ask("hi")])[0].text == "old"
    assert after.revision == before.revision


def test_a_path_names_the_function() -> None:
    model = open_model(ScriptedModel(model="tests.test_scripted:script"))
    assert model.name == "tests.test_scripted:script"
    assert model.chat([ask("hi")])[0].text == "HI"
    model.close()


def test_a_module_in_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_judge_beside_the_recipe.py").write_text("def judge(request):\n    return 'mine'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert from_path("my_judge_beside_the_recipe:judge").chat([ask("hi")])[0].text == "mine"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tests.test_scripted", "must be written package.module:function"),
        ("tests.no_such_module:f", "no module named 'tests.no_such_module'"),
        ("tests.test_scripted:scirpt", "no function 'scirpt'; did you mean 'script'?"),
        ("tests.test_scripted:LABELS", "no function 'LABELS'"),
    ],
)
def test_a_bad_path_says_what_is_wrong(path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_path(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import sys\nsys.exit(3)", r"cannot be imported: SystemExit: 3 \(fails\.py:2\)"),
        ("def f(:", r"cannot be imported: SyntaxError: "),
        ("1 / 0", r"cannot be imported: ZeroDivisionError: division by zero \(fails\.py:1\)"),
        ("\x00", "cannot be imported: "),
    ],
)
def test_a_module_that_fails_or_exits_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    (tmp_path / "fails.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fails", raising=False)
    with pytest.raises(ConfigError, match=f"scripted model 'fails:f': fails {said}") as error:
        from_path("fails:f")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["..:f", ".x:f", "\0:f", "a..b:f"])
def test_a_name_that_no_module_has_is_one_line(path: str) -> None:
    with pytest.raises(ConfigError, match="scripted model"):
        from_path(path)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda request: sys.exit(3), "SystemExit: 3"),
        (lambda request: {"A": "likely"}, "ValidationError: "),
        (lambda request: {1: 0.5}, "ValidationError: "),
    ],
)
def test_a_function_that_exits_or_says_what_is_no_reply_is_one_line(function: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"script scripted: {said}") as error:
        ScriptedChatModel(function).chat([ChatRequest(messages=(Message(role="user", content="?"),), labels=("A",))])
    assert "\n" not in str(error.value)
