"""Where training reports to: every reader gets the same row, and one that is missing or breaks is said in one line."""

from __future__ import annotations

import importlib.machinery
import os
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlaif.config.training import TrackingSection
from rlaif.errors import ConfigError
from rlaif.run_folder import Run
from rlaif.training.tracking import check_trackers, open_trackers, tracking
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
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.settings.update(values))

    def init(self, **settings: Any) -> FakeWandb:
        if self.broken:
            raise RuntimeError("no API key\nsee the manual")
        self.started.append(settings)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        if self.broken:
            raise RuntimeError("the network is down\nreally")
        self.rows.append((step, values))

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


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_stage_that_goes_on_goes_on_in_its_own_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb(name)
    monkeypatch.setitem(sys.modules, name, fake)
    run = report(tmp_path, recipe(tmp_path, name), range(3))
    report(tmp_path, recipe(tmp_path, name), range(2, 4), begin=2)
    assert fake.started[0] == fake.started[1] and fake.started[0]["resume"] == "allow"
    assert [step for step, _ in fake.rows] == [0, 1, 2, 2, 3]
    run.begin("reward", "other inputs")  # begun anew: the folder of checkpoints goes
    report(tmp_path, recipe(tmp_path, name), range(1))
    assert fake.started[2] != fake.started[0]


def test_mlflow_is_asked_for_the_run_it_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for _ in range(2):
        report(tmp_path, recipe(tmp_path, "mlflow"), range(2))
    assert [settings["run_id"] for settings in fake.runs] == [None, "made-1"]
    assert [settings["run_name"] for settings in fake.runs] == ["tiny/reward"] * 2
    assert [step for step, _ in fake.rows] == [0, 1, 0, 1]


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
