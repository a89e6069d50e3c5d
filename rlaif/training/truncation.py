"""What `max_length` takes from the texts that are learnt, counted by cause and held against a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rlaif.config.optimise import Offline
from rlaif.config.reward import RewardSection
from rlaif.console import say
from rlaif.errors import DataError
from rlaif.models.local.packing import Row

WHOLE = 2**40
"""A `max_length` that cuts nothing."""
CAUSES = {
    "same_after_cut": "are the same after it and teach nothing",
    "responses_cut": "lost the end of a response",
    "one_side_cut": "lost the end of one side alone",
    "prompts_cut": "lost the beginning of the prompt",
}


class Truncation:
    """The texts of one stage: pairs of responses, or single ones."""

    def __init__(
        self, section: str, settings: RewardSection | Offline, unit: str = "pairs", limited: bool = True
    ) -> None:
        """`section` is the recipe's name of `settings`; not `limited`: only counted and said."""
        self.section, self.settings, self.unit, self.limited = section, settings, unit, limited
        self.counts: Counter[str] = Counter()

    def saw(self, rows: Sequence[Row], encode: Callable[[int], Sequence[Row]]) -> None:
        """One text or pair: its rows, and how they are made with another `max_length`. Only what fills `max_length` is
        encoded again."""
        self.counts["seen"] += 1
        longest = max(len(row.prompt) + len(row.response) for row in rows)
        whole = rows if longest < self.settings.max_length else encode(WHOLE)
        prompt_cut = len(whole[0].prompt) > len(rows[0].prompt)
        sides_cut = sum(len(one.response) > len(row.response) for one, row in zip(whole, rows, strict=True))
        same = len(rows) > 1 and rows[0] == rows[1]
        cut = prompt_cut or sides_cut > 0
        self.counts["truncated"] += cut
        self.counts["prompts_cut"] += prompt_cut
        self.counts["responses_cut"] += sides_cut > 0
        self.counts["one_side_cut"] += len(rows) > 1 and sides_cut == 1
        self.counts["same_after_cut" if cut else "same_tokens"] += same

    def facts(self, prefix: str = "") -> dict[str, int]:
        """What there was to count, for the manifest."""
        return {prefix + name: number for name, number in self.counts.items() if number and name != "seen"}

    def check(self) -> None:
        """Due after the last: say what was cut. DataError where that is more than the section's `max_truncated`."""
        cut, seen = self.counts["truncated"], self.counts["seen"]
        if not cut:
            return
        lost = ", ".join(f"{self.counts[name]} {words}" for name, words in CAUSES.items() if self.counts[name])
        knob = f"{self.section}.max_length"
        line = f"{cut} of {seen} {self.unit} are longer than {knob}={self.settings.max_length}: {lost}"
        if self.limited and cut > self.settings.max_truncated * seen:
            share = f"{cut / seen:.1%}, limit {self.settings.max_truncated:.1%}"
            raise DataError(f"{line} ({share}); raise {knob}, or {self.section}.max_truncated")
        say(f"  {line}")
