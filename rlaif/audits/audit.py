"""`rlaif audit`: judge pairs that humans have labelled, measure, probe, and say whether this judge may be used.

The measures are in `metrics.py`, the probes in `probes.py`, the words in `opinion.py`, the page in `report.py`. The
audit is one JSON document that says what it is about, so that a recipe can require it (`gate.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from rlaif.audits import PROBE_PAIRS
from rlaif.audits.gold import GoldLabels, read_gold
from rlaif.audits.judge_training.record import refuse_seen
from rlaif.audits.judges import Judges, judge_gold, open_judges
from rlaif.audits.metrics import accuracy, dumped, summarise
from rlaif.audits.modes import try_modes
from rlaif.audits.opinion import opinion
from rlaif.audits.probes import PROBES, ProbeBench, judged_only, rounds, to_probe
from rlaif.audits.report import write_audit_page
from rlaif.audits.requirement import Shortfall, check_gate, identity, parse_gate
from rlaif.config import Recipe
from rlaif.config.judging import CompareMode, Mode, ReviseMode
from rlaif.config.load import AUDIT_SCHEMA
from rlaif.console import bar
from rlaif.constitution import Constitution, load_constitution
from rlaif.feedback.judge import JudgeResult, passes
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.labelled import LabelledJudgment, decided, match
from rlaif.jsonl import write_json
from rlaif.records import Judgment, content_id, plain
from rlaif.stats import Bootstrap

EXAMPLES = 6
LISTED_FAILURES = 20


class AuditResult(NamedTuple):
    """What came of an audit."""

    audit: dict[str, Any]
    shortfalls: list[Shortfall]
    """Empty without a gate, and where it was passed."""
    page: Path
    file: Path

    @property
    def sentence(self) -> str:
        """Whether this judge may be used, and why."""
        return str(self.audit["opinion"]["sentence"])


def write_audit(
    recipe: Recipe,
    gold: Sequence[Path],
    gate: str | None = None,
    out: Path | None = None,
    *,
    limit: int | None = None,
    probe_pairs: int = PROBE_PAIRS,
    modes: Sequence[Mode] = (),
) -> AuditResult:
    """Audit the recipe's judge on these files of human labels; write audit.json and audit.html.

    With `modes` one of them is chosen on half of the prompts, and the audit is of that mode on the others (`modes.py`).

    `out` is a folder (by default runs/audit-<recipe>), or either of the two files: the other stands beside it. `limit`
    bounds the pairs; `probe_pairs` those that each probe judges again, 0 for no probes. A gate is written as
    `parse_gate` says and never raises: see `shortfalls`. DataError where the judge was trained on prompts of the gold.
    """
    thresholds = parse_gate(gate) if gate else {}
    out = out or Path("runs") / f"audit-{recipe.name}"
    file = out.with_suffix(".json") if out.suffix in {".json", ".html"} else out / "audit.json"
    labels = read_gold(gold, limit)
    refuse_seen(recipe, [label.pair for label in labels.judgments], modes)
    file.parent.mkdir(parents=True, exist_ok=True)  # before the judging: it would be a pity to fail after it
    with open_judges(recipe.judge, str(file.resolve())) as judges:
        audit = run_audit(recipe, labels, judges, probe_pairs, modes)
    shortfalls = check_gate(audit, thresholds)
    audit["gate"] = (
        {"thresholds": thresholds, "shortfalls": [short._asdict() for short in shortfalls]} if gate else None
    )
    write_json(file, audit)
    return AuditResult(audit, shortfalls, write_audit_page(audit, file.with_suffix(".html")), file)


def run_audit(
    recipe: Recipe, gold: GoldLabels, judges: Judges, probe_pairs: int = PROBE_PAIRS, modes: Sequence[Mode] = ()
) -> dict[str, Any]:
    """The audit as plain values, ready for JSON.

    The keys of `metrics.summarise`; `audited` and `subject` (gate.py); `judges` as they named themselves; `gold`
    and `gold_rows`; `probes`; `probe_cost`; `examples`; and `opinion`. There is no gate in it, and no clock time: equal
    work gives an equal document, as far as the judge itself replies equally. With `modes` there is one more key,
    `modes` (`modes.try_modes`); `total_cost` then holds what all of them cost.
    """
    if not modes:
        constitution = load_constitution(recipe.constitution)
        result = judge_gold(judges.cached, gold, constitution, recipe.label, recipe.seed)
        return _audit(recipe, gold, judges, probe_pairs, result)
    tried = try_modes(recipe, gold, judges, modes)
    audit = _audit(tried.recipe, tried.gold, judges, probe_pairs, tried.result)
    total = tried.cost.plus(Cost(**audit["probe_cost"]))
    return audit | {"total_cost": total._asdict(), "modes": tried.block}


def _audit(recipe: Recipe, gold: GoldLabels, judges: Judges, probe_pairs: int, result: JudgeResult) -> dict[str, Any]:
    """The audit of this result, which is the recipe's judge on this gold."""
    constitution = load_constitution(recipe.constitution)
    about = identity(recipe, constitution)
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.seed)
    labelled = match(result.judgments, gold.judgments)
    probes, probe_cost = _probe(recipe, constitution, judges, result.judgments, probe_pairs)
    summary = summarise(labelled, result.judgments, result.failures, result.cost, bootstrap)
    audit: dict[str, Any] = {
        "schema": AUDIT_SCHEMA,
        "recipe": recipe.name,
        "subject": content_id(about),  # equal where two audits are about the same
        "audited": about,
        "judges": _judges(result.judgments),
        "seed": recipe.seed,
        "confidence": bootstrap.confidence,
        "gold": _files(gold, labelled, bootstrap),
        "gold_rows": {
            "unusable": len(gold.failures),
            "first_unusable": [f"{row.id}: {row.reason}" for row in gold.failures[:LISTED_FAILURES]],
            "repeated": gold.repeated,
            "contradicted": gold.contradicted,
            "left_out": gold.left_out,
        },
        **summary,
        "reliability": [row.model_dump() for row in result.reliability],
        "probes": probes,
        "probe_cost": probe_cost._asdict(),
        "total_cost": result.cost.plus(probe_cost)._asdict(),
        "examples": _examples(labelled),
        "failures": [row.model_dump() for row in result.failures[:LISTED_FAILURES]],
    }
    return audit | {"opinion": opinion(audit)._asdict()}


