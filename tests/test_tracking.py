"""Where training reports to: every reader gets the same row, and one that is missing or breaks is said in one line."""

from __future__ import annotations

import importlib.machinery
import json
import os
import signal
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlaif.config.training import TrackingSection
from rlaif.errors import ConfigError
from rlaif.run_folder import Run
from rlaif.training.tracking import _offline_steps, check_trackers, open_trackers, tracking
from tests.forked import exit_code
from tests.tiny_training import tiny_recipe

ROW = {"loss": 0.5, "accuracy": 0.75}


class FakeWandb(ModuleType):
    """What wandb is asked to do, as accelerate asks it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.started: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.settings: dict[str, Any] = {}
        self.finished = 0
        self.broken = False
        self.offline = self.disabled = False
        self.id, self.dir, self.folder = "", "", Path()
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.settings.update(values))

    def init(self, **settings: Any) -> FakeWandb:
        if self.broken:
            raise RuntimeError("no API key\nsee the manual")
        self.started.append(settings)
        self.id = settings.get("id", "")
        self.dir = str(self.folder / f"offline-run-{len(self.started)}-{self.id}" / "files")
        return self

    def log(self, values: dict[str, float], step: int, commit: bool = False) -> None:
        if self.broken:
            raise RuntimeError("the network is down\nreally")
        assert commit == (self.__name__ == "wandb"), "wandb keeps back what is not committed"
        self.rows.append((step, values))
        if self.offline:
            self.keep(json.dumps({"step": step}).encode())

    def keep(self, record: bytes) -> None:
        """In the log of an offline run, in two parts, and no part over the end of a block."""
        folder = Path(self.dir).parent
        folder.mkdir(exist_ok=True)
        with (folder / "run.wandb").open("ab") as file:
            file.write(b"" if file.tell() else b":W&B\0\0\0")
            for kind, part in ((2, record[:1]), (4, record[1:])):
                left = 32768 - file.tell() % 32768
                if left < 7 + len(part):  # a first part would fill it, as wandb does; an empty one will do
                    file.write(struct.pack("<IHB", 0, left - 7, 3) + b" " * (left - 7) if left >= 7 else b"\0" * left)
                file.write(struct.pack("<IHB", 0, len(part), kind) + part)

    @property
    def step(self) -> int:
        """wandb's own word for the next step; an offline run starts over."""
        assert self.__name__ == "wandb"
        return 0 if self.offline else self._next_step

    @property
    def _next_step(self) -> int:
        return self.rows[-1][0] + 1 if self.rows else 0

    def finish(self) -> None:
        self.finished += 1


