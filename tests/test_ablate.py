"""What a principle adds, measured by leaving it out: paired, with the recipe's own aggregation, asking nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rlaif.audits.principles import ablate, judge_and_ablate
from rlaif.config.feedback import LabelSection, SampleOne
from rlaif.constitution import Constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.verdict import aggregate, judged, sigma
from rlaif.records import Judgment, Message, Pair, Prompt, Verdict
from rlaif.stats import Bootstrap, clustered_mean_difference
from tests.audited import merit, recipe_of, write_gold

HOW = Bootstrap(200)
PLAIN = LabelSection()


def constitution(**veto):
    names = ("good", "noise", "tagged")
    principles = [{"id": name, "compare": f"Which is more {name}?"} | veto.get(name, {}) for name in names]
    principles[2]["tags"] = ["t"]
    head = {"schema": "rlaif/constitution/v1", "id": "c", "version": "1.0.0", "title": "C"}
    return Constitution.model_validate(head | {"principles": principles})


def world(rules, leads, section=PLAIN):
    """Judgments by these log-odds for a (one row a pair, one column a principle) and labels that always prefer a."""
    judgments, gold = [], []
    for number, row in enumerate(leads):
        prompt = Prompt.of((Message(role="user", content=f"q {number // 2}"),), tags=("t",) if len(row) == 3 else ())
        pair = Pair.of(prompt, f"a {number}", f"b {number}")
        said = tuple(
            judged(
                p.id,
                Verdict(first="a", logprob_first=x, logprob_second=0.0),
                Verdict(first="b", logprob_first=-x, logprob_second=0.0),
            )
            for p, x in zip(rules.principles, row, strict=False)
        )
        decided = list(zip(rules.principles, said, strict=False))
        p_a = aggregate(decided, section.aggregation, section.check_margin, 0, pair.id)
        judgments.append(Judgment(pair=pair, source="ai", annotator="j", p_a=p_a, principles=said))
        gold.append(Judgment(pair=pair, source="human", annotator="h", p_a=1.0))
    return judgments, gold


LEADS = [(1.0, -2.0), (1.0, 0.5), (2.0, -1.0, -3.0), (-1.0, 0.5), (1.0, -0.5), (0.5, -1.0, 1.0)] * 4


def rows_of(result):
    return {(row.principle, row.variant): row for row in result.rows}


def test_every_variant_by_its_definition():
    """By hand: p(a) is sigma of the mean of the log-odds that remain, and the difference is pair by pair."""
    judgments, gold = world(constitution(), LEADS)
    result = ablate(judgments, gold, constitution(), PLAIN, 0, HOW)
    clusters = [j.pair.prompt_id for j in judgments]

    def hit(values):
        mean = sigma(sum(values) / len(values))
        return 0.5 if mean == 0.5 else float(mean > 0.5)

    whole = [hit(row) for row in LEADS]
    assert result.whole.value == pytest.approx(sum(whole) / len(whole))
    for index, name in enumerate(("good", "noise", "tagged")):
        for variant in ("without", "alone"):
            kept = [[x for i, x in enumerate(row) if (i == index) == (variant == "alone")] for row in LEADS]
            used = [i for i, values in enumerate(kept) if values]
            hits = [hit(kept[i]) for i in used]
            row = rows_of(result)[name, variant]
            assert row.accuracy.value == pytest.approx(sum(hits) / len(hits))
            assert row.accuracy.n == len(used)
            paired = clustered_mean_difference([whole[i] for i in used], hits, [clusters[i] for i in used], HOW)
            assert row.difference == paired


def test_the_interval_is_of_the_paired_difference():
    """A principle that changes nothing has a difference of 0 without doubt, however uncertain the accuracy is."""
    judgments, gold = world(constitution(), [(1.0, 0.0), (-1.0, 0.0)] * 12)
    row = rows_of(ablate(judgments, gold, constitution(), PLAIN, 0, HOW))["noise", "without"]
    assert row.difference.value == 0.0 and row.accuracy.value == 0.5
    even = rows_of(ablate(judgments, gold, constitution(), PLAIN, 0, HOW))["noise", "alone"]
    assert even.accuracy.value == 0.5 and even.accuracy.n == 24


def test_a_veto_that_is_left_out_speaks_no_more():
    rules = constitution(noise={"veto": True})
    judgments, gold = world(rules, [(1.0, -5.0), (1.0, 0.5)] * 10)  # 5 is beyond the margin of 4
    result = ablate(judgments, gold, rules, PLAIN, 0, HOW)
    assert result.whole.value == 0.5
    assert rows_of(result)["noise", "without"].accuracy.value == 1.0
    assert rows_of(result)["noise", "without"].difference.value == 0.5


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("label.aggregation.kind=sample", r"label\.aggregation: sample asks one principle a pair"),
        ("label.mode.kind=rank", r"label\.mode: rank: its label is not made of principles"),
        (
            "label.mode={kind: panel, members: [{name: x}, {name: y}]}",
            r"label\.mode: panel: .* of a panel one member's",
        ),
    ],
)
def test_what_cannot_be_ablated_is_refused_before_anything_is_asked(tmp_path: Path, mode, said):
    recipe = recipe_of(tmp_path, "refuses", mode)
    with pytest.raises(ConfigError, match=said):
        judge_and_ablate(recipe, [tmp_path / "no-such-file.jsonl"])


@pytest.mark.parametrize(
    ("judge", "mode"),
    [("sees_merit", "compare"), ("rates", "score"), ("says_yes_to_merit", "checklist"), ("sees_merit", "revise")],
)
def test_modes_whose_label_is_made_of_principles(tmp_path: Path, judge, mode):
    gold = write_gold(tmp_path / "gold.jsonl", 20)
    own = ["judge.model=tests.test_ablate:says_yes_to_merit"] if mode == "checklist" else []
    recipe = recipe_of(tmp_path, judge, f"label.mode.kind={mode}", *own)
    assert [row.principle for row in judge_and_ablate(recipe, [gold]).rows] == ["good", "good", "kind", "kind"]


def says_yes_to_merit(request):
    p = min(0.95, max(0.05, 0.2 * merit(request.messages[-1].content.partition("<response>")[2])))
    return {"Yes": math.log(0.9 * p), "No": math.log(0.9 * (1 - p)), "Unknown": math.log(0.1)}


def test_judgments_of_another_constitution_or_aggregation_are_refused():
    judgments, gold = world(constitution(), LEADS)
    with pytest.raises(ConfigError, match="sample asks one"):
        ablate(judgments, gold, constitution(), LabelSection(aggregation=SampleOne()), 0, HOW)
    other = [j.model_copy(update={"principles": j.principles[:1]}) for j in judgments]
    with pytest.raises(DataError, match="says nothing of principle 'noise'"):
        ablate(other, gold, constitution(), PLAIN, 0, HOW)
    turned = [j.model_copy(update={"p_a": 1 - j.p_a}) for j in judgments]
    with pytest.raises(ConfigError, match="ablate needs the aggregation that it was judged with"):
        ablate(turned, gold, constitution(), PLAIN, 0, HOW)
    ties = [label.model_copy(update={"p_a": 0.5}) for label in gold]
    with pytest.raises(DataError, match="no judged pair has a human preference"):
        ablate(judgments, ties, constitution(), PLAIN, 0, HOW)
