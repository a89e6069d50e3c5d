"""Where a training loop reports to: metrics.jsonl, TensorBoard, the recipe's trackers and one aligned line per step,
all from one dict. Of several processes the first reports.

Trackers outside the run folder (wandb, trackio, mlflow) are opened through accelerate and only read the metrics: one
that breaks is said and dropped, and training goes on. A stage is one run there, with its own steps from 0. What a stage
that goes on needs to find its run again lies beside its checkpoints and goes with them. Rows that are made again carry
the same step and the same numbers: a tracker is sent no step that it has, and TensorBoard, where each stage has a
folder, is told to forget the earlier ones.
"""

from __future__ import annotations

import contextlib
import secrets
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlaif.config import Recipe
from rlaif.console import Advance, bar, say
from rlaif.errors import ConfigError
from rlaif.forms import TEXTS
from rlaif.jsonl import read_json, write_json
from rlaif.processes import leads
from rlaif.run_folder import Run

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
WANDB_HEADER, BLOCK, PART = 7, 32768, struct.Struct("<IHB")
LAST_KEY = "seconds"
"""The last of each row that a tracker is sent: one that has it has the whole row."""


class Tracker:
    """Rows of one stage. Clock times go to TensorBoard and the screen, never into a row: equal runs, equal bytes."""

    def __init__(
        self,
        run: Run,
        stage: str,
        total: int,
        advance: Advance,
        print_line: Callable[[str], None],
        outside: Mapping[str, Outside] | None = None,
    ) -> None:
        self.say = print_line
        self._outside = dict(outside or {})
        self._run, self._stage, self._total, self._advance = run, stage, total, advance
        self._writer: Any = None
        self._last = time.monotonic()

    def rewind(self, step: int) -> None:
        """Forget rows at or after `step`: they will be made again."""
        self._run.rewind_metrics(self._stage, step)
        self._write_from(step)
        self._advance(step)

    def _write_from(self, step: int | None) -> None:
        """Open TensorBoard's events. Readers forget what the stage's earlier ones have at or after `step`."""
        if not leads():
            return
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (brings torch; `check_trackers` does not)

        if self._writer is not None:
            self._writer.close()
        self._writer = SummaryWriter(str(self._run.folder / "tensorboard" / self._stage), purge_step=step)

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Write the row of this step everywhere."""
        self._run.log({"stage": self._stage, "step": step, **row})
        now = time.monotonic()
        timed = {f"{self._stage}/{key}": value for key, value in {**row, LAST_KEY: now - self._last}.items()}
        if self._writer is None:
            self._write_from(None)
        if self._writer is not None:
            for key, value in timed.items():
                self._writer.add_scalar(key, value, step)
            self._writer.flush()  # a kill after the next checkpoint must lose no step before it
        for name in list(self._outside):
            self._tell(name, lambda outside: outside.log(timed, step))
        shown = "  ".join(f"{name} {_number(row[key])}" for key, name in SHOWN.items() if key in row)
        self.say(f"  {self._stage} {step + 1:>4}/{self._total}  {shown}  {now - self._last:5.1f} s")
        self._last = now
        self._advance(1)

    def close(self) -> None:
        """Flush TensorBoard's events and end the runs of the trackers."""
        if self._writer:
            self._writer.close()
        for name in list(self._outside):
            self._tell(name, lambda outside: outside.tracker.finish())

    def _tell(self, name: str, act: Callable[[Outside], None]) -> None:
        """One that fails is dropped, with a line that says so: metrics.jsonl has everything."""
        try:
            act(self._outside[name])
        except Exception as error:  # whatever a library of others raises
            del self._outside[name]
            self.say(f"  {name} stopped, training goes on without it: {_first_line(error)}")


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


# ------------------------------------------------------------------------------------- trackers outside the run


def check_trackers(recipe: Recipe) -> None:
    """ConfigError for the first tracker that is not installed. Imports nothing heavy."""
    for name in recipe.tracking.to:
        if find_spec(name) is None:
            raise ConfigError(f"tracking.to: {name} is not installed; pip install {name}, or leave it out")


