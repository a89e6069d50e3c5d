"""Shared by all tests: one thread (tiny models run many times slower with two on a busy machine), and no network."""

import gc
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("without a clock", deadline=None)  # a busy machine is no bug
settings.load_profile("without a clock")


DURATIONS = Path(__file__).with_name("durations.txt")
ALONE = {"test_learning", "test_optimise_learning"}
"""Files whose tests share nothing but their imports."""


def pytest_configure(config: pytest.Config) -> None:
    """Only workers import torch: the process that hands out the tests computes nothing."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", 0):
        import torch

        import rlaif.models.local.machine  # noqa: F401 (what it sets counts from the first product on)

        torch.set_num_threads(1)


def group_of(nodeid: str) -> str:
    """Whose tests one worker runs: a file each, so that what a file makes once is made once; the servers together."""
    file = Path(nodeid.partition("::")[0]).stem
    if file in ALONE:
        return nodeid
    return "vllm" if file.startswith("test_vllm") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In place of --dist=loadgroup, which xdist 3.8 under pytest 9.2 takes for --dist=load without a word."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)


def seconds_by_group() -> Counter[str]:
    """What the slowest tests of each group took when `make durations` was last called."""
    found = Counter[str]()
    for seconds, nodeid in re.findall(r"^([0-9.]+)s \w+ +(tests/\S+)", DURATIONS.read_text(), re.M):
        found[group_of(nodeid)] += float(seconds)
    return found


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not ask for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The real servers first, which mostly wait, then the longest, so that both workers end together."""
    seconds = seconds_by_group()
    for item in items:
        if item.get_closest_marker("vllm"):
            item.add_marker("slow")
    items.sort(key=lambda item: (group_of(item.nodeid) != "vllm", -seconds[group_of(item.nodeid)]))


def pytest_unconfigure() -> None:
    gc.unfreeze()  # _short_collections


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> None:
    """A stage that ends collects garbage (free_memory); what is imported by now is none, and long to walk through."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _replies_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where module-wide fixtures keep replies: never in the user's home, and no module reads another's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLAIF_REPLIES", str(tmp_path_factory.mktemp("replies") / "replies.sqlite"))
        yield


@pytest.fixture(autouse=True)
def _replies_of_the_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh reply cache for each test: one that finds another's replies would not test asking."""
    monkeypatch.setenv("RLAIF_REPLIES", str(tmp_path_factory.mktemp("replies") / "replies.sqlite"))


@pytest.fixture(scope="module")
def blank_plots() -> Iterator[Any]:
    """Pages whose plots are blank, for tests of what is around them; the value is matplotlib's own `savefig`."""
    from matplotlib.figure import Figure

    from tests.forked import blank

    own = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", blank)
        yield own


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random language model with a tokenizer, as a folder."""
    from rlaif.testing import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def shallow_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with one layer, a third faster: for tests of stages and runs, where any model will do."""
    from rlaif.testing import save_tiny

    return save_tiny(tmp_path_factory.mktemp("shallow"), num_hidden_layers=1)


@pytest.fixture(scope="session")
def embedded_folder() -> str:
    """The embedded model as a folder; tests skip, with the reason, where it cannot be had."""
    from rlaif.errors import ModelError
    from rlaif.models.embedded import EMBEDDED, resolve_model

    try:
        return resolve_model(EMBEDDED).path
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def embedded_tokenizer(embedded_folder: str) -> Any:
    """The embedded model's tokenizer, with its real chat template and control tokens."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_folder)


@pytest.fixture(scope="session")
def served_judge(embedded_folder: str) -> Iterator[Any]:
    """The embedded model behind a vLLM server on the CPU, in float32, started once for all tests that only ask.

    After them nothing of it is left.
    """
    import psutil

    from rlaif.config.models import VllmModel
    from rlaif.models.embedded import EMBEDDED
    from rlaif.models.server import VllmChatModel

    model = VllmChatModel(VllmModel(model=EMBEDDED, max_model_len=2048, dtype="float32", timeout_s=900))
    yield model
    if model._process is None:  # nothing was asked, so nothing was started
        return
    guard = psutil.Process(model._process._guard.pid)
    family = [guard, *guard.children(recursive=True)]
    assert len(family) >= 3, "the watchdog, the server and its engine"
    model.close()
    assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of human-labelled data beside the checkout; tests skip where it is missing."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    from rlaif.cli import main

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlaif", *words])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return call
