"""What the system refuses while something large is written ends in one line that names the file, whoever writes it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from rlaif.cli import _refusal as refusal
from rlaif.errors import TrainingError
from rlaif.files import writing
from rlaif.jsonl import write_atomic
from rlaif.models import embedded
from rlaif.run_folder import Run
from rlaif.stages.stage import publishing
from rlaif.training.checkpoints import Checkpoints
from rlaif.training.policy_model import PolicyModel
from rlaif.training.samplers.vllm import write_weights


@pytest.fixture
def full() -> Iterator[None]:
    """No file may grow beyond 20 kB: the system itself refuses, as it does where the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(path: Path) -> str:
    """What is said of it, by the command line's rule: the file and the system's words."""
    return f"{path}: {os.strerror(errno.EFBIG)}"


def test_a_model_names_its_folder(tiny_folder: str, tmp_path: Path, full: None) -> None:
    policy = PolicyModel.load(tiny_folder, None, torch.float32)
    with pytest.raises(OSError) as caught, publishing(tmp_path / "policy") as folder:
        policy.save(folder)
    assert refusal(caught.value) == refused(tmp_path / "policy") and not (tmp_path / "policy").exists()


def test_so_do_weights_for_a_server(tiny_folder: str, tmp_path: Path, full: None) -> None:
    policy = PolicyModel.load(tiny_folder, None, torch.float32)
    with pytest.raises(TrainingError, match=f"for the server to {tmp_path}/weights: {os.strerror(errno.EFBIG)}$"):
        write_weights(policy, tmp_path / "weights", own_head=False)


def test_so_does_a_checkpoint_and_the_last_one_stays(tmp_path: Path, full: None) -> None:
    checkpoints = Checkpoints(tmp_path, sharded=False)
    checkpoints.save(1, {"small": torch.zeros(9)})
    with pytest.raises(OSError) as caught:
        checkpoints.save(2, {"large": torch.zeros(9_999)})
    assert refusal(caught.value) == refused(tmp_path / "step-000002.pt")
    found = checkpoints.newest()
    assert found is not None and found.step == 1


def test_so_do_rows_and_a_runs_metrics(tmp_path: Path, full: None) -> None:
    run = Run(tmp_path)
    for path, write in (
        (run.preferences, lambda: write_atomic(run.preferences, b"x" * 30_000)),
        (run.metrics, lambda: run.log({"stage": "x" * 30_000})),
    ):
        with pytest.raises(OSError) as caught:
            write()
        assert refusal(caught.value) == refused(path)


def test_a_library_that_says_why_in_its_own_words_is_heard(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, writing(tmp_path):
        raise OSError("this tokenizer cannot be saved")
    assert refusal(caught.value) == f"{tmp_path}: this tokenizer cannot be saved"


def test_the_embedded_model_names_the_folder_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that a new user writes is the largest."""

    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(embedded, "_from_hub", lambda _: ("source", None, "revision"))
    monkeypatch.setattr(embedded, "_save", full)
    with pytest.raises(OSError) as caught:
        embedded._make(tmp_path / "model")
    assert refusal(caught.value) == f"{tmp_path / 'model'}: {os.strerror(errno.ENOSPC)}"
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_what_is_wrong_with_the_program_stays_what_it_is(tmp_path: Path) -> None:
    for error in (ValueError("no"), RuntimeError("os error"), TrainingError("explained")):
        with pytest.raises(type(error)) as caught, writing(tmp_path):
            try:
                raise OSError(errno.ENOENT, "gone")
            except OSError:
                if type(error) is not RuntimeError:
                    raise error from None
            raise error
        assert caught.value is error
