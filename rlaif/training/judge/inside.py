"""The judge as it stands while it learns: the model of the training loop, asked as any judge is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlaif.models.local.answers import KnownLabels
from rlaif.models.local.architecture import context_of
from rlaif.models.local.model import LocalChatModel
from rlaif.training.policy_model import PolicyModel


class JudgeInside(LocalChatModel):
    """A LocalChatModel over a model that is loaded already, and stays so when this is closed."""

    def __init__(self, policy: PolicyModel, batch_size: int) -> None:
        self.name = self.revision = "the judge that learns"
        self._batch_size = batch_size
        self._thinking = False
        self._model, self._tokenizer = policy.model, policy.tokenizer
        self._context = context_of(policy.model.config)
        self._labels = KnownLabels(policy.tokenizer)

    def close(self) -> None:
        """Nothing: the model goes on learning."""


@contextmanager
def as_judge(policy: PolicyModel, batch_size: int) -> Iterator[JudgeInside]:
    """Inside, the judge that its folder would be: with the adapter merged, as it will be saved."""
    with policy.for_generation():
        yield JudgeInside(policy, batch_size)
