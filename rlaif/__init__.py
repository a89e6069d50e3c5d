"""rlaif: reinforcement learning from AI feedback, from a written constitution to a trained policy.

The names in `__all__` are the public API (docs/api.md); each is imported when it is first used, so that `import rlaif`
brings no torch. To read the code start with `rlaif/pipeline.py`, which is the whole recipe on one screen, then
`rlaif/records/`, which names every kind of row that passes between the stages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlaif.api.inputs import open_engine
    from rlaif.api.judging import Preferences, ScoreResult, judge, judgment_of, preferences, requests_of, score
    from rlaif.api.reward import RewardModel, train_reward_model
    from rlaif.api.rewarding import RewardFunction, reward_function
    from rlaif.api.runs import audit, compare, run
    from rlaif.config import Recipe, load_recipe
    from rlaif.constitution import Constitution, load_constitution
    from rlaif.errors import ConfigError, DataError, JudgeError, ModelError, RlaifError, TrainingError
    from rlaif.feedback.judge import JudgeResult
    from rlaif.models.engine import ChatRequest, Reply
    from rlaif.records import Failure, Judgment, Message, Pair, Preference, Prompt, Response, Score, Verdict
    from rlaif.run_folder import Run

__version__ = "0.1.0"
__all__ = [
    "ChatRequest",
    "ConfigError",
    "Constitution",
    "DataError",
    "Failure",
    "JudgeError",
    "JudgeResult",
    "Judgment",
    "Message",
    "ModelError",
    "Pair",
    "Preference",
    "Preferences",
    "Prompt",
    "Recipe",
    "Reply",
    "Response",
    "RewardFunction",
    "RewardModel",
    "RlaifError",
    "Run",
    "Score",
    "ScoreResult",
    "TrainingError",
    "Verdict",
    "__version__",
    "audit",
    "compare",
    "judge",
    "judgment_of",
    "load_constitution",
    "load_recipe",
    "open_engine",
    "preferences",
    "requests_of",
    "reward_function",
    "run",
    "score",
    "train_reward_model",
]
_HOMES = {
    "rlaif.api.inputs": "open_engine",
    "rlaif.api.judging": "Preferences ScoreResult judge judgment_of preferences requests_of score",
    "rlaif.api.reward": "RewardModel train_reward_model",
    "rlaif.api.rewarding": "RewardFunction reward_function",
    "rlaif.api.runs": "audit compare run",
    "rlaif.config": "Recipe load_recipe",
    "rlaif.constitution": "Constitution load_constitution",
    "rlaif.errors": "ConfigError DataError JudgeError ModelError RlaifError TrainingError",
    "rlaif.feedback.judge": "JudgeResult",
    "rlaif.models.engine": "ChatRequest Reply",
    "rlaif.records": "Failure Judgment Message Pair Preference Prompt Response Score Verdict",
    "rlaif.run_folder": "Run",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rlaif' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
