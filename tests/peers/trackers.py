"""A tracker's own package, run once: a stage that is killed for good after step 3, goes on from step 2 to 5, and then
from 4 to 7. The tracker has every step once. Its name is given."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

from rlaif.config.training import TrackingSection
from rlaif.run_folder import Run
from rlaif.training.tracking import tracking
from tests.peers.common import POLICY, WORK, done
from tests.tiny_training import tiny_recipe

name, killed = sys.argv[1], "killed" in sys.argv
run = Run(WORK / f"tracked-{name}")
parts = [range(4)] if killed else [range(2, 6), range(4, 8)]


def wandb_rows() -> Iterator[tuple[int, float]]:
    """What offline runs will send, read in their logs: LevelDB's form, of wandb's records."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(WORK.glob("wandb/offline-run-*/*.wandb")):
        data, at, part = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # a block's end, too short for a header
                at += 32768 - at % 32768
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            part, at = part + data[at + 7 : at + 7 + size], at + 7 + size
            if kind in (1, 4):  # whole, or the last part
                record, part = Record.FromString(part), b""
                found = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                if "reward/loss" in found:
                    yield record.history.step.num, float(found["reward/loss"])


def rows() -> list[tuple[int, float]]:
    if name == "mlflow":
        import mlflow

        (only,) = mlflow.search_runs(experiment_names=["rlaif-peers"], output_format="list")
        history = mlflow.MlflowClient().get_metric_history(only.info.run_id, "reward/loss")
        return [(one.step, one.value) for one in history]
    if name == "trackio":
        from trackio.sqlite_storage import SQLiteStorage

        (title,) = SQLiteStorage.get_runs("rlaif-peers")
        return [(one["step"], one["reward/loss"]) for one in SQLiteStorage.get_logs("rlaif-peers", title)]
    return list(wandb_rows())


if not killed:
    done_before = subprocess.run([sys.executable, "-m", "tests.peers.trackers", name, "killed"], check=False)
    assert done_before.returncode == -signal.SIGKILL, done_before.returncode
recipe = tiny_recipe(str(POLICY), tracking=TrackingSection(to=(name,), project="rlaif-peers"))
run.folder.mkdir(exist_ok=True)
for steps in parts:
    with tracking(run, "reward", 8, recipe) as tracker:
        tracker.rewind(steps.start)
        for step in steps:
            tracker.log(step, {"loss": step / 4})
        assert name in tracker._outside, f"{name} was dropped"
        if killed:
            time.sleep(5)  # trackio and wandb send in the background
            os.kill(os.getpid(), signal.SIGKILL)
# An offline run of wandb writes blocks of 32 KiB: the kill takes what is in the first, also before the checkpoint.
first = 2 if name == "wandb" else 0
expected, patience = [(step, step / 4) for step in range(first, 8)], time.monotonic() + 60
while (found := rows()) != expected and time.monotonic() < patience:
    time.sleep(1)  # wandb's own process may still write
assert found == expected, found
where = {"wandb": "offline"}.get(name, "a local store")
done(f"a stage killed at its fourth step that goes on, twice: every step once, {where}")
