"""The forecast of a run: it grows with the work that is asked for, and is silent about what it does not know."""

from __future__ import annotations

import re

import pytest

from rlaif.config import load_recipe
from rlaif.models.embedded import EMBEDDED
from rlaif.models.local.load import count_parameters
from rlaif.stages.forecast import forecast, work


def test_it_speaks_of_models_in_this_process_only() -> None:
    assert work(load_recipe("quickstart")) is not None
    for other in ("judge={backend: vllm, model: m}", "label.mode.kind=score", "optimise.kind=dpo"):
        assert forecast(load_recipe("quickstart", [other])) is None


@pytest.mark.parametrize(
    ("override", "stage", "factor"),
    [
        ("optimise.steps=70", "optimise", 10),
        ("evaluate.responses_per_prompt=4", "evaluate", 2),
    ],
)
def test_more_work_takes_longer_where_it_is_done(override: str, stage: str, factor: float) -> None:
    usual, more = (work(load_recipe("quickstart", ["optimise.steps=7", *changed])) for changed in ([], [override]))
    assert usual is not None and more is not None
    for name, value in usual._asdict().items():
        assert getattr(more, name) == pytest.approx(value * (factor if name == stage else 1), rel=0.01), name


def test_compare_pays_for_each_pair_and_contrast_for_each_response() -> None:
    def label(*overrides: str) -> float:
        found = work(load_recipe("quickstart", ["sample.contrast=null", *overrides]))
        assert found is not None
        return found.label

    compare = "label.mode={kind: compare}"
    assert label(compare, "label.pairs_per_prompt=4") == pytest.approx(2 * label(compare, "label.pairs_per_prompt=2"))
    assert label("label.pairs_per_prompt=4") == label("label.pairs_per_prompt=2") == label()
    assert label("label.pairs_per_prompt=1") < label()


def test_a_judge_that_scores_rollouts_takes_its_time() -> None:
    judged, alone = (work(load_recipe("quickstart", more)) for more in ([], ["optimise.scoring={kind: reward_model}"]))
    assert judged is not None and alone is not None
    assert judged.optimise > 1.05 * alone.optimise and judged.label == alone.label


def test_many_rows_at_a_time_are_written_for_less() -> None:
    few, many = (work(load_recipe("quickstart", [f"policy.batch_size={size}"])) for size in (8, 96))
    assert few is not None and many is not None
    assert few.sample > 2 * many.sample and few.evaluate > many.evaluate and few.optimise == many.optimise


def test_a_critic_of_its_own_takes_its_time() -> None:
    methods = ("rloo", "ppo", "ppo optimise.critic=shared")
    same = ["optimise.epochs=1", "optimise.responses_per_prompt=4"]
    alone, own, shared = (work(load_recipe("quickstart", [*f"optimise.kind={m}".split(), *same])) for m in methods)
    assert alone is not None and own is not None and shared is not None
    assert alone.optimise == shared.optimise < own.optimise


@pytest.mark.embedded
def test_it_says_minutes_threads_and_format(embedded_folder: str) -> None:
    assert count_parameters(EMBEDDED) == 134_515_008
    line = forecast(load_recipe("quickstart", ["policy.dtype=float32"]))
    assert line is not None
    assert re.fullmatch(r"expected: about \d+ minutes? \(\d+ threads? here, float32, \d+ GFLOP/s\)", line)