class FakeMlflow(ModuleType):
    """mlflow's side: it names its runs itself."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = importlib.machinery.ModuleSpec("mlflow", None)
        self.utils = SimpleNamespace(
            validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        )
        self.runs: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []

    def search_experiments(self, filter_string: str) -> list[Any]:
        return []

    def create_experiment(self, **settings: Any) -> str:
        return "7"

    def start_run(self, **settings: Any) -> Any:
        self.runs.append(settings)
        return SimpleNamespace(info=SimpleNamespace(run_id=settings["run_id"] or f"made-{len(self.runs)}"))

    def log_params(self, values: dict[str, Any]) -> None: ...

    def MlflowClient(self) -> FakeMlflow:
        return self

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        assert run_id == self.runs[-1]["run_id"]
        return [SimpleNamespace(step=step) for step, values in self.rows if key in values]

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))

    def end_run(self) -> None: ...


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def recipe(tmp_path: Path, *to: Any) -> Any:
    return tiny_recipe(str(tmp_path), tracking=TrackingSection(to=to, project="project"))


def report(tmp_path: Path, recipe: Any, steps: range, begin: int = 0) -> Run:
    run = Run(tmp_path / "run")
    run.folder.mkdir(exist_ok=True)
    with tracking(run, "reward", 4, recipe) as tracker:
        tracker.rewind(begin)
        for step in steps:
            tracker.log(step, ROW)
    return run


def test_metrics_and_tensorboard_always(tmp_path: Path) -> None:
    run = report(tmp_path, recipe(tmp_path), range(3))
    assert run.read_metrics("reward") == [{"stage": "reward", "step": step, **ROW} for step in range(3)]
    assert shown(run) == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert [step for step, _ in shown(run, "seconds")] == [0, 1, 2]


def shown(run: Run, name: str = "loss", stage: str = "reward") -> list[tuple[int, float]]:
    """Step and value as TensorBoard reads them."""
    events = EventAccumulator(str(run.folder / "tensorboard" / stage)).Reload()
    return [(event.step, event.value) for event in events.Scalars(f"{stage}/{name}")]


def time_passes(run: Run) -> None:
    """TensorBoard reads files in the order of the seconds in their names."""
    for path in sorted((run.folder / "tensorboard").rglob("events*")):
        name, seconds, rest = path.name.partition("tfevents.")[0], path.name.split(".")[3], path.name.split(".", 4)[4]
        path.rename(path.with_name(f"{name}tfevents.{int(seconds) - 100}.{rest}"))


def killed(tmp_path: Path) -> None:
    with tracking(Run(tmp_path / "run"), "reward", 4, recipe(tmp_path)) as tracker:
        tracker.rewind(0)
        for step in range(4):
            tracker.log(step, {"loss": step / 4})
        os.kill(os.getpid(), signal.SIGKILL)


def test_tensorboard_shows_no_step_twice_after_a_kill(tmp_path: Path) -> None:
    """Killed with step 3 written, the stage goes on from a checkpoint before it; then it is done again as a whole."""

    (tmp_path / "run").mkdir()
    with tracking(Run(tmp_path / "run"), "optimise", 4, recipe(tmp_path)) as tracker:
        for step in range(3):
            tracker.log(step, {"loss": 7.0})
    assert exit_code(killed, tmp_path) == -signal.SIGKILL
    assert shown(Run(tmp_path / "run")) == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)], "the kill lost none"
    time_passes(Run(tmp_path / "run"))
    run = report(tmp_path, recipe(tmp_path), range(2, 5), begin=2)
    assert shown(run) == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.5), (4, 0.5)]
    time_passes(run)
    report(tmp_path, recipe(tmp_path), range(2))
    assert shown(run) == [(0, 0.5), (1, 0.5)]
    assert shown(run, stage="optimise") == [(0, 7.0), (1, 7.0), (2, 7.0)], "another stage keeps its own"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_every_row_with_its_step_and_the_recipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb(name)
    monkeypatch.setitem(sys.modules, name, fake)
    report(tmp_path, recipe(tmp_path, name), range(3))
    assert [step for step, _ in fake.rows] == [0, 1, 2]
    assert all(values["reward/loss"] == 0.5 and values["reward/seconds"] >= 0 for _, values in fake.rows)
    assert fake.settings["reward.epochs"] == 1 and fake.settings["name"] == "tiny"
    assert fake.started[0]["project"] == "project" and fake.started[0]["name"].startswith("tiny/reward")
    assert fake.finished == 1


class FakeRecord(SimpleNamespace):
    """wandb's protobuf, in JSON."""

    @classmethod
    def FromString(cls, data: bytes) -> FakeRecord:
        return cls(history=SimpleNamespace(step=SimpleNamespace(num=json.loads(data)["step"])))

    def HasField(self, name: str) -> bool:
        return name == "history"


