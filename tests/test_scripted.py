"""A model made of a function: what it may return, and what a bad path says."""

from __future__ import annotations

import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlaif import testing
from rlaif.config.models import ScriptedModel
from rlaif.errors import ConfigError
from rlaif.models import files
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.engine import ask as replies_of
from rlaif.models.files import module_files
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
    requests = [ask("hi there"), ask("reply"), ask("x", labels=("A", "B")), ask("fail")]
    assert list(ScriptedChatModel(script).stream(iter(requests))) == [
        (0, Reply(text="HI THERE", completion_tokens=2)),
        (1, Reply(text="whole", finish_reason="length")),
        (2, Reply(label_logprobs=LABELS)),
        (3, Reply(error="out of ideas")),
    ]


def test_a_bug_in_the_script_is_not_a_failed_request() -> None:
    with pytest.raises(ConfigError, match=r"^script scripted: KeyError: 'a bug' \(test_scripted\.py:\d+\)$"):
        replies_of(ScriptedChatModel(script), [ask("bug")])
    with pytest.raises(ConfigError, match=r"must return a Reply.*got 7"):
        replies_of(ScriptedChatModel(not_a_reply), [ask("x")])


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"A": "-0.1", "B": -2.0}, "label 'A' has log-probability '-0.1', which is no number"),
        ({"A": True, "B": -2.0}, "label 'A' has log-probability True, which is no number"),
        ({"A": None, "B": -2.0}, "None, which is no number"),
        ({"A": -1 + 2j, "B": -2.0}, "which is no number"),
        ({"A": 10**400, "B": -2.0}, "which is no number"),
        ({"A": np.array([[1.0, 2.0], [3.0, 4.0]]), "B": 0.0}, "which is no number"),
        ({"A": np.bool_(True), "B": 0.0}, "which is no number"),
        ({1: -0.1, 2: -2.0}, "label 1 has log-probability -0.1"),
        (Reply(error="\ud83d"), "half of a surrogate pair"),
        (Reply(text="\ud83d"), "half of a surrogate pair"),
    ],
)
def test_what_is_no_log_probability_is_a_failure_of_that_request(said: Any, reason: str) -> None:
    (reply,) = replies_of(ScriptedChatModel(lambda _: said), [ask("x", labels=("A", "B"))])
    assert reason in str(reply.error) and "\n" not in str(reply.error) and reply.label_logprobs is None
    assert str(reply.error).encode()


def test_numbers_of_libraries_are_numbers() -> None:
    said = {"A": np.float32(-0.5), "B": np.array(-1.0), "C": torch.tensor(-2.0), "D": Fraction(-1, 4), "E": -3}
    (reply,) = replies_of(ScriptedChatModel(lambda _: said), [ask("x", labels=tuple("ABCDE"))])
    assert reply.label_logprobs == {"A": -0.5, "B": -1.0, "C": -2.0, "D": -0.25, "E": -3.0}


class Odd(BaseException):
    """Derived from neither Exception nor anything that is caught by it."""


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("nothing to say")


def deep(request: ChatRequest) -> Any:
    return deep(request)


