"""Where a training loop reports to: metrics.jsonl, TensorBoard, the recipe's trackers and one aligned line a step, all
from one dict. Of several processes the first reports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from rlaif.config import Recipe
from rlaif.console import Advance, bar, say
from rlaif.processes import leads
from rlaif.run_folder import Run
from rlaif.training.trackers import first_line, open_trackers

SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "heldout_accuracy": "held-out accuracy",
    "label_mass": "on labels",
    "score": "score",
    "gold": "gold",
    "kl": "KL",
    "response_tokens": "tokens",
    "finished": "ended",
    "pass/all": "pass",
    "entropy": "entropy",
    "clip_fraction": "clip",
    "explained_variance": "ev",
}
"""What the line shows, by the name it has there; metrics.jsonl holds the rest too."""


class Tracker:
    """Rows of one stage. Clock times go to TensorBoard and the screen, never into a row: equal runs, equal bytes."""

    def __init__(
        self,
        run: Run,
        stage: str,
        total: int,
        advance: Advance,
        print_line: Callable[[str], None],
        outside: Mapping[str, Any] | None = None,
    ) -> None:
        self.say = print_line
        self._outside = dict(outside or {})
        self._run, self._stage, self._total, self._advance = run, stage, total, advance
        self._writer = SummaryWriter(str(run.folder / "tensorboard")) if leads() else None
        self._last = time.monotonic()

    def rewind(self, step: int) -> None:
        """Forget rows at or after `step`: they will be made again."""
        self._run.rewind_metrics(self._stage, step)
        self._advance(step)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Write the row of this step everywhere."""
        self._run.log({"stage": self._stage, "step": step, **row})
        now = time.monotonic()
        timed = {f"{self._stage}/{key}": value for key, value in {**row, "seconds": now - self._last}.items()}
        if self._writer is not None:
            for key, value in timed.items():
                self._writer.add_scalar(key, value, step)
        for name in list(self._outside):
            self._tell(name, lambda tracker: tracker.log(timed, step=step))
        shown = "  ".join(f"{name} {_number(row[key])}" for key, name in SHOWN.items() if key in row)
        self.say(f"  {self._stage} {step + 1:>4}/{self._total}  {shown}  {now - self._last:5.1f} s")
        self._last = now
        self._advance(1)

    def close(self) -> None:
        """Flush TensorBoard's events and end the runs of the trackers."""
        if self._writer:
            self._writer.close()
        for name in list(self._outside):
            self._tell(name, lambda tracker: tracker.finish())

    def _tell(self, name: str, act: Callable[[Any], None]) -> None:
        """One that fails is dropped, with a line that says so: metrics.jsonl has everything."""
        try:
            act(self._outside[name])
        except Exception as error:  # whatever a library of others raises
            del self._outside[name]
            self.say(f"  {name} stopped, training goes on without it: {first_line(error)}")


@contextlib.contextmanager
def tracking(run: Run, stage: str, total: int, recipe: Recipe) -> Iterator[Tracker]:
    """A tracker under a progress bar of `total` steps."""
    outside = open_trackers(recipe, stage, run.checkpoints / stage)
    with bar(stage, total, "steps") as advance:
        tracker = Tracker(run, stage, total, advance, say, outside)
        try:
            yield tracker
        finally:
            tracker.close()


def _number(value: float) -> str:
    return f"{value:6.3f}" if abs(value) < 10 else f"{value:6.1f}"
