"""Tests of change on samples whose truth is known."""

from __future__ import annotations

import random

import pytest

from rlaif.evaluation.drift import agreement_drift, topic_drift

COOKING = ["flour", "butter", "oven", "bake", "bread", "soup", "salt", "pepper", "onion", "knife", "pan", "recipe"]
MONEY = ["refund", "invoice", "payment", "card", "account", "charge", "price", "order", "bank", "fee"]
COMMON = ["how", "do", "i", "the", "a", "my", "can", "you", "what", "is", "please", "with", "for"]


def prompts(topic: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(COMMON, k=6) + rng.choices(topic, k=4)) for _ in range(count)]


def test_other_topics_are_seen_and_named():
    found = topic_drift(prompts(COOKING, 120, 0), prompts(COOKING, 20, 1) + prompts(MONEY, 30, 2), 0)
    assert found is not None and found.p == 0.001 and set(found.risen) <= set(MONEY) and len(found.risen) == 5
    assert (found.prompts, found.before) == (50, 120)
    assert str(found).startswith("prompt topics: 50 prompts differ from 120 that training knew (distance 0.")


@pytest.mark.parametrize("topic", [COOKING, ["ラーメン", "寿司", "うどん", "天ぷら"]], ids=["English", "Japanese"])
def test_the_same_topics_are_called_changed_as_seldom_as_the_level_says(topic):
    found = [topic_drift(prompts(topic, 60, 2 * n), prompts(topic, 25, 2 * n + 1), n) for n in range(60)]
    ps = [one.p for one in found if one is not None]
    assert len(ps) == 60 and sum(p < 0.05 for p in ps) <= 7 and sum(p < 0.5 for p in ps) in range(18, 43)
    assert "show no difference from" in str(max(found, key=lambda one: one.p))


def test_scripts_without_spaces_have_topics_too():
    food, money = (
        [f"私は{a}と{b}が好きです" for a in words for b in words if a != b]
        for words in (["寿司", "天麩羅", "饂飩", "蕎麦"], ["銀行", "株式", "投資", "預金"])
    )
    found = topic_drift(food, money, 0)
    assert found is not None and found.p <= 0.002 and found.risen


def test_the_same_prompts_are_at_no_distance_and_too_few_say_nothing():
    found = topic_drift(prompts(COOKING, 20, 0), prompts(COOKING, 20, 0), 0)
    assert found is not None and found.distance == pytest.approx(0) and found.p == 1
    assert topic_drift(["a b", "a b"], ["c d", "e f"], 0) is None
    found = topic_drift(["one two", "three four"], ["five six", "seven eight"], 0)
    assert found is not None and found.p == 1 and found.risen == (), "no word occurs twice"


def hits(rate: float, count: int, seed: int) -> list[tuple[float, str]]:
    rng = random.Random(seed)
    return [(float(rng.random() < rate), f"{seed}-{number // 2}") for number in range(count)]


def test_a_judge_that_people_agree_with_less_is_seen():
    found = agreement_drift(hits(0.9, 160, 0), hits(0.5, 80, 1), 0)
    assert found is not None and found.before is not None and found.p == 0.001
    assert found.now.low < 0.5 < found.now.high < found.before.low
    assert "changed from 8" in str(found) or "changed from 9" in str(found)


def test_the_same_agreement_is_called_changed_as_seldom_as_the_level_says():
    ps = [found.p for n in range(60) if (found := agreement_drift(hits(0.7, 80, 2 * n), hits(0.7, 40, 2 * n + 1), n))]
    assert sum(p < 0.05 for p in ps) <= 7 and sum(p < 0.5 for p in ps) in range(18, 43)


def test_without_earlier_feedback_there_is_an_interval_and_no_test():
    found = agreement_drift([], hits(0.7, 40, 1), 0)
    assert found is not None and found.p is None and "no earlier feedback" in str(found)
    assert agreement_drift(hits(0.7, 40, 1), [], 0) is None
