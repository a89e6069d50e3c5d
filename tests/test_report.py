"""The report: what it says, that nothing in it can run, and that it survives missing parts."""

from __future__ import annotations

import base64
import dataclasses
import json
import re

import pytest

from rlaif.config.measures import Syllables, WordCount
from rlaif.errors import DataError
from rlaif.evaluation.compare import compare_runs
from rlaif.evaluation.measures import instruments
from rlaif.evaluation.report import write_report
from rlaif.evaluation.verdict import verdict
from rlaif.pages.plots import AxisScale, dots, running_mean
from rlaif.stats import Estimate, estimate_at
from rlaif.words import duration, figure, number, percent, points, span, with_interval
from tests.fake_run import RECIPE, inputs, write_run

OUTSIDE = re.compile(r"""(?:src|href|action|data|poster|srcset)\s*=\s*["']?\s*(?:https?:)?//|url\(|@import""", re.I)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("runs") / "run", inputs())
    return write_report(folder).read_text()


def test_the_page_says_what_happened(page):
    assert "Better on the checks" in page
    assert re.search(
        r"passes all three checks on \d+% of held-out responses, up from \d+% \(\+\d+ points, 95% interval", page
    )
    assert "Treat everything that rests on the judged principles as noise." in page
    for part in ("The judge", "Training", "Before and after", "Cost", "Provenance", "quickstart", "no label token"):
        assert part in page
    assert page.count('<article class="example">') == 6


def test_the_page_shows_what_no_part_of_the_run_has_seen(tmp_path):
    given = inputs(prompts=6)
    measures = instruments([Syllables(name="<b>syllables</b>"), WordCount()])
    given = dataclasses.replace(
        given, instruments=(measures[0], dataclasses.replace(measures[1], seen="the check brief"))
    )
    folder = write_run(tmp_path / "run", dataclasses.replace(given, label_judgments=given.judgments))
    (folder / "metrics.jsonl").unlink()
    page = write_report(folder).read_text()
    assert (
        "<h2>Measures that no part of the run has seen</h2>" in page
        and "No part of the run has seen this measure: " in page
    )
    assert "&lt;b&gt;syllables&lt;/b&gt;" in page and "<b>syllables" not in page
    assert "seen by the check brief" in page
    assert "<h2>Which principle taught what</h2>" in page and "The judge gave all of the label signal." in page
    assert "Lower in words" in page


def test_a_run_without_measures_or_ai_labels_has_no_such_part(page):
    assert "no part of the run has seen" not in page.lower() and "taught what" not in page


def test_the_page_needs_nothing_from_elsewhere(page):
    assert not OUTSIDE.search(page)
    assert not re.search(r"<(?:script|link|iframe|object|embed|base|form)\b", page, re.I)
    pictures = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(pictures) >= 8
    for data in pictures:
        svg = base64.b64decode(data).decode()
        assert "<script" not in svg and not re.search(r'href="(?!#)', svg)
    assert OUTSIDE.search('<img src="https://x.org/a.png">')  # the pattern itself can find something


def test_text_of_models_and_users_is_inert(tmp_path):
    attack = "<script>alert(1)</script><img src=//evil.example/x onerror=alert(1)> {{ 7 * 7 }} </div>"
    given = inputs(prompts=6)
    after = [r.model_copy(update={"text": attack}) for r in given.after]
    recipe = RECIPE.replace("title: Short", "title: <script>bad()</script> Short")
    folder = write_run(tmp_path / "run", dataclasses.replace(given, after=after, judgments=()), recipe)
    page = write_report(folder).read_text()
    assert "<script" not in page and "<img src=//evil" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page and "49 </div>" not in page
    assert "<title>&lt;script&gt;" in page


@pytest.mark.parametrize(
    "missing",
    [
        "recipe.yaml",
        "manifest.json",
        "metrics.jsonl",
        "failures.jsonl",
        "preferences.jsonl",
        "evaluation_samples.jsonl",
    ],
)
def test_one_missing_file_is_no_obstacle(tmp_path, missing):
    folder = write_run(tmp_path / "run", inputs(prompts=6))
    (folder / missing).unlink()
    (folder / "metrics.jsonl").unlink(missing_ok=True)  # plots are tested above, and slow
    assert "The judge" in write_report(folder, tmp_path / "page.html").read_text()


@pytest.mark.parametrize("value", [1.5, "twelve", [1], {"a": 1}, True, None])
def test_a_recipe_that_was_changed_by_hand_stops_no_page(tmp_path, value):
    runs = [write_run(tmp_path / name, inputs()) for name in "ab"]
    keys = {"policy": ["model", "dtype"], "judge": ["model"], "optimise": ["kind"], "evaluate": ["examples"]}
    recipe = {"title": value, "constitution": value, "sample": {"contrast": {"labels": value}}}
    recipe |= {section: dict.fromkeys(names, value) for section, names in keys.items()}
    (runs[0] / "recipe.yaml").write_text(json.dumps(recipe | {"preferences": {"labels": {"kind": value}}}))
    assert write_report(runs[0]).exists()
    compare_runs(runs, tmp_path / "compared.html")


