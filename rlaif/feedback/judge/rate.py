"""Placeholder."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config.sections import ChecklistMode, LabelSection, ScoreMode
from rlaif.constitution import Constitution
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.sample import Progress
from rlaif.models.chat import ChatModel
from rlaif.records import Pair


def judge_by_score(
    model: ChatModel,
    mode: ScoreMode,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """To come."""
    raise NotImplementedError


def judge_by_checklist(
    model: ChatModel,
    mode: ChecklistMode,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """To come."""
    raise NotImplementedError
