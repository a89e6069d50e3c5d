"""Every error a user can meet, each raised at one boundary and printed by the command line as one line.

    RlaifError
      |- ConfigError    (ValueError)    a recipe, override, constitution or template that cannot be used
      |- DataError      (ValueError)    a row of a JSONL file or data set that is not what it should be
      |- ModelError     (RuntimeError)  a model that cannot be found, started or reached
      |- JudgeError     (RuntimeError)  too many pairs without a judgment
      `- TrainingError  (RuntimeError)  a run that must not go on: non-finite loss, impossible resume

Each message names the place, the value found there, and what to do next. One bad reply or one bad request is not
an error but data: see `records.Failure`.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

_SECRETS = re.compile(
    r"""(?:(?<=://)|(?<=https:/)|(?<=http:/))
        (?:[^/?#\s'"]+(?=@) | [^/?#\s@:'"[]*:(?!\d{0,5}(?:[/?#\s'",;.)]|\Z))[^\n@]+(?:@[^\s@/]+)*(?=@))
      | (?<=[?&;#])([\w-]*(?:key|token|secret|password|passwd|signature|sig)=)[^&;#\s'"]+""",
    re.IGNORECASE | re.VERBOSE,
)
"""In a URL: `user:password@`, also where the password has signs that it must not have (what follows the colon is no
port), and parameters that are named like a secret."""


MOST_LINES = 20
"""Of one error: who reads more?"""


class RlaifError(Exception):
    """Base of all errors that are the user's to mend; the command line prints them without a traceback.

    No message repeats the user's part of a URL, or a secret in its query, whoever wrote it there.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(str(message)))


class ConfigError(RlaifError, ValueError):
    """A recipe, override, constitution or template that cannot be used as written."""


class DataError(RlaifError, ValueError):
    """A row or file of data that does not have the promised form."""


class NoAnswer(DataError):
    """A response that is in order and holds nothing to score: reasoning and no more."""


class ModelError(RlaifError, RuntimeError):
    """A model that cannot be found, started or reached."""


class JudgeError(RlaifError, RuntimeError):
    """More pairs failed to be judged than the recipe allows."""


class TrainingError(RlaifError, RuntimeError):
    """A training run that must stop."""


def without_secrets(text: str) -> str:
    """The text with `***` in the place of what a URL in it should not hold."""
    return _SECRETS.sub(lambda found: f"{found[1] or ''}***", text)


def masker(secret: str) -> Callable[[bytes], bytes]:
    """A function that puts `***` in the place of this secret, also where it is escaped as JSON, Python, URLs or HTML
    escape it."""
    signs = (
        rf"(?:\\*{re.escape(sign)}|\\+(?:u00|x)(?i:{ord(sign):02x})|%(?i:{ord(sign):02x})"
        rf"|&\#(?:(?i:x0*{ord(sign):x})|0*{ord(sign)});)"
        for sign in secret
    )
    pattern = re.compile("".join(signs).encode())

    def mask(text: bytes) -> bytes:
        if b"\0" in text:  # UTF-16 or 32, which JSON may be in
            text = text.decode(json.detect_encoding(text), errors="replace").encode()
        return pattern.sub(b"***", text)

    return mask


def one_line(error: BaseException) -> str:
    """What an exception of somebody else's code says, short: its kind, where it says nothing."""
    try:
        return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
    except Exception:  # an exception may fail to say anything
        return "?"


def shown(value: object, most: int = 80) -> str:
    """How a value stands in a message: as Python writes it, cut to `most` characters, no secret of a URL among them."""
    try:
        text = without_secrets(repr(value))
    except ValueError:  # an int of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= most else text[: most - 3] + "..."


def few(lines: Sequence[str], beyond: int = 0) -> str:
    """The lines as one text: the first MOST_LINES, and how many more there are, `beyond` those given."""
    count = max(0, len(lines) - MOST_LINES) + beyond
    more = [f"and {count:,} more"] if count else []
    return "\n".join([*lines[:MOST_LINES], *more])


def refuse_given(options: Mapping[str, object], why: str) -> None:
    """ConfigError for the first of these options that was given (is not None): beside others it would do nothing."""
    for option, value in options.items():
        if value is not None:
            raise ConfigError(f"{option}: {why}")


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """A suffix for an error message: the nearest valid choice, or all of them when none is near."""
    known = sorted(choices)
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; valid choices: {', '.join(known)}" if known else ""
