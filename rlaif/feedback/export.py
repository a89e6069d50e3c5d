"""Preferences in other programs' formats, for `rlaif export`: the table of targets, and the files.

Trainers have no place for a tie, which is left out, as are rows with an empty side everywhere. How sure the rest are
is in `p_chosen`, OpenRLHF's margin, or the annotation programs' metadata: read back, every label is the same. One more
target is a function in `export_trainers.py` or `export_programs.py` and a line in `FORMATS`. Nothing is sent anywhere.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.errors import ConfigError, DataError, did_you_mean
from rlaif.feedback.export_programs import argilla_row, label_studio_row, write_config, write_settings
from rlaif.feedback.export_trainers import (
    axolotl_row,
    llamafactory_row,
    nemo_rl_binary_row,
    nemo_rl_row,
    openrlhf_chat_row,
    openrlhf_row,
    trl_implicit_row,
    trl_row,
    verl_row,
    write_dataset_info,
)
from rlaif.feedback.pairs import read_preferences
from rlaif.jsonl import dumps, write_atomic, write_jsonl
from rlaif.records import Preference
from rlaif.run_folder import Run


class ExportFormat(NamedTuple):
    """One target of an export."""

    row: Callable[[Preference], dict[str, Any]]
    trains: bool = True
    """Whether the file is trained on: then held-out rows are in a file of their own, and it may be Parquet."""
    ties: bool = False
    """Whether it has a place for ties; else they are left out."""
    array: bool = False
    """Whether the file is one JSON array."""
    beside: str = ""
    """The name of what the target reads beside such a file, with `{stem}` of that; nothing where it reads no more."""
    write_beside: Callable[[Path, Path], None] = lambda out, beside: None
    """Writes it for the file `out`."""

    def beside_of(self, out: Path) -> Path | None:
        """Where that is."""
        return out.with_name(self.beside.format(stem=out.stem)) if self.beside else None


FORMATS: dict[str, ExportFormat] = {
    "trl": ExportFormat(trl_row),
    "trl-implicit": ExportFormat(trl_implicit_row),
    "openrlhf-chat": ExportFormat(openrlhf_chat_row),
    "openrlhf": ExportFormat(openrlhf_row),
    "llamafactory": ExportFormat(llamafactory_row, beside="dataset_info.json", write_beside=write_dataset_info),
    "verl": ExportFormat(verl_row),
    "nemo-rl": ExportFormat(nemo_rl_row),
    "nemo-rl-binary": ExportFormat(nemo_rl_binary_row),
    "axolotl": ExportFormat(axolotl_row),
    "argilla": ExportFormat(argilla_row, False, True, False, "{stem}.settings.json", write_settings),
    "label-studio": ExportFormat(label_studio_row, False, False, True, "{stem}.xml", write_config),
}


class ExportCounts(NamedTuple):
    """How many preferences went where."""

    rows: int
    heldout: int = 0
    heldout_file: Path | None = None
    ties: int = 0
    """Left out."""
    blank: int = 0
    """Left out, from every file: an empty side, or two that only white space parts. No reader takes them for a pair."""


def export_preferences(run_or_file: Path, to: str, out: Path) -> ExportCounts:
    """Write the preferences of a run folder, or of a preferences.jsonl: as Parquet where `out` ends in .parquet.

    Where the file is to be trained on, held-out rows go to `NAME.heldout.SUFFIX` beside it. ConfigError for an unknown
    format, DataError where there is nothing to write.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to {to}: no such format{did_you_mean(to, FORMATS)}")
    target = FORMATS[to]
    if out.suffix == ".parquet" and not target.trains:
        raise ConfigError(f"--out {out}: {to} reads JSON; name a .json{'' if target.array else 'l'} file")
    source = Run(run_or_file).preferences if run_or_file.is_dir() else run_or_file
    if out.resolve() == source.resolve():
        raise ConfigError(f"{out}: is the source, which it would replace; name another file")
    rows = read_preferences(source)
    whole = [row for row in rows if _is_pair(row)]
    kept = whole if target.ties else [row for row in whole if row.p_chosen > 0.5]
    train = [row for row in kept if row.split == "train"] if target.trains else kept
    ties, blank = len(whole) - len(kept), len(rows) - len(whole)
    if not train:
        raise DataError(
            f"{source}: no row to write ({len(rows)} rows, {ties} of them ties, {blank} with an empty side)"
        )
    _write(out, train, target)
    heldout = [row for row in kept if row.split == "heldout"] if target.trains else []
    if not heldout:
        return ExportCounts(len(train), ties=ties, blank=blank)
    file = out.with_name(f"{out.stem}.heldout{out.suffix}")
    _write(file, heldout, target)
    return ExportCounts(len(train), len(heldout), file, ties, blank)


def _is_pair(row: Preference) -> bool:
    """Whether both sides say something, and not the same: the rule by which every form is read."""
    chosen, rejected = row.chosen[-1].content.strip(), row.rejected[-1].content.strip()
    return bool(chosen and rejected) and chosen != rejected


def _write(file: Path, rows: Sequence[Preference], target: ExportFormat) -> None:
    beside = target.beside_of(file)
    if beside is not None:
        target.write_beside(file, beside)
    made = [target.row(row) for row in rows]
    if file.suffix == ".parquet":
        import pyarrow as pa  # noqa: PLC0415  (half a second, and only such files need it)
        from pyarrow import parquet  # noqa: PLC0415

        parquet.write_table(pa.Table.from_pylist(made), whole := io.BytesIO())
        write_atomic(file, whole.getvalue())
    elif target.array:
        write_atomic(file, ("[\n" + ",\n".join(map(dumps, made)) + "\n]\n").encode())
    else:
        write_jsonl(file, made)
