"""A tracker's own package, run once: a stage of four steps that is killed after two and goes on. Its name is given."""

from __future__ import annotations

import sys

from rlaif.config.training import TrackingSection
from rlaif.run_folder import Run
from rlaif.training.tracking import tracking
from tests.peers.common import POLICY, WORK, done
from tests.tiny_training import tiny_recipe

name = sys.argv[1]
recipe = tiny_recipe(str(POLICY), tracking=TrackingSection(to=(name,), project="rlaif-peers"))
run = Run(WORK / f"tracked-{name}")
run.folder.mkdir()
for steps in (range(2), range(2, 4)):
    with tracking(run, "reward", 4, recipe) as tracker:
        tracker.rewind(steps.start)
        for step in steps:
            tracker.log(step, {"loss": step / 4})
        assert name in tracker._outside, f"{name} was dropped"
if name == "mlflow":
    import mlflow

    (found,) = mlflow.search_runs(experiment_names=["rlaif-peers"], output_format="list")
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "reward/loss")
    assert [(one.step, one.value) for one in history] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)], history
done("a stage of four steps in two parts, " + {"wandb": "offline"}.get(name, "a local store"))
