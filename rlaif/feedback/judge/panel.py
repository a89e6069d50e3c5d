"""Placeholder."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config.sections import PanelMode
from rlaif.feedback.judge.result import JudgeResult
from rlaif.records import Pair


def combine(mode: PanelMode, pairs: Sequence[Pair], results: Sequence[JudgeResult]) -> JudgeResult:
    """To come."""
    raise NotImplementedError
