"""One reward as TRL, verl and OpenRLHF call theirs: the same values for all, and never a number where there is none."""

from __future__ import annotations

import pickle
import re
import shutil
import threading
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import rlaif
from rlaif.models.local.load import load_tokenizer
from rlaif.testing import letters
from tests.tiny import FAMILIES, tokenizer_of

RULE = """\
schema: rlaif/constitution/v1
id: letters
version: 1.0.0
title: Letters
principles:
  - id: letters
    compare: Which response has more letters?
    question: Does it have letters?
    desired: "yes"
"""
TEXTS = ["four", "five5", "seventh!", ""]
PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it"}]


def count(prompt, response):
    """Letters; digits have no score."""
    return None if any(c.isdigit() for c in response) else letters(response)


def asked(prompt, response):
    """What it was given, as a number."""
    return len(prompt) * 100 + len(prompt[-1]["content"]) * 10 + len(response)


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    path = tmp_path_factory.mktemp("rules") / "letters.yaml"
    path.write_text(RULE)
    return path


@pytest.fixture(scope="module")
def model(shallow_folder, tmp_path_factory):
    """A reward model's folder."""
    pairs = [(f"Say {n}", "letters" + "x" * (n % 5), "0123" + "9" * (n % 7)) for n in range(12)]
    judged = rlaif.judge(pairs, "plain-and-brief", "scripted:rlaif.testing:likes_letters")
    rows = rlaif.preferences(judged, heldout_share=0.3, tie_margin=0.0)
    out = tmp_path_factory.mktemp("models") / "rm"
    rlaif.train_reward_model(rows, shallow_folder, out, lora=None, epochs=1, minibatch_size=8)
    return out


def yes(messages, labels):
    """A judge that likes letters, and does not answer about digits."""
    if re.search(r"five5", messages[-1]["content"]):
        return "perhaps"
    p = 0.9 if "four" in messages[-1]["content"] else 0.2
    return dict(zip(labels, (p, 1 - p, 0.0), strict=True))


# ------------------------------------------------------------------------------------------------- TRL's form


def as_texts(texts):
    return ["Say it"] * len(texts), texts


def as_messages(texts):
    return [PROMPT[1:]] * len(texts), [[{"role": "assistant", "content": text}] for text in texts]


@pytest.mark.parametrize("shape", [as_texts, as_messages])
def test_trl_gets_a_value_or_none_for_each(shape, capsys):
    reward = rlaif.reward_function(count)
    logged = {}
    prompts, completions = shape(TEXTS)
    found = reward(prompts=prompts, completions=completions, completion_ids=[[1]] * 4, label=["x"] * 4,
                   trainer_state=None, log_extra=None, log_metric=logged.__setitem__)  # fmt: skip
    assert found == [4, None, 7, 0]
    assert "count: 1 of 4 responses have no score: the function gave none" in capsys.readouterr().out
    assert logged == {"no_score": 0.25}
    assert reward.__name__ == "count"


def test_a_function_is_given_the_messages_and_the_text():
    reward = rlaif.reward_function(asked)
    assert reward([PROMPT, "Say it"], ["abc", "abc"]) == [263, 163]
    turns = [*PROMPT, {"role": "assistant", "content": "no"}, {"role": "user", "content": "But?"}]
    assert reward([turns], ["abc"]) == [443]


def test_reasoning_is_no_part_of_the_response_and_is_no_answer():
    reward = rlaif.reward_function(asked)
    texts = ["<think>hm</think>\nabc", "<think>hm", "I <think> so"]
    assert reward(["Say it"] * 3, texts) == [163, None, 160 + len(texts[2])]


UNREADABLE = {
    "a tool's turn": [{"role": "assistant", "content": "x"}, {"role": "tool", "content": "4"}],
    "a call": [{"role": "assistant", "content": "", "tool_calls": [{"id": "c"}]}],
    "a picture": [{"role": "assistant", "content": [{"type": "image"}]}],
    "a user's turn": [{"role": "user", "content": "x"}],
    "two answers": [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}],
    "nothing": [],
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_rollout_that_cannot_be_read_has_no_score_and_costs_the_others_nothing(kind, capsys):
    assert rlaif.reward_function(asked)(["Say it"] * 2, [UNREADABLE[kind], "abc"]) == [None, 163]
    assert "1 of 2 responses have no score" in capsys.readouterr().out


def test_what_is_neither_text_nor_messages_is_an_error():
    with pytest.raises(rlaif.DataError, match=r"completions\[1\]: completion: must be a text or a list"):
        rlaif.reward_function(asked)(["Say it"] * 2, ["x", 3])


@pytest.mark.parametrize("value", ["5", b"5", True, np.bool_(True), np.array([True]), [1.0], np.array([1.0, 2.0]), 1j])
def test_what_only_looks_like_a_number_is_a_mistake(value):
    with pytest.raises(rlaif.ConfigError, match=r"the reward function returned .*, which is no number"):
        rlaif.reward_function(lambda prompt, text: value)(["p"], ["x"])
    with pytest.raises(rlaif.ConfigError, match="which is no number"):
        rlaif.reward_function(lambda prompt, text: value).verl("rlaif", "x", "", {"prompt": "p"})


