"""Signals: one number about a response from a library or a small classifier, without the judge. `kinds` has them all.

A number comes from `value`, which says Undecided where there is none. The libraries are the extra `signals`; each is
imported when it is first needed, and missed when the section that names it is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rlaif.errors import ConfigError, RlaifError, one_line, shown
from rlaif.patterns import Undecided
from rlaif.records import Messages

if TYPE_CHECKING:
    from rlaif.signals.kinds import Signal

EXTRA = 'pip install "rlaif[signals]"'


def needs(place: str, libraries: Iterable[str]) -> None:
    """ConfigError, in one line, where one of these top-level modules is not installed. It imports none of them."""
    if missing := [name for name in libraries if find_spec(name) is None]:
        raise ConfigError(f"{place}: needs {', '.join(missing)}; install it with: {EXTRA}")


def value(signal: Signal, text: str, prompt: Messages = ()) -> float:
    """What the signal says of the response to the prompt; Undecided, with the cause, where it says nothing. Equal
    questions are answered once."""
    ask = _ask if signal.kind == "model" else _said  # a classifier has a memory of its own
    said = ask(signal, text, prompt if signal.reads_prompt else ())
    if isinstance(said, str):
        raise Undecided(f"{signal.kind} on {shown(text)}: {said}")
    return said


def measured(signal: Signal, text: str, prompt: Messages = ()) -> float | None:
    """As `value`, None where the signal says nothing."""
    try:
        return value(signal, text, prompt)
    except Undecided:
        return None


def _ask(signal: Signal, text: str, prompt: Messages) -> float | str:
    """The number, or why there is none."""
    try:
        found = signal.number(text, prompt)
    except (RlaifError, MemoryError):  # the user's to mend, not the text's fault
        raise
    except Exception as error:  # a library may stumble over any text
        return one_line(error)
    if found is None:
        return "nothing to measure"
    return float(found) if math.isfinite(found) else f"gave {found}"


_said = lru_cache(maxsize=100_000)(_ask)
