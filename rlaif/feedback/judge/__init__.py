"""The judge: pairs and a constitution in, judgments with provenance and failures out.

`modes.py` chooses, `compare.py` is the plain way to ask, `drive.py` runs what asks against a model, `asking.py` is what
all ways share, `result.py` what comes out.
The mathematics of the replies is in `feedback/verdict.py`.
"""

from rlaif.feedback.judge.modes import (
    OpenJudge,
    check_modes,
    judge_by_mode,
    judge_pairs,
    judge_shards,
    judge_with,
    modes_of,
    passes,
)
from rlaif.feedback.judge.result import JudgeResult, check_failure_cap

__all__ = [
    "JudgeResult",
    "OpenJudge",
    "check_failure_cap",
    "check_modes",
    "judge_by_mode",
    "judge_pairs",
    "judge_shards",
    "judge_with",
    "modes_of",
    "passes",
]
