"""The public API: its names, what may be handed in, what comes out, and what is said of mistakes."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rlaif
from rlaif.records import Message, Pair, Prompt
from rlaif.testing import HttpAnswer, completion, fake_server, letters, small_recipe

PAIRS = [("Say 1", "abc", "123"), ("Say 2", "1", "some words"), ("Say 3", "word", "!!")]
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


@pytest.fixture(scope="module")
def rule(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "letters.yaml"
    path.write_text(RULE)
    return path


def by_letters(messages):
    """Probabilities from the two responses, as the shipped template shows them."""
    found = dict(re.findall(r"<response_([ab])>\n(.*?)\n</response_\1>", messages[-1]["content"], re.DOTALL))
    return {"A": 0.9, "B": 0.1} if letters(found["a"]) > letters(found["b"]) else {"A": 0.1, "B": 0.9}


# ------------------------------------------------------------------------------------------------- the names


def test_all_is_exact_and_every_name_is_documented():
    assert sorted(rlaif.__all__) == list(rlaif.__all__) == dir(rlaif)
    assert set(rlaif.__all__) == {*rlaif._HOME, "__version__"}
    for name in rlaif.__all__:
        assert getattr(rlaif, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'judges'"):
        _ = rlaif.judges


def test_types_ship():
    assert Path(rlaif.__file__).with_name("py.typed").is_file()


def test_import_brings_no_torch_and_is_quick(record_property):
    code = "import time, sys; t = time.perf_counter(); import rlaif; print(time.perf_counter() - t, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.split()
    record_property("seconds", seconds)
    print(f"import rlaif: {float(seconds):.3f} s")
    assert not {"torch", "transformers", "datasets", "numpy", "pydantic"} & set(modules)


def test_judging_by_a_function_brings_no_torch(rule):
    code = (
        "import sys, rlaif\n"
        f"found = rlaif.judge([('p', 'a', 'b')], {str(rule)!r}, lambda messages: 'A')\n"
        "print(len(found.judgments), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


def test_a_module_of_the_same_name_stays_callable():
    from rlaif import audit, run
    from rlaif.audits.gold import read_gold
    from rlaif.run_folder import Run

    assert callable(read_gold) and callable(rlaif.audit) and callable(rlaif.run)
    assert audit.__doc__ and run.__doc__ and Run is rlaif.Run
    with pytest.raises(rlaif.ConfigError, match="did you mean 'quickstart'"):
        rlaif.run("quickstrat")


# ------------------------------------------------------------------------------------------------- the judge


def test_pairs_in_every_shape_are_the_same_pair(rule):
    turn = [{"role": "user", "content": "Say 1"}]
    shapes = [
        ("Say 1", "abc", "123"),
        ["Say 1", "abc", "123"],
        {"prompt": "Say 1", "a": "abc", "b": "123"},
        {"prompt": turn, "a": [{"role": "assistant", "content": "abc"}], "b": "123"},
        ((Message(role="user", content="Say 1"),), "abc", "123"),
        Pair.of(Prompt.of((Message(role="user", content="Say 1"),)), "abc", "123"),
    ]
    found = rlaif.judge(shapes, rule, by_letters)
    assert found.failures == () and len(found.judgments) == len(shapes)
    assert {(j.pair, j.p_a) for j in found.judgments} == {(found.judgments[0].pair, found.judgments[0].p_a)}
    assert found.judgments[0].p_a == pytest.approx(0.9) and found.cost.calls == 2 * len(shapes)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("p", "a"), r"pairs\[0\]: must be \(prompt, a, b\)"),
        ("pab", r"pairs\[0\]: must be \(prompt, a, b\)"),
        ({"prompt": "p", "a": "x", "c": "y"}, r"no such key 'c'; valid choices: a, b, given, prompt, tags"),
        ({"prompt": "p", "a": "x"}, r"has no 'b'"),
        (([{"role": "asistant", "content": "x"}], "a", "b"), r"must be a text or messages of role"),
        (([{"role": "assistant", "content": "x"}], "a", "b"), r"a prompt must end with a user turn"),
        (("p", [{"role": "user", "content": "x"}], "b"), r"pairs\[0\]: a: a response is a text or"),
        (("p", 3, "b"), r"must be a text or messages"),
    ],
)
def test_what_is_no_pair_is_said_in_one_line(rule, pair, said):
    with pytest.raises(rlaif.DataError, match=said) as error:
        rlaif.judge([pair], rule, by_letters)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "comprae"}, "no kind 'comprae'; did you mean 'compare'"),
        ({"mode": {"kind": "reasoned", "reason": 3}}, "did you mean 'reasons'"),
        ({"mode": "revise"}, "revise"),
        ({"constitution": "harmlesness"}, "did you mean 'harmlessness'"),
        ({"model": "vlm:Qwen"}, "no backend 'vlm'; did you mean 'vllm'"),
        ({"model": "http://host:8000/v1"}, "say which the server has"),
        ({"model": "http://u:p@host/v1#m"}, "must not hold a user, password or key"),
        ({"model": {"backend": "client", "model": "m"}}, "base_urls"),
        ({"model": 3}, "a name, a section, an engine or a function"),
        ({"check_margn": 3}, "did you mean 'check_margin'"),
    ],
)
def test_a_mistake_names_the_nearest_choice(rule, changes, said):
    words = {"constitution": rule, "model": by_letters} | changes
    with pytest.raises(rlaif.ConfigError, match=said) as error:
        rlaif.judge(PAIRS, words.pop("constitution"), words.pop("model"), **words)
    assert "\n" not in str(error.value)


def test_failures_are_never_labels(rule):
    def judge(messages, labels):
        assert labels == ("A", "B")
        if "some words" in messages[-1]["content"]:
            return "I cannot say"
        if "!!" in messages[-1]["content"]:
            return {"A": 1.5, "B": -0.5}
        return "A"

    counted = []
    same = ("Say 4", "x", "x")
    found = rlaif.judge([*PAIRS, same], rule, judge, progress=counted.append)
    assert [j.pair.prompt[0].content for j in found.judgments] == ["Say 1"]
    assert found.judgments[0].p_a == 0.5, "always the first one: the two orders cancel"
    reasons = {(f.reason, f.id) for f in found.failures}
    assert {reason for reason, _ in reasons} == {"model error", "a and b are the same text"} and len(reasons) == 3
    assert sum(counted) == len(PAIRS)
    assert "none of the labels A, B" in found.failures[0].detail


def test_a_function_that_raises_keeps_what_was_judged_and_one_that_never_answers_stops_at_once(rule):
    def judge(messages):
        if "some words" in messages[-1]["content"]:
            raise KeyError("choices")
        return "A"

    found = rlaif.judge(PAIRS, rule, judge)
    assert [j.pair.prompt[0].content for j in found.judgments] == ["Say 1", "Say 3"]
    assert re.fullmatch(r"KeyError: 'choices' \(test_api\.py:\d+\)", found.failures[0].detail)
    with pytest.raises(rlaif.ConfigError, match=r"script judge: KeyError: 'choices' \(test_api\.py:\d+\)"):
        rlaif.judge(PAIRS[1:], rule, judge)


def test_an_engine_a_script_and_a_server_judge(rule):
    with rlaif.open_engine("scripted:rlaif.testing:likes_letters") as engine:
        judged = [rlaif.judge(PAIRS, rule, engine), rlaif.judge(PAIRS, rule, "scripted:rlaif.testing:likes_letters")]
    assert judged[0].judgments == judged[1].judgments

    def handle(request) -> HttpAnswer:
        if not request.path.endswith("/chat/completions"):
            return HttpAnswer(404, {"error": {"message": "no such path"}})
        p = by_letters(request.body["messages"])
        return completion("A", logprobs={label: math.log(value) for label, value in p.items()})

    with fake_server(handle) as server:
        found = rlaif.judge(PAIRS, rule, f"{server.url}#some-judge")
    assert [round(j.p_a, 6) for j in found.judgments] == [0.9, 0.1, 0.9]
    assert found.judgments[0].provenance.judge == "some-judge"


def test_a_panel_opens_the_models_of_its_members(rule):
    own = {"backend": "scripted", "model": "rlaif.testing:likes_letters"}
    panel = {"kind": "panel", "members": [{"name": "one"}, {"name": "two", "model": own}]}
    found = rlaif.judge(PAIRS, rule, by_letters, mode=panel)
    assert [[m.member for m in j.members] for j in found.judgments] == [["one", "two"]] * 3


def test_scores(rule):
    responses = [
        ("Say 1", "abc"),
        {"prompt": "Say 1", "response": "123"},
        [{"role": "user", "content": "Say 1"}, {"role": "assistant", "content": "oops"}],
    ]

    def answer(messages, labels):
        if "oops" in messages[-1]["content"]:
            return "what?"
        yes = 0.9 if "abc" in messages[-1]["content"] else 0.2
        return dict(zip(labels, (yes, 1 - yes, 0.0), strict=True))

    found = rlaif.score(responses, rule, answer, mode="checklist")
    assert found.values == [pytest.approx(0.9), pytest.approx(0.2), None]
    assert [f.reason for f in found.failures] == ["model error"] and found.scores[2] is None
    with pytest.raises(rlaif.ConfigError, match="checklist, contrast, score"):
        rlaif.score(responses, rule, answer, mode="compare")
    with pytest.raises(rlaif.DataError, match=r"responses\[0\]: .* must end with the assistant's turn"):
        rlaif.score([[{"role": "user", "content": "x"}]], rule, answer)


def test_preferences_say_what_became_of_ties(rule):
    pairs = [(f"Say {n}", "abc", "12") for n in range(8)]
    tie = rlaif.judge([("Say 99", "a", "b")], rule, lambda messages: "A").judgments
    judged = rlaif.judge(pairs, rule, by_letters).judgments
    rows = rlaif.preferences([*judged, *tie], heldout_share=0.3)
    assert len(rows) == 8 and {row.chosen[0].content for row in rows} == {"abc"}
    assert rows.counts["ties_dropped"] == 1 and {row.split for row in rows} == {"train", "heldout"}
    with pytest.raises(rlaif.DataError, match="1 of them ties"):
        rlaif.preferences(tie)
    with pytest.raises(rlaif.ConfigError, match="did you mean 'ties'"):
        rlaif.preferences(judged, tie="drop")


# ------------------------------------------------------------------------------------------------- elsewhere


@pytest.mark.parametrize("mode", ["compare", "score", "checklist", {"kind": "reasoned", "reasons": 2}])
def test_replies_from_elsewhere_give_the_same_judgment(rule, mode):
    from tests.scripted_judge import every_part

    engine = rlaif.open_engine("scripted:tests.scripted_judge:every_part")
    with engine as judge:
        wanted = rlaif.judge(PAIRS, rule, judge, mode=mode, seed=3)
    assert wanted.failures == ()
    for pair, judgment in zip(PAIRS, wanted.judgments, strict=True):
        replies, rounds = [], 0
        while requests := rlaif.requests_of(pair, rule, replies, mode=mode, seed=3):
            rounds += 1
            said = [every_part(request) for request in requests]
            replies += [
                {label: math.exp(value) for label, value in one.items()} if isinstance(one, dict) else one
                for one in said
            ]
        found = rlaif.judgment_of(pair, rule, replies, mode=mode, seed=3, model=judgment.provenance.judge)
        assert rounds == (2 if isinstance(mode, dict) else 1)
        assert found.judgments[0].p_a == pytest.approx(judgment.p_a)
        assert found.judgments[0].pair == judgment.pair
        assert found.judgments[0].annotator == judgment.annotator


def test_missing_and_bad_replies_are_said(rule):
    requests = rlaif.requests_of(PAIRS[0], rule)
    assert len(requests) == 2 and all(request.labels == ("A", "B") for request in requests)
    with pytest.raises(rlaif.ConfigError, match="1 given, and 2 requests are unanswered"):
        rlaif.judgment_of(PAIRS[0], rule, ["A"])
    found = rlaif.judgment_of(PAIRS[0], rule, ["A", rlaif.Reply(error="timed out")])
    assert found.judgments == () and found.failures[0].detail == "timed out"
    for missing in (None, 3, object()):
        found = rlaif.judgment_of(PAIRS[0], rule, ["A", missing])
        assert found.judgments == () and "is no reply" in found.failures[0].detail
    with pytest.raises(rlaif.ConfigError, match="2 more are given"):
        rlaif.judgment_of(PAIRS[0], rule, ["A", "B", "A", "B"])
    one_text = ("Say 1", "same", "same")
    assert rlaif.requests_of(one_text, rule) == []
    assert rlaif.judgment_of(one_text, rule, []).failures[0].reason == "a and b are the same text"


def test_failures_are_in_input_order(rule):
    pairs = [("1", "bad", "x"), ("2", "same", "same"), ("3", "a", "b"), ("4", "bad", "y"), ("1", "bad", "x")]
    found = rlaif.judge(pairs, rule, lambda messages: "" if "bad" in messages[-1]["content"] else "A")
    assert len(found.judgments) == 1
    ids = list(dict.fromkeys(row.id for row in found.failures))
    assert ids == [
        Pair.of(Prompt.of((Message(role="user", content=q),)), a, b).id for q, a, b in (*pairs[:2], pairs[3])
    ]


def test_a_text_that_no_file_can_hold_is_refused_before_it_is_judged(rule):
    with pytest.raises(rlaif.DataError, match=r"pairs\[1\]: not text: half of a surrogate pair"):
        rlaif.judge([PAIRS[0], ("Say 1", "a\ud800", "b")], rule, by_letters)


def answering(given):
    """An engine that reads all requests and gives this, whatever they were."""

    class Engine:
        name, revision = "odd", "1"

        def stream(self, requests):
            list(requests)
            return given

        def close(self): ...

    return Engine()


@pytest.mark.parametrize("replies", [None, [], [(0, rlaif.Reply(text="A"))], [(5, rlaif.Reply(text="A"))]])
def test_an_engine_that_answers_something_else_than_it_was_asked_is_named(rule, replies):
    problem = "a reply to request 5" if replies and replies[0][0] else f"{len(replies or ())} replies to 2 requests"
    with pytest.raises(rlaif.ModelError, match=f"model odd: {problem}"):
        rlaif.judge(PAIRS[:1], rule, answering(replies))


@pytest.mark.parametrize(
    "given", [["A", "B"], [rlaif.Reply(text="A")], [("0", rlaif.Reply())], [(0, "A")], "AB", [None]]
)
def test_an_engine_whose_stream_gives_no_numbered_replies_is_named(rule, given):
    with pytest.raises(rlaif.ModelError, match=r"model odd: its stream must give \(number, Reply\), not"):
        rlaif.judge(PAIRS[:1], rule, answering(given))


@pytest.mark.parametrize("one", [lambda n, reply: [n, reply], lambda n, reply: (np.int64(n), reply)])
def test_an_engine_may_number_its_replies_in_lists_and_by_numpy(rule, one):
    found = rlaif.judge(
        PAIRS[:1], rule, answering([one(n, rlaif.Reply(label_logprobs={"A": -0.1, "B": -3.0})) for n in (1, 0)])
    )
    assert len(found.judgments) == 1 and not found.failures


@pytest.mark.parametrize("missing", ["name", "revision"])
def test_an_engine_of_which_provenance_could_not_tell_is_refused_before_it_is_asked(rule, missing):
    class Engine:
        def stream(self, requests):
            raise AssertionError("asked")

    engine = Engine()
    for part in {"name", "revision"} - {missing}:
        setattr(engine, part, "odd")
    with pytest.raises(rlaif.ConfigError, match=f"model: an engine needs a '{missing}', which provenance records"):
        rlaif.judge(PAIRS, rule, engine)


def test_the_class_of_an_engine_is_no_engine(rule):
    class Engine:
        name, revision = "odd", "1"

        def stream(self, requests):
            raise AssertionError("asked")

    with pytest.raises(rlaif.ConfigError, match="script Engine: TypeError"):
        rlaif.judge(PAIRS, rule, Engine)


# ------------------------------------------------------------------------------------------------- reward models


@pytest.fixture(scope="module")
def taught(shallow_folder, rule, tmp_path_factory):
    """(preferences, the reward model trained on them, its folder)."""
    pairs = [(f"Say {n}", "letters only" + "x" * (n % 5), "0123" + "9" * (n % 7)) for n in range(40)]
    preferences = rlaif.preferences(rlaif.judge(pairs, rule, by_letters), heldout_share=0.3)
    out = tmp_path_factory.mktemp("models") / "rm"
    model = {"backend": "local", "model": shallow_folder, "dtype": "float32"}
    knobs = {"lora": None, "epochs": 5, "learning_rate": 5e-3, "minibatch_size": 8}
    return preferences, rlaif.train_reward_model(preferences, model, out, **knobs), out


def test_a_reward_model_learns_without_recipe_or_run(taught):
    preferences, model, out = taught
    held = [row for row in preferences if row.split == "heldout"]
    assert model.facts["heldout_pairs"] == len(held) == model.facts["heldout_correct"]
    chosen = model.score([*row.prompt, *row.chosen] for row in held)
    rejected = model.score([*row.prompt, *row.rejected] for row in held)
    assert all(one > other for one, other in zip(chosen, rejected, strict=True))
    assert sorted(path.name for path in out.parent.iterdir()) == ["rm"], "and leaves nothing else behind"


def test_its_scores_are_centred_and_any_shape_of_a_conversation_has_the_same(taught):
    preferences, model, out = taught
    train = [row for row in preferences if row.split == "train"]
    every = [[*row.prompt, *side] for row in train for side in (row.chosen, row.rejected)]
    values = rlaif.RewardModel.load(out, dtype="float32").score(every)
    distinct = dict(zip(map(tuple, every), values, strict=True)).values()
    assert sum(distinct) / len(distinct) == pytest.approx(0, abs=0.02)
    shapes = [("Say 1", "abc"), [{"role": "user", "content": "Say 1"}, {"role": "assistant", "content": "abc"}]]
    shapes.append({"prompt": "Say 1", "response": "abc"})
    one, *others = model.score(shapes)
    assert others == [pytest.approx(one, abs=1e-5)] * 2


def test_what_has_no_score_has_a_reason(taught):
    _, model, _ = taught
    long, broken = ("Say 1", "x" * 5000), ("Say 1", "\ud800")
    assert [value is None for value in model.score([("Say 1", "abc"), long, broken])] == [False, True, True]
    assert model.problem(("Say 1", "abc")) is None
    assert "reads at most 2048" in model.problem(long) and model.problem(broken)


def test_only_a_reward_model_is_replaced(taught, tmp_path, shallow_folder):
    preferences, _, out = taught
    policy, notes = tmp_path / "policy", tmp_path / "notes"
    shutil.copytree(shallow_folder, policy)
    notes.mkdir()
    (notes / "config.json").write_text("[]")
    for folder in (policy, notes):
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(rlaif.ConfigError, match="is no reward model of rlaif's"):
            rlaif.train_reward_model(preferences, str(policy), folder, lora=None, epochs=1)
        assert sorted(path.name for path in folder.iterdir()) == before
    shutil.copytree(out, tmp_path / "rm")
    again = rlaif.train_reward_model(preferences[:8], str(policy), tmp_path / "rm", lora=None, epochs=1)
    assert again.facts["pairs"] <= 8


def test_what_cannot_be_trained_or_loaded_is_said(taught, tmp_path):
    preferences, _, _ = taught
    (tmp_path / "notes.txt").write_text("mine")
    for words, said in (
        ({"out": tmp_path}, "is there and is no reward model"),
        ({"epoch": 2}, "did you mean 'epochs'"),
        ({"model": "vllm:Qwen"}, "must be local"),
        ({"principle_heads": True}, "train them by a recipe"),
        ({"loss": {"kind": "regression"}}, "label.mode.kind=score"),
    ):
        with pytest.raises(rlaif.ConfigError, match=said):
            rlaif.train_reward_model(preferences, **{"out": tmp_path / "rm", **words})
    with pytest.raises(rlaif.DataError, match=r"preferences\[0\]: p_chosen"):
        rlaif.train_reward_model([preferences[0].model_dump() | {"p_chosen": 3}], out=tmp_path / "rm")
    with pytest.raises(rlaif.ConfigError, match="no reward model here"):
        rlaif.RewardModel.load(tmp_path)


# ------------------------------------------------------------------------------------------------- whole runs


def test_a_run_its_reward_model_an_audit_and_a_comparison(tmp_path, shallow_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"prompts__heldout": 6, "optimise__steps": 1, "optimise__rollouts_per_step": 8}
    small |= {"optimise__minibatch_size": 8, "reward__epochs": 1, "evaluate__bootstrap_samples": 20, "prompts": 16}
    recipe = small_recipe(tmp_path, shallow_folder, reward__ensemble={"kind": "independent", "members": 2}, **small)
    run = rlaif.run(recipe, out="runs/1", until="evaluate")
    assert isinstance(run, rlaif.Run) and run.evaluation.exists() and not run.report.exists()
    assert isinstance(rlaif.RewardModel.load(run.folder).score([("Say 1", "abc")])[0], float)
    shutil.copytree("runs/1", "runs/2")
    runs = [run, rlaif.Run(Path("runs/2"))]
    table = rlaif.compare(runs)
    assert table[0] == ("", "1", "2") and len(table) > 4
    rlaif.compare([one.folder for one in runs], out="page.html")
    assert Path("page.html").exists() and Path("page.json").exists()

    rows = [{"prompt": f"Say {n}", "chosen": "abc" + "d" * n, "rejected": "12"} for n in range(30)]
    Path("gold.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    audited = rlaif.audit(recipe, "gold.jsonl", out="audit", probe_pairs=0)
    assert audited.audit["accuracy"]["value"] == 1 and audited.sentence and audited.page.exists()
    with pytest.raises(rlaif.ConfigError, match="overrides"):
        rlaif.run(recipe, ["optimise.steps=2"])
