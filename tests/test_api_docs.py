"""The Python of README and docs/api.md runs, and docs/api.md names all of the public API."""

from __future__ import annotations

import re
from pathlib import Path

import rlaif
from rlaif.testing import likes_letters

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_of_the_api_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"rlaif": rlaif}
    for snippet in snippets(PAGE):
        exec(compile(snippet, "docs/api.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "did you mean 'plain-and-brief'" in shown and "the reward model reads at most 2048" in shown


def test_the_page_names_all_of_it():
    text = PAGE.read_text()
    assert [name for name in rlaif.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", text)] == []


def test_no_other_page_has_python_that_nobody_runs():
    """strong-judge.md's is run by test_strong_road.py, guard.md's by test_guard_served.py."""
    pages = {page.name for page in (ROOT / "docs").glob("*.md") if snippets(page)}
    assert pages <= {"api.md", "guard.md", "redteam.md", "strong-judge.md"}


def test_the_python_of_the_red_team_runs(tmp_path, monkeypatch, shallow_folder):
    monkeypatch.chdir(tmp_path)
    for snippet in snippets(ROOT / "docs" / "redteam.md"):
        exec(compile(snippet.replace('"smollm2-135m"', repr(shallow_folder)), "redteam.md", "exec"), {})


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, shallow_folder):
    """With a tiny model and a scripted judge in place of the real ones, which are named there."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in snippets(ROOT / "README.md"):
        small = re.sub(r'"vllm:[^"]*"', f'"scripted:rlaif.testing:{likes_letters.__name__}"', snippet)
        small = small.replace('"smollm2-135m"', repr(shallow_folder)).replace('out="rm"', 'out="rm", lora=None')
        exec(compile(small, "README.md", "exec"), names)
    assert (tmp_path / "rm" / "config.json").exists()
