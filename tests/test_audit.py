"""The audit whole: what it says of judges whose worth is known, what its gate lets pass, and what a recipe demands."""

from __future__ import annotations

import json
import math
import re
from statistics import fmean

import pytest

from rlaif.audits.audit import write_audit
from rlaif.audits.opinion import opinion
from rlaif.audits.requirement import (
    MEASURES,
    check_gate,
    check_requirement,
    differences,
    identity,
    measured,
    parse_gate,
)
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.feedback.calibration import Isotonic, Temperature, calibrate, fitted
from rlaif.feedback.verdict import log_odds, sigma
from rlaif.jsonl import read_jsonl, write_jsonl
from rlaif.records import Judgment, content_id
from rlaif.run_folder import Run
from rlaif.stages import label
from tests.audited import CONSTITUTION, recipe_of, write_gold
from tests.fake_run import prompt, response

pytestmark = pytest.mark.usefixtures("blank_plots")


# ------------------------------------------------------------------------------------------------ end to end


def run(folder, judge="sees_merit", *overrides, gate=None, probe_pairs=8, **gold):
    given = {"pairs": 80} | gold
    return write_audit(
        recipe_of(folder, judge, *overrides),
        [write_gold(folder / "gold.jsonl", **given)],
        gate,
        folder / "out",
        probe_pairs=probe_pairs,
    )


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """An audit of a judge that sees merit, on labels of which a tenth are wrong."""
    return run(tmp_path_factory.mktemp("right"), wrong=0.1, gate="accuracy=0.6,consistency.low=0.9", pairs=240)


def test_a_judge_that_sees_merit_may_be_used(right):
    audit = json.loads(right.file.read_text())
    assert audit == right.audit | {"gate": audit["gate"]}
    said = audit["opinion"]
    assert said["outcome"] == "yes" and said["sentence"].startswith(
        "Yes: tests.audited:sees_merit (compare) may be used"
    )
    assert audit["accuracy"]["value"] == pytest.approx(0.9, abs=0.06)
    assert audit["accuracy"]["low"] < 0.9 < audit["accuracy"]["high"]
    assert audit["consistency"]["value"] == 1.0 and audit["coverage"]["value"] == 1.0
    assert audit["pairs"] == 240 and audit["prompts"] == 120
    assert set(audit["by_tag"]) == {"easy", "hard"} and set(audit["by_principle"]) == {"good", "kind"}
    assert audit["gold"][0]["accuracy"] == audit["accuracy"]
    assert audit["probes"]["repetition"]["identical"] == 1.0
    assert audit["cost"]["calls"] == 4.0  # two principles in two orders
    # Rounds of 8 pairs: as they are, again, two templates, two paddings, one attack.
    assert audit["probe_cost"]["calls"] == 7 * 8 * 4
    assert audit["total_cost"]["calls"] == 240 * 4 + 7 * 8 * 4
    assert audit["judges"] == [{"name": "tests.audited:sees_merit", "revision": audit["judges"][0]["revision"]}]
    assert "seconds" not in right.file.read_text()


def test_its_gate_is_passed_and_the_page_lies_beside_the_file(right):
    assert right.shortfalls == [] and right.audit["gate"]["shortfalls"] == []
    assert right.sentence == right.audit["opinion"]["sentence"]
    assert right.page == right.file.with_name("audit.html") and right.page.is_file()
    assert sorted(path.name for path in right.file.parent.iterdir()) == ["audit.html", "audit.json"]


def test_examples_are_the_surest_errors(right):
    examples = right.audit["examples"]
    assert len(examples) == 6
    assert [row["p_judge"] for row in examples] == sorted((row["p_judge"] for row in examples), reverse=True)
    for row in examples:
        assert row["judge_prefers"].count("good") > row["human_prefers"].count("good")
        assert row["p_judge"] > 0.5 and list(row["by_principle"].values()) == pytest.approx([row["p_judge"]] * 2)


def test_a_judge_near_chance_may_not(tmp_path):
    audited = run(tmp_path, "tosses", gate="accuracy=0.6,kappa=0.2", pairs=400)
    said = audited.audit["opinion"]
    assert said["outcome"] == "no" and said["sentence"].startswith("No: do not use tests.audited:tosses (compare)")
    assert "near chance" in said["sentence"] and "a coin's 50%" in said["sentence"]
    assert [short.name for short in audited.shortfalls] == ["accuracy", "kappa"]
    assert re.match(r"accuracy: 0\.[45]\d\d, below the gate's 0\.6", str(audited.shortfalls[0]))


