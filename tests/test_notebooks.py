"""Notebooks run from top to bottom, only import, run and plot, and are kept without outputs."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_is_one():
    assert NOTEBOOKS


def test_outputs_are_not_committed(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_a_notebook_explains_and_defines_nothing(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            made = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            names = [node.name for node in ast.walk(ast.parse(cell.source)) if isinstance(node, made)]
            assert names == [], "what is worth a definition is worth a module and a test"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own libraries
def test_it_runs_from_top_to_bottom(notebook, monkeypatch):
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = str(NOTEBOOKS[0].parent)
    client.NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    shown = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("image/png" in out.get("data", {}) for out in shown), "it plots"
    assert not [out.text for out in shown if out.get("name") == "stderr"], "and has nothing to complain about"
