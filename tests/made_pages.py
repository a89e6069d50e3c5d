"""Every page that the toolkit writes, made from fixed figures without a model, and its text without the markup."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import numpy as np
import yaml

from rlaif.audits.audit import write_audit
from rlaif.audits.modes import parse_modes
from rlaif.config.measures import LongWords, Syllables, WordCount
from rlaif.evaluation.compare import compare_runs
from rlaif.evaluation.contest import caution
from rlaif.evaluation.contest.accuracy import ScoredLabel, accuracies, differences
from rlaif.evaluation.contest.frontier import Curve, Point, gap, over_optimisation
from rlaif.evaluation.contest.refusals import ContestReply, refusals
from rlaif.evaluation.measures import instruments
from rlaif.evaluation.report import write_report
from rlaif.stats import Bootstrap
from rlaif.study.config import Usage, cost, load_study
from rlaif.study.figures import ArmCosts, StudyComparison, _judged
from rlaif.study.page import write_study_page
from tests.audited import recipe_of, write_gold
from tests.contests import round_robin
from tests.fake_run import RECIPE, inputs, write_run
from tests.tried_modes import planned_recipe, tosses, write_plan

QUICK = Bootstrap(samples=200)
ARMS = {"rlaif": 1.0, "rlhf": 0.6, "best_of_n": 0.1, "length_only": -1.0, "reference": 0.0}
GATE = "accuracy=0.6,consistency.low=0.9,coverage=0.9"


def report(folder: Path) -> Path:
    """A run with measures, AI labels, several reward models and heads."""
    given = inputs()
    measures = instruments([Syllables(), WordCount(), LongWords()])
    seen = dataclasses.replace(measures[1], seen="the check brief")
    rng = np.random.default_rng(1)
    rows = [
        {
            **row,
            "margins": [row["margin"], row["margin"] + rng.normal()],
            "heads": {"brief": {"p_chosen": 1.0, "margin": row["margin"]}},
        }
        for row in given.heldout_rows
    ]
    given = dataclasses.replace(
        given, instruments=(measures[0], seen, measures[2]), label_judgments=given.judgments, heldout_rows=rows
    )
    return write_report(write_run(folder / "run", given))


def bare_report(folder: Path) -> Path:
    """A run that was not evaluated."""
    run = folder / "run"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(RECIPE)
    return write_report(run)


def compare(folder: Path) -> Path:
    """Three runs, one of them under another recipe and with a measure that the others lack."""
    given = inputs(gain=0.8, prompts=40)
    measured = dataclasses.replace(given, instruments=instruments([Syllables()]))
    other = RECIPE.replace("quickstart", "rlhf").replace("60}", "90}")
    runs = [
        write_run(folder / "one", inputs(gain=0.1, seed=3)),
        write_run(folder / "two", measured, other),
        write_run(
            folder / "three",
            dataclasses.replace(inputs(seed=2), has_reward_model=False),
            RECIPE.replace("quickstart", "dpo"),
        ),
    ]
    compare_runs(runs, folder / "out" / "compare.html")
    return folder / "out" / "compare.html"


def audit(folder: Path, judge: str = "sees_merit", wrong: float = 0.2, pairs: int = 120) -> Path:
    """A judge on human labels of which some are wrong, with probes and a gate."""
    folder.mkdir(parents=True)
    gold = write_gold(folder / "gold.jsonl", pairs, wrong)
    return write_audit(recipe_of(folder, judge), [gold], GATE, folder / "out", probe_pairs=8).page


def worse_audit(folder: Path) -> Path:
    """A judge of position."""
    return audit(folder, "sees_position", pairs=60)


def modes(folder: Path) -> Path:
    """An audit that proposes a mode, of a judge that fails on some pairs."""
    folder.mkdir(parents=True)
    recipe = planned_recipe(folder, "label.mode={kind: compare, template: compare}")
    gold = write_plan(folder / "gold.jsonl", tosses(120, 12, compare=0.6, checklist=0.9, contrast=0.65))
    tried = parse_modes(["compare,checklist,contrast,score"], recipe.label.mode)
    return write_audit(recipe, [gold], None, folder / "out", probe_pairs=0, modes=tried).page


def comparison(folder: Path, seeds: tuple[int, ...] = (0, 1), gold: bool = True) -> StudyComparison:
    """Every figure of a study with four arms."""
    folder.mkdir(parents=True, exist_ok=True)
    human = folder / "human.jsonl"
    human.write_text("")
    values = {
        "schema": "rlaif/study/v1",
        "name": "planned",
        "title": "A study of planned arms",
        "recipe": "quickstart",
        "arms": {arm: {} for arm in ARMS if arm != "reference"},
        "seeds": list(seeds),
        "human_data": [{"kind": "file", "path": str(human)}],
        "judge": {"backend": "scripted", "model": "tests.scripted_judge:likes_short"},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study(folder / "study.yaml")
    games = round_robin(ARMS, 40, seeds=seeds)
    judged = [_judged("judge", games, QUICK), _judged("people", round_robin(ARMS, 20, seed=5), QUICK)]
    random = Random(0)
    scored = [
        ScoredLabel(f"x{i}", f"p{i // 2}", arm, random.gauss(0.4 * ARMS[arm], 1), 1.0, seed)
        for arm in ("rlaif", "rlhf")
        for i in range(60)
        for seed in seeds
    ]
    d = np.linspace(0.3, 3, 8)
    points = tuple(Point(i, x * x, x, float(x * (1 - 0.6 * np.log(x))) if gold else None) for i, x in enumerate(d))
    pursued = points if gold else tuple(point._replace(gold=point.score) for point in points)
    fit = over_optimisation(pursued, "rl", pursued[0].gold)
    few = points[:1]
    replies = [
        ContestReply(f"{arm}{i}", arm, i % 2 == 0, float(random.random() < 0.5)) for arm in ARMS for i in range(30)
    ]
    spent = Usage(labels=900, human_labels=300, calls=1800, prompt_tokens=90_000, completion_tokens=1800, seconds=60.0)
    accurate = accuracies(scored, QUICK)
    ahead = differences(scored, QUICK)
    return StudyComparison(
        study=study,
        confidence=0.95,
        judged=judged,
        accuracies=accurate,
        ahead=ahead,
        curves={
            "rlaif": Curve(points, fit, gap(points)),
            "best_of_n": Curve(few, over_optimisation(few, "best_of_n", 0.0), gap(few)),
        },
        refused=refusals(replies, QUICK, "reference"),
        costs={
            arm: ArmCosts(spent, cost(spent, study.prices, accurate[arm].accuracy.value if arm in accurate else None))
            for arm in study.arms
        },
        unjudged={"value": 0.99, "judged": 396, "failed": 4, "reasons": {"no label token": 4}},
        differences={"preferences.labels.kind": ["ai", "human", "ai", "length"]},
        cautions=[caution.about_many(30, 0.95), *caution.about_rates(judged[0].rates, judged[0].lengths)],
    )


def study(folder: Path) -> Path:
    """Four arms over two seeds, by a held-out judge and by people."""
    page = folder / "comparison.html"
    write_study_page(page, comparison(folder))
    return page


def study_without_gold(folder: Path) -> Path:
    """One seed, and no gold score."""
    page = folder / "comparison.html"
    found = comparison(folder, seeds=(0,), gold=False)
    write_study_page(page, found._replace(accuracies={}, ahead=[], judged=found.judged[:1]))
    return page


PAGES = {
    "report": report,
    "bare_report": bare_report,
    "compare": compare,
    "audit": audit,
    "worse_audit": worse_audit,
    "modes": modes,
    "study": study,
    "study_without_gold": study_without_gold,
}
BLOCKS = {
    "p",
    "div",
    "li",
    "dt",
    "dd",
    "h1",
    "h2",
    "h3",
    "h4",
    "tr",
    "summary",
    "pre",
    "section",
    "header",
    "footer",
    "ul",
    "dl",
    "details",
    "article",
    "table",
    "thead",
    "tbody",
    "figure",
    "title",
}
TONES = {"up", "down", "better", "worse"}
MACHINE = re.compile(r"/[\w./-]*?/(?=\w+\.(?:jsonl|yaml)\b)|\b[0-9a-f]{12,64}\b")
"""What differs from one machine or commit to the next: folders and hashes."""


class _Text(HTMLParser):
    """Text of a page: one line per block, cells apart, tones and pictures named."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self.silent = False
        self.pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: Mapping[str, str | None] = dict(attrs)
        self.silent = self.silent or tag == "style"
        if tag in BLOCKS:
            self.lines.append("")
        if tag in {"td", "th"} and self.lines[-1]:
            self.lines[-1] += " | "
        if tag == "small":
            self.lines[-1] += " "
        tones = TONES & set((given.get("class") or "").split())
        self.lines[-1] += "".join(f"<{tone}>" for tone in sorted(tones))
        if tag == "img":
            self.lines[-1] += f"[picture: {given['alt']}]"

    def handle_endtag(self, tag: str) -> None:
        self.silent = self.silent and tag != "style"
        if tag in BLOCKS:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.lines[-1] += re.sub(r"\s+", " ", data)


def text_of(page: Path) -> str:
    """What a reader sees, without markup, and without what differs by machine."""
    parser = _Text()
    parser.feed(page.read_text(encoding="utf-8"))
    lines = (re.sub(r" +", " ", re.sub(r"(\.py):\d+", r"\1", line)).strip(" |") for line in parser.lines)
    return MACHINE.sub("#", "\n".join(line for line in lines if line)) + "\n"