def test_a_judge_of_position_may_not_even_where_it_is_right(tmp_path):
    audited = run(tmp_path, "sees_position", pairs=60)
    assert audited.audit["accuracy"]["value"] == 1.0
    said = audited.audit["opinion"]
    assert said["outcome"] == "no" and "its choice is mostly the position" in said["sentence"]
    assert any("100% of questions it prefers whatever stands first" in caution for caution in said["cautions"])


def test_a_judge_that_never_answers_is_an_audit_too(tmp_path):
    audited = run(tmp_path, "refuses", gate="accuracy=0.5,coverage=0.9", pairs=10)
    assert audited.audit["opinion"]["sentence"].endswith("not one pair could be judged.")
    assert [str(short) for short in audited.shortfalls] == [
        "accuracy: not measured, the gate wants 0.5",
        "coverage: 0.000, below the gate's 0.9",
    ]
    assert audited.audit["probes"]["injection"] == {"reason": "no pairs to probe"}
    assert audited.audit["opinion"]["cautions"] == []  # the gold is not to blame


def test_few_pairs_leave_it_open(tmp_path):
    said = run(tmp_path, pairs=20, probe_pairs=0).audit["opinion"]
    assert said["outcome"] == "unknown" and "10 prompts are too few" in said["sentence"]
    only = "Only 20 pairs have a judgment and a human preference; an audit should have at least 200."
    assert only in said["cautions"]


def test_the_same_audit_twice_is_the_same_file_and_asks_nothing_but_the_repetition(tmp_path):
    first = run(tmp_path, "sees_merit", wrong=0.2).file.read_bytes()
    page = (tmp_path / "out" / "audit.html").read_bytes()
    again = run(tmp_path, "sees_merit", wrong=0.2)
    assert again.file.read_bytes() == first and again.page.read_bytes() == page


