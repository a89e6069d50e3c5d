"""What a person sees: a bar where lines can be redrawn, plain lines elsewhere, and text as it is."""

from __future__ import annotations

import contextlib
import io
import threading

import pytest
from rich.console import Console

import rlaif.console
from rlaif.console import aligned, bar, heartbeat, say


@pytest.fixture
def screen(monkeypatch):
    """What is printed; `terminal=True` makes it one."""

    def make(terminal: bool) -> io.StringIO:
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=100, soft_wrap=True, highlight=False)
        monkeypatch.setattr(rlaif.console, "console", console)
        return file

    return make


def test_without_a_terminal_there_is_a_line_now_and_then(screen, monkeypatch):
    file = screen(terminal=False)
    times = iter([0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0])
    monkeypatch.setattr(rlaif.console, "heartbeat", lambda doing: contextlib.nullcontext())
    monkeypatch.setattr(rlaif.console._Screen, "doing", "")
    monkeypatch.setattr(rlaif.console, "now", lambda: next(times))
    monkeypatch.setattr(rlaif.console, "say", rlaif.console.console.print)
    with bar("sample", 8, "responses") as advance:
        for _ in range(8):
            advance(1)
    lines = file.getvalue().splitlines()
    assert lines == [
        "  sample  3/8 responses  0.20/s  25 s left",
        "  sample  6/8 responses  0.20/s  10 s left",
        "  sample  8/8 responses  0.20/s  0 s left",
    ]
    assert "\x1b" not in file.getvalue()


def test_a_stage_that_goes_on_counts_what_was_done_before(screen):
    file = screen(terminal=False)
    with bar("optimise", 10, "steps") as advance:
        advance(0)  # nothing yet: no rate, no division by zero
        advance(9)
        advance(1)
    assert file.getvalue().splitlines()[-1].startswith("  optimise  10/10 steps")


def test_nothing_to_do_is_no_error(screen):
    for terminal in (False, True):
        screen(terminal)
        with bar("label", 0, "pairs") as advance:
            advance(0)


def test_on_a_terminal_there_is_a_bar_with_rate_and_time(screen):
    file = screen(terminal=True)
    with bar("sample", 4, "responses") as advance:
        advance(4)
    shown = file.getvalue()
    assert "4/4" in shown and "responses" in shown and "/s" in shown and "left" in shown


class Page(io.StringIO):
    """What is printed, and a sign that a line with this text has come."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.came = text, threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.text in self.getvalue():
            self.came.set()
        return written


def watched(monkeypatch, text: str, terminal: bool = False) -> Page:
    page = Page(text)
    monkeypatch.setattr(rlaif.console, "console", Console(file=page, force_terminal=terminal, width=100))
    monkeypatch.setattr(rlaif.console, "LINE_EVERY_S", 0.01)
    return page


def test_work_that_says_nothing_is_spoken_for(monkeypatch):
    page = watched(monkeypatch, "reward  0 s so far")
    with heartbeat("reward"):
        assert page.came.wait(60)


def test_the_heartbeat_says_how_far_the_bar_is_which_waits_for_its_batch(monkeypatch):
    page = watched(monkeypatch, "sample  3/8 responses  0 s so far")
    with heartbeat("a stage"), bar("sample", 8, "responses") as advance:
        advance(3)
        assert page.came.wait(60)
    assert rlaif.console._Screen.doing == "", "nothing is being done any more"


def test_a_bar_that_redraws_itself_is_sign_enough(monkeypatch):
    page = watched(monkeypatch, "so far", terminal=True)
    beats = threading.Event()
    with bar("label", 2, "pairs"), heartbeat("label"):
        beats.wait(0.2)  # some twenty of them
    assert not page.came.is_set()


@pytest.mark.parametrize("terminal", [False, True])
def test_text_of_models_is_not_markup(screen, terminal):
    file = screen(terminal)
    say("[bold red]hi[/nope] :smile: \\[x]")
    assert file.getvalue() == "[bold red]hi[/nope] :smile: \\[x]\n"


def test_columns_lie_below_each_other_and_nothing_is_cut():
    long = "x" * 300
    assert aligned([("name", "n", ""), (long, "1", ""), ("b", "22", "end")]) == [
        f"{'name':300}  n",
        f"{long}  1",
        f"{'b':300}  22  end",
    ]
