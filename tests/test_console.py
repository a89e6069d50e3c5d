"""What a person sees: a bar where lines can be redrawn, plain lines elsewhere, and text as it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import rlaif.console
from rlaif.console import bar, say


@pytest.fixture
def screen(monkeypatch):
    """What is printed; `terminal=True` makes it one."""

    def make(terminal: bool) -> io.StringIO:
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=100, soft_wrap=True, highlight=False)
        monkeypatch.setattr(rlaif.console, "console", console)
        return file

    return make


def clock(monkeypatch, seconds_a_look: float) -> None:
    """Every look at the clock finds it so much later."""
    now = iter(range(10_000))
    monkeypatch.setattr(rlaif.console.time, "monotonic", lambda: next(now) * seconds_a_look)


def test_without_a_terminal_there_is_a_line_now_and_then(screen, monkeypatch):
    file = screen(terminal=False)
    clock(monkeypatch, 5.0)
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


def test_a_stage_that_goes_on_counts_what_was_done_before(screen, monkeypatch):
    file = screen(terminal=False)
    clock(monkeypatch, 1.0)
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


@pytest.mark.parametrize("terminal", [False, True])
def test_text_of_models_is_not_markup(screen, terminal):
    file = screen(terminal)
    say("[bold red]hi[/nope] :smile: \\[x]")
    assert file.getvalue() == "[bold red]hi[/nope] :smile: \\[x]\n"
