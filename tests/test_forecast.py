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
    for other in ("judge={backend: vllm, model: m}", "label.mode.kind=score", "optimise.kind=rloo"):
        assert forecast(load_recipe("quickstart", [other])) is None


@pytest.mark.parametrize(
    ("override", "stage", "factor"),
    [
        ("optimise.steps=70", "optimise", 10),
        ("evaluate.responses_per_prompt=2", "evaluate", 2),
        ("label.pairs_per_prompt=4", "label", 2),
    ],
)
def test_more_work_takes_longer_where_it_is_done(override: str, stage: str, factor: float) -> None:
    usual = work(load_recipe("quickstart", ["optimise.steps=7", "label.pairs_per_prompt=2"]))
    more = work(load_recipe("quickstart", ["optimise.steps=7", "label.pairs_per_prompt=2", override]))
    assert usual is not None and more is not None
    for name, value in usual._asdict().items():
        assert getattr(more, name) == pytest.approx(value * (factor if name == stage else 1), rel=0.01), name


@pytest.mark.embedded
def test_it_says_minutes_threads_and_format(embedded_folder: str) -> None:
    assert count_parameters(EMBEDDED) == 134_515_008
    line = forecast(load_recipe("quickstart", ["policy.dtype=float32"]))
    assert line is not None
    assert re.fullmatch(r"expected: about \d+ minutes \(\d+ threads? here, float32, \d+ GFLOP/s\)", line)
