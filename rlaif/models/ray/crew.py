"""The workers of one model: begun, met when they are ready, replaced when they are lost."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rlaif import __version__
from rlaif.config.models import ClientModel, LocalModel, RayModel, VllmModel
from rlaif.errors import ModelError, RlaifError, one_line
from rlaif.models.ray.worker import Opened, Worker

TRIES = 3
"""So many workers may be lost, one after the other, with one window alone, or before they are ready."""
AHEAD = 2
"""Windows that a worker has at once."""
PATIENCE_S = 900.0
"""So long nobody may be ready."""
CLOSING_S = 60.0


class Lost(ModelError):
    """A worker is gone, with whatever it was asked."""


class Hand:
    """A worker that is ready, or is on its way."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.has = 0
        """Windows at present; one that it has alone takes all its room."""
        self.gone = False


class Crew:
    """Begins as many workers as the config says; returns when the first is ready."""

    def __init__(self, ray: Any, config: RayModel) -> None:
        self.ready: list[Hand] = []
        self._ray, self._config = ray, config
        self._coming: dict[Any, Hand] = {}
        self._flying: dict[Any, tuple[Hand, int]] = {}
        """Windows that are being answered, and the room that each takes, by the reference of their replies."""
        self._failed = 0
        """Workers in a row that did not become ready."""
        self._first: Opened | None = None
        self._gpus = config.gpus
        if self._gpus is None:
            wanted = isinstance(config.engine, VllmModel | LocalModel)
            self._gpus = float(wanted and ray.cluster_resources().get("GPU", 0) > 0)
        for _ in range(config.workers):
            self._begin()
        self.meet()

    @property
    def opened(self) -> Opened:
        """What all workers say of their engine."""
        assert self._first is not None
        return self._first

    def _begin(self) -> None:
        side_by_side = isinstance(self._config.engine, VllmModel | ClientModel)
        options = {"num_gpus": self._gpus, "max_concurrency": AHEAD if side_by_side else 1}
        actor = self._ray.remote(Worker).options(scheduling_strategy="SPREAD", **options).remote(self._config.engine)
        self._coming[actor.open.remote()] = Hand(actor)

    def meet(self) -> None:
        """Wait until somebody is ready. ModelError where nobody comes."""
        while not self.ready:
            self.wait(())

    def free(self, room: int) -> Hand | None:
        """Who has the fewest windows, if there is so much room beside them."""
        hand = min(self.ready, key=lambda one: one.has, default=None)
        return hand if hand is not None and hand.has + room <= AHEAD else None

    def sent(self, hand: Hand, one: Any, room: int) -> Any:
        """The worker has one window more, whose replies these will be."""
        self._flying[one] = hand, room
        hand.has += room
        return one

    def wait(self, asked: Collection[Any]) -> list[Any]:
        """Those of the asked that are there; perhaps none, where something else happened first."""
        if all(one in self._flying for one in asked):
            everything = [*self._flying, *self._coming]
            done, _ = self._ray.wait(everything, timeout=None if self.ready else PATIENCE_S)
            if not done:
                raise ModelError(f"ray: no worker began within {PATIENCE_S:g} s: {self._wants()}")
            for one in done:
                if (hand := self._coming.pop(one, None)) is not None:
                    self._met(hand, self.outcome(one))
                elif one in self._flying:
                    hand, room = self._flying.pop(one)
                    hand.has -= room
        return [one for one in asked if one not in self._flying]

    def outcome(self, one: Any) -> Any:
        """What it is, what the worker's engine raised, or `Lost`. A fault of our own code is raised."""
        try:
            return self._ray.get(one)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            return Lost(f"ray: a worker was lost: {one_line(error)}")

    def _wants(self) -> str:
        has = {name: count for name, count in self._ray.cluster_resources().items() if name in {"CPU", "GPU"}}
        return f"each wants {self._gpus:g} GPU and the cluster has {has}"

    def _met(self, hand: Hand, opened: Opened | RlaifError) -> None:
        if isinstance(opened, RlaifError):
            self._failed += 1
            if not isinstance(opened, Lost) and self._first is None:
                raise opened
            if self._failed <= TRIES:
                self.lose(hand)
            elif not self.ready:
                raise opened
            return
        if opened.rlaif != __version__:
            raise ModelError(f"ray: a worker has rlaif {opened.rlaif}, this process {__version__}: install the same")
        self._first = self._first or opened
        if opened[:3] != self._first[:3]:
            raise ModelError(
                f"ray: two workers have different models: {self._first.name} of revision {self._first.revision}, "
                f"{opened.name} of revision {opened.revision}"
            )
        self._failed = 0
        self.ready.append(hand)

    def lose(self, hand: Hand) -> None:
        """Another worker instead of this one."""
        if not hand.gone:
            hand.gone = True
            self.ready = [one for one in self.ready if one is not hand]
            self._ray.kill(hand.actor)
            self._begin()

    def close(self) -> None:
        """Dismiss all; who is not at work frees what the engine holds."""
        asked = [hand.actor.close.remote() for hand in self.ready if not hand.has]
        if asked:
            self._ray.wait(asked, num_returns=len(asked), timeout=CLOSING_S)
        for hand in [*self.ready, *self._coming.values()]:
            self._ray.kill(hand.actor)
        self.ready, self._coming, self._flying = [], {}, {}