def test_an_empty_folder_says_that_nothing_was_evaluated(tmp_path):
    page = write_report(tmp_path).read_text()
    assert "Not evaluated yet" in page and "No AI judge was used" in page
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


def test_a_run_without_a_judge_says_so(tmp_path):
    given = dataclasses.replace(inputs(prompts=6), judgments=(), failures=(), cost={"judge_calls": 0})
    folder = write_run(tmp_path / "run", given, RECIPE.replace("kind: ai, pairs: sampled", "kind: human"))
    (folder / "metrics.jsonl").unlink()
    page = write_report(folder).read_text()
    assert "No AI judge was used." in page and "human feedback (RLHF)" in page
    assert "The judge was not called." in page


def test_a_broken_file_is_one_clear_line(tmp_path):
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(DataError, match=r"evaluation\.json: not JSON: Expecting"):
        write_report(tmp_path)
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(DataError, match=r"evaluation\.json: row: Input should be an object \(got \[\]\)"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"confidence": "high"}, "confidence: Input should be a valid number"),
        ({"all_checked": {"before": 0.1, "after": 0.2}}, "all_checked.difference: Field required"),
        (
            {"policy": {"kl": {"value": float("nan"), "low": 0, "high": 1, "n": 2}}},
            "policy.kl.value: Input should be a",
        ),
        ({"policy": [1]}, "policy: Input should be an object"),
        (
            {"measures": [{"name": "x", "unit": "inch", "before": 1, "after": 2, "difference": None}]},
            "measures.0.unit: Input should be",
        ),
        ({"labels": {"pairs": 3, "prefers": 2}}, "labels.by_principle: Field required"),
        ({"cost": {"judge_calls": -1}}, "cost.judge_calls: Input should be greater than or equal to 0"),
        (
            {"all_checked": {"before": 0, "after": 0, "difference": {}, "before_interval": [0, 1, 2]}},
            "all_checked.difference.value: Field required",
        ),
    ],
)
def test_an_evaluation_that_was_edited_by_hand_is_one_line(tmp_path, part, said):
    (tmp_path / "evaluation.json").write_text(json.dumps(part))
    with pytest.raises(DataError, match=rf"evaluation\.json: {said}") as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("interval", [[0.1], [0.1, 0.2, 0.3], 0.1, ["a", "b"]])
def test_an_interval_has_two_ends(tmp_path, interval):
    change = {"before": 0.1, "after": 0.2, "difference": {"value": 0.1, "low": 0, "high": 1, "n": 3}}
    (tmp_path / "evaluation.json").write_text(json.dumps({"all_checked": change | {"before_interval": interval}}))
    with pytest.raises(DataError, match=r"evaluation\.json: all_checked\.before_interval"):
        write_report(tmp_path)


def test_equal_runs_give_equal_pages(tmp_path, page):
    folder = write_run(tmp_path / "run", inputs())
    assert write_report(folder).read_text() == page


# ------------------------------------------------------------------------------------------------- verdict


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 100}


def evaluation(**more):
    base = {
        "confidence": 0.95,
        "heldout": {"prompts": 100, "responses": 100},
        "judge": {"order_consistency": None, "coverage": {"value": None, "judged": 0, "failed": 0}},
        "policy": {},
        "principles": {},
        "all_checked": None,
    }
    return base | more


def checked(before, after, low, high):
    return {"checks": 4, "before": before, "after": after, "difference": estimate(after - before, low, high)}


@pytest.mark.parametrize(
    ("change", "outcome", "words"),
    [
        (
            checked(0.32, 0.81, 0.40, 0.58),
            "better",
            "81% of held-out responses, up from 32% (+49 points, 95% interval 40 to 58)",
        ),
        (checked(0.81, 0.32, -0.58, -0.40), "worse", "down from 81% (\u221249 points"),
        (checked(0.32, 0.60, -0.02, 0.58), "unclear", "no difference that this evaluation can tell from chance"),
    ],
)
def test_the_words_follow_the_interval(change, outcome, words):
    found = verdict(evaluation(all_checked=change))
    assert found.outcome == outcome
    assert words in found.paragraphs[0]


def judge(value, low, high):
    return {"order_consistency": estimate(value, low, high), "coverage": {"value": 1.0, "judged": 9, "failed": 0}}


