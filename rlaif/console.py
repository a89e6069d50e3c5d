"""What a person sees while work goes on: one bar with rate and time left, or plain lines where nothing can redraw.

Where neither has anything new to say for fifteen seconds, a heartbeat says what is being done and for how long.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic as now

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from rlaif.processes import leads

Advance = Callable[[int], None]
LINE_EVERY_S = 15.0

console = Console(stderr=False, soft_wrap=True, highlight=False, quiet=not leads())


class _Screen:
    """What the heartbeat needs to know."""

    last_said = 0.0
    """When the last line was said (monotonic clock)."""
    redraws = 0
    """Bars that are shown and redraw themselves: while there is one, the heartbeat is silent."""
    doing = ""
    """The work in hand, and how far it is."""


def say(line: str) -> None:
    """Print one line (above the bar, if one is shown); nothing in it is taken for markup."""
    _Screen.last_said = now()
    console.print(Text(line))


def aligned(rows: Sequence[Sequence[str]], words: int | None = None) -> list[str]:
    """Rows as lines with their columns below each other, all but the first `words` of them at the right. Never cut to
    the width of the screen: an id must be whole to be found again."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [str.ljust if words is None or place < words else str.rjust for place in range(len(widths))]
    return [
        "  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)).rstrip()
        for row in rows
    ]


@contextlib.contextmanager
def heartbeat(doing: str) -> Iterator[None]:
    """Inside, a line is said whenever none was for `LINE_EVERY_S`: what is being done, and for how long.

    One inside another only changes what is being done."""
    outer, _Screen.doing = _Screen.doing, doing
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(ended,), daemon=True)
    if not outer:
        thread.start()
    try:
        yield
    finally:
        _Screen.doing = outer
        if not outer:
            ended.set()
            thread.join()


def _beat(ended: threading.Event) -> None:
    began = _Screen.last_said = now()
    silent = 0.0
    while not ended.wait(LINE_EVERY_S - silent):
        silent = 0.0 if _Screen.redraws else now() - _Screen.last_said
        if silent >= LINE_EVERY_S:
            say(f"  {_Screen.doing}  {now() - began:.0f} s so far")
            silent = 0.0


@contextlib.contextmanager
def bar(title: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar over `total` units; call the yielded function with the number of units finished since the last call."""
    if not console.is_terminal:
        with _lines(title, total, unit) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, rate="")
        began = now()

        def advance(count: int) -> None:
            done = progress.tasks[0].completed + count
            rate = done / max(now() - began, 1e-6)
            progress.update(task, advance=count, rate=f"{rate:.2f}/s")

        _Screen.redraws += 1
        try:
            yield advance
        finally:
            _Screen.redraws -= 1


@contextlib.contextmanager
def _lines(title: str, total: int, unit: str) -> Iterator[Advance]:
    """The same news as a line now and then; the heartbeat repeats how far it is."""
    began = last = now()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        _Screen.doing, time = f"{title}  {done}/{total} {unit}", now()
        if time - last >= LINE_EVERY_S or done >= total:
            last = time
            rate = done / max(time - began, 1e-6)
            left = (total - done) / rate if rate else 0.0
            say(f"  {title}  {done}/{total} {unit}  {rate:.2f}/s  {left:.0f} s left")

    with heartbeat(f"{title}  0/{total} {unit}"):
        yield advance
