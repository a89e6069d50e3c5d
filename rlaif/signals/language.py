"""Which language a text is in, by lingua (the extra `signals`). A set of languages is loaded once in a process: some
15 MB for each, 1 GB for all 75."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from rlaif.signals import needs


def confidences(text: str, among: Collection[str] = ()) -> dict[str, float]:
    """By ISO 639-1 code how likely it is, likeliest first: among these languages, which must be known, or among all.
    All 0 where nothing tells it. ConfigError without lingua."""
    needs("language", ["lingua"])
    found = _detector(frozenset(among)).compute_language_confidence_values(text.encode("utf-8", "replace").decode())
    return {each.language.iso_code_639_1.name.lower(): each.value for each in found}


def likeliest(text: str, among: Collection[str] = ()) -> tuple[str, float] | None:
    """The likeliest one's code, and how likely it is; None where nothing tells it."""
    code, best = next(iter(confidences(text, among).items()))
    return (code, best) if best > 0 else None


@cache
def known_codes() -> dict[str, Any]:
    """Of the languages that lingua knows, each with lingua's own name for it. ConfigError without lingua."""
    needs("language", ["lingua"])
    from lingua import Language  # noqa: PLC0415 (an extra)

    return {language.iso_code_639_1.name.lower(): language.iso_code_639_1 for language in Language.all()}


@cache
def _detector(among: frozenset[str]) -> Any:
    from lingua import LanguageDetectorBuilder  # noqa: PLC0415 (an extra; slow to read its models)

    codes = [own for code, own in known_codes().items() if code in among or not among]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()