@pytest.mark.parametrize("value", [5, 5.0, np.float32(5), np.array([5.0]), Fraction(5), Decimal(5)])
def test_numbers_of_every_kind_are_numbers(value):
    (found,) = rlaif.reward_function(lambda prompt, text: value)(["p"], ["x"])
    assert found == 5.0 and type(found) is float


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_what_is_no_number_is_no_score(value):
    assert rlaif.reward_function(lambda prompt, text: value)(["p"], ["x"]) == [None]


def test_a_function_that_raises_at_once_is_a_mistake_and_later_one_response_without_a_score(capsys):
    def picky(prompt, text):
        return {"a": 1, "b": 2}[text]

    with pytest.raises(KeyError):
        rlaif.reward_function(picky)(["p"], ["x"])
    assert rlaif.reward_function(picky)(["p"] * 3, ["a", "x", "b"]) == [1, None, 2]
    assert "KeyError: 'x' (test_rewarding.py" in capsys.readouterr().out
    with pytest.raises(rlaif.ConfigError, match="returned 'high', which is no number"):
        rlaif.reward_function(lambda prompt, text: "high")(["p"], ["x"])


def test_a_judge_scores_by_a_constitution(rule, capsys):
    with rlaif.reward_function(rule, yes, mode="checklist") as reward:
        assert reward(*as_texts(TEXTS[:3])) == [pytest.approx(0.9), None, pytest.approx(0.2)]
        assert reward.__name__ == "letters"
    assert "letters: 1 of 3 responses have no score: model error: 'perhaps' is none" in capsys.readouterr().out


def test_a_reward_model_scores_as_it_does_itself(model):
    scored = rlaif.RewardModel.load(model)
    texts = ["letters", "0123", "x" * 5000]
    wanted = scored.score([("Say it", text) for text in texts])
    assert wanted[2] is None
    for target in (scored, model, str(model)):
        found = rlaif.reward_function(target)(*as_texts(texts))
        assert found == [pytest.approx(wanted[0], abs=1e-5), pytest.approx(wanted[1], abs=1e-5), None]


# ------------------------------------------------------------------------------------------------- verl's form


@pytest.mark.parametrize(
    ("extra_info", "wanted"),
    [
        ({"prompt": PROMPT, "question": "Say what?"}, 263),
        ({"prompt": np.array(PROMPT, dtype=object), "index": 3, "num_turns": 2}, 263),
        ({"prompt": "Say it"}, 163),
        ({"question": "Say it", "prompt": None}, 163),
    ],
)
def test_verl_says_the_prompt_in_extra_info(extra_info, wanted):
    compute_score = rlaif.reward_function(asked).verl
    found = compute_score(data_source="rlaif", solution_str="abc", ground_truth="", extra_info=extra_info)
    assert found == {"score": wanted} and type(found["score"]) is float
    assert (
        compute_score("rlaif", "abc", "", extra_info, reward_router_address="x", reward_model_tokenizer=None) == found
    )


@pytest.mark.parametrize("extra_info", [None, {}, {"promt": "x", "index": 3}])
def test_without_the_prompt_verl_is_told_where_it_must_be(extra_info):
    with pytest.raises(rlaif.DataError, match=r"extra_info: has no 'prompt'.*the data set must hold it there"):
        rlaif.reward_function(asked).verl("rlaif", "abc", "", extra_info)


@pytest.mark.parametrize("text", ["5", "<think>hm"])
def test_verl_has_no_place_for_none(text):
    with pytest.raises(rlaif.ModelError, match="count: no score: "):
        rlaif.reward_function(count).verl("rlaif", text, "", {"prompt": "Say it"})


# ------------------------------------------------------------------------------------------------- OpenRLHF's form


def templated(tokenizer, messages=PROMPT[1:]):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_openrlhf_sends_templated_text(family):
    torch = pytest.importorskip("torch")
    tokenizer = tokenizer_of(family)
    prompt = templated(tokenizer)
    reward_func = rlaif.reward_function(asked, tokenizer=tokenizer).openrlhf
    end = tokenizer.eos_token or ""
    found = reward_func([prompt + "abc" + end, prompt + "ab"], [prompt] * 2, ["", ""], anything=1)
    assert set(found) == {"rewards", "scores", "extra_logs"}
    assert torch.equal(found["rewards"], torch.tensor([163.0, 162.0]))
    assert torch.equal(found["scores"], torch.ones(2))  # the sigma of such numbers


def test_openrlhf_reads_a_reward_model_by_its_own_template(model):
    prompt = templated(load_tokenizer(str(model)))
    found = rlaif.reward_function(model).openrlhf([prompt + "letters"], [prompt], [None])
    wanted = rlaif.RewardModel.load(model).score([("Say it", "letters")])
    assert found["rewards"].tolist() == [pytest.approx(wanted[0], abs=1e-5)]