class Outside:
    """A tracker of accelerate's, and the last step that its run has."""

    def __init__(self, name: str, tracker: Any) -> None:
        self.name, self.tracker, self.last = name, tracker, -1

    def goes_on(self, stage: str) -> None:
        """Find out what the run has, by its own account: what was on its way at a kill may not have come."""
        run = self.tracker.tracker
        if self.name == "mlflow":
            import mlflow  # noqa: PLC0415 (an extra)

            history = mlflow.MlflowClient().get_metric_history(run.info.run_id, f"{stage}/{LAST_KEY}")
            self.last = max((one.step for one in history), default=-1)
        elif self.name == "trackio":
            self.last = run._next_step - 1  # what it resumes at, from its store or its Space
        elif run.offline:
            self.last = max(_offline_steps(Path(run.dir).parents[1], run.id), default=-1)
        elif not run.disabled:
            self.last = run.step - 1

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send the row, unless the run has its step."""
        if step > self.last:
            # wandb keeps a row back until the next one unless it is told to commit.
            self.tracker.log(values, step=step, **({"commit": True} if self.name == "wandb" else {}))


def _offline_steps(folder: Path, identity: str) -> Iterator[int]:
    """The steps that offline runs of wandb have, which read nothing themselves: what is in their logs on disk.

    They are LevelDB's: blocks of 32 KiB, records in parts with checksum, size and kind (1 whole, 4 the last part).
    """
    from wandb.proto.wandb_internal_pb2 import Record  # noqa: PLC0415 (an extra)

    for path in folder.glob(f"*-{identity}/*.wandb"):
        data, at, record = path.read_bytes(), WANDB_HEADER, b""
        while at + PART.size <= len(data):
            if (left := BLOCK - at % BLOCK) < PART.size:
                at += left
                continue
            _, size, kind = PART.unpack_from(data, at)
            record, at = record + data[at + PART.size : at + PART.size + size], at + PART.size + size
            if kind in (1, 4) and at <= len(data):
                found, record = Record.FromString(record), b""
                if found.HasField("history"):
                    yield found.history.step.num


def open_trackers(recipe: Recipe, stage: str, folder: Path) -> dict[str, Outside]:
    """The recipe's trackers, started, by name. `folder` is the stage's own. ConfigError where one does not start."""
    check_trackers(recipe)
    if not recipe.tracking.to or not leads():
        return {}
    ids = folder / "trackers.json"
    known: dict[str, str] = read_json(ids, TEXTS) if ids.exists() else {}
    opened: dict[str, Outside] = {}
    for name in recipe.tracking.to:
        before = known.get(name)
        try:
            opened[name] = Outside(name, _start(name, recipe, stage, known))
            opened[name].tracker.store_init_configuration(_flat(recipe.model_dump(mode="json")))
            if before is not None and before == known[name]:
                opened[name].goes_on(stage)
        except Exception as error:  # whatever a library of others raises: no key, no network, another version
            raise ConfigError(f"tracking.to: {name} does not start: {_first_line(error)}") from None
    write_json(ids, known)
    return opened


def _first_line(error: Exception) -> str:
    """What went wrong, on one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _start(name: str, recipe: Recipe, stage: str, known: dict[str, str]) -> Any:
    """One tracker, in the run that is known from before, or in a new one that is known from now on."""
    from accelerate import PartialState  # noqa: PLC0415 (brings torch)
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker  # noqa: PLC0415

    PartialState()  # without it accelerate's logging refuses to work
    project, title = recipe.tracking.project, f"{recipe.name}/{stage}"
    if name == "mlflow":
        tracker = MLflowTracker(experiment_name=project, run_id=known.get(name), run_name=title)
        tracker.start()
        known[name] = tracker.tracker.info.run_id
        return tracker
    identity = known.setdefault(name, secrets.token_hex(4))
    if name == "wandb":
        tracker = WandBTracker(project, name=title, group=recipe.name, id=identity, resume="allow")
    else:
        tracker = TrackioTracker(project, name=f"{title}/{identity}", group=recipe.name, resume="allow")
    tracker.start()
    return tracker


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Dotted keys; what is no number becomes text."""
    found: dict[str, str | float] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found |= _flat(inner, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = inner if isinstance(inner, int | float) else str(inner)
    return found
