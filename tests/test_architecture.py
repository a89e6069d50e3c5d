"""The shape of the package: who may import whom, and where the heavy libraries may enter."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "rlaif"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS: list[tuple[str, ...]] = [
    ("errors", "launchers", "processes", "files", "records", "patterns"),
    ("resources", "console", "stats", "jsonl", "strict_yaml"),
    (
        "forms",
        "config/base",
        "config/sources",
        "formats",
        "digest",
        "words",
        "signals",
        "constitution",
        "templates",
        "config",
    ),
    ("run_folder", "models", "pages"),
    ("feedback", "training", "rewards"),
    ("evaluation", "audits", "annotate"),
    ("stages", "pipeline"),
    ("gates", "iterate", "live", "study", "checkup", "share", "testing", "api", "serve"),
    ("cli", "__main__"),
]
"""A module imports layers above it in this list, what stands before it in its own, and its own folder.

What recipes and the formats of human feedback are both made of stands before either, under its own path.
"""
HEAVY = {"torch", "transformers", "peft", "accelerate", "safetensors", "gguf"}
MAY_BE_HEAVY = ("training", "models/local", "models/embedded.py", "rewards/model.py", "testing.py", "signals")
LONGEST = 300


class Import(NamedTuple):
    """One import statement, wherever in the file it stands."""

    path: Path
    line: int
    target: str

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(PACKAGE.parent)}:{self.line}"


def imports(path: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import from `rlaif` on, so that it can be found"
            if node.module == "rlaif":
                yield from (Import(path, node.lineno, f"rlaif.{alias.name}") for alias in node.names)
            else:
                yield Import(path, node.lineno, node.module or "")


@cache
def all_imports() -> list[Import]:
    return [found for path in MODULES for found in imports(path)]


def unit(path: Path) -> str:
    """The module or folder directly under rlaif/ that the file belongs to, or the module inside one that LAYERS has."""
    return unit_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def unit_of(name: str) -> str:
    """As `unit`, of a dotted name after `rlaif.`."""
    inside = "/".join(name.split(".")[:2])
    return inside if any(inside in names for names in LAYERS) else name.partition(".")[0]


def layer(name: str) -> tuple[int, int]:
    """The layer, and the place in it."""
    for number, names in enumerate(LAYERS):
        if name in names:
            return number, names.index(name)
    raise AssertionError(f"rlaif/{name} is in no layer: add it to LAYERS in {__file__}, as low as its imports allow")


def test_every_module_has_a_layer_and_every_layer_a_module():
    assert {unit(path) for path in MODULES} - {"__init__"} == set().union(*LAYERS)


def test_imports_only_go_down():
    wrong = []
    for found in all_imports():
        own, (root, _, rest) = unit(found.path), found.target.partition(".")
        other = unit_of(rest)
        if own == "__init__":  # the public API, which imports nothing before it is asked for
            continue
        if root != "rlaif" or not rest or other in {"__version__", own} or layer(other) < layer(own):
            continue
        wrong.append(
            f"{found.place}: {own} (layer {layer(own)}) imports {found.target} (layer {layer(other)}): take what is "
            "needed as an argument, or move it to a lower layer"
        )
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_stay_where_models_are():
    wrong = [
        f"{found.place}: imports {found.target}: only {', '.join(MAY_BE_HEAVY)} may, so that everything else starts "
        "fast; call a function there instead"
        for found in all_imports()
        if found.target.partition(".")[0] in HEAVY and not str(found.path.relative_to(PACKAGE)).startswith(MAY_BE_HEAVY)
    ]
    assert not wrong, "\n".join(wrong)


def test_vllm_is_a_program_and_never_imported():
    wrong = [found.place for found in all_imports() if found.target.partition(".")[0] == "vllm"]
    assert not wrong, f"{wrong}: vLLM is served (models/server.py) and asked over HTTP (models/client.py)"


def test_feedback_and_training_do_not_know_each_other():
    """What one writes the other reads: RLAIF and RLHF differ in a file alone."""
    for own, other in (("feedback", "training"), ("training", "feedback")):
        wrong = [f.place for f in all_imports() if unit(f.path) == own and f.target.startswith(f"rlaif.{other}")]
        assert not wrong, f"{wrong}: {own} meets {other} in files only (preferences.jsonl); stages.py joins them"


def test_a_module_is_one_idea_and_says_which():
    wrong = []
    for path in MODULES:
        text, place = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE.parent)
        if text.count("\n") > LONGEST:
            wrong.append(f"{place}: {text.count(chr(10))} lines, at most {LONGEST}: make it a folder of the same name")
        if not ast.get_docstring(ast.parse(text)):
            wrong.append(f"{place}: say in a docstring what this is and what it is not")
        if path.stem in {"utils", "helpers", "common", "misc", "base"} and path.parent.name != "config":
            wrong.append(f"{place}: a name that says nothing")
    assert not wrong, "\n".join(wrong)


def test_nothing_outside_tests_needs_tests():
    """What notebooks, benchmarks and users need of them ships as `rlaif.testing`."""
    root = PACKAGE.parent
    files = [*MODULES, *root.glob("benchmarks/**/*.py"), *root.glob("notebooks/*.ipynb")]
    needs = re.compile(r"\b(from|import) tests\b|\btests\.\w+:\w")
    assert [str(path.relative_to(root)) for path in files if needs.search(path.read_text(encoding="utf-8"))] == []


LIGHT = [
    m for m in MODULES if not str(m.relative_to(PACKAGE)).startswith(("training", "models/local", "rewards/model.py"))
]


def test_everything_but_training_and_local_models_can_be_imported_without_torch():
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in LIGHT]
    names = [name.removesuffix(".__init__") for name in names if name != "rlaif.models.embedded"]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "datasets"} & set(done.stdout.split()) == set()


def test_every_benchmark_can_be_imported_from_the_root_as_its_tests_do():
    root = PACKAGE.parent
    names = [".".join(p.relative_to(root).with_suffix("").parts) for p in sorted(root.glob("benchmarks/**/*.py"))]
    code = f"import importlib; [importlib.import_module(name) for name in {names}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
