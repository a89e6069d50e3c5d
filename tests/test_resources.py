"""Shipped files are found by name from anywhere; anything else is a path; a miss names the nearest."""

import difflib
import shutil
from itertools import combinations

import pytest

import rlaif.resources
from rlaif.errors import ConfigError
from rlaif.jsonl import read_objects
from rlaif.records import Message, Prompt
from rlaif.resources import available, resolve


def test_shipped_names_resolve_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harmlessness").mkdir()  # a folder of that name is not what was meant
    assert resolve("constitutions", "harmlessness").is_file()
    assert resolve("prompts/judge", "compare").suffix == ".jinja"
    assert resolve("prompts/sets", "everyday").suffix == ".jsonl"
    assert available("constitutions") == ["dialogue", "harmlessness", "helpfulness", "plain-and-brief", "truthful"]


def test_a_path_is_itself(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("x")
    assert resolve("constitutions", str(path)) == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("harmlesness", "no constitution 'harmlesness'; did you mean 'harmlessness'?"),
        ("there/helpfullness.yaml", "there/helpfullness.yaml: no such constitution file; did you mean 'helpfulness'?"),
        ("", "no constitution ''; valid choices: dialogue, harmlessness, helpfulness, plain-and-brief, truthful"),
    ],
)
def test_a_miss_names_the_nearest(name, message):
    with pytest.raises(ConfigError) as error:
        resolve("constitutions", name)
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "/"])
def test_impossible_names_are_misses(name):
    with pytest.raises(ConfigError):
        resolve("constitutions", name)


def test_an_installed_package_finds_the_data_inside_itself(tmp_path, monkeypatch):
    package = tmp_path / "rlaif"
    shutil.copytree(resolve("constitutions", "harmlessness").parent, package / "constitutions")
    monkeypatch.setattr(rlaif.resources, "_PACKAGE", package)
    assert resolve("constitutions", "helpfulness") == package / "constitutions" / "helpfulness.yaml"


def test_everyday_prompts_are_many_short_and_different():
    rows = [row for _, row in read_objects(resolve("prompts/sets", "everyday"))]
    texts = [row["prompt"] for row in rows]
    assert len(rows) >= 320
    assert len({tag for row in rows for tag in row["tags"]}) >= 15
    assert all(set(row) == {"prompt", "tags"} and row["tags"] for row in rows)
    assert all(5 <= len(text.split()) <= 25 for text in texts)
    assert len({Prompt.of((Message(role="user", content=text),)).id for text in texts}) == len(texts)
    words = [text.lower().rstrip("?.").split() for text in texts]
    near = [
        (" ".join(a), " ".join(b))
        for a, b in combinations(words, 2)
        if len(set(a) & set(b)) >= 0.7 * len(set(a) | set(b)) and difflib.SequenceMatcher(None, a, b).ratio() > 0.85
    ]
    assert near == []