def test_openrlhf_has_no_place_for_none_and_needs_a_template(shallow_folder):
    prompt = templated(load_tokenizer(shallow_folder))
    reward_func = rlaif.reward_function(count, tokenizer=shallow_folder).openrlhf
    with pytest.raises(rlaif.ModelError, match="count: no score: the function gave none"):
        reward_func([prompt + "5"], [prompt], [""])
    with pytest.raises(rlaif.ConfigError, match="tokenizer: name the policy's"):
        rlaif.reward_function(count).openrlhf([prompt + "5"], [prompt], [""])


# ------------------------------------------------------------------------------------------------- for all of them


def test_calls_of_many_threads_are_scored_together():
    """The first is held until the others have come; they are then one batch, and each gets its own."""
    batches, entered, go_on = [], threading.Event(), threading.Event()
    reward = rlaif.reward_function(asked)
    score = reward._score

    def slow(items):
        batches.append(len(items))
        entered.set()
        assert go_on.wait(60)
        return score(items)

    reward._score = slow
    found = {}

    def call(n):
        found[n] = reward.verl("rlaif", "x" * n, "", {"prompt": "Say it"})["score"]

    threads = [threading.Thread(target=call, args=(n,)) for n in range(9)]
    threads[0].start()
    assert entered.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(reward._waiting) < 8:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    assert found == {n: 160 + n for n in range(9)} and batches == [1, 8]


def test_an_error_reaches_everyone_whose_response_was_in_it_and_no_later_call():
    reward = rlaif.reward_function(asked)
    score, reward._score = reward._score, lambda items: 1 / 0
    with pytest.raises(ZeroDivisionError):
        reward(["p"], ["x"])
    reward._score = score
    assert reward(["Say it"], ["abc"]) == [163]


def test_one_of_a_folder_a_function_or_a_constitution_can_be_pickled(model, rule):
    for given in ((model,), (asked,), (rule, "scripted:tests.scripted_judge:every_part")):
        reward = rlaif.reward_function(*given)
        again = pickle.loads(pickle.dumps(reward))
        assert again(*as_texts(["letters"])) == reward(*as_texts(["letters"])) != [None]


@pytest.mark.parametrize(
    ("given", "knobs", "said"),
    [
        (("no/such/folder",), {}, "no/such/folder: no such folder; of a constitution name the judge too, as `model`"),
        (("harmlessness",), {}, "of a constitution name the judge too, as `model`"),
        ((rlaif.load_constitution("harmlessness"),), {}, "model: name the judge that reads the constitution"),
        (("harmlesness", "smollm2-135m"), {}, "did you mean 'harmlessness'"),
        (("harmlessness", "vlm:Qwen"), {}, "no backend 'vlm'; did you mean 'vllm'"),
        (("harmlessness", yes), {"mode": "compare"}, "valid choices: checklist, contrast, score"),
        (("harmlessness", yes), {"max_failurs": 1}, "did you mean 'max_failures'"),
        ((count,), {"mode": "checklist"}, "mode: goes with a constitution and its judge"),
        ((count,), {"max_failures": 1}, "max_failures: goes with a constitution and its judge"),
        ((count, yes), {}, "with a judge, `model`, it must be a constitution"),
        ((3,), {}, "target: "),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_scored(given, knobs, said):
    with pytest.raises(rlaif.ConfigError, match=said) as error:
        rlaif.reward_function(*given, **knobs)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_reward_model_is_said(tmp_path):
    with pytest.raises(rlaif.ConfigError, match="no reward model here"):
        rlaif.reward_function(tmp_path)


def test_a_folder_of_another_model_is_said_at_once(model, shallow_folder, tmp_path):
    (tmp_path / "classifier").mkdir()
    (tmp_path / "classifier" / "config.json").write_text('{"num_labels": 1}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("no json")
    weightless = shutil.copytree(model, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    for folder in (shallow_folder, tmp_path / "classifier", tmp_path / "broken", weightless):
        with pytest.raises(rlaif.ConfigError, match=f"{folder}: a model, and no reward model") as error:
            rlaif.reward_function(folder)
        assert "\n" not in str(error.value)
    shutil.copytree(model, tmp_path / "ensemble" / "member-0")
    assert rlaif.reward_function(tmp_path / "ensemble").__name__ == "ensemble"


@pytest.mark.parametrize(
    ("prompts", "completions"),
    [(["a"], []), ("hi", "xy"), (["a"], "b"), ([], ["a"])],
    ids=["few", "texts", "text", "none"],
)
def test_prompts_and_completions_are_lists_of_one_length(prompts, completions):
    with pytest.raises(rlaif.DataError, match="lists of one length"):
        rlaif.reward_function(asked)(prompts, completions)


def test_openrlhf_may_leave_its_prompts_out(model):
    prompt = templated(load_tokenizer(str(model)))
    with_prompts, without = (
        rlaif.reward_function(model).openrlhf([prompt + "letters"], given) for given in ([prompt], None)
    )
    assert with_prompts["rewards"].tolist() == without["rewards"].tolist()
    with pytest.raises(rlaif.DataError, match="2 of them to 1 queries"):
        rlaif.reward_function(model).openrlhf([prompt + "letters"], [prompt, prompt])
