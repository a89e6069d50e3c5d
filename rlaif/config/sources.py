"""Rows from a file or from the hub."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlaif.config.base import Count, Section


class FileSource(Section):
    """A JSONL file (also .jsonl.gz), a JSON array, CSV (.csv) or Parquet (.parquet)."""

    kind: Literal["file"] = "file"
    path: str
    """A path, or for prompts the name of a shipped set (`everyday`)."""
    tags: tuple[str, ...] = ()
    """Added to every row."""
    limit: Count | None = None


class HubSource(Section):
    """A data set read through `datasets`."""

    kind: Literal["hub"] = "hub"
    dataset: str
    name: str | None = None
    """The configuration (`data_dir` for HH-RLHF's folders goes in `data_dir`)."""
    data_dir: str | None = None
    split: str = "train"
    revision: str | None = None
    column: str = "prompt"
    """Where the prompt is: a text, a message list, or an HH-RLHF transcript (`chosen`)."""
    tags: tuple[str, ...] = ()
    limit: Count | None = None


DataSource = Annotated[FileSource | HubSource, Field(discriminator="kind")]
