"""The files on this disk that shape what a model says. Whoever keeps its replies, or what was made of them, asks again
when one changes. Nothing here is imported or run.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from rlaif.errors import ModelError

ADAPTER = "adapter_config.json"
NO_PART = re.compile(r"\.|rlaif_|judge\.json$|README|LICENSE|.*\.md$", re.DOTALL)
"""Names in a model folder that no library reads."""
NOT_OWN = [*(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")), Path(__file__).parents[1]]


def folder_files(folder: Path) -> list[Path]:
    """What libraries read of a model folder: weights, configs, tokenizer, chat templates; not its checkpoints."""
    found = [*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")]
    return sorted(path for path in found if path.is_file() and not NO_PART.match(path.name))


def adapter_base(folder: Path) -> tuple[str, str | None] | None:
    """Name and revision of the model that the adapter in this folder is put into; None where there is no adapter."""
    try:
        settings = json.loads((folder / ADAPTER).read_bytes())
        return str(settings["base_model_name_or_path"]), settings.get("revision")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{folder / ADAPTER}: names no base_model_name_or_path") from None


def model_folders(name: str) -> list[Path]:
    """The folder that a model's name stands for, and that of an adapter's base; none for other names."""
    folder = Path(os.path.expanduser(name))
    base = adapter_base(folder) if folder.is_dir() else None
    return [path for path in (folder, Path(base[0] if base else folder)) if path.is_dir()]


def named_files(arguments: Sequence[str]) -> list[Path]:
    """Files and folders that a program's arguments name: a template, an adapter, a tokenizer, also inside JSON."""
    words = [word for argument in arguments for word in {argument, *re.split(r"[=,\"'{}\[\]]", argument)}]
    paths = {os.path.expanduser(word.strip()) for word in words}
    return sorted(Path(path) for path in paths if path not in ("", ".", "..", "/") and os.path.exists(path))


def module_files(name: str) -> list[Path]:
    """The source of a module and of those that it imports, directly or not, where they are neither Python's nor those
    of installed packages, its own package excepted. None where there is no such module. Of a module of rlaif's own its
    file alone: the version stands for the rest."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        file = _source(module)
        beside = _package(module) == _package(name) != _package(__name__)
        if file is not None and (module == name or beside or _own(file)):
            found[module] = file
            waiting += _imported(module, file)
    return sorted(set(found.values()))


def _package(module: str) -> str:
    return module.partition(".")[0]


def _own(file: Path) -> bool:
    """Whether the file is the user's."""
    home = file.resolve()
    installed = {"site-packages", "dist-packages"} & set(home.parts)
    return not installed and not any(home.is_relative_to(place.resolve()) for place in NOT_OWN)


def _source(module: str) -> Path | None:
    """The file of a module, which is not imported."""
    places: Sequence[str] = [os.getcwd(), *sys.path]
    origin = None
    for part in module.split("."):
        try:
            spec = PathFinder.find_spec(part, places)
        except (ValueError, ImportError):
            return None
        if spec is None:
            return None
        origin, places = spec.origin, list(spec.submodule_search_locations or ())
    return Path(origin) if origin and os.path.isfile(origin) else None


def _imported(module: str, file: Path) -> Iterator[str]:
    """The names that an import anywhere in the file may mean, and the packages that importing it runs."""
    yield from _with_parents(module)
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from (name, *_with_parents(name))


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