def _probe(
    recipe: Recipe, constitution: Constitution, judges: Judges, judgments: Sequence[Judgment], most: int
) -> tuple[dict[str, Any], Cost]:
    """Every probe's findings by name, and what they cost; a probe that cannot be made says why."""
    judged = judged_only(constitution)
    pairs = to_probe(judgments, most, recipe.seed)
    why = "code decides every principle" if judged is None else "no pairs to probe" if not pairs else ""
    if judged is None or not pairs:
        return {name: {"reason": why} for name in PROBES}, Cost()
    section = recipe.label
    if isinstance(section.mode, ReviseMode):  # whose pairs are judged by compare, here as everywhere
        section = section.model_copy(update={"mode": CompareMode()})
    bootstrap = Bootstrap.of(recipe.evaluate, recipe.seed)
    with bar("probe", rounds(section) * len(pairs) * passes(section.mode), "pairs") as advance:
        bench = ProbeBench(judges.cached, judges.fresh, judged, section, pairs, recipe.seed, bootstrap, advance)
        found = {name: probe(bench) for name, probe in PROBES.items()}
    return found, reduce(Cost.plus, bench.costs, Cost())


def _judges(judgments: Sequence[Judgment]) -> list[dict[str, str]]:
    """Name and revision of every model that judged, as it gave them itself."""
    sources = (one.provenance for judgment in judgments for one in judgment.members or (judgment,) if one.provenance)
    seen = dict.fromkeys((source.judge, source.judge_revision) for source in sources)
    return [{"name": name, "revision": revision} for name, revision in seen]


def _files(gold: GoldLabels, labelled: Sequence[LabelledJudgment], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """The files of human labels, with the judge's accuracy on each."""
    found = []
    for file in gold.files:
        own = [item for item in labelled if gold.file_of[item.judgment.pair.id] == file.name]
        found.append(file._asdict() | {"accuracy": dumped(accuracy(own, bootstrap))})
    return found


def _examples(labelled: Sequence[LabelledJudgment]) -> list[dict[str, Any]]:
    """The pairs on which judge and human are furthest apart, as the page shows them."""
    apart = sorted(decided(labelled), key=lambda item: (-abs(item.judgment.p_a - item.p_human), item.judgment.pair.id))
    wrong = [item for item in apart if abs(item.judgment.p_a - item.p_human) > 0.5]
    return [_example(item) for item in wrong[:EXAMPLES]]


def _example(item: LabelledJudgment) -> dict[str, Any]:
    pair = item.judgment.pair
    human, judge = (pair.a, pair.b) if item.p_human == 1 else (pair.b, pair.a)

    def of_the_judges(p_a: float) -> float:
        return 1 - p_a if item.p_human == 1 else p_a

    return {
        "pair_id": pair.id,
        "prompt": plain(pair.prompt),
        "human_prefers": human,
        "judge_prefers": judge,
        "p_judge": of_the_judges(item.judgment.p_a),
        "by_principle": {part.principle: of_the_judges(part.p_a) for part in item.judgment.principles},
    }
