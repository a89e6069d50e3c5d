"""Judges of test_ray.py: workers that run them die, or fail, at given requests. They import little: each worker starts
anew."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rlaif.errors import ModelError
from rlaif.models.engine import ChatRequest, Reply


def parrot(request: ChatRequest) -> str | Reply:
    """The question and its seed; one question is refused."""
    text = request.messages[-1].content
    return Reply(error="refused") if text == "question 5" else f"{text} {request.seed}"


def first_time(name: str) -> bool:
    """Whether no process has come here before."""
    try:
        os.close(os.open(Path(os.environ["RLAIF_TEST_MARKS"]) / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def unlucky(request: ChatRequest) -> str | Reply:
    """A parrot that is killed twice, and whose server goes once."""
    if request.seed in {60, 130} and first_time(f"died at {request.seed}"):
        os.kill(os.getpid(), signal.SIGKILL)
    if request.seed == 100 and first_time("cannot"):
        raise ModelError("its server is gone")
    return parrot(request)


def dies_of_one(request: ChatRequest) -> str | Reply:
    if request.seed == 60:
        os.kill(os.getpid(), signal.SIGKILL)
    return parrot(request)


def cannot(request: ChatRequest) -> str | Reply:
    if request.seed >= 60:
        raise ModelError("its server is gone")
    return parrot(request)


def never_can(request: ChatRequest) -> str:
    first_time(f"asked {os.getpid()}")
    raise ModelError("no such label")


def has_a_bug(request: ChatRequest) -> str:
    return str(request.messages[request.seed + 1])


def dies_judging(request: ChatRequest) -> dict[str, float]:
    """Prefers what is longer before it; twice its worker is killed, and once its server goes."""
    text = request.messages[-1].content
    for number in (20, 45):
        if f"Answer {number} a" in text and first_time(f"died at pair {number}"):
            os.kill(os.getpid(), signal.SIGKILL)
    if "Answer 70 b" in text and first_time("cannot judge"):
        raise ModelError("its server is gone")
    return {"A": -0.2 - len(text) % 7 / 10, "B": -1.9}