@pytest.mark.parametrize(
    ("consistency", "words"),
    [
        (judge(0.41, 0.35, 0.47), "as noise"),
        (judge(0.55, 0.49, 0.61), "as noise"),
        (judge(0.60, 0.55, 0.65), "shaky"),
        (judge(0.70, 0.65, 0.75), "a good deal of noise"),
        (judge(0.90, 0.85, 0.95), "only an audit against human labels"),
    ],
)
def test_the_judge_is_called_what_it_is(consistency, words):
    assert words in " ".join(verdict(evaluation(judge=consistency)).paragraphs)


def test_a_noisy_judges_win_rate_decides_nothing():
    policy = {"win_rate_vs_reference": estimate(0.9, 0.8, 0.95)}
    assert verdict(evaluation(policy=policy, judge=judge(0.3, 0.2, 0.4))).outcome == "unclear"
    assert verdict(evaluation(policy=policy, judge=judge(0.9, 0.8, 0.95))).outcome == "better"


def test_a_principle_that_fell_is_named():
    worse = {"checked": True, "pass_rate": {"before": 0.9, "after": 0.5, "difference": estimate(-0.4, -0.5, -0.3)}}
    found = verdict(evaluation(all_checked=checked(0.3, 0.8, 0.4, 0.6), principles={"no-list": worse}))
    assert "no-list (\u221240) fell" in found.paragraphs[0]


def test_cautions():
    policy = {
        "response_tokens": {"before": 20.0, "after": 80.0},
        "repetition": {"before": 0.01, "after": 0.3, "difference": estimate(0.29, 0.2, 0.4)},
        "finished": {"before": 0.9, "after": 0.5, "difference": estimate(-0.4, -0.5, -0.3)},
        "kl": estimate(80.0, 70.0, 90.0),
    }
    given = evaluation(policy=policy, heldout={"prompts": 8})
    given["judge"]["coverage"] = {"value": 0.9, "judged": 90, "failed": 10}
    text = " ".join(verdict(given).cautions)
    for words in ("Only 8", "much longer", "repeat themselves", "Fewer responses end", "80.0 nats", "10% of pairs"):
        assert words in text
    assert verdict(evaluation()).cautions == []


def test_a_reward_model_like_a_coin_is_called_one():
    weak = {"heldout_accuracy": estimate(0.54, 0.48, 0.60)}
    assert "cannot be told from a coin" in verdict(evaluation(reward_model=weak)).paragraphs[-1]


# ------------------------------------------------------------------------------------------ figures as text


def test_figures_as_text():
    assert [percent(x) for x in (0.814, 1.0, 0.997, 0.0, 0.001, None)] == [
        "81%",
        "100%",
        "99.7%",
        "0%",
        "0.1%",
        "\u2013",
    ]
    assert [points(x) for x in (0.49, -0.049, 0.001)] == ["+49", "\u22125", "0"]
    assert [number(x) for x in (1234.5, 61.34, 5.949, -0.0421, 0.0)] == ["1,234", "61.3", "5.95", "\u22120.042", "0"]
    found = estimate_at(estimate(0.5, 0.4, 0.58))
    assert span(found, "share") == "40 to 58%" and with_interval(found) == "50% (40 to 58%)"
    assert span(found, "fine share") == "40.0 to 58.0%" and figure(0.033, "fine share") == "3.3%"
    assert span(estimate_at(estimate(0.5, -0.05, 0.58)), "points") == "\u22125 to 58"
    assert with_interval(estimate_at(estimate(-0.019, -0.035, -0.0001)), "fine points") == (
        "\u22121.9 points (\u22123.5 to 0.0)"
    )
    assert span(estimate_at(estimate(0.5, None, None)), "share") == "\u2013" == with_interval(None)
    assert [duration(x) for x in (0.42, 48, 720, 11100)] == ["0.4 s", "48 s", "12 min", "3 h 05 min"]


def test_the_running_mean_keeps_length_and_level():
    assert running_mean([1.0, 2.0]) == [1.0, 2.0]
    assert running_mean([3.0] * 50) == [3.0] * 50
    assert running_mean([float(i) for i in range(41)])[20] == 20.0


def test_plots_are_deterministic_and_leave_no_state():
    import matplotlib

    before = dict(matplotlib.rcParams)
    rows = {
        "a $x$ principle": Estimate(value=0.5, low=0.4, high=0.6, n=9),
        "b": Estimate(value=0.2, low=None, high=None, n=9),
    }
    coin = AxisScale(reference=(0.5, "a coin"))
    assert dots("t", rows, coin) == dots("t", rows, coin)
    assert dict(matplotlib.rcParams) == before


def test_importing_the_report_does_not_import_matplotlib():
    import subprocess
    import sys

    code = "import sys, rlaif.evaluation.report; assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_json_of_a_page_is_valid_where_an_interval_is_missing(tmp_path):
    folder = write_run(tmp_path / "run", inputs(prompts=1))
    (folder / "metrics.jsonl").unlink()
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["policy"]["kl"]["low"] is None
    assert "no interval" in write_report(folder).read_text()
