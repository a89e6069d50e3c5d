"""Who is given which pair, and how far everybody has come. Where answers lie is `store.py`'s, who may ask `guard.py`'s.

Pairs go out in their order, a few at a time. What an annotator holds nobody else is given, as long as they are heard
of now and then; they get it again after a reload or a restart. An answer that comes too late is kept all the same.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from rlaif.annotate.questions import Questions
from rlaif.annotate.store import AnswerStore, Hold, PageAnswer
from rlaif.records import Message, Pair, Record, Side, derive_seed

AHEAD = 2
"""Pairs that an annotator holds: the one on the screen and the next, so that it is there at once."""
HOLD_S = 300.0
"""How long a pair waits for an annotator who was not heard of; the page asks every minute while it can be seen."""
GOLD_EVERY = 8
"""Of so many questions one is gold, at a place that nobody can guess, as long as there are gold ones left."""


class DeskItem(Record):
    """One pair as the page shows it."""

    pair_id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    shown_first: Side
    principles: tuple[str, ...]


class Assignment(Record):
    """What an annotator is to do next, and how far they and all have come."""

    annotator: str
    items: tuple[DeskItem, ...]
    """The first is to be shown now."""
    done: int
    """This annotator's answers, without what they skipped."""
    skipped: tuple[str, ...]
    """Ids of the answers that skipped a pair, latest first."""
    left: int
    """How many questions this annotator would still get if all others stopped now."""
    waiting: int
    """Pairs without enough answers that others are looking at."""
    all_done: int
    all_total: int
    last: str | None
    """The answer that `undo` would take back."""


def shown_first(pair: Pair, annotator: str) -> Side:
    """Which response stands first for this annotator: random over pairs and annotators, the same at every look."""
    return "a" if derive_seed("annotate", pair.id, annotator) % 2 else "b"


def gold_due(annotator: str, number: int) -> bool:
    """Whether the annotator's question of this number (from 0) is a gold one."""
    block, place = divmod(number, GOLD_EVERY)
    return derive_seed("annotate", "gold", annotator, block) % GOLD_EVERY == place


class Desk:
    """Gives out pairs and takes answers. `per_pair`: to how many annotators a pair is given at most."""

    def __init__(
        self, store: AnswerStore, questions: Questions, per_pair: int = 1, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._questions = questions
        self._by_id = {pair.id: pair for pair in (*questions.pairs, *questions.gold)}
        self._per_pair = per_pair
        self._clock = clock

    def work(self, annotator: str) -> Assignment:
        """What this annotator is to do now, held for them from here on."""
        given, now = self._store.standing(), self._clock()
        everything = self._store.held()
        others = [held for held in everything if held.annotator != annotator and held.until > now]
        mine = [held for held in everything if held.annotator == annotator]
        answered = {answer.pair_id: answer for answer in given if answer.annotator == annotator}
        open_pairs = self._open(given, others, set(answered))
        gold = self._gold_left(annotator, set(answered))
        may = {pair.id for pair in (*open_pairs, *gold)}
        items = [self._by_id[held.pair_id] for held in mine if held.pair_id in may]
        ids = {pair.id for pair in items}
        fresh = _mixed(
            annotator,
            len(answered) + len(items),
            [pair for pair in open_pairs if pair.id not in ids],
            [pair for pair in gold if pair.id not in ids],
        )
        coming = list(fresh)
        items += coming[: max(AHEAD - len(items), 0)]
        self._store.hold(annotator, items, now + HOLD_S)
        done, total = self._everybody(given)
        everyone = self._open(given, [], set(answered))
        return Assignment(
            annotator=annotator,
            items=tuple(self._item(pair, annotator) for pair in items),
            done=sum(answer.choice != "skip" for answer in answered.values()),
            skipped=tuple(answer.id for answer in reversed(answered.values()) if answer.choice == "skip"),
            left=len(ids) + len(coming),
            waiting=len(everyone) - len(open_pairs),
            all_done=done,
            all_total=total,
            last=next((answer.id for answer in reversed(given) if answer.annotator == annotator), None),
        )

    def answer(self, given: PageAnswer) -> Assignment:
        """Keep an answer, whoever was given the pair meanwhile, and hand out the next."""
        self._store.add(given, self._by_id.get(given.pair_id))
        return self.work(given.annotator)

    def undo(self, annotator: str, answer_id: str) -> Assignment:
        """Take back an answer of this annotator, whose pair is then shown to them again."""
        self._store.undo(annotator, answer_id)
        return self.work(annotator)

    def annotators(self) -> list[str]:
        """Everybody who has answered, in the order of their first answer."""
        return list(dict.fromkeys(answer.annotator for answer in self._store.standing()))

    def _open(self, given: list[PageAnswer], others: list[Hold], seen: set[str]) -> list[Pair]:
        """Pairs, in order, that want an answer, that others do not hold and that this annotator has not seen."""
        taken = Counter(answer.pair_id for answer in given if answer.choice != "skip")
        taken.update(held.pair_id for held in others)
        return [p for p in self._questions.pairs if taken[p.id] < self._per_pair and p.id not in seen]

    def _gold_left(self, annotator: str, seen: set[str]) -> list[Pair]:
        left = [pair for pair in self._questions.gold if pair.id not in seen]
        return sorted(left, key=lambda pair: derive_seed("annotate", "gold", annotator, pair.id))

    def _everybody(self, given: list[PageAnswer]) -> tuple[int, int]:
        """Answers given and wanted in all. Gold questions count as the others do, or the figure would tell them."""
        real = {pair.id for pair in self._questions.pairs}
        labelled = [answer.pair_id for answer in given if answer.choice != "skip"]
        count = Counter(pair_id for pair_id in labelled if pair_id in real)
        enough = sum(min(n, self._per_pair) for n in count.values())
        tested = sum(pair_id in self._by_id and pair_id not in real for pair_id in labelled)
        wanted = len(real) * self._per_pair
        if enough == wanted:
            return enough + tested, wanted + tested
        expected = wanted // (GOLD_EVERY - 1) if self._questions.gold else 0
        return enough + tested, max(wanted + expected, enough + tested + 1)

    def _item(self, pair: Pair, annotator: str) -> DeskItem:
        return DeskItem(
            pair_id=pair.id,
            prompt=pair.prompt,
            a=pair.a,
            b=pair.b,
            shown_first=shown_first(pair, annotator),
            principles=self._questions.principles_for(pair),
        )


def _mixed(annotator: str, number: int, pairs: list[Pair], gold: list[Pair]) -> Iterator[Pair]:
    """The pairs from the annotator's question of this number on, with gold ones among them, not after them."""
    tests = deque(gold)
    for pair in pairs:
        while tests and gold_due(annotator, number):
            yield tests.popleft()
            number += 1
        yield pair
        number += 1