def test_a_bad_gold_file_is_one_line_and_nothing_is_written(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"chosen": "\\n\\nHuman: x\\n\\nAssistant: y", "rejected"\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1: not a JSON object") as caught:
        write_audit(recipe_of(tmp_path, "sees_merit"), [bad], None, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_stops_before_anything_is_asked(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        write_audit(
            recipe_of(tmp_path, "no_such_judge"),
            [write_gold(tmp_path / "g.jsonl", 4)],
            None,
            tmp_path / "taken" / "a.json",
        )


def test_a_bad_gate_stops_before_anything_is_asked(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        write_audit(recipe_of(tmp_path, "refuses"), [tmp_path / "nowhere.jsonl"], "acuracy=0.5", tmp_path / "out")


@pytest.mark.parametrize("name", ["mine.html", "mine.json"])
def test_out_may_name_either_file(tmp_path, name):
    gold = write_gold(tmp_path / "gold.jsonl", 6)
    audited = write_audit(recipe_of(tmp_path, "sees_merit"), [gold], None, tmp_path / "x" / name, probe_pairs=0)
    assert (audited.file, audited.page) == (tmp_path / "x" / "mine.json", tmp_path / "x" / "mine.html")


def test_a_limit_and_several_files(tmp_path):
    one = write_gold(tmp_path / "one.jsonl", 30, seed=1)
    two = write_gold(tmp_path / "two.jsonl", 30, wrong=1.0, seed=2)
    recipe = recipe_of(tmp_path, "sees_merit")
    audit = write_audit(recipe, [one, two], None, tmp_path / "a", probe_pairs=0).audit
    assert [(row["name"], row["accuracy"]["value"]) for row in audit["gold"]] == [
        ("one.jsonl", 1.0),
        ("two.jsonl", 0.0),
    ]
    limited = write_audit(recipe, [one, two], None, tmp_path / "b", limit=20, probe_pairs=0).audit
    assert limited["pairs"] == 20 and limited["gold_rows"]["left_out"] == 40


def test_other_modes_and_panels(tmp_path):
    scored = run(tmp_path, "rates", "label.mode.kind=score", pairs=60).audit
    assert scored["consistency"] is None and scored["accuracy"]["value"] > 0.9
    assert scored["probes"]["paraphrase"]["reason"] and scored["opinion"]["outcome"] == "yes"
    panel = (
        "label.mode={kind: panel, members: [{name: one}, {name: two, mode: {kind: compare, template: compare-brief}},"
        " {name: three, model: {backend: scripted, model: 'tests.audited:tosses'}}]}"
    )
    judged = run(tmp_path, "sees_merit", panel, pairs=60).audit
    assert judged["opinion"]["sentence"].startswith("Yes: the panel of one, two, three (panel)")
    assert [row["name"] for row in judged["judges"]] == ["tests.audited:sees_merit", "tests.audited:tosses"]
    assert len(judged["reliability"]) == 3 and judged["probes"]["padding"]["n"] == 16


# ------------------------------------------------------------------------------------------------- the gate


def test_a_gate_is_read():
    assert parse_gate("accuracy=0.6, consistency.low = 0.7") == {"accuracy": 0.6, "consistency.low": 0.7}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy", r"'accuracy' is not of the form name=value"),
        ("accuracy=", r"accuracy must be a number from 0 to 1 \(got ''\)"),
        ("accuracy=60%", r"\(got '60%'\)"),
        ("accuracy=60", r"\(got 60\)"),
        ("accuracy=nan", r"\(got nan\)"),
        ("accuracy=0.6,accuracy=0.7", "accuracy is there twice"),
        ("consistensy=0.6", "no measure 'consistensy'; did you mean 'consistency'"),
        ("", "is not of the form"),
        ("coverage.low=0.9", "no measure 'coverage.low'; did you mean 'coverage'"),
    ],
)
def test_a_gate_that_cannot_be_read_is_one_clear_line(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_gate(text)


def test_the_gate_is_on_values_or_on_lower_ends(right):
    accuracy = right.audit["accuracy"]
    between = (accuracy["value"] + accuracy["low"]) / 2
    assert check_gate(right.audit, {"accuracy": between}) == []
    (short,) = check_gate(right.audit, {"accuracy.low": between})
    assert short == ("accuracy.low", accuracy["low"], between)
    assert check_gate(right.audit, {"accuracy": accuracy["value"]}) == []
    assert check_gate(right.audit, {"accuracy": math.nextafter(accuracy["value"], 1)}) != []
    assert check_gate({"accuracy": {"value": math.nan}}, {"accuracy": 0.1}) != []


def test_every_measure_that_a_gate_may_name_is_in_the_audit(right):
    missing = [name for name in MEASURES if measured(right.audit, name) is None]
    assert missing == []


# ------------------------------------------------------------------------------------- what a recipe demands


def require(right, tmp_path, *overrides, **knobs):
    section = {"file": str(right.file)} | knobs
    return recipe_of(tmp_path, "sees_merit", f"label.audit={json.dumps(section)}", *overrides)


def test_a_recipe_whose_audit_fits_may_label(right, tmp_path):
    assert check_requirement(recipe_of(tmp_path, "sees_merit")) is None
    assert check_requirement(require(right, tmp_path, gate={"accuracy": 0.6})) is None
    calibration = right.audit["calibration"]
    found = check_requirement(require(right, tmp_path, calibrate="temperature"))
    assert found == Temperature(value=calibration["temperature"]["value"])
    assert isinstance(check_requirement(require(right, tmp_path, calibrate="isotonic")), Isotonic)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("judge.model=tests.audited:tosses", r"judge\.model: the audit has 'tests\.audited:sees_merit', the recipe"),
        (
            "label.mode={kind: compare, template: compare-brief}",
            r"mode\.template\.name: the audit has 'compare', the recipe 'compare-brief'",
        ),
        ("label.mode.kind=score", r"mode\.kind: the audit has 'compare', the recipe 'score'"),
        ("label.aggregation.kind=sample", r"aggregation\.kind: the audit has 'mean', the recipe 'sample'"),
        ("label.check_margin=2", r"check_margin: the audit has 4\.0, the recipe 2\.0"),
        ("constitution=harmlessness", r"constitution\.id: the audit has 'goodness', the recipe 'harmlessness'"),
    ],
)
def test_an_audit_of_something_else_is_refused_and_told_apart(right, tmp_path, override, said):
    with pytest.raises(ConfigError, match=rf"is about another judge, mode or constitution: .*{said}") as caught:
        check_requirement(require(right, tmp_path, override))
    assert "rlaif audit RECIPE --gold FILE --out" in str(caught.value) and "\n" not in str(caught.value)


def test_a_changed_text_of_the_constitution_is_another_constitution(right, tmp_path):
    recipe = require(right, tmp_path)
    file = tmp_path / "goodness.yaml"
    file.write_text(f"# a comment changes nothing\n{CONSTITUTION}")
    assert check_requirement(recipe) is None
    file.write_text(CONSTITUTION.replace("kinder?", "nicer?"))
    with pytest.raises(ConfigError, match=r"constitution\.hash: the audit has"):
        check_requirement(recipe)


def test_how_the_judge_is_reached_does_not_matter(tmp_path):
    def of(*overrides):
        recipe = recipe_of(tmp_path, "sees_merit", *overrides)
        return identity(recipe, load_constitution(recipe.constitution))

    client = ["judge.backend=client", "judge.model=big"]
    here = of(*client, "judge.base_urls=['http://one/v1']")
    there = of(*client, "judge.base_urls=['http://two/v1']", "judge.concurrency=3", "judge.timeout_s=9", "seed=7")
    assert here == there and content_id(here) == content_id(there)
    other = of(*client, "judge.base_urls=['http://one/v1']", "judge.extra_body={think: true}")
    assert differences(here, other) == [
        "judge.extra_body: the audit has {}, the recipe nothing",
        "judge.extra_body.think: the audit has nothing, the recipe True",
    ]
    assert content_id(here) != content_id(other)


def test_a_model_folder_is_known_by_its_content(tmp_path):
    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / "weights").write_text("one")
    recipe = recipe_of(tmp_path, "sees_merit", "judge.backend=local", f"judge.model={folder}")
    constitution = load_constitution(recipe.constitution)
    before = identity(recipe, constitution)
    (folder / "weights").write_text("two")
    assert [line.partition(":")[0] for line in differences(before, identity(recipe, constitution))] == ["judge.content"]


