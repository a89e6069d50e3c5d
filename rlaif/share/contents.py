"""Which files go to others, and what may not be in them: paths of this machine, hosts of its servers, a token.

Of a model's folder goes what libraries read, named here; the rest stays and is counted. Large files are linked, not
copied, until somebody wants a folder of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlaif.forms import OBJECT
from rlaif.jsonl import RowWriter, read_json, stream_jsonl
from rlaif.records import Preference

What = Literal["reward_model", "policy", "preferences"]
READ_BY_LIBRARIES = re.compile(
    r"(?:member-\d+/)?(?:config\.json|generation_config\.json|model[\w.-]*\.safetensors(?:\.index\.json)?"
    r"|(?:tokenizer|special_tokens|added_tokens|vocab|merges|spiece)[\w.-]*\.(?:json|model|txt)"
    r"|chat_template\.(?:jinja|json)|additional_chat_templates/[\w.-]+\.jinja|heads/[\w.-]+\.safetensors"
    r"|adapter_(?:config\.json|model\.safetensors)|best_of_n\.json|decode\.json)"
)
PLACE = re.compile(r"(?:~|\.\.?)?(?:/[^/\n]+)+/[^\n]*|[A-Za-z]:\\[^\n]*|~[^/\n]*/[^\n]*")
"""A text that is a path from the root, the home or here: at least two steps, so that the token `/think` is none."""
NO_ONES_HOME = {"/", "/root"}
"""Homes whose names say nothing of anybody, and that stand in many a text."""
CARD = "README.md"


class Contents(NamedTuple):
    """A folder that is ready to go."""

    folder: Path
    left_out: Sequence[str]
    """Files of the model's folder that stay."""
    rows: Counter[tuple[str, str]]
    """Preferences by (source, split); empty for a model."""
    split_by_prompt: bool = True
    """Whether no prompt of the preferences is in both splits."""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by file."""
        return {str(path.relative_to(self.folder)): path.stat().st_size for path in _files(self.folder)}


def model_contents(source: Path, target: Path, copy: bool) -> Contents:
    """The model's files in `target`, an existing folder; a path of this machine in a config is cut to its last part."""
    put: Callable[[Path, Path], Any] = shutil.copyfile if copy else lambda old, new: new.symlink_to(old.resolve())
    left_out = []
    for path in _files(source):
        name = path.relative_to(source).as_posix()
        if READ_BY_LIBRARIES.fullmatch(name) is None or path.is_symlink():
            left_out += [] if name == CARD else [name]
            continue
        new = target / name
        new.parent.mkdir(parents=True, exist_ok=True)
        config = read_json(path, OBJECT) if path.name.endswith("config.json") else None
        if (clean := without_places(config)) != config:
            new.write_text(json.dumps(clean, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            put(path, new)
    return Contents(target, left_out, Counter())


def preference_contents(source: Path, target: Path) -> Contents:
    """train.jsonl and heldout.jsonl: the rows as they are, in their order."""
    rows: Counter[tuple[str, str]] = Counter()
    prompts: dict[str, set[str]] = {"train": set(), "heldout": set()}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(contextlib.closing(RowWriter(split_file(target, name)))) for name in prompts}
        for row in stream_jsonl(source, Preference):
            files[row.split].write([row])
            rows[row.source, row.split] += 1
            prompts[row.split].add(row.prompt_id)
        for file in files.values():
            if file.rows:
                file.finish()
    return Contents(target, (), rows, prompts["train"].isdisjoint(prompts["heldout"]))


def split_file(folder: Path, split: str) -> Path:
    """Where the rows of a split are."""
    return folder / f"{split}.jsonl"


def without_places(value: Any) -> Any:
    """The same with every text in it that is a path of this machine cut to its last part."""
    if isinstance(value, dict):
        return {key: without_places(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inside) for inside in value]
    if isinstance(value, str) and (PLACE.fullmatch(value) or ("/" in value and os.path.exists(value))):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def private_text(folder: Path, secrets: Mapping[str, str]) -> str | None:
    """The first place that holds one of these texts, which stand under what they are; None where none does. Of weights
    the header is read."""
    wanted = {what: text.encode() for what, text in secrets.items() if len(text) > 1}
    for path in _files(folder):
        for number, line in enumerate(_lines(path), start=1):
            for what, text in wanted.items():
                if text in line:
                    return f"{path.relative_to(folder)}:{number}: holds {what}"
    return None


def secrets_of(run: Path, token: str | None, hosts: Sequence[str]) -> dict[str, str]:
    """What no file that goes may hold, by what it is."""
    home = str(Path.home())
    found = {"the path of the run": str(run.resolve()), "your token": token or ""}
    found |= {"the path of your home folder": home + os.sep} if home not in NO_ONES_HOME else {}
    return found | {f"the address of a server ({host})": host for host in hosts}


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            yield file.read(int.from_bytes(file.read(8), "little"))
        else:
            yield from file


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
