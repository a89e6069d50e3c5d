"""Reward models from Python: trained on preferences, and read as one value per conversation. No recipe, no run."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rlaif.api.inputs import ResponseLike, model_of, response_of, responses_of, section_of
from rlaif.config import Recipe
from rlaif.config.base import Section
from rlaif.config.models import Dtype, LocalModel
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.pairs import read_preferences
from rlaif.forms import OBJECT
from rlaif.jsonl import read_json, write_jsonl
from rlaif.records import Preference
from rlaif.run_folder import Run

if TYPE_CHECKING:
    from rlaif.rewards.model import FolderReward

PathLike = str | os.PathLike[str]
MICROBATCH_TOKENS = 4096
"""Tokens, padding included, in one forward pass."""


class RewardModel:
    """What conversations are worth, as a reward model of rlaif says, be it one or an ensemble (its members' mean).

    Values are centred: 0 is the mean over the responses that the model was told to count from.
    """

    def __init__(self, folder: Path, reward: FolderReward, facts: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = dict(facts or {})
        """What training counted, `heldout_pairs` and `heldout_correct` of them; empty for a model that was loaded."""
        self.reward = reward
        """What the recipe's sections are scored by: prompts and texts in, values out."""

    @classmethod
    def load(cls, path: PathLike, *, dtype: Dtype = "auto", microbatch_tokens: int = MICROBATCH_TOKENS) -> RewardModel:
        """The reward model of a folder: its own, or that of a run. The weights are read when something is scored.

        ConfigError where there is none.
        """
        from rlaif.models.local.machine import resolve, torch_dtype  # noqa: PLC0415 (brings torch)
        from rlaif.rewards.model import FolderReward  # noqa: PLC0415

        folder = _folder(Path(path).expanduser())
        return cls(folder, FolderReward(folder, torch_dtype(resolve(dtype)), microbatch_tokens))

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer is: an ensemble's first member has it."""
        return next(config.parent for config in _configs(self.folder) if config.is_file())

    def score(self, conversations: Iterable[ResponseLike]) -> list[float | None]:
        """One value per conversation, in input order: None where there is none, and `problem` says why.

        A conversation is messages that end with the assistant's turn, or (prompt, response), or a Response. Chat
        template and end of turn are the model's own. DataError for what is no conversation.
        """
        pairs = responses_of(conversations)
        return self.reward.score([prompt for prompt, _ in pairs], [text for _, text in pairs])

    def problem(self, conversation: ResponseLike) -> str | None:
        """Why a conversation has no score: it is too long for the model, or cannot be encoded. None if it has one."""
        prompt, text = response_of(conversation)
        (row,) = self.reward.encoded([prompt], [text])
        return row if isinstance(row, str) else None


def train_reward_model(
    preferences: PathLike | Iterable[Preference | Mapping[str, Any]],
    model: str | Mapping[str, Any] | Section = "smollm2-135m",
    out: PathLike = "reward_model",
    *,
    seed: int = 0,
    **knobs: Any,
) -> RewardModel:
    """Train a reward model on the preferences of split `train`, and measure it on those of split `heldout`.

    `preferences` are rows, or a preferences.jsonl. `model` is the backbone, a local one; `knobs` are keys of the
    recipe's section `reward` (`epochs=2`, `lora=None`, `ensemble={"members": 4}`). The folder `out` appears when it is
    whole and replaces a reward model of rlaif's that was there, and nothing else; any Hugging Face reader loads it as a
    sequence classifier.
    Scores are counted from the mean of the training responses. DataError where there is nothing to learn from.
    """
    target, recipe = Path(out).expanduser(), _recipe(model, seed, knobs)
    if target.exists() and not _is_ours(target) and (target.is_file() or any(target.iterdir())):
        raise ConfigError(f"{target}: is there and is no reward model of rlaif's; name another `out`")
    from rlaif import stages  # noqa: PLC0415 (not needed to load one)
    from rlaif.models.local.machine import settled  # noqa: PLC0415 (brings torch)
    from rlaif.stages.stage import publishing  # noqa: PLC0415

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        run = Run(Path(folder))
        write_jsonl(run.preferences, _rows(preferences))
        read_preferences(run.preferences)
        recipe = settled(recipe, None)
        facts = stages.reward(recipe, run)
        with publishing(target) as whole:
            run.reward_model.rename(whole)
    loaded = RewardModel.load(target, dtype=recipe.policy.dtype, microbatch_tokens=recipe.reward.microbatch_tokens)
    loaded.facts = facts
    return loaded


def _recipe(model: str | Mapping[str, Any] | Section, seed: int, knobs: Mapping[str, Any]) -> Recipe:
    backbone = model_of(model)
    if not isinstance(backbone, LocalModel):
        raise ConfigError(f"model: a reward model is trained here, so it must be local (got {backbone.backend})")
    if knobs.get("principle_heads"):
        raise ConfigError("principle_heads: principles' own heads learn from judgments; train them by a recipe")
    return section_of(
        Recipe,
        {
            "name": "reward-model",
            "seed": seed,
            "constitution": "none",
            "policy": backbone.model_dump(),
            "judge": {"backend": "scripted", "model": "none:none"},
            "prompts": {"sources": [{"kind": "file", "path": "none"}]},
            "reward": dict(knobs),
        },
        "train_reward_model",
    )


def _rows(preferences: PathLike | Iterable[Preference | Mapping[str, Any]]) -> list[Preference]:
    if isinstance(preferences, str | os.PathLike):
        return read_preferences(Path(preferences).expanduser())
    rows = []
    for place, row in enumerate(preferences):
        try:
            rows.append(row if isinstance(row, Preference) else Preference.model_validate(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(f"preferences[{place}]: {where}: {first['msg']}") from None
    return rows


def is_reward_model(path: Path) -> bool:
    """Whether the folder has a reward model, or is one."""
    return bool(_folders(path))


def _folders(path: Path) -> list[Path]:
    return [one for one in (path / "reward_model", path) if any(config.is_file() for config in _configs(one))]


def _folder(path: Path) -> Path:
    if found := _folders(path):
        if _is_ours(found[0]):
            return found[0]
        raise ConfigError(f"{found[0]}: a model, and no reward model of this rlaif's: make one by the stage reward")
    raise ConfigError(f"{path}: no reward model here; name a folder that the stage reward wrote, or a run with one")


def _configs(folder: Path) -> list[Path]:
    return [folder / "config.json", folder / "member-0" / "config.json"]


def _is_ours(folder: Path) -> bool:
    """Whether the stage reward wrote what is there: every model has a config.json, and this folder may be deleted."""
    from rlaif.training.scalar_model import REFERENCE  # noqa: PLC0415 (brings torch)

    for config in _configs(folder):
        with contextlib.suppress(DataError):
            return REFERENCE in read_json(config, OBJECT) and any(config.parent.glob("*.safetensors"))
    return False
