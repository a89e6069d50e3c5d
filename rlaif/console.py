"""What a person sees while work goes on: one bar with rate and time left, or plain lines where nothing can redraw."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from rlaif.processes import leads

Advance = Callable[[int], None]
LINE_EVERY_S = 15.0

console = Console(stderr=False, soft_wrap=True, highlight=False, quiet=not leads())


def say(line: str) -> None:
    """Print one line (above the bar, if one is shown); nothing in it is taken for markup."""
    console.print(Text(line))


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
        began = time.monotonic()

        def advance(count: int) -> None:
            done = progress.tasks[0].completed + count
            rate = done / max(time.monotonic() - began, 1e-6)
            progress.update(task, advance=count, rate=f"{rate:.2f}/s")

        yield advance


@contextlib.contextmanager
def _lines(title: str, total: int, unit: str) -> Iterator[Advance]:
    """The same news as a line now and then."""
    began = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or done >= total:
            last = now
            rate = done / max(now - began, 1e-6)
            left = (total - done) / rate if rate else 0.0
            say(f"  {title}  {done}/{total} {unit}  {rate:.2f}/s  {left:.0f} s left")

    yield advance