def test_so_is_what_a_servers_arguments_name(tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("one")
    told = f"judge.arguments=['--chat-template', '{file}']"
    recipe = recipe_of(tmp_path, "sees_merit", "judge.backend=vllm", "judge.model=org/big", told)
    constitution = load_constitution(recipe.constitution)
    before = identity(recipe, constitution)
    file.write_text("two")
    assert [line.partition(":")[0] for line in differences(before, identity(recipe, constitution))] == ["judge.content"]


def test_an_audit_below_the_recipes_gate_is_refused(right, tmp_path):
    with pytest.raises(
        ConfigError, match=r"label\.audit\.gate: .* does not pass: accuracy: 0\.9\d\d, below the gate's 0\.99"
    ):
        check_requirement(require(right, tmp_path, gate={"accuracy": 0.99, "coverage": 0.5}))
    with pytest.raises(ConfigError, match=r"label\.audit\.gate: no measure 'acuracy'; did you mean 'accuracy'"):
        check_requirement(require(right, tmp_path, gate={"acuracy": 0.5}))


def test_a_missing_or_foreign_audit_is_one_clear_line(right, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json: no such file; make it with: rlaif audit RECIPE --gold FILE"):
        check_requirement(require(right, tmp_path, file=str(tmp_path / "nowhere.json")))
    for text in ("{", "[]", "{}", '{"schema": "rlaif/audits/v1"}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ConfigError, match=r"label\.audit\.file: .*a\.json: (cannot be read as JSON|is not what)"):
            check_requirement(require(right, tmp_path, file=str(tmp_path / "a.json")))


def test_an_audit_without_a_map_cannot_calibrate(right, tmp_path):
    audit = right.audit | {"calibration": None}
    (tmp_path / "a.json").write_text(json.dumps(audit))
    with pytest.raises(
        ConfigError, match=r"label\.audit\.calibrate: .*a\.json: calibration\.isotonic: the audit fitted"
    ):
        check_requirement(require(right, tmp_path, file=str(tmp_path / "a.json"), calibrate="isotonic"))


def test_revisions_have_no_probability_to_correct(tmp_path):
    """Nobody compared them: their p is label.mode.confidence, and a map learned on comparisons says nothing of it."""
    audited = run(tmp_path, "sees_merit", "label.mode.kind=revise", pairs=40, wrong=0.2, probe_pairs=4)
    assert "by_template" in audited.audit["probes"]["paraphrase"]  # judged by compare, and so probed
    section = {"file": str(audited.file), "calibrate": "temperature"}
    with pytest.raises(ConfigError, match=r"label\.audit\.calibrate: temperature: revise compares nothing"):
        check_requirement(
            recipe_of(tmp_path, "sees_merit", "label.mode.kind=revise", f"label.audit={json.dumps(section)}")
        )


def test_the_label_stage_does_not_ask_a_judge_that_was_not_approved(right, tmp_path):
    recipe = require(right, tmp_path, "judge.model=tests.audited:tosses")
    with pytest.raises(ConfigError, match="is about another judge"):
        label(recipe, Run(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["none", "temperature", "isotonic"])
def test_the_label_stage_applies_the_map_that_the_audit_fitted(right, tmp_path, kind):
    run_folder = Run(tmp_path / "run")
    of = prompt(0)
    texts = ("good good word", "bad word", "good word word")
    write_jsonl(run_folder.responses, [response(of, text, index) for index, text in enumerate(texts)])
    label(require(right, tmp_path, calibrate=kind), run_folder)
    judgments = read_jsonl(run_folder.judgments, Judgment)
    assert len(judgments) == 3
    for judgment in judgments:
        by_principles = sigma(fmean(log_odds(principle.p_a) for principle in judgment.principles))
        if kind == "none":
            assert (judgment.p_a, judgment.p_raw) == (pytest.approx(by_principles), None)
        else:
            assert judgment.p_raw == pytest.approx(by_principles)
            assert judgment.p_a == calibrate(judgment.p_raw, fitted(right.audit["calibration"], kind))
    if kind != "none":
        assert any(abs(judgment.p_a - judgment.p_raw) > 0.01 for judgment in judgments)


# ----------------------------------------------------------------------------------------------- the opinion


def estimate(value, low, high, n=300):
    return {"value": value, "low": low, "high": high, "n": n}


def audit_of(accuracy=None, **changes):
    """An audit with nothing to complain about, but for the changes."""
    position = {"both_first": estimate(0.05, 0, 0.1), "both_second": estimate(0.05, 0, 0.1), "swap_gap": 0.1}
    position["undecided"] = estimate(0.0, 0, 0.01)
    return {
        "audited": {
            "judge": {"model": "m"},
            "mode": {"kind": "compare"},
            "constitution": {"id": "c", "version": "1.0.0"},
        },
        "accuracy": accuracy or estimate(0.75, 0.70, 0.80),
        "kappa": estimate(0.5, 0.4, 0.6),
        "baselines": {"always_longer": estimate(0.55, 0.5, 0.6), "lead_over_longer": estimate(0.2, 0.1, 0.3)},
        "by_principle": {},
        "consistency": estimate(0.9, 0.85, 0.95) | position,
        "verbosity": {"bias": estimate(0.0, -0.1, 0.1)},
        "calibration": {"ece": 0.03, "temperature": None, "isotonic": None},
        "coverage": {"value": 1.0, "judged": 300, "failed": 0, "reasons": {}},
        "pairs": 300,
        "prompts": 300,
        "decided_prompts": 300,
        "gold_rows": {"unusable": 0, "contradicted": 0},
        "probes": {},
    } | changes


@pytest.mark.parametrize(
    ("accuracy", "outcome", "words"),
    [
        (estimate(0.75, 0.70, 0.80), "yes", "agrees with the human labels on 75% (70 to 80%) of 300 pairs"),
        (estimate(0.49, 0.42, 0.56), "no", "it is near chance: agrees with the human labels on 49% (42 to 56%)"),
        (estimate(0.55, 0.45, 0.65), "unknown", "it cannot be told from a coin: agrees with the human labels on 55%"),
        (estimate(0.70, 0.49, 0.85), "unknown", "it cannot be told from a coin"),
        (estimate(0.61, 0.52, 0.70), "unknown", "better than a coin, but perhaps below 60%"),
        (estimate(0.66, 0.61, 0.71), "yes", "on 66% (61 to 71%)"),
        (estimate(0.55, 0.52, 0.58), "no", "more than a coin's 50% but too seldom (60% is the least)"),
        (estimate(0.58, 0.53, 0.63), "unknown", "better than a coin, but perhaps below 60%"),
        (estimate(0.40, 0.35, 0.45), "no", "which is worse than a coin"),
        (
            estimate(0.9, None, None, 1),
            "unknown",
            "it cannot be told from a coin: agrees with the human labels on 90% of 1 pair,",
        ),
    ],
)
def test_the_words_follow_the_interval(accuracy, outcome, words):
    found = opinion(audit_of(accuracy))
    assert found.outcome == outcome and words in found.sentence
    assert found.sentence.startswith({"yes": "Yes: ", "no": "No: do not use ", "unknown": "Not yet known "}[outcome])


LEADS = {"always_longer": estimate(0.74, 0.7, 0.78)}


def position(same, first, second, undecided):
    """The consistency of an audit: shares with an interval of two points each way."""
    parts = {"both_first": first, "both_second": second, "undecided": undecided}
    shares = {name: estimate(x, max(x - 0.02, 0), min(x + 0.02, 1)) for name, x in parts.items()}
    return {"consistency": estimate(same, max(same - 0.02, 0), min(same + 0.02, 1)) | shares | {"swap_gap": 0.1}}


def decider(checked, accuracy):
    return {"accuracy": accuracy, "checked": checked, "n": 300, "undecided": 0, "consistency": None}


@pytest.mark.parametrize(
    ("change", "outcome", "words"),
    [
        ({"baselines": LEADS | {"lead_over_longer": estimate(0.01, -0.05, 0.07)}}, "unknown", "1 point ahead of that"),
        ({"baselines": LEADS | {"lead_over_longer": estimate(0.0, -0.05, 0.05)}}, "unknown", "is level with that"),
        ({"baselines": LEADS | {"lead_over_longer": estimate(-0.2, -0.3, -0.1)}}, "no", "20 points behind that"),
        ({"coverage": {"value": 0.8, "judged": 80, "failed": 20, "reasons": {}}}, "no", "judged 80% of the pairs"),
        ({"decided_prompts": 29}, "unknown", "29 prompts are too few"),
        (position(0.2, 0.5, 0.3, 0.0), "no", "20% (18 to 22%) of the time: its choice is mostly the position"),
        (position(0.0, 0.0, 0.0, 1.0), "no", "0% (0 to 2%) of the time: mostly it prefers neither"),
        (position(0.51, 0.4, 0.09, 0.0), "unknown", "51% (49 to 53%) of the time, and the interval holds a coin's 50%"),
        (
            {
                "by_principle": {
                    "short": decider(300, estimate(0.8, 0.7, 0.9)),
                    "kind": decider(0, estimate(0.5, 0.4, 0.6)),
                }
            },
            "unknown",
            "code decides short, and no principle that the judge decides agrees",
        ),
        (
            {"by_principle": {"short": decider(300, None), "kind": decider(0, estimate(0.7, 0.6, 0.8))}},
            "yes",
            "may be used",
        ),
        ({"by_principle": {"short": decider(300, None)}}, "unknown", "code decides every principle, not the judge"),
        ({"consistency": None}, "yes", "may be used"),
    ],
)
def test_one_miss_is_a_no_and_one_open_question_no_yes(change, outcome, words):
    found = opinion(audit_of(**change))
    assert found.outcome == outcome and words in found.sentence


def test_a_map_that_does_not_help_is_not_advised():
    worse = {"ece": 0.12, "temperature": {"ece": 0.13}, "isotonic": None}
    assert opinion(audit_of(calibration=worse)).cautions == ["Its probabilities are off by 12.0 points on average."]


def test_what_only_code_decided_is_not_put_down_to_the_judge(tmp_path):
    """Checks that go against people (or with them) say nothing of a judge that was never asked."""
    text = (
        CONSTITUTION.partition("principles:")[0]
        + "principles:\n  - id: no-good\n    check: {kind: regex_absent, pattern: good}\n"
    )
    gold = write_gold(tmp_path / "gold.jsonl", 80)
    recipe = recipe_of(tmp_path, "sees_merit", constitution=text)
    audit = write_audit(recipe, [gold], None, tmp_path / "out").audit
    said = audit["opinion"]
    assert audit["total_cost"]["calls"] == 0 and said["outcome"] == "unknown"
    assert said["sentence"].endswith("; code decides every principle, not the judge.")
    assert said["reasons"][0].startswith("The checks agree with the human labels on ")
    assert not any(caution.startswith("It ") for caution in said["cautions"])


def test_a_page_runs_and_loads_nothing(tmp_path, blank_plots, monkeypatch):
    """Markup in prompts, responses and tags shows as text, in plots too, and JSON stays JSON."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", blank_plots)
    evil = "<script>alert(1)</script><img src=//evil onerror=alert(2)> \u2028 {{ 7 * 7 }} $x^2$"
    rows = [
        {"prompt": f"{evil} {i}", "chosen": f"bad {i} {evil}", "rejected": f"good {i} {evil}", "tags": [evil]}
        for i in range(40)
    ]
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    audited = write_audit(recipe_of(tmp_path, "sees_merit"), [gold], None, tmp_path / "out", probe_pairs=4)
    page = audited.page.read_text()
    assert "&lt;script&gt;alert(1)" in page and "{{ 7 * 7 }}" in page
    assert not re.search(r"<script|<link|<iframe|@import", page)
    assert all(source.startswith("data:") for source in re.findall(r"<img src=\W?([^\s>]+)", page))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(audited.file.read_text(), parse_constant=refuse)["by_tag"] == {
        evil: audited.audit["by_tag"][evil]
    }


def test_a_judge_with_nothing_to_say_against_it_has_no_cautions():
    found = opinion(audit_of())
    assert found.cautions == [] and len(found.reasons) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accuracy": estimate(0.75, 0.7, 0.8, 199)}, "Only 199 pairs have a judgment and a human preference"),
        (position(0.6, 0.1, 0.3, 0.0), "In 30% of questions it prefers whatever stands second, in both orders."),
        (position(0.0, 0.0, 0.0, 1.0), "In 100% of questions it is at exactly even"),
        ({"gold_rows": {"unusable": 3, "contradicted": 2}}, "without a usable pair: 3"),
        ({"gold_rows": {"unusable": 3, "contradicted": 2}}, "labelled both ways: 2"),
        ({"coverage": {"value": 0.95, "judged": 95, "failed": 5, "reasons": {}}}, "5% of pairs could not be judged"),
        (
            {"verbosity": {"bias": estimate(0.3, 0.2, 0.4)}},
            "longer response: where the human prefers the shorter one it errs 30",
        ),
        (
            {"verbosity": {"bias": estimate(-0.3, -0.4, -0.2)}},
            "prefers the longer one it errs 30 points more often (20 to 40)",
        ),
        (
            {
                "calibration": {
                    "ece": 0.2,
                    "log_loss": 0.7,
                    "temperature": {"ece": 0.05, "log_loss": 0.6},
                    "isotonic": {"ece": 0.04, "log_loss": 0.6},
                }
            },
            "calibrate=isotonic",
        ),
        ({"by_principle": {"odd": decider(0, estimate(0.3, 0.2, 0.4))}}, "goes against the human labels: odd (30%"),
        (
            {"probes": {"paraphrase": {"same_choice": estimate(0.8, 0.7, 0.9)}}},
            "in other words, it keeps its choice only 80%",
        ),
        ({"probes": {"repetition": {"same_choice": estimate(0.9, 0.8, 1)}}}, "Asked the same again"),
        ({"probes": {"injection": {"flipped": estimate(0.3, 0.2, 0.4)}}}, "wins it the choice in 30% (20 to 40%)"),
        ({"probes": {"padding": {"to_padded": estimate(0.3, 0.2, 0.4)}}}, "Irrelevant sentences"),
    ],
)
def test_cautions_are_sentences_with_numbers(change, words):
    found = opinion(audit_of(**change))
    assert any(words in caution for caution in found.cautions), found.cautions
    assert all(caution.endswith(".") and re.search(r"\d", caution) for caution in found.cautions)
