"""Whether a round is kept: every gate's paired difference against the last kept round, with an interval over prompts.

A round is refused if the upper end of a gate's interval is below minus the gate's tolerance; with `strict` if the lower
end is. gates.json in the round's folder holds the decision and no clock time: what is decided again is decided alike.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from pydantic import TypeAdapter

from rlaif import __version__
from rlaif.config import Recipe
from rlaif.config.gates import Gate, IterateSection
from rlaif.errors import DataError
from rlaif.gates.measures import Bench, Values, files_of, values_of
from rlaif.jsonl import read_json, write_json
from rlaif.records import Record, content_id
from rlaif.run_folder import Run
from rlaif.stats import Bootstrap, Estimate, clustered_mean_difference
from rlaif.words import with_interval


class Outcome(Record):
    """What one gate says of a round; values are shares."""

    name: str
    what: str
    before: float
    after: float
    difference: Estimate
    missing: int
    """Answers or pairs without a value on either side: they are in no figure."""
    fell: bool

    def __str__(self) -> str:
        return f"{self.name} {with_interval(self.difference, 'points')}"


class Decision(Record):
    """What all gates say of a round."""

    round: int
    against: int
    """The kept round that it was held against; 0: what all began from."""
    gates: tuple[Outcome, ...]
    unmatched: int
    """The round's answers to which the other has none: no gate sees them."""
    judge_calls: int
    """Of the gates, and their tokens."""
    tokens: int
    inputs: str
    """A hash of all that it rests on."""

    @property
    def kept(self) -> bool:
        return not self.reason

    @property
    def reason(self) -> str:
        """Why it was refused; empty where it was kept."""
        return "; ".join(str(gate) for gate in self.gates if gate.fell)

    def __str__(self) -> str:
        return "kept" if self.kept else f"refused: {self.reason}"


def outcome(name: str, gate: Gate, values: Values, bootstrap: Bootstrap) -> Outcome:
    """Whether these values fell. DataError where none has its partner: then nothing can be decided."""
    rows = zip(values.before, values.after, values.prompts, strict=True)
    known = [(x, y, prompt) for x, y, prompt in rows if x is not None and y is not None]
    if not known:
        raise DataError(f"iterate.gates.{name}: of {len(values.prompts)} none has a value before and after")
    before, after, prompts = zip(*known, strict=True)
    difference = clustered_mean_difference(before, after, prompts, bootstrap, values.reach)
    end = difference.low if gate.strict else difference.high
    assert end is not None, "values with limits have an interval"
    return Outcome(
        name=name,
        what=values.what,
        before=fmean(before),
        after=fmean(after),
        difference=difference,
        missing=len(values.prompts) - len(known),
        fell=end < -gate.tolerance,
    )


def decide(recipe: Recipe, section: IterateSection, folder: Path, number: int, against: int) -> Decision:
    """The decision about a round of this recipe (its own, as `round_of` has it), made now if it is not there already
    for these very inputs."""
    run, kept = Run(folder / f"round-{number}"), Run(folder / f"round-{against}") if against else None
    bench = Bench.of(recipe, section, run, kept)
    files = [one.samples for one in (run, kept) if one]
    files += [file for gate in section.gates.values() for file in files_of(gate, bench)]
    known = [one.model_dump(mode="json") for one in (recipe, section)]
    inputs = content_id(__version__, *known, number, against, [run.hash(file) for file in files])
    if (before := decided(run)) and before.inputs == inputs:
        return before
    found = {name: values_of(name, gate, bench) for name, gate in section.gates.items()}
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.evaluation_seed)
    decision = Decision(
        round=number,
        against=against,
        gates=tuple(outcome(name, section.gates[name], values, bootstrap) for name, values in found.items()),
        unmatched=bench.unmatched,
        judge_calls=sum(values.cost.calls for values in found.values()),
        tokens=sum(values.cost.prompt_tokens + values.cost.completion_tokens for values in found.values()),
        inputs=inputs,
    )
    write_json(run.gates, decision)
    return decision


def decided(run: Run) -> Decision | None:
    """What was decided about this round, if anything."""
    return Decision.model_validate(read_json(run.gates, TypeAdapter(Decision))) if run.gates.exists() else None
