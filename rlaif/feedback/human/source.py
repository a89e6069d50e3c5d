"""The files behind a source of human feedback."""

from __future__ import annotations

import os
from pathlib import Path

from rlaif.config.sections import Annotations, FileSource, HumanSource
from rlaif.feedback.sources import path_of
from rlaif.run import Run


def source_files(source: HumanSource, run: Run) -> list[Path]:
    """What the source is read from; none where that is a hub."""
    if isinstance(source, Annotations):
        theirs = annotated_run(source, run)
        return [theirs.annotations, theirs.annotation_edits]
    return [path_of(source)] if isinstance(source, FileSource) else []


def annotated_run(source: Annotations, run: Run) -> Run:
    """The run on whose page the answers were given."""
    return Run(Path(os.path.expanduser(source.run))) if source.run else run
