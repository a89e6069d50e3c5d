"""Placeholder."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config.sections import LabelSection, RankMode
from rlaif.constitution import Constitution
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.sample import Progress
from rlaif.models.chat import ChatModel
from rlaif.records import Pair


def judge_by_rank(
    model: ChatModel,
    mode: RankMode,
    pairs: Sequence[Pair],
    constitution: Constitution,
    section: LabelSection,
    seed: int,
    progress: Progress | None = None,
) -> JudgeResult:
    """To come."""
    raise NotImplementedError
