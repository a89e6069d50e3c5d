"""What the label stage reads and writes piece by piece, so that its memory does not grow with its work: the pairs of
the policy's responses, and the rows that judging gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Generic, TypeVar

from rlaif.config import Recipe
from rlaif.config.feedback import LabelSection
from rlaif.constitution import load_constitution
from rlaif.feedback.judge import JudgeResult
from rlaif.feedback.judge.result import Cost, FailureCount
from rlaif.feedback.mix import for_the_judge
from rlaif.feedback.origin import PairOrigin, pair_origins, unpaired
from rlaif.feedback.pairs import any_pair, apart_by_checks, make_pairs
from rlaif.jsonl import RowWriter, stream_jsonl
from rlaif.records import Pair, Response, prompt_of
from rlaif.run_folder import Run

T = TypeVar("T")


class Again(Iterable[T], Generic[T]):
    """What can be gone through any number of times."""

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[T]:
        return self._begin()


def responses_by_prompt(path: Path) -> Iterable[list[Response]]:
    """The responses of each prompt, prompts in the order in which they first come. Only the responses of one prompt are
    in memory where they follow each other in the file."""
    count = Counter(response.prompt_id for response in stream_jsonl(path, Response))

    def groups() -> Iterator[list[Response]]:
        held: dict[str, list[Response]] = {}
        for response in stream_jsonl(path, Response):
            held.setdefault(response.prompt_id, []).append(response)
            while held and len(held[first := next(iter(held))]) == count[first]:
                yield held.pop(first)

    return Again(groups)


class SampledPairs(Iterable[Pair]):
    """The pairs to label of the run's responses, made anew each time; the responses are read once to count them."""

    def __init__(self, recipe: Recipe, path: Path) -> None:
        by_checks = recipe.label.pair_choice == "checks"
        self._worth = apart_by_checks(load_constitution(recipe.constitution)) if by_checks else any_pair
        self._recipe = recipe
        self._groups = responses_by_prompt(path)
        self.crossed: dict[str, PairOrigin] = {}
        """What the origins say of each pair, with `sample.contrast`."""
        counts = Counter[tuple[str, ...]]()
        examples: dict[tuple[str, ...], Pair] = {}
        lost = Counter[str]()
        for group in self._groups:
            made = self._pairs_of(group)
            lost.update(unpaired(group))
            counts.update(pair.tags for pair in made)
            examples |= {pair.tags: pair for pair in made[:1]}
            if recipe.sample.contrast is not None:
                self.crossed |= pair_origins(made, group)
        self._wanted = {pair.tags for pair in for_the_judge(list(examples.values()), recipe.preferences.judged_tags)}
        self.total = sum(counts[tags] for tags in self._wanted)
        self.made = counts.total()
        """Also those that are not for the judge."""
        self.facts = dict(lost)
        """Which samples make no pair, by cause."""

    def __iter__(self) -> Iterator[Pair]:
        return (pair for group in self._groups for pair in self._pairs_of(group) if pair.tags in self._wanted)

    def _pairs_of(self, group: list[Response]) -> list[Pair]:
        last, recipe = group[-1], self._recipe
        return make_pairs([prompt_of(last)], group, recipe.label.pairs_per_prompt, recipe.seed, self._worth)


class LabelRows:
    """The rows of the label stage, in hidden files that take their names at the end."""

    done = 0
    """Pairs that need not be judged again."""

    def __init__(self, run: Run, stack: ExitStack) -> None:
        self._files = {
            path.stem: stack.enter_context(closing(RowWriter(path)))
            for path in (run.failures, *run.evidence, run.one_judgments)
        }
        self.judged = 0
        self.cost = Cost()
        self.failures = FailureCount()

    def add(self, result: JudgeResult) -> None:
        """What one shard gave."""
        for name, file in self._files.items():
            file.write(getattr(result, name))
        self.judged += len(result.judgments)
        self.cost = self.cost.plus(result.cost)
        self.failures.add(result.failures)

    def finish(self, asked: int, section: LabelSection) -> None:
        """All files whole; evidence that this mode does not give is not written. JudgeError, once the failures are on
        disk, where they are too many."""
        failures = self._files.pop("failures")
        failures.finish()
        self.failures.check(asked, section)
        for name, file in self._files.items():
            if file.rows or name == "judgments":
                file.finish()
