"""The language of a text, as lingua tells it where that is installed (the extra `signals`).

It is told among the languages that are asked for and the COMMON ones: among more, short texts are told worse, and each
takes some 15 MB. Of a text that is short or mixed nothing has a high probability.
"""

from __future__ import annotations

from importlib.util import find_spec

from rlaif.console import say
from rlaif.errors import ConfigError, did_you_mean
from rlaif.signals import language as signals
from rlaif.signals.language import known_codes

COMMON = (
    *("ar", "cs", "de", "el", "en", "es", "fr", "hi", "id", "it", "ja"),
    *("ko", "nl", "pl", "pt", "ro", "ru", "sv", "tr", "uk", "vi", "zh"),
)
LONGEST = 2000
"""Characters that are looked at."""


def ready(languages: tuple[str, ...]) -> None:
    """Load what tells them, or say that nothing can. ConfigError for a code of no language that is known."""
    if not languages:
        return
    if find_spec("lingua") is None:
        say('input.languages: nothing tells languages here, only scripts are: pip install "rlaif[signals]"')
        return
    known = known_codes()
    for code in languages:
        if code not in known:
            raise ConfigError(f"input.languages: no language {code!r} is known{did_you_mean(code, known)}")
    likeliest(languages, "What is it that is to be told?")


def likeliest(languages: tuple[str, ...], text: str) -> tuple[str, float]:
    """The ISO 639-1 code of the text's language, among these and the common ones, and its probability: 0 where nothing
    tells it."""
    if find_spec("lingua") is None:
        return "", 0.0
    return signals.likeliest(text[:LONGEST], {*COMMON, *languages}) or ("", 0.0)