def fake_of(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    fake = FakeMlflow() if name == "mlflow" else FakeWandb(name.partition(" ")[0])
    if isinstance(fake, FakeWandb):
        fake.offline, fake.folder = name == "wandb offline", folder
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setitem(sys.modules, "wandb.proto", ModuleType("wandb.proto"))
    monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", SimpleNamespace(Record=FakeRecord))
    return fake


@pytest.mark.parametrize("name", ["wandb", "trackio", "wandb offline"])
def test_a_stage_that_goes_on_goes_on_in_its_own_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_of(name, monkeypatch, tmp_path)
    run = report(tmp_path, recipe(tmp_path, fake.__name__), range(3))
    report(tmp_path, recipe(tmp_path, fake.__name__), range(2, 4), begin=2)
    assert fake.started[0] == fake.started[1] and fake.started[0]["resume"] == "allow"
    run.begin("reward", "other inputs")  # begun anew: the folder of checkpoints goes
    fake.rows.clear()  # another run of the tracker's
    report(tmp_path, recipe(tmp_path, fake.__name__), range(1))
    assert fake.started[2] != fake.started[0]
    assert [step for step, _ in fake.rows] == [0]


def test_mlflow_is_asked_for_the_run_it_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_of("mlflow", monkeypatch, tmp_path)
    for _ in range(2):
        report(tmp_path, recipe(tmp_path, "mlflow"), range(2))
    assert [settings["run_id"] for settings in fake.runs] == [None, "made-1"]
    assert [settings["run_name"] for settings in fake.runs] == ["tiny/reward"] * 2
    assert [step for step, _ in fake.rows] == [0, 1]


@pytest.mark.parametrize("name", ["wandb", "wandb offline", "trackio", "mlflow"])
def test_no_step_is_sent_that_the_tracker_has(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at step 7 and gone on from 5; killed again before it came to 7; done again from the start."""
    fake = fake_of(name, monkeypatch, tmp_path)
    asked = recipe(tmp_path, fake.__name__)
    report(tmp_path, asked, range(8))
    run = report(tmp_path, asked, range(5, 6), begin=5)
    report(tmp_path, asked, range(5, 9), begin=5)
    report(tmp_path, asked, range(2))
    assert [step for step, _ in fake.rows] == list(range(9))
    assert [row["step"] for row in run.read_metrics("reward")] == [0, 1], "metrics.jsonl has what the stage did"


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_step_that_the_tracker_lost_is_sent_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on its way at the kill did not come: the tracker knows, and nobody else does."""
    fake = fake_of(name, monkeypatch, tmp_path)
    report(tmp_path, recipe(tmp_path, fake.__name__), range(8))
    del fake.rows[6:]
    report(tmp_path, recipe(tmp_path, fake.__name__), range(5, 9), begin=5)
    assert [step for step, _ in fake.rows] == list(range(9))


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_line_before_anything_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlaif.training.tracking.find_spec", lambda name: None)
    expected = f"tracking.to: {name} is not installed; pip install {name}, or leave it out"
    with pytest.raises(ConfigError) as error:
        check_trackers(recipe(tmp_path, name))
    assert str(error.value) == expected
    from rlaif.pipeline import run_recipe

    with pytest.raises(ConfigError, match="is not installed"):
        run_recipe(recipe(tmp_path, name), tmp_path / "run")
    assert not (tmp_path / "run" / "responses.jsonl").exists()


def test_a_tracker_that_does_not_start_is_one_line(tmp_path: Path, wandb: FakeWandb) -> None:
    wandb.broken = True
    with pytest.raises(ConfigError, match=r"^tracking.to: wandb does not start: no API key$"):
        open_trackers(recipe(tmp_path, "wandb"), "reward", tmp_path)


def test_a_tracker_that_breaks_is_said_and_dropped(
    tmp_path: Path, wandb: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    with tracking(run, "reward", 4, recipe(tmp_path, "wandb")) as tracker:
        tracker.log(0, ROW)
        wandb.broken = True
        tracker.log(1, ROW)
        tracker.log(2, ROW)
    said = capsys.readouterr().out
    assert said.count("wandb stopped, training goes on without it: the network is down\n") == 1
    assert len(run.read_metrics("reward")) == 3


def test_other_processes_open_no_tracker(tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    report(tmp_path, recipe(tmp_path, "wandb"), range(2))
    assert not wandb.started
    assert [path.name for path in (tmp_path / "run").iterdir()] == []


def test_an_offline_run_is_read_over_the_ends_of_blocks_and_to_where_a_kill_cut_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_of("wandb offline", monkeypatch, tmp_path)
    fake.id, fake.dir = "one", str(tmp_path / "offline-run-1-one" / "files")
    for step in range(3000):
        fake.keep(json.dumps({"step": step}).encode())
    assert list(_offline_steps(tmp_path, "one")) == list(range(3000))
    log = tmp_path / "offline-run-1-one" / "run.wandb"
    assert log.stat().st_size > 2 * 32768
    log.write_bytes(log.read_bytes()[:-1])
    assert list(_offline_steps(tmp_path, "one")) == list(range(2999))
    assert not list(_offline_steps(tmp_path, "other"))
