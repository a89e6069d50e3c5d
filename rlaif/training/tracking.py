"""Where a training loop reports to: metrics.jsonl, TensorBoard and one aligned line a step, all from one dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from rlaif.run import Run


class Tracker:
    """Rows of one stage. `seconds` is the only field that two equal runs may differ in."""

    def __init__(self, run: Run, stage: str, total: int, say: Callable[[str], None]) -> None:
        self._run, self._stage, self._total, self.say = run, stage, total, say
        self._writer = SummaryWriter(str(run.folder / "tensorboard"))

    def rewind(self, step: int) -> None:
        """Forget rows at or after `step`: they will be made again."""
        self._run.rewind_metrics(self._stage, step)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Write the row of this step everywhere."""
        self._run.log({"stage": self._stage, "step": step, **row})
        for key, value in row.items():
            self._writer.add_scalar(f"{self._stage}/{key}", value, step)
        shown = "  ".join(f"{_short(key)} {_number(value)}" for key, value in row.items() if key in SHOWN)
        self.say(f"{self._stage} {step + 1:>4}/{self._total}  {shown}")

    def close(self) -> None:
        self._writer.close()


SHOWN = {
    "loss": "loss",
    "accuracy": "acc",
    "score": "score",
    "kl": "kl",
    "response_tokens": "tokens",
    "finished": "ended",
    "pass/all": "pass",
    "entropy": "entropy",
    "clip_fraction": "clip",
    "explained_variance": "ev",
    "seconds": "s",
}


def _short(key: str) -> str:
    return SHOWN[key]


def _number(value: Any) -> str:
    return f"{value:7.3f}" if abs(value) < 100 else f"{value:7.1f}"
