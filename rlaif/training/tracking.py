"""Where a training loop reports to: metrics.jsonl, TensorBoard and one aligned line a step, all from one dict."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from torch.utils.tensorboard import SummaryWriter

from rlaif.console import Advance, bar, say
from rlaif.run import Run

SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "score": "score",
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

    def __init__(self, run: Run, stage: str, total: int, advance: Advance, print_line: Callable[[str], None]) -> None:
        self.say = print_line
        self._run, self._stage, self._total, self._advance = run, stage, total, advance
        self._writer = SummaryWriter(str(run.folder / "tensorboard"))
        self._last = time.monotonic()

    def rewind(self, step: int) -> None:
        """Forget rows at or after `step`: they will be made again."""
        self._run.rewind_metrics(self._stage, step)
        self._advance(step)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Write the row of this step everywhere."""
        self._run.log({"stage": self._stage, "step": step, **row})
        now = time.monotonic()
        for key, value in {**row, "seconds": now - self._last}.items():
            self._writer.add_scalar(f"{self._stage}/{key}", value, step)
        shown = "  ".join(f"{name} {_number(row[key])}" for key, name in SHOWN.items() if key in row)
        self.say(f"  {self._stage} {step + 1:>4}/{self._total}  {shown}  {now - self._last:5.1f} s")
        self._last = now
        self._advance(1)

    def close(self) -> None:
        """Flush TensorBoard's events."""
        self._writer.close()


@contextlib.contextmanager
def tracking(run: Run, stage: str, total: int) -> Iterator[Tracker]:
    """A tracker under a progress bar of `total` steps."""
    with bar(stage, total, "steps") as advance:
        tracker = Tracker(run, stage, total, advance, say)
        try:
            yield tracker
        finally:
            tracker.close()


def _number(value: float) -> str:
    return f"{value:6.3f}" if abs(value) < 10 else f"{value:6.1f}"