def raising(error: BaseException) -> Any:
    def script(_: ChatRequest) -> Any:
        raise error

    return script


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (raising(SystemExit(0)), "SystemExit: 0 (test_scripted.py:"),
        (raising(Odd("x\ny")), "Odd: x y (test_scripted.py:"),
        (raising(Mute()), "Mute: ? (test_scripted.py:"),
        (raising(ValueError("long " * 1000)), "ValueError: long long"),
        (raising(GeneratorExit()), "GeneratorExit:"),
        (deep, "RecursionError: "),
        (lambda _: None, "must return a Reply, a text or label log-probabilities (got None)"),
        (lambda _: np.zeros((9, 9)), "must return a Reply"),
        (lambda _: ["A"] * 10**6, "must return a Reply"),
        (lambda _: b"A", "must return a Reply"),
    ],
)
def test_whatever_a_script_does_is_one_line(script: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replies_of(ScriptedChatModel(script), [ask("x")])
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_users_own_ctrl_c_stops_the_run() -> None:
    with pytest.raises(KeyboardInterrupt):
        replies_of(ScriptedChatModel(raising(KeyboardInterrupt())), [ask("x")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(0)", "cannot be imported: SystemExit: 0 ({file}:2)"),
        ("raise ValueError('a\\nb')", "cannot be imported: ValueError: a b ({file}:1)"),
        ("class X(BaseException): pass\nraise X('q')", "cannot be imported: X: q ({file}:2)"),
        ("def f(:", "cannot be imported: SyntaxError: invalid syntax ({file}, line 1)"),
        ("from json import no_such_name", "cannot be imported: ImportError: cannot import name"),
        ("import no_such_module", "no module named 'no_such_module'"),
        ("f = 1", "has no function 'f'"),
        ("def f(): f()\nf()", "cannot be imported: RecursionError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"judge_that_fails_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        from_path(f"{name}:f")
    assert said.format(file=f"{name}.py") in str(caught.value) and "\n" not in str(caught.value)


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


def test_of_a_judge_that_ships_its_file_alone_is_read() -> None:
    """Not all of rlaif, which its version stands for."""
    assert module_files("rlaif.testing") == [Path(testing.__file__)]


def test_each_module_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"part_{n}" for n in range(6)]
    folder = tmp_path / "looked_for"
    folder.mkdir()
    for name in ["__init__", *names]:
        lines = [f"from looked_for.{other} import word\nimport json" for other in names if other != name]
        (folder / f"{name}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    looked, real = list[str](), files._source
    monkeypatch.setattr(files, "_source", lambda module: (looked.append(module), real(module))[1])
    assert len(module_files("looked_for.part_0")) == 7
    assert len(looked) == len(set(looked))


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


IMPORTS = (
    "import {helper}",
    "from {helper} import word",
    "import {helper} as other",
    "import json, {helper}",
    "def judge(request):\n    from {helper} import word\n    return word",
    "from {package}.inner import word",
    "import {package}.inner",
    "from {package} import inner",
)


@pytest.mark.parametrize("line", IMPORTS)
def test_so_does_a_module_of_the_users_that_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Directly or through another; it is also a file that stages read."""
    names = {"helper": "words_of_a_judge", "package": "package_of_a_judge"}
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / names["package"]).mkdir()
    (tmp_path / names["package"] / "__init__.py").write_text("")
    (tmp_path / names["package"] / "inner.py").write_text(f"from {names['helper']} import word\n")
    file = tmp_path / "judge_that_imports.py"
    file.write_text("def judge(request):\n    return 'x'\n" + line.format(**names) + "\n")

    def revision(word: str) -> tuple[str, list[str]]:
        (tmp_path / f"{names['helper']}.py").write_text(f"word = {word!r}\n")
        for name in (file.stem, *names.values(), f"{names['package']}.inner"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        for folder in tmp_path.rglob("__pycache__"):
            shutil.rmtree(folder)
        return from_path(f"{file.stem}:judge").revision, [path.name for path in module_files(file.stem)]

    first, read = revision("one")
    assert revision("one")[0] == first != revision("more")[0]
    assert {file.name, f"{names['helper']}.py"} <= set(read)


def test_python_and_installed_packages_are_nobodys_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge_with_libraries.py").write_text("import json, os.path, numpy, rlaif.models.engine, nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [path.name for path in module_files("judge_with_libraries")] == ["judge_with_libraries.py"]
    assert module_files("no_such_module") == module_files("") == module_files("..") == module_files("sys") == []


def test_a_file_edited_later_is_not_what_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "judge_edited_later.py"
    file.write_text("def judge(request):\n    return 'old'\n")
    before = from_path(f"{file.stem}:judge")
    file.write_text("def judge(request):\n    return 'new text'\n")
    after = from_path(f"{file.stem}:judge")
    assert replies_of(after, [ask("hi")])[0].text == "old"
    assert after.revision == before.revision


def test_a_path_names_the_function() -> None:
    model = open_model(ScriptedModel(model="tests.test_scripted:script"))
    assert model.name == "tests.test_scripted:script"
    assert replies_of(model, [ask("hi")])[0].text == "HI"
    model.close()


def test_a_module_in_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_judge_beside_the_recipe.py").write_text("def judge(request):\n    return 'mine'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert replies_of(from_path("my_judge_beside_the_recipe:judge"), [ask("hi")])[0].text == "mine"


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


@pytest.mark.parametrize("path", ["..:f", ".x:f", "\0:f", "a..b:f"])
def test_a_name_that_no_module_has_is_one_line(path: str) -> None:
    with pytest.raises(ConfigError, match="scripted model"):
        from_path(path)
