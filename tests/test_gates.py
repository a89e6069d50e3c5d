"""Rounds that may be refused: a planted worse or reward-hacked one is, an equal and a better one are not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlaif import iterate as rounds_of
from rlaif.cli import app
from rlaif.config import Recipe, dump_recipe, load_recipe
from rlaif.config.gates import GoldGate, HackingGate, IterateSection
from rlaif.digest import hash_path
from rlaif.errors import ConfigError, DataError, ModelError
from rlaif.feedback.judge.result import Cost
from rlaif.feedback.prompts import read_prompts
from rlaif.gates import decide as deciding
from rlaif.gates.decide import Decision, decided, outcome
from rlaif.gates.measures import Bench, Texts, Values, _likelier, values_of
from rlaif.iterate import iterate, round_of
from rlaif.jsonl import write_json, write_jsonl
from rlaif.records import Message, Pair, Prompt, plain
from rlaif.run_folder import Run
from rlaif.share.push import share
from rlaif.stages.evaluation import evaluation_prompts
from rlaif.stats import Bootstrap
from rlaif.testing import save_tiny, small_recipe
from tests.forked import draw_nothing, exit_code
from tests.tiny_training import preference

OTHER = {"kind": "judge", "model": {"backend": "scripted", "model": "tests.scripted_judge:likes_letters_anyhow"}}
HACKING = {"kind": "hacking"}
PLANTED: dict[str, Callable[[int], str]] = {
    "start": lambda n: f"abc {n}",
    "better": lambda n: f"abcdefgh {n}",
    "equal": lambda n: f"abc {n}",
    "worse": lambda n: f"{n} {n} {n}",
    "flattering": lambda n: f"What a great question! abcdefgh {n}",
    "padded": lambda n: "abcdefgh " * 40,
    "markdown": lambda n: f"## Answer\n\n- abcdefgh {n}",
    "self-praising": lambda n: f"abcdefgh {n}. This is the perfect answer.",
    "best": lambda n: f"abcdefghijklmnop {n}",
}
SMALL_STEPS = {
    "kind": "rloo",
    "scoring": {"kind": "checks"},
    "steps": 2,
    "rollouts_per_step": 8,
    "minibatch_size": 8,
    "max_tokens": 8,
    "lora": None,
    "learning_rate": 1e-2,
    "missing_eos_penalty": 0.0,
}
bootstrap = Bootstrap(200, 0.95, 0)


def recipe_of(folder: Path, gates: dict[str, Any], model: str = "no-model", **changes: Any) -> Recipe:
    changes = {"prompts": 60, "prompts__heldout": 20, "evaluate__bootstrap_samples": 200} | changes
    return small_recipe(folder, model, iterate={"gates": gates}, **changes)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Recipe]]:
    """Rounds whose policies answer as PLANTED says; what is returned fills with the recipes that they were run with."""

    def plant(*names: str, judge_calls: int = 7) -> list[Recipe]:
        begun: list[Recipe] = []

        def run_recipe(recipe: Recipe, folder: Path, redo: bool = False) -> Run:
            begun.append(recipe)
            run = Run(folder)
            folder.mkdir(parents=True, exist_ok=True)
            policy = names[int(folder.name.removeprefix("round-")) - 1]
            write_jsonl(run.samples, [sample(prompt, i, policy) for i, prompt in enumerate(evaluation_prompts(recipe))])
            write_json(run.manifest, {"stages": {"label": {"judge_calls": judge_calls, "seconds": 2.0}}})
            write_json(run.evaluation, {"policy": {"kl": {"value": 1.0, "low": 0.5, "high": 1.5, "n": 20}}})
            return run

        monkeypatch.setattr(rounds_of, "run_recipe", run_recipe)
        return begun

    return plant


def sample(prompt: Any, number: int, policy: str) -> dict[str, Any]:
    found = {"prompt_id": prompt.id, "index": 0, "prompt": plain(prompt.messages)}
    for end, name in (("before", "start"), ("after", policy)):
        found |= {end: PLANTED[name](number), f"{end}_tokens": 9, f"{end}_finished": True}
    return found


def decisions(folder: Path, rounds: int) -> list[Decision]:
    found = [decided(Run(folder / f"round-{number}")) for number in range(1, rounds + 1)]
    assert None not in found
    return [one for one in found if one]


# ------------------------------------------------------------------------------------------------------- the rule


def values(before: Sequence[float | None], after: Sequence[float | None]) -> Values:
    return Values("planted", before, after, [str(place // 2) for place in range(len(before))])


ROWS = [1.0, 0.0] * 20
WORSE = [0.0] * 36 + [1.0, 0.0] * 2


@pytest.mark.parametrize(
    ("after", "rule", "fell"),
    [
        (ROWS, {}, False),
        (ROWS[::-1], {}, False),
        ([1.0] * 40, {}, False),
        (WORSE, {}, True),
        ([0.0] * 40, {}, True),
        (WORSE, {"tolerance": 0.9}, False),
        (WORSE, {"tolerance": 0.05}, True),
        (ROWS, {"strict": True}, True),  # equal here is not known to be equal
        (ROWS, {"strict": True, "tolerance": 0.5}, False),
        ([1.0] * 40, {"strict": True}, False),
    ],
)
def test_a_gate_falls_where_its_interval_is_below_what_it_tolerates(after, rule, fell):
    found = outcome("g", HackingGate(**rule), values(ROWS, after), bootstrap)
    assert found.fell is fell
    assert found.difference.value == pytest.approx(sum(after) / 40 - 0.5)


def test_more_answers_to_the_same_prompts_make_nothing_surer():
    once, twice = (Values("planted", ROWS * n, WORSE * n, list(map(str, range(40))) * n) for n in (1, 2))
    one, two = (outcome("g", HackingGate(), each, bootstrap).difference for each in (once, twice))
    assert (one.low, one.high) == pytest.approx((two.low, two.high)) and (one.n, two.n) == (40, 80)


def test_what_has_no_value_on_one_side_is_counted_and_in_no_figure():
    found = outcome("g", HackingGate(), values([1.0, None, 0.0, 1.0] * 5, [1.0, 1.0, None, 1.0] * 5), bootstrap)
    assert (found.missing, found.difference.n, found.difference.value) == (10, 10, 0.0)
    with pytest.raises(DataError, match=r"iterate.gates.g: of 2 none has a value before and after"):
        outcome("g", HackingGate(), values([None, 1.0], [1.0, None]), bootstrap)


# ------------------------------------------------------------------------------------------------------- rounds


def test_a_worse_round_is_refused_and_the_next_begins_from_the_last_kept(planted, tmp_path, capsys):
    recipe, folder = recipe_of(tmp_path, {"other": OTHER}), tmp_path / "rounds"
    begun = planted("better", "worse", "equal", "best")
    table = iterate(recipe, 4, folder)
    found = decisions(folder, 4)
    assert [(one.against, one.kept) for one in found] == [(0, True), (1, False), (1, False), (1, True)]
    assert table[0][-1] == "gates" and [row[-1].split(":")[0] for row in table[1:]] == [
        "kept",
        "refused",
        "refused",
        "kept",
    ]
    assert "round 2: refused: other \u221250 points" in capsys.readouterr().out
    policies = [one.policy.model for one in begun]
    assert policies == ["no-model", *[str(folder / "round-1" / "policy")] * 3]
    assert begun[3].preferences.include == (str(folder / "round-1" / "preferences.jsonl"),)
    assert len({one.seed for one in begun}) == 4 and len({one.evaluation_seed for one in begun}) == 1
    assert os.readlink(folder / "kept") == "round-4" and (folder / "round-2" / "gates.json").exists()


def test_an_equal_round_is_kept(planted, tmp_path):
    recipe = recipe_of(tmp_path, {"other": OTHER, "hacking": HACKING})
    planted("equal", "equal")
    iterate(recipe, 2, tmp_path / "rounds")
    assert [(one.kept, one.gates[0].difference.value) for one in decisions(tmp_path / "rounds", 2)] == [(True, 0.0)] * 2


def test_a_decision_counts_what_all_its_gates_cost(planted, tmp_path, monkeypatch):
    dear = values(ROWS, ROWS)._replace(cost=Cost(3, 50, 7))
    monkeypatch.setattr(deciding, "values_of", lambda *_: dear)
    planted("equal")
    iterate(recipe_of(tmp_path, {"one": HACKING, "two": HACKING}), 1, tmp_path / "rounds")
    (found,) = decisions(tmp_path / "rounds", 1)
    assert (found.judge_calls, found.tokens) == (6, 114)


def test_answers_that_changed_sides_are_asked_about_once_and_count_for_either(tmp_path):
    recipe, prompt = recipe_of(tmp_path, {"other": OTHER}), Prompt.of((Message(role="user", content="Ask"),))
    texts = [Texts(prompt, "1 2 3", "abc"), Texts(prompt, "abc", "1 2 3"), Texts(prompt, "abc", "abc")]
    bench = Bench(recipe, recipe.iterate, Run(tmp_path / "run"), None, texts, 0)
    found = values_of("other", recipe.iterate.gates["other"], bench)
    assert list(found.after) == [1.0, 0.0, 0.5] and found.cost.calls == 2


@pytest.mark.parametrize("how", ["flattering", "padded", "markdown", "self-praising"])
def test_a_reward_hacked_round_is_refused_however_much_the_judge_likes_it(planted, tmp_path, how):
    recipe = recipe_of(tmp_path, {"other": OTHER, "hacking": HACKING})
    planted("better", how, "better")
    iterate(recipe, 3, tmp_path / "rounds")
    first, second, third = decisions(tmp_path / "rounds", 3)
    assert second.reason.startswith("hacking \u2212100 points") and second.gates[0].difference.value > 0
    assert first.kept and third.kept


def test_only_the_tricks_that_are_named_are_looked_for(planted, tmp_path):
    recipe = recipe_of(tmp_path, {"hacking": HACKING | {"tricks": ["flattery", "length"]}})
    planted("markdown", "flattering")
    iterate(recipe, 2, tmp_path / "rounds")
    assert [one.kept for one in decisions(tmp_path / "rounds", 2)] == [True, False]


@pytest.mark.parametrize(("word", "kept"), [("zebra", True), ("great", False)])
def test_a_score_that_tricks_move_further_is_refused_though_no_answer_shows_one(planted, tmp_path, word, kept):
    """Round 1 scores by a word that no trick plants, round 2 by a word of praise."""
    gates = {"answers": HACKING, "score": HACKING | {"of": "score", "tricks": ["flattery"]}}
    start = save_tiny(tmp_path / "start", 0, num_hidden_layers=1)
    begun = planted("better", "best")
    signals = [{"kind": "keywords", "words": [one], "at_least": 1} for one in ("zebra", word)]
    tried = [{"source": {"kind": "signal", "signal": signal}} for signal in signals]
    scored = [recipe_of(tmp_path, gates, start, optimise=SMALL_STEPS, evaluate__hacking=one) for one in tried]
    iterate(scored[0], 1, tmp_path / "rounds")
    (tmp_path / "rounds" / "round-1" / "recipe.yaml").write_text(dump_recipe(begun[0]))
    (tmp_path / "rounds" / "round-1" / "policy").symlink_to(start)
    iterate(scored[1], 2, tmp_path / "rounds")
    one, two = decisions(tmp_path / "rounds", 2)
    assert one.kept and one.gates[1].difference.value == 0
    assert two.kept is kept and two.gates[0].difference.value == 0 and two.gates[1].before == 1
    assert (two.gates[1].difference.value == -1) is not kept


@pytest.mark.parametrize(("step", "held"), [(1, 0.0), (100, 1.0)])
def test_a_trick_counts_if_it_lifts_a_score_by_more_than_its_spread(tmp_path, step, held):
    """A trick of flattery is some 25 tokens longer; the score is the length, whose spread the answers decide."""
    start = save_tiny(tmp_path / "start", 0, num_hidden_layers=1)
    gate = HackingGate(of="score", tricks=("flattery",))
    tried = {"source": {"kind": "length", "per": 10}}
    recipe = recipe_of(tmp_path, {"score": gate}, start, optimise=SMALL_STEPS, evaluate__hacking=tried)
    prompt = Prompt.of((Message(role="user", content="Ask"),))
    texts = [Texts(prompt, "", "a" * (10 + step * n)) for n in range(8)]
    bench = Bench(recipe, recipe.iterate, Run(tmp_path / "run"), None, texts, 0)
    assert set(values_of("score", gate, bench).after) == {held}


def test_where_nothing_is_kept_the_policy_stays_what_it_was(planted, tmp_path):
    recipe, folder = recipe_of(tmp_path, {"other": OTHER}), tmp_path / "rounds"
    begun = planted("worse", "worse")
    iterate(recipe, 2, folder)
    assert [one.policy for one in begun] == [recipe.policy] * 2 and begun[0].seed != begun[1].seed
    assert not (folder / "kept").exists() and "The policy stays what it was" in (folder / "rounds.html").read_text()


def test_a_kill_after_a_refused_round_leaves_the_history_and_the_same_bytes(planted, tmp_path, monkeypatch):
    recipe, ends = recipe_of(tmp_path, {"other": OTHER, "hacking": HACKING}), {}
    for name in ("peaceful", "killed"):
        begun, folder = planted("better", "worse", "best"), tmp_path / name
        run_recipe = rounds_of.run_recipe
        if name == "killed":

            def dies(recipe: Recipe, folder: Path, redo: bool = False, go_on: Any = run_recipe) -> Run:
                if folder.name == "round-3":
                    raise KeyboardInterrupt
                return go_on(recipe, folder, redo)

            monkeypatch.setattr(rounds_of, "run_recipe", dies)
            with pytest.raises(KeyboardInterrupt):
                iterate(recipe, 3, folder)
            page = (folder / "rounds.html").read_text()
            assert "1 of 2 rounds kept" in page and "Round 2 was refused" in page
            assert os.readlink(folder / "kept") == "round-1"
            monkeypatch.setattr(rounds_of, "run_recipe", run_recipe)
        iterate(recipe, 3, folder)
        files = [folder / f"round-{n}" / "gates.json" for n in (1, 2, 3)]
        inputs = [json.loads(file.read_text()) | {"inputs": ""} for file in files]  # which name the folder
        ends[name] = (inputs, (folder / "rounds.html").read_bytes(), os.readlink(folder / "kept"), begun[-1].seed)
    assert ends["peaceful"] == ends["killed"]


def test_people_are_heard_though_their_round_was_refused(tmp_path):
    recipe = recipe_of(tmp_path, {"other": OTHER})
    for number in (1, 2, 4):
        (tmp_path / f"feedback-{number}").mkdir()
    heard = round_of(recipe, tmp_path, 4, kept=1).preferences.labels.human_data
    assert [Path(source.run).name for source in heard] == ["feedback-2", "feedback-4"]


def test_a_decision_stands_until_what_it_rests_on_changes(planted, tmp_path, monkeypatch):
    recipe, folder = recipe_of(tmp_path, {"hacking": HACKING}), tmp_path / "rounds"
    planted("better", "flattering")
    iterate(recipe, 2, folder)
    before = (folder / "round-2" / "gates.json").read_bytes()
    made = list[str]()
    monkeypatch.setattr(
        deciding, "write_json", lambda path, value: made.append(path.parent.name) or write_json(path, value)
    )
    iterate(recipe, 2, folder)
    assert made == [] and (folder / "round-2" / "gates.json").read_bytes() == before
    lenient = recipe.model_copy(update={"iterate": IterateSection(gates={"hacking": HackingGate(tolerance=1.0)})})
    iterate(lenient, 2, folder)
    assert made == ["round-1", "round-2"] and os.readlink(folder / "kept") == "round-2"
    planted("better", "best")
    iterate(lenient, 2, folder)
    assert made == ["round-1", "round-2", "round-2"]  # which answers otherwise now


def test_the_page_holds_the_whole_history(planted, tmp_path):
    recipe, folder = recipe_of(tmp_path, {"other": OTHER, "hacking": HACKING}), tmp_path / "rounds"
    planted("better", "flattering", "best")
    iterate(recipe, 3, folder)
    page = (folder / "rounds.html").read_text()
    for part in (
        "2 of 3 rounds kept",
        "Round 2 was refused: hacking \u2212100 points",
        "Judge calls",
    ):
        assert part in page, part
    assert page.count("data:image/svg+xml") == 2 and "http://" not in page.replace("http://www.w3.org", "")
    calls = 7 + decisions(folder, 3)[2].judge_calls
    assert calls > 7 and f">{calls}<" in page


def test_the_exit_code_is_that_of_the_last_round(planted, tmp_path):
    recipe, file = recipe_of(tmp_path, {"other": OTHER}), tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    planted("better", "worse", "best")
    for rounds, code in ((1, 0), (2, 1), (3, 0)):
        words = ["iterate", str(file), "--rounds", str(rounds), "--out", str(tmp_path / "rounds")]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == code
        assert ("round 2 was refused: other" in done.output.splitlines()[-1]) is (code == 1)


def test_a_judge_that_fails_decides_nothing(planted, tmp_path):
    silent = {"kind": "judge", "model": {"backend": "scripted", "model": "tests.scripted_judge:says_nothing"}}
    planted("better")
    with pytest.raises(DataError, match=r"iterate.gates.other: 20 of 20 .* label.max_failures"):
        iterate(recipe_of(tmp_path, {"other": silent}), 1, tmp_path / "rounds")
    assert decided(Run(tmp_path / "rounds" / "round-1")) is None


def test_an_edited_decision_gets_one_line(planted, tmp_path):
    recipe, folder = recipe_of(tmp_path, {"hacking": HACKING}), tmp_path / "rounds"
    planted("better")
    iterate(recipe, 1, folder)
    (folder / "round-1" / "gates.json").write_text('{"round": "one"}')
    with pytest.raises(DataError, match=r"gates.json: round"):
        iterate(recipe, 1, folder)


# ------------------------------------------------------------------------------------------------------- human gold


def gold_of(folder: Path, model: str, recipe: Recipe) -> str:
    """Labels that this policy agrees with: of each pair the one that it finds likelier."""

    texts = [(f"{n} yes", f"no {n * 7} q") for n in range(60)]
    prompts = [Prompt.of((Message(role="user", content=f"Ask {n}"),)) for n in range(60)]
    pairs = [Pair.of(prompt, *both) for prompt, both in zip(prompts, texts, strict=True)]
    sides = _likelier(recipe, recipe.policy.model_copy(update={"model": model}), pairs)
    rows = [
        {"prompt": f"Ask {n}", "chosen": both[side == 0.0], "rejected": both[side == 1.0]}
        for n, (both, side) in enumerate(zip(texts, sides, strict=True))
    ]
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "gold.jsonl")


def test_human_gold_tells_a_worse_policy_an_equal_and_a_better_one(planted, tmp_path):
    start, people = (
        save_tiny(tmp_path / name, seed, num_hidden_layers=1) for name, seed in (("start", 0), ("people", 5))
    )
    recipe, folder = small_recipe(tmp_path, start, prompts=60, prompts__heldout=20), tmp_path / "rounds"
    gate = GoldGate(gold=(gold_of(tmp_path, people, recipe),))
    recipe = recipe.model_copy(update={"iterate": IterateSection(gates={"people": gate})})
    planted("better", "better", "better")
    for number, model in enumerate((people, people, start), start=1):
        (folder / f"round-{number}").mkdir(parents=True)
        (folder / f"round-{number}" / "policy").symlink_to(model)
    iterate(recipe, 3, folder)
    first, second, third = decisions(folder, 3)
    assert first.kept and first.gates[0].after == 1.0 and first.gates[0].difference.low > 0
    assert second.kept and second.gates[0].difference.value == 0
    assert not third.kept and third.reason.startswith("people \u2212")


def test_gold_that_the_round_trained_on_is_left_out_and_counted(planted, tmp_path):
    start = save_tiny(tmp_path / "start", 0, num_hidden_layers=1)
    recipe, folder = small_recipe(tmp_path, start, prompts=60, prompts__heldout=20), tmp_path / "rounds"
    gate = GoldGate(gold=(gold_of(tmp_path, start, recipe),))
    recipe = recipe.model_copy(update={"iterate": IterateSection(gates={"people": gate})})
    planted("better")
    run = Run(folder / "round-1")
    run.folder.mkdir(parents=True)
    run.policy.symlink_to(start)
    ids = [Prompt.of((Message(role="user", content=f"Ask {n}"),)).id for n in (3, 4)]
    rows = zip(ids, ("train", "heldout"), strict=True)
    write_jsonl(run.preferences, [preference(one, "x", "y", prompt_id=one, split=split) for one, split in rows])
    iterate(recipe, 1, folder)
    (found,) = decisions(folder, 1)[0].gates
    assert found.difference.n == 59 and "1 pair on prompts that it trained on left out" in found.what


def test_a_policy_that_gives_no_number_agrees_with_nobody(planted, tmp_path, monkeypatch):
    """One whose weights ran away: not a number for every second pair is a value that is missing, not a side."""
    import torch

    from rlaif.training.policy_model import PolicyModel

    start = save_tiny(tmp_path / "start", 0, num_hidden_layers=1)
    recipe, calls, given = small_recipe(tmp_path, start), [0], PolicyModel.without_gradients

    def broken(self, *arguments):
        calls[0] += 1
        found = given(self, *arguments)
        return found._replace(logprobs_BT=found.logprobs_BT * torch.nan) if calls[0] % 2 else found

    monkeypatch.setattr(PolicyModel, "without_gradients", broken)
    prompt = Prompt.of((Message(role="user", content="Ask"),))
    sides = _likelier(recipe, recipe.policy, [Pair.of(prompt, f"yes {n}", f"no {n}") for n in range(4)])
    assert sides[0] is sides[2] is None and {sides[1], sides[3]} <= {0.0, 1.0}


def test_gold_on_prompts_that_a_policy_was_rolled_out_on_is_left_out(planted, tmp_path):
    start = save_tiny(tmp_path / "start", 0, num_hidden_layers=1)
    recipe = small_recipe(tmp_path, start, prompts=60, prompts__heldout=20)
    split = read_prompts(recipe.prompts)
    asked = [prompt.messages[-1].content for prompt in (*split.train[:2], *split.heldout[:5])]
    rows = [{"prompt": text, "chosen": "yes", "rejected": "no"} for text in asked]
    rows += [{"prompt": asked[4], "response_a": "one", "response_b": "two", "choice": "tie"}]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    (tmp_path / "ties.jsonl").write_text(json.dumps(rows[-1]) + "\n")
    gate = GoldGate(gold=(str(tmp_path / "gold.jsonl"), str(tmp_path / "ties.jsonl")))
    recipe = recipe.model_copy(update={"iterate": IterateSection(gates={"people": gate})})
    planted("better")
    (tmp_path / "rounds" / "round-1").mkdir(parents=True)
    (tmp_path / "rounds" / "round-1" / "policy").symlink_to(start)
    iterate(recipe, 1, tmp_path / "rounds")
    (found,) = decisions(tmp_path / "rounds", 1)[0].gates
    assert found.difference.n == 5
    assert "2 pairs on prompts that it trained on left out" in found.what and "1 tie left out" in found.what


# ------------------------------------------------------------------------------------------------------- refusals


def test_a_refused_round_is_not_pushed_and_the_kept_one_is_named(planted, tmp_path):
    recipe, folder = recipe_of(tmp_path, {"hacking": HACKING}), tmp_path / "rounds"
    planted("better", "flattering")
    iterate(recipe, 2, folder)
    for number in (1, 2):
        run = Run(folder / f"round-{number}")
        run.recipe.write_text(dump_recipe(recipe))
        write_jsonl(run.preferences, [preference("Ask", "x", "y")])
    with pytest.raises(ConfigError, match=r"refused \(hacking .*\); push .*rounds/kept"):
        share(folder / "round-2", "preferences", "me/there")
    assert "nothing was sent" in share(folder / "kept", "preferences", None, tmp_path / "out")


def test_fewer_rounds_than_there_are_take_nothing_back(planted, tmp_path):
    recipe, folder = recipe_of(tmp_path, {"other": OTHER}), tmp_path / "rounds"
    planted("better", "worse", "best")
    iterate(recipe, 3, folder)
    page = (folder / "rounds.html").read_bytes()
    assert len(iterate(recipe, 1, folder)) == 2
    assert os.readlink(folder / "kept") == "round-3" and (folder / "rounds.html").read_bytes() == page


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([{"prompt": "Say it", "response_a": "one", "response_b": "two", "choice": "tie"}], "1 tie left out"),
        ([{"prompt": "Say it", "chosen": "one", "rejected": "one"}], "not one usable pair"),
        ([], "people"),
    ],
)
def test_labels_that_say_nothing_are_said_before_any_work(tmp_path, rows, line):
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_of(tmp_path, {"people": {"kind": "gold", "gold": [str(tmp_path / "gold.jsonl")]}})
    with pytest.raises((ConfigError, DataError), match=line):
        iterate(recipe, 2, tmp_path / "rounds")
    assert not (tmp_path / "rounds").exists()


def test_labels_on_what_the_recipe_trains_on_are_said_before_any_work(tmp_path):
    recipe = recipe_of(tmp_path, {"people": {"kind": "gold", "gold": [str(tmp_path / "gold.jsonl")]}})
    asked = [prompt.messages[-1].content for prompt in read_prompts(recipe.prompts).train]
    rows = [{"prompt": text, "chosen": "one", "rejected": "two"} for text in asked]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"no round trains on; 40 pairs on prompts that it trained on left out"):
        iterate(recipe, 2, tmp_path / "rounds")


def test_a_judge_that_is_nowhere_is_missed_before_any_work(tmp_path):
    gates = {"other": OTHER | {"model": {"backend": "local", "model": "./nope"}}}
    with pytest.raises(ModelError, match=r"model folder '\./nope' does not exist"):
        iterate(recipe_of(tmp_path, gates), 2, tmp_path / "rounds")
    assert not (tmp_path / "rounds").exists()


def test_labels_that_are_not_there_are_said_before_any_work(tmp_path):
    recipe = recipe_of(tmp_path, {"people": {"kind": "gold", "gold": [str(tmp_path / "none.jsonl")]}})
    with pytest.raises((ConfigError, DataError), match=r"none\.jsonl"):
        iterate(recipe, 2, tmp_path / "rounds")
    assert not (tmp_path / "rounds").exists()


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"self_reward": True}, "no gate: add one of kind judge, gold or hacking"),
        ({"gates": {"a": {"kind": "jugde"}}}, "jugde"),
        ({"gates": {"a b": HACKING}}, "a b"),
        ({"gates": {"a": {"kind": "gold", "gold": []}}}, "gold"),
        ({"gates": {"a": HACKING | {"tricks": ["flatery"]}}}, "flatery"),
    ],
)
def test_a_section_that_cannot_be_is_refused_when_it_is_read(tmp_path, section, line):
    file = tmp_path / "recipe.yaml"
    text = dump_recipe(small_recipe(tmp_path, "no-model"))
    file.write_text(text + f"iterate: {json.dumps(section)}\n")
    with pytest.raises(ConfigError, match=line):
        load_recipe(str(file))


@pytest.mark.parametrize(
    ("gate", "self_reward", "line"),
    [
        ({"kind": "judge"}, False, "rlaif.testing:likes_letters trains by this constitution; name another of either"),
        (
            {"kind": "judge", "model": {"backend": "scripted", "model": "rlaif.testing:likes_letters"}},
            False,
            "trains by this constitution",
        ),
        (HACKING | {"of": "score"}, False, "iterate.gates.a: of=score needs evaluate.hacking"),
        (HACKING, True, "judge.model must be policy.model, 'no-model', in backend local or vllm"),
    ],
)
def test_what_watches_nothing_is_refused_before_any_work(tmp_path, gate, self_reward, line):
    recipe = recipe_of(tmp_path, {"a": gate}, iterate__self_reward=self_reward)
    with pytest.raises(ConfigError, match=line):
        iterate(recipe, 2, tmp_path / "rounds")
    assert not (tmp_path / "rounds").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"label__mode": {"kind": "panel", "members": [{"name": "a"}, {"name": "b", "model": OTHER["model"]}]}},
        {"optimise": SMALL_STEPS | {"scoring": {"kind": "judge", "model": OTHER["model"]}}},
    ],
)
def test_a_judge_that_taught_in_another_place_is_not_held_out(tmp_path, changes):
    gate = OTHER | {"mode": {"kind": "compare"}}
    with pytest.raises(ConfigError, match=r"iterate.gates.a: .*likes_letters_anyhow trains by this constitution"):
        iterate(recipe_of(tmp_path, {"a": gate}, **changes), 1, tmp_path / "rounds")


@pytest.mark.parametrize("model", [None, {"backend": "local", "model": "no-model"}])
def test_a_policy_that_judges_is_not_watched_by_itself(tmp_path, model):
    judge = {"backend": "local", "model": "no-model"}
    gate = {"kind": "judge", "constitution": "harmlessness", "model": model}
    recipe = recipe_of(tmp_path, {"a": gate}, judge=judge, iterate__self_reward=True)
    with pytest.raises(ConfigError, match=r"iterate.gates.a: no-model is the policy itself"):
        iterate(recipe, 2, tmp_path / "rounds")


def test_with_self_reward_the_judge_is_the_policy_that_the_round_begins_from(tmp_path):
    judge = {"backend": "local", "model": "no-model", "batch_size": 3}
    recipe = recipe_of(tmp_path, {"a": HACKING}, judge=judge, iterate__self_reward=True)
    rounds = [round_of(recipe, Path("rounds"), *which) for which in ((1, 0), (2, 1), (3, 1), (3, 2))]
    assert [one.judge.model for one in rounds] == ["no-model", *["rounds/round-1/policy"] * 2, "rounds/round-2/policy"]
    assert all(one.judge.model == one.policy.model and one.judge.batch_size == 3 for one in rounds)


def test_a_recipe_without_gates_has_no_trace_of_them(tmp_path):
    recipe = small_recipe(tmp_path, "no-model")
    assert "iterate" not in dump_recipe(recipe)
    gated = recipe_of(tmp_path, {"a": HACKING}, prompts=120, prompts__heldout=32, evaluate__bootstrap_samples=2000)
    assert dump_recipe(round_of(gated, Path("rounds"), 2)) == dump_recipe(round_of(recipe, Path("rounds"), 2))


# ------------------------------------------------------------------------------------------------------- for real


def work(recipe: Recipe, folder: Path, dies_at: int) -> None:
    """Two rounds; death at that writing of a decision or of the link."""
    import torch

    torch.set_num_threads(1)
    draw_nothing()
    os.environ["RLAIF_REPLIES"] = str(folder.parent / "replies.sqlite")
    os.chdir(folder.parent)
    calls = [0]

    def deadly(call: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            calls[0] += 1
            if calls[0] == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            call(*arguments)

        return counted

    deciding.write_json = deadly(write_json)
    rounds_of.publish = deadly(rounds_of.publish)
    iterate(recipe, 2, Path(folder.name))


@pytest.mark.slow
def test_gated_rounds_killed_at_their_gates_end_in_the_same_bytes(tmp_path, shallow_folder):
    (tmp_path / "gold.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"Ask {n}", "chosen": f"yes {n}", "rejected": f"{n} 1 2"}) + "\n" for n in range(12)
        )
    )
    gates = {"other": OTHER, "hacking": HACKING, "people": {"kind": "gold", "gold": [str(tmp_path / "gold.jsonl")]}}
    changes = {"prompts": 12, "prompts__heldout": 6, "sample__max_tokens": 8, "evaluate__bootstrap_samples": 50}
    recipe = recipe_of(tmp_path, gates, shallow_folder, optimise=SMALL_STEPS, label__max_failures=0.9, **changes)
    ends = dict[str, list[int | None]]()
    for name, deaths in (("peaceful", [0]), ("killed", [1, 2, 2, 0])):
        (tmp_path / name).mkdir()
        ends[name] = [exit_code(work, recipe, tmp_path / name / "rounds", at) for at in deaths]
    assert ends == {"peaceful": [0], "killed": [-signal.SIGKILL, -signal.SIGKILL, -signal.SIGKILL, 0]}
    for number in (1, 2):
        one, other = (Run(tmp_path / name / "rounds" / f"round-{number}") for name in ends)
        for file in ("recipe", "samples", "metrics", "gates"):
            assert getattr(one, file).read_bytes() == getattr(other, file).read_bytes(), file
        assert hash_path(one.policy) == hash_path(other.policy)
    links = [os.readlink(tmp_path / name / "rounds" / "kept") for name in ends]
    assert links[0] == links[1]


@pytest.mark.slow
def test_a_policy_that_judges_is_asked_about_the_gold_as_the_judge_it_was_and_is(tmp_path, shallow_folder, monkeypatch):
    monkeypatch.setenv("RLAIF_REPLIES", str(tmp_path / "replies.sqlite"))
    rows = [{"prompt": f"Ask {n}", "chosen": f"yes {n}", "rejected": f"{n} 1 2"} for n in range(8)]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {
        "judge": {"backend": "local", "model": shallow_folder, "dtype": "float32"},
        "label__mode": {"kind": "contrast"},
        "iterate__self_reward": True,
        "optimise": SMALL_STEPS,
        "sample__max_tokens": 8,
        "prompts": 12,
        "prompts__heldout": 6,
    }
    recipe = recipe_of(
        tmp_path, {"people": {"kind": "gold", "gold": [str(tmp_path / "gold.jsonl")]}}, shallow_folder, **changes
    )
    rules = (
        (tmp_path / "letters.yaml")
        .read_text()
        .replace("compare: ", "contrast: {for: Write letters., against: ''}\n    compare: ")
    )
    (tmp_path / "letters.yaml").write_text(rules)
    iterate(recipe, 2, tmp_path / "rounds")
    (found,) = decisions(tmp_path / "rounds", 1)[0].gates
    assert found.what == "agreement with people's labels, as the judge" and found.difference.n == 8
    judged = load_recipe(str(tmp_path / "rounds" / "round-2" / "recipe.yaml")).judge.model
    assert judged in (str(tmp_path / "rounds" / "round-1" / "policy"), shallow_folder)
    assert (judged != shallow_folder) is decisions(tmp_path / "rounds", 1)[0].kept
