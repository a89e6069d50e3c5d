"""Win rates, pass rates and evaluation.json as a whole."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rlaif.config.recipe import EvaluateSection
from rlaif.errors import DataError
from rlaif.evaluation.evaluate import EvaluationInputs, evaluate, sample_rows
from rlaif.evaluation.winrate import evaluation_pairs, matches, win_rate, with_partner
from rlaif.records import Judgment, PrincipleJudgment
from rlaif.stats import Bootstrap
from tests.fake_run import CONSTITUTION, inputs, judged, prompt, response

SECTION = EvaluateSection(bootstrap_samples=100)


def judgment(pair, p_a, *principles):
    return Judgment(pair=pair, source="ai", annotator="j", p_a=p_a, principles=principles)


def four():
    before = [response(prompt(i), "old") for i in range(4)]
    after = [response(prompt(i), "old" if i == 3 else "new") for i in range(4)]
    return before, after


def test_pairs_have_the_policy_as_a_and_leave_out_identical_texts():
    before, after = four()
    pairs = evaluation_pairs(before, after)
    assert [(p.a, p.b) for p in pairs] == [("new", "old")] * 3


def test_a_response_without_partner_is_left_out():
    before, after = four()
    one, two = with_partner(before[1:], after[:3])
    assert ([*one], [*two]) == (before[1:3], after[1:3])
    assert len(matches(one, two)) == 2
    with pytest.raises(DataError, match="no prompt and index in common"):
        with_partner(before[:2], after[2:])


def test_equal_pairs_are_asked_once():
    before = [response(prompt(0), "old", i) for i in range(2)]
    after = [response(prompt(0), "new", i) for i in range(2)]
    assert len(evaluation_pairs(before, after)) == 1


def test_win_rate_by_hand():
    before, after = four()
    one, two, three = evaluation_pairs(before, after)
    found = win_rate(
        matches(before, after),
        [judgment(one, 0.8), judgment(two, 0.5), judgment(three, 0.1)],
        CONSTITUTION,
        Bootstrap(),
    )
    # A win, a tie, a loss, and identical texts: (1 + 0.5 + 0 + 0.5) / 4.
    assert (found["value"], found["n"], found["ties"], found["identical"], found["unjudged"]) == (0.5, 4, 2, 1, 0)
    assert found["mean_p"]["value"] == pytest.approx((0.8 + 0.5 + 0.1 + 0.5) / 4)


def test_a_swapped_judgment_counts_the_same():
    before, after = four()
    pairs = evaluation_pairs(before, after)
    straight = [judgment(p, 0.9) for p in pairs]
    swapped = [judgment(p.swapped(), 0.1) for p in pairs]
    rates = [win_rate(matches(before, after), js, CONSTITUTION, Bootstrap()) for js in (straight, swapped)]
    assert rates[0]["value"] == rates[1]["value"] == 0.875
    assert rates[0]["mean_p"]["value"] == pytest.approx(rates[1]["mean_p"]["value"])


def test_a_failed_pair_is_left_out_not_scored():
    before, after = four()
    pairs = evaluation_pairs(before, after)
    found = win_rate(matches(before, after), [judgment(pairs[0], 0.9)], CONSTITUTION, Bootstrap())
    assert (found["n"], found["unjudged"], found["value"]) == (2, 2, 0.75)
    assert win_rate(matches(before, after), [], CONSTITUTION, Bootstrap()) is None


def test_judged_principles_alone_ignore_checks_and_use_weights():
    before, after = four()
    pair = evaluation_pairs(before, after)[0]
    check = PrincipleJudgment(principle="brief", checked=True, p_a=0.99)
    plain_words = judged(pair, "plain-words", 1.0, -1.0)  # log-odds +1 for a, weight 1
    on_topic = judged(pair, "on-topic", -0.8, 0.8)  # log-odds -0.8 for a, weight 2
    found = win_rate(
        matches(before, after)[:1], [judgment(pair, 0.9, check, plain_words, on_topic)], CONSTITUTION, Bootstrap()
    )
    assert found["value"] == 1.0
    assert found["judged_principles"]["value"] == 0.0


def test_unmatched_samples_are_an_error_with_a_place():
    before, after = four()
    with pytest.raises(DataError, match=r"index 0 has a response of the reference only"):
        matches(before, after[1:])


# ---------------------------------------------------------------------------------------- evaluation.json


def keys(value, *path):
    for part in path:
        value = value[part]
    return set(value)


def test_evaluation_has_every_promised_key():
    found = evaluate(inputs(), SECTION, 0)
    estimate = {"value", "low", "high", "n"}
    assert estimate <= keys(found, "judge", "order_consistency")
    assert "value" in keys(found, "judge", "coverage")
    assert estimate | {"by_source"} <= keys(found, "reward_model", "heldout_accuracy")
    assert estimate <= keys(found, "policy", "win_rate_vs_reference")
    assert estimate <= keys(found, "policy", "kl")
    for name in ("response_tokens", "finished", "repetition"):
        assert {"before", "after", "difference"} <= keys(found, "policy", name)
    assert keys(found, "principles") == {p.id for p in CONSTITUTION.principles}
    for principle in found["principles"].values():
        assert principle["checked"] in (True, False)
        assert {"before", "after", "difference"} <= set(principle["pass_rate"])
    assert estimate <= keys(found, "all_checked", "difference")
    assert {"judge_calls", "prompt_tokens", "completion_tokens", "seconds"} <= keys(found, "cost")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_equal_inputs_give_equal_bytes():
    assert json.dumps(evaluate(inputs(), SECTION, 3)) == json.dumps(evaluate(inputs(), SECTION, 3))


def small(before_texts, after_texts, **more):
    before = [response(prompt(i), t) for i, t in enumerate(before_texts)]
    after = [response(prompt(i), t) for i, t in enumerate(after_texts)]
    return EvaluationInputs(constitution=CONSTITUTION, before=before, after=after, **more)


def test_pass_rates_by_hand():
    long = "word " * 12 + "more."
    found = evaluate(small([long, "cut off", "Fine."], ["Fine.", "Good.", "cut off"]), SECTION, 0)
    rates = {name: entry["pass_rate"] for name, entry in found["principles"].items()}
    assert (rates["brief"]["before"], rates["brief"]["after"]) == pytest.approx((2 / 3, 1))
    assert (rates["whole-sentence"]["before"], rates["whole-sentence"]["after"]) == pytest.approx((2 / 3, 2 / 3))
    checked = found["all_checked"]
    assert (checked["before"], checked["after"], checked["checks"]) == pytest.approx((1 / 3, 2 / 3, 3))
    assert checked["difference"]["value"] == pytest.approx(1 / 3)
    judged_one = found["principles"]["plain-words"]
    assert judged_one["pass_rate"] == {"before": None, "after": None, "difference": None}
    assert judged_one["win_rate"] is None and "win_rate" in judged_one["note"]


def test_a_principle_counts_only_where_its_tags_apply():
    principle = CONSTITUTION.principles[0].model_copy(update={"tags": ("medical",)})
    tagged = CONSTITUTION.model_copy(update={"principles": (principle,)})
    given = dataclasses.replace(small(["a", "b"], ["a", "b"]), constitution=tagged)
    found = evaluate(given, SECTION, 0)
    assert found["principles"]["brief"]["pass_rate"]["before"] is None
    assert "none of the held-out prompts" in found["principles"]["brief"]["note"]
    assert found["all_checked"] is None


def test_a_run_without_a_judge_measures_what_code_can():
    found = evaluate(small(["old"], ["New."]), SECTION, 0)
    assert found["judge"] == {
        "order_consistency": None,
        "coverage": {"value": None, "judged": 0, "failed": 0, "reasons": {}},
    }
    assert found["policy"]["win_rate_vs_reference"] is None and found["policy"]["kl"] is None
    assert found["policy"]["response_tokens"]["before"] == 1


def test_kl_must_have_one_number_a_response():
    with pytest.raises(ValueError):
        evaluate(small(["old", "old"], ["new", "new"], kl=[1.0]), SECTION, 0)


def test_no_heldout_responses_is_an_error():
    with pytest.raises(DataError, match="no held-out responses"):
        evaluate(small([], []), SECTION, 0)


def test_sample_rows_carry_both_sides():
    given = inputs(prompts=2)
    rows = sample_rows(given)
    assert [row["prompt_id"] for row in rows] == [r.prompt_id for r in given.after]
    assert rows[0]["before"] == given.before[0].text and rows[0]["score_after"] == given.scores_after[0]
    assert set(rows[0]["after_passes"]) == {"brief", "whole-sentence", "no-list"}
    assert rows[0]["prompt"][-1]["role"] == "user"
