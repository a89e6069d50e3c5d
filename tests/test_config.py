"""Recipes and overrides: every knob can be set, and every mistake is one line that names key, value and way out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlaif.api.inputs import model_of
from rlaif.config import Recipe, changed_keys, dump_recipe, load_recipe
from rlaif.config.base import Section
from rlaif.config.feedback import AiLabels, HumanLabels, Lexicographic, MixedLabels, WeightedMix
from rlaif.config.judging import CompareMode, RankMode, ScoreMode
from rlaif.config.models import VllmModel
from rlaif.config.optimise import AdaptiveKl, FixedKl, Ppo
from rlaif.config.sources import HubSource
from rlaif.constitution import load_constitution
from rlaif.errors import ConfigError, shown
from rlaif.feedback.judge import modes_of
from rlaif.resources import available, resolve

SMALL = """
name: small
constitution: plain-and-brief
policy: {backend: local, model: smollm2-135m, batch_size: 8}
judge: {backend: client, model: j, base_urls: ["http://127.0.0.1:1/v1"], concurrency: 3}
prompts: {sources: [{kind: file, path: everyday, tags: [x], limit: 9}]}
preferences:
  labels: {kind: ai, pairs: human, human_data: [{kind: file, path: a.jsonl}]}
ppo: {kl: {kind: adaptive, coef: 0.2, target: 8.0}}
"""


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


# ------------------------------------------------------------------------------------------ shipped recipes


@pytest.mark.parametrize("name", available("recipes"))
def test_shipped_recipes_are_valid_and_name_shipped_things(name):
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.title
    assert recipe.constitution in available("constitutions")
    assert {mode.template for mode in modes_of(recipe)} <= set(available("prompts/judge"))
    assert resolve("recipes", name).read_text().startswith("#"), "a recipe begins by saying what it is for"


def test_what_users_are_told_to_run_is_there():
    assert {"quickstart", "hh-rlaif", "hh-rlhf", "hh-hybrid"} <= set(available("recipes"))


def test_ai_human_and_hybrid_differ_in_their_preferences_alone():
    one, *others = [load_recipe(name) for name in available("recipes") if name.startswith("hh-")]
    assert len(others) == 2
    for other in others:
        changed = [line.partition(":")[0] for line in changed_keys(one, other)]
        assert {key.partition(".")[0] for key in changed} == {"name", "title", "preferences"}
    assert {type(r.preferences.labels) for r in (one, *others)} == {AiLabels, HumanLabels, MixedLabels}


# ----------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("optimise.steps=3", lambda r: r.optimise.steps == 3),
        ("optimise.learning_rate=1e-3", lambda r: r.optimise.learning_rate == 1e-3),
        (" optimise.steps = 3 ", lambda r: r.optimise.steps == 3),
        ("title='a: b=c'", lambda r: r.title == "a: b=c"),
        ("optimise.lora=null", lambda r: r.optimise.lora is None),
        ("optimise.lora.rank=4", lambda r: r.optimise.lora.rank == 4),
        ("reward.lora={rank: 4, targets: [q_proj]}", lambda r: r.reward.lora.targets == ("q_proj",)),
        ("prompts.sources.0.limit=5", lambda r: r.prompts.sources[0].limit == 5),
        ("prompts.sources.0.tags=[a, b]", lambda r: r.prompts.sources[0].tags == ("a", "b")),
        ("prompts.sources.0.tags.0=y", lambda r: r.prompts.sources[0].tags == ("y",)),
        ("prompts.sources.0.tags=['no', '017']", lambda r: r.prompts.sources[0].tags == ("no", "017")),
        ("optimise.steps=1_000", lambda r: r.optimise.steps == 1000),
        ("optimise.learning_rate=1", lambda r: r.optimise.learning_rate == 1),
        ("optimise.whiten_advantages=false", lambda r: r.optimise.whiten_advantages is False),
        ("sample.temperature=1.0", lambda r: r.sample.temperature == 1),
        ("label.aggregation.kind=lexicographic", lambda r: isinstance(r.label.aggregation, Lexicographic)),
    ],
)
def test_a_value_is_set_as_yaml(small, override, read):
    assert read(load_recipe(small, [override]))


def test_another_alternative_keeps_what_it_shares_with_the_old_one(small):
    judge = load_recipe(small, ["judge.backend=vllm", "judge.model=Qwen/Qwen3-8B"]).judge
    assert judge == VllmModel(model="Qwen/Qwen3-8B", concurrency=3)
    assert load_recipe(small, ["optimise.kl.kind=fixed"]).optimise.kl == FixedKl(coef=0.2)
    assert load_recipe(small, ["optimise.kl.kind=adaptive"]).optimise.kl == AdaptiveKl(coef=0.2, target=8.0)
    labels = load_recipe(small, ["preferences.labels.kind=human"]).preferences.labels
    assert isinstance(labels, HumanLabels) and labels.human_data[0].path == "a.jsonl"
    mixed = load_recipe(small, ["preferences.labels.kind=mix"]).preferences.labels
    assert isinstance(mixed, MixedLabels) and mixed.pairs == "human"
    source = load_recipe(small, ["prompts.sources.0.kind=hub", "prompts.sources.0.dataset=d"]).prompts.sources[0]
    assert source == HubSource(dataset="d", tags=("x",), limit=9)


@pytest.mark.parametrize(
    ("overrides", "read"),
    [
        (["label.mode.template=compare-brief"], lambda r: r.label.mode == CompareMode(template="compare-brief")),
        (
            ["label.aggregation.kind=lexicographic", "label.aggregation.decided=0.2"],
            lambda r: r.label.aggregation.decided == 0.2,
        ),
        (["label.mode.kind=score"], lambda r: r.label.mode == ScoreMode()),
        (
            ["preferences.labels.policy.ai=2", "preferences.labels.policy.kind=weighted"],
            lambda r: r.preferences.labels.policy == WeightedMix(ai=2),
        ),
        (
            ["preferences.labels.policy.kind=weighted", "preferences.labels.policy.ai=2"],
            lambda r: r.preferences.labels.policy == WeightedMix(ai=2),
        ),
        (["evaluate.examples=3"], lambda r: r.evaluate.examples == 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "read",
)
def test_what_the_recipe_leaves_out_is_there_to_be_changed(overrides, read):
    """Said of the section that stands there by default, which need not be named."""
    assert read(load_recipe("hh-hybrid", ["label={}", *overrides]))


def test_another_alternative_does_not_inherit_a_knob_that_means_something_else():
    """By tag `human` is a list of tags and weighted it is a weight; each mode has a template of its own."""
    policy = load_recipe("hh-hybrid", ["preferences.labels.policy.kind=weighted"]).preferences.labels.policy
    assert policy == WeightedMix()
    mode = "label.mode={kind: compare, template: compare-brief}"
    assert load_recipe("hh-hybrid", [mode, "label.mode.kind=score"]).label.mode == ScoreMode()
    assert load_recipe("hh-hybrid", [mode, "label.mode.kind=rank"]).label.mode == RankMode(template="compare-brief")
    with pytest.raises(ConfigError, match=r"judge\.batch_size: no such key"):
        load_recipe("quickstart", ["judge.batch_size=4", "judge.backend=vllm"])


def test_a_later_list_of_overrides_wins_and_the_file_stays(small):
    assert load_recipe(small, ["optimise.steps=3"], ["optimise.steps=4"]).optimise.steps == 4
    assert load_recipe(small, ["reward={epochs: 2}", "reward.minibatch_size=8"]).reward.epochs == 2
    assert load_recipe(small).optimise.steps == Recipe.model_fields["optimise"].default.steps


def test_ppo_is_an_older_name_of_optimise(tmp_path, small):
    """In files, in overrides and together: the same recipe as under the name of today."""
    today = tmp_path / "today.yaml"
    today.write_text(SMALL.replace("ppo: {", "optimise: {kind: ppo, "))
    assert load_recipe(small, ["ppo.steps=3"]) == load_recipe(str(today), ["optimise.steps=3"])
    assert load_recipe(str(today), ["ppo.kl.coef=0.3"]) == load_recipe(small, ["optimise.kl.coef=0.3"])
    whole = load_recipe(str(today), ["ppo={steps: 5}", "optimise.epochs=2"]).optimise
    assert (whole.kind, whole.steps, whole.epochs, whole.kl.kind) == ("ppo", 5, 2, "fixed")
    today.write_text(SMALL + "optimise: {kind: rloo}\n")
    with pytest.raises(ConfigError, match="ppo: the older name of optimise, which is there too; keep one"):
        load_recipe(str(today))


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimise.setps=3", "optimise.setps: no such key; did you mean 'steps'?"),
        ("policy.batchsize=3", "policy.batchsize: no such key; did you mean 'batch_size'?"),
        ("optimize.steps=3", "optimize: no such key; did you mean 'optimise'?"),
        ("policy.base_urls=[x]", "policy.base_urls: no such key; "),
        ("optimise.kl.taget=1", "optimise.kl.taget: no such key; did you mean 'target'?"),
        (
            "optimise.kl.gain=x",
            "optimise.kl.gain: Input should be a valid number, unable to parse string as a number (got 'x')",
        ),
        ("optimise.steps=-1", "optimise.steps: Input should be greater than or equal to 1 (got -1)"),
        (
            "optimise.steps=2.5",
            "optimise.steps: Input should be a valid integer, got a number with a fractional part (got 2.5)",
        ),
        ("preferences.ties=kep", "preferences.ties: Input should be 'drop' or 'keep' (got 'kep')"),
        ("judge.backend=vlm", "judge: no backend 'vlm'; did you mean 'vllm'?"),
        ("judge={model: x}", "judge: must say its 'backend' (got {'model': 'x'})"),
        ("policy.backend=scripted", "policy: no backend 'scripted'; valid choices: local, ray, vllm"),
        ("ppo=3", "ppo: a section of keys and values, not a single value (got 3)"),
        ("policy=null", "policy: a section of keys and values, not a single value (got None)"),
        ("title=a: b", "title: Input should be a valid string (got {'a': 'b'})"),
        ("constitution=null", "constitution: Input should be a valid string (got None)"),
        ("optimise.minibatch_size=5", "optimise: minibatch_size must divide rollouts_per_step"),
        ("preferences.labels.human_data=[]", "preferences.labels.pairs is 'human', so preferences.labels."),
        ("prompts.sources.0.kind=hub", "prompts.sources.0.dataset: required, but missing"),
        ("prompts.sources.0.lmit=1", "prompts.sources.0.lmit: no such key; did you mean 'limit'?"),
        ("1=2", "1: no such key; valid choices: compute, constitution, evaluate, "),
        ("optimise.steps=true", "optimise.steps: a number, not true or false (got True)"),
        (
            "sample={responses_per_prompt: 3, contrast: {}}",
            "sample: responses_per_prompt must be even with `contrast`, ",
        ),
        ("sample.contrast.labels=orign", "sample.contrast.labels: Input should be 'origin', 'judge' or 'both' (got "),
        ("sample.contrast.lables=both", "sample.contrast.lables: no such key; did you mean 'labels'?"),
        ("sample.contrast.p_origin=0.5", "sample.contrast.p_origin: Input should be greater than 0.5 (got 0.5)"),
        ("optimise.learning_rate=true", "optimise.learning_rate: a number, not true or false (got True)"),
        ("prompts.limit=false", "prompts.limit: a number, not true or false (got False)"),
        ("optimise.learning_rate=.inf", "optimise.learning_rate: Input should be a finite number (got inf)"),
        ("optimise.kl.coef=.nan", "optimise.kl.coef: Input should be a finite number (got nan)"),
        ("optimise.learning_rate=" + "9" * 400, "optimise.learning_rate: Input should be a valid number (got 999"),
        ("seed=-1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("seed=9223372036854775808", "seed: Input should be less than 9223372036854775808 (got 9223372036854775808)"),
    ],
)
def test_a_bad_value_is_one_line(small, override, line):
    with pytest.raises(ConfigError) as error:
        load_recipe(small, [override])
    place, found = str(error.value).split(": ", 1)
    assert found.startswith(line) and "\n" not in found
    assert place in ("override", str(small)) or place.startswith(f"{small}:")


def test_a_mistake_has_its_line_or_is_said_to_be_an_override(small):
    text = Path(small).read_text()
    Path(small).write_text(text + "nmae: x\n")
    last = len(text.splitlines()) + 1
    with pytest.raises(ConfigError) as error:
        load_recipe(small, ["optimise.steps=0"])
    override, written = sorted(str(error.value).split("\n"), key=lambda line: not line.startswith("override"))
    assert override.startswith("override: optimise.steps: ")
    assert written == f"{small}:{last}: nmae: no such key; did you mean 'name'?"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"backend": "local", "model": "m", "batch_sise": 3},
            "batch_sise: no such key; did you mean 'batch_size'?",
        ),
        ({"backend": "locl", "model": "m"}, "no backend 'locl'; did you mean 'local'?"),
        (
            {"model": "m"},
            "must say its 'backend' (got {'model': 'm'}); valid choices: client, local, ray, scripted, vllm",
        ),
    ],
)
def test_a_model_that_the_library_is_given_is_explained_as_one_of_a_recipe(values, line):
    with pytest.raises(ConfigError) as error:
        model_of(values)
    assert str(error.value) == f"model: {line}"


def test_every_mistake_is_listed(small):
    with pytest.raises(ConfigError) as error:
        load_recipe(small, ["optimise.steps=0", "nmae=x", "sample.top_p=2"])
    assert [line.split(": ")[1] for line in str(error.value).split("\n")] == ["sample.top_p", "optimise.steps", "nmae"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optimise.steps", "is not of the form section.key=value"),
        ("=3", "is not of the form section.key=value"),
        ("optimise..steps=3", "is not of the form section.key=value"),
        ("optimise.steps=[1", "the value is not valid YAML; quote it"),
        ("optimise.steps=!!int x", "the value is not valid YAML; quote it"),
        ("optimise.steps=2024-13-01", "a value of kind 'timestamp' is not allowed; if it is text, write it in quotes"),
        (r'name="\ud800"', "not text: half of a surrogate pair"),
        ("optimise.steps=" + "[" * 5000, "the value is not valid YAML; quote it"),
        ("name==x", "is not of the form section.key=value"),
        ("optimise.steps=yes", "yes can be read in two ways; write true or false, or quote the word"),
        ("optimise.learning_rate=on", "on can be read in two ways; write true or false, or quote the word"),
        ("preferences.tie_margin=No", "No can be read in two ways; write true or false, or quote the word"),
        ("prompts.sources.0.tags=[off]", "off can be read in two ways; write true or false, or quote the word"),
        ("optimise.steps=017", "017 can be read in two ways; write a plain number, or quote it"),
        ("optimise.steps=0x10", "0x10 can be read in two ways; write a plain number, or quote it"),
        ("optimise.steps=1:30", "1:30 can be read in two ways; write a plain number, or quote it"),
        ("optimise.kl.coef=1:30.5", "1:30.5 can be read in two ways; write a plain number, or quote it"),
        ("name.x=3", "name is a value, not a section (got 'small')"),
        ("prompts.sources.1.limit=3", "'1' is not a position in a list of 1"),
        ("prompts.sources.first.limit=3", "'first' is not a position in a list of 1"),
        ("prompts.sources.\u00b2=3", "'\u00b2' is not a position in a list of 1"),
        ("prompts.sources.0.tags.0.x=3", "0 is a value, not a section (got 'x')"),
        ("prompts.sources.0.tags.0.x.y=3", "0 is a value, not a section (got 'x')"),
    ],
)
def test_a_bad_override_is_named(small, override, reason):
    with pytest.raises(ConfigError) as error:
        load_recipe(small, [override])
    assert str(error.value) == f"override {shown(override)}: {reason}".replace(": is not of", " is not of")


@pytest.mark.parametrize(
    "overrides",
    [
        ["reward.epochs=2", "reward={minibatch_size: 8}"],
        ["optimise.kl.coef=0.1", "name=x", "optimise={kind: dpo}"],
        ["prompts.sources.0.limit=3", "prompts.sources=[]"],
    ],
)
def test_an_override_that_undoes_another_is_refused(small, overrides):
    with pytest.raises(ConfigError) as error:
        load_recipe(small, overrides)
    assert str(error.value) == f"override {overrides[-1]!r} undoes {overrides[0]!r} before it; keep one"


def test_of_a_key_set_twice_the_last_value_holds(small):
    assert load_recipe(small, ["seed=1", "ppo.steps=3", "seed=2", "optimise.steps=4"]).seed == 2


def test_a_message_shows_the_beginning_of_a_long_value(small):
    long = "9" * 5000
    for key in ("seed", "name.x", f"prompts.sources.{long}.path", f"judge.{long}", long, f"judge.kind.{long}"):
        for value in (long, f"x{long}", f"[{long[:4000]}]", f"0x{long}"):
            with pytest.raises(ConfigError) as error:
                load_recipe(small, [f"{key}={value}"])
            assert all(len(line) < 500 for line in str(error.value).splitlines()), (key[:30], value[:30])


def test_an_error_of_very_many_lines_says_how_many_more(tmp_path, small):
    unknown = "".join(f"key{i}: 1\n" for i in range(200))
    with pytest.raises(ConfigError) as error:
        load_recipe(small, [f"{{{i}}}=1" for i in range(200)])
    assert str(error.value).count("\n") == 20 and str(error.value).endswith("and 180 more")
    (tmp_path / "c.yaml").write_text(f"schema: rlaif/constitution/v1\n{unknown}")
    with pytest.raises(ConfigError) as error:
        load_constitution(str(tmp_path / "c.yaml"))
    assert str(error.value).count("\n") == 20 and str(error.value).endswith(" more")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", ":1: not valid YAML: "),
        ("name: x\n\tb: 2", ":2: not valid YAML: "),
        ("when: 2024-13-01", ":1: a value of kind 'timestamp' is not allowed"),
        ("a: b\nc: !!int x", ":2: not valid YAML: a value cannot be read (invalid literal"),
        ("# " + "x" * 250_000, ": 250,002 bytes of YAML, at most 250,000"),
        ("- a", ": a recipe is a mapping of sections (got list)"),
        ("", ": a recipe is a mapping of sections (got NoneType)"),
        (
            "!!python/object/apply:os.system ['true']",
            ":1: a value of kind 'python/object/apply:os.system' is not allowed",
        ),
    ],
)
def test_a_file_that_is_no_recipe_is_named_with_its_line(tmp_path, text, reason):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_recipe(str(path))
    assert str(error.value).startswith(f"{path}{reason}") and "\n" not in str(error.value)


def test_a_key_written_twice_is_named(tmp_path):
    path = tmp_path / "r.yaml"
    for text, line in ((SMALL + "name: other\n", 10), (SMALL.replace("kind: file,", "kind: file, kind: hub,"), 6)):
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"^{path}:{line}: key '(name|kind)' appears twice"):
            load_recipe(str(path))
    path.write_text(
        SMALL.replace("ppo: {", "sample: &a {temperature: 0.5, max_tokens: 9}\nppo: {<<: *a, max_tokens: 7, ")
    )
    assert load_recipe(str(path)).optimise.max_tokens == 7, "a merged key may be overridden"


def test_an_override_of_a_shared_value_changes_one_place(tmp_path):
    path = tmp_path / "r.yaml"
    lines = SMALL.replace("policy: {", "policy: &m {").splitlines(keepends=True)
    path.write_text("".join("judge: *m\n" if line.startswith("judge:") else line for line in lines))
    assert load_recipe(str(path)).judge.model == "smollm2-135m"
    recipe = load_recipe(str(path), ["judge.model=other"])
    assert (recipe.policy.model, recipe.judge.model) == ("smollm2-135m", "other")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x, x, x, x, x, x, x, x, x]\n", "aliases stand for more than 10,000 values"),
        ("a: &a [*a]\n", r"alias \*a stands for nothing that ends before it"),
        ("a: &a {b: *a}\n", r"alias \*a stands for nothing that ends before it"),
        ("a: *b\nb: &b 1\n", r"alias \*b stands for nothing that ends before it"),
    ],
)
def test_aliases_that_stand_for_too_much_or_for_nothing_are_one_line(tmp_path, text, reason):
    bomb = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghij"))
    path = tmp_path / "r.yaml"
    path.write_text(text + bomb)
    with pytest.raises(ConfigError, match=rf"^{path}:\d+: {reason}[^\n]*$"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", ".", "a\0b", "a\nb", "a\x1b[31m", "a\u2028b"])
def test_a_name_is_a_folder(small, name):
    with pytest.raises(ConfigError, match="name: must be usable as the name of a folder"):
        load_recipe(small, [f"name={json.dumps(name)}"])


PIECES = st.sampled_from(
    [*"{}[]:,#&*!|>%@'\"-? \n\t.", "<<", "!!", "name", "optimise", "kind", "=", "1", "~", "\u2028", "\0"]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=40) | st.lists(PIECES, max_size=12).map(lambda parts: "".join(parts).encode()))
@example(b"? {a: b}\n: c")
@example(b"1: {2: 3}\nppo: {kl: {kind: [x]}}")
@example(b"x: !!bool maybe")
@example(b"x: !!timestamp y")
@example(b"&a [*a]")
@example(b"name: &a {b: *a}")
@example(b"ppo: &a {kl: *a}")
def test_no_file_gives_anything_but_a_config_error(tmp_path, data):
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        load_recipe(str(path))


KEYS = st.sampled_from(
    ["optimise", "kl", "kind", "steps", "prompts", "sources", "0", "7", "judge", "backend", "tags", "x"]
)
VALUES = st.sampled_from(["1", "null", "{}", "[]", "vllm", "mix", "{kind: fixed}", "[{kind: file, path: p}]"])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    overrides=st.lists(
        st.builds(lambda keys, value: ".".join(keys) + "=" + value, st.lists(KEYS, min_size=1, max_size=4), VALUES)
        | st.text(max_size=12)
        | st.text(max_size=12).map("optimise.steps={}".format),
        max_size=3,
    )
)
def test_no_override_gives_anything_but_a_config_error(small, overrides):
    try:
        recipe = load_recipe(small, overrides)
    except ConfigError:
        return
    assert isinstance(recipe, Recipe)


# -------------------------------------------------------------------------------------------- as run folders keep it


@pytest.mark.parametrize("name", available("recipes"))
def test_a_dumped_recipe_is_the_same_recipe(tmp_path, name):
    recipe = load_recipe(name, ["title='Tr\u00e4gheit: \u2028 \U0001f600'", "reward.lora=null"])
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    again = load_recipe(str(path))
    assert again == recipe and changed_keys(recipe, again) == []


def test_changes_are_named_with_both_values(small):
    old = load_recipe(small)
    new = load_recipe(
        small, ["optimise.steps=7", "optimise.kl.kind=fixed", "optimise.lora=null", "prompts.sources.0.tags=[x, y]"]
    )
    assert changed_keys(old, new) == [
        "optimise.steps: 100 -> 7",
        "optimise.lora.rank: 16 -> unset",
        "optimise.lora.alpha: 32.0 -> unset",
        "optimise.lora.targets: all-linear -> unset",
        "optimise.kl.kind: adaptive -> fixed",
        "optimise.kl.target: 8.0 -> unset",
        "optimise.kl.gain: 0.1 -> unset",
        "prompts.sources.0.tags.1: unset -> y",
        "optimise.lora: unset -> None",
    ]


def test_sections_are_frozen_and_closed(small):
    recipe = load_recipe(small)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.optimise.steps = 5
    for section in Section.__subclasses__():
        assert section.model_config["extra"] == "forbid" and section.__doc__, section


def test_every_knob_can_be_written_down(small):
    """A recipe dumped and loaded has every key of every section in use, so `recipe.yaml` tells the whole run; but for
    those that came later, where they are as if they were not there."""

    def told(section: type[Section]) -> set[str]:
        return {name for name, field in section.model_fields.items() if field.exclude_if is None}

    dumped = yaml.safe_load(dump_recipe(load_recipe(small)))
    assert set(dumped) == told(Recipe)
    assert set(dumped["optimise"]) == told(Ppo)


# ------------------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("judge.base_urls=['https://me:hunter2@judge.example/v1']", "judge.base_urls: a URL must not hold a user"),
        ("judge.base_urls=['http://h/v1', 'http://hunter2@h/v1']", "judge.base_urls: a URL must not hold a user"),
        ("judge.base_urls=['http://h/v1?api_key=hunter2']", "judge.base_urls: a URL must not hold a user"),
        ("judge.base_urls=['http://h/v1?code=hunter2']", "judge.base_urls: a base URL has no query"),
        ("judge.base_urls=http://me:hunter2@h/v1", "judge.base_urls: "),
        ("judge.api_key_env=sk-hunter2", "judge.api_key_env: the name of an environment variable, not the key"),
        ("judge.extra_body={a: {b: ['http://me:hunter2@h']}}", "judge.extra_body: a URL must not hold a user"),
        ("judge.base_urls=['http://me:p/hunter2@h/v1']", "judge.base_urls: a URL must not hold a user"),
        ("judge.base_urls=['http://me:7/hunter2@h/v1']", "judge.base_urls: a base URL is http(s)://host[:port]/path"),
        ("judge.base_urls=['http://me:p hunter2@h/v1']", "judge.base_urls: a URL must not hold a user"),
        ("judge.base_urls=['http://me:p\"hunter2@h/v1']", "judge.base_urls: a URL must not hold a user"),
        ("judge.base_urls=['http:/me:hunter2@h/v1']", "judge.base_urls: a URL must not hold a user"),
        ("judge.base_urls=['me:hunter2@h/v1']", "judge.base_urls: a base URL is http(s)://host[:port]/path"),
        ("judge.base_urls=['http://h/v1;key=hunter2']", "judge.base_urls: a URL must not hold a user"),
        ("judge.base_urls=['http://h/v1;k=hunter2']", "judge.base_urls: a base URL is http(s)://host[:port]/path"),
        ("judge.extra_body={api_key: hunter2}", "judge.extra_body: `api_key` looks like a secret"),
        ("judge.extra_body={headers: {Authorization: Bearer hunter2}}", "judge.extra_body: `Authorization` looks like"),
        ("judge.extra_body={a: [{clientSecret: [hunter2]}]}", "judge.extra_body: `clientSecret` looks like a secret"),
        ("judge.model=http://me:hunter2@h/m", "judge.model: a URL must not hold a user"),
        ("prompts.sources.0.path=https://h/x.jsonl?token=hunter2", "prompts.sources.0.path: a URL must not"),
        ("judge.nothing=http://me:hunter2@h", "judge.nothing: "),
        ("judge=http://me:hunter2@h", "judge: "),
        ("judge.model.x=http://me:hunter2@h", "override "),
        ("http://me:hunter2@h/", "override "),
    ],
)
def test_a_secret_in_a_url_is_refused_and_in_no_message(small, override, place):
    with pytest.raises(ConfigError) as caught:
        load_recipe(small, [override])
    assert place in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://h/@x/v1", "http://[::1]:8000/v1", "https://h.example"]
)
def test_a_url_without_secrets_is_fine(small, url):
    assert load_recipe(small, [f"judge.base_urls=['{url}']"]).judge.base_urls == (url,)


@pytest.mark.parametrize("key", ["model", "messages", "n", "stream", "max_tokens", "seed", "temperature", "prompt"])
def test_what_is_added_to_a_request_replaces_nothing_that_is_asked(small, key):
    with pytest.raises(ConfigError, match=f"judge.extra_body: `{key}` is said by rlaif"):
        load_recipe(small, [f"judge.extra_body={{top_k: 5, {key}: 2}}"])


def test_what_a_server_wants_to_know_besides_may_be_added(small):
    added = {"top_k": 5, "prompt_cache_key": "x", "eos_token": "</s>", "chat_template_kwargs": {"token": None}}
    assert load_recipe(small, [f"judge.extra_body={added}".replace("None", "null")]).judge.extra_body == added


def test_no_error_repeats_a_secret_whoever_raises_it():
    text = "cannot reach https://me:hunter2@h/v1?x=1&api_key=hunter2&y=2 or 'git://hunter2@h' (a@b.example)"
    shown = "cannot reach https://***@h/v1?x=1&api_key=***&y=2 or 'git://***@h' (a@b.example)"
    assert str(ConfigError(text)) == shown
    for password in ("p/hunter2", "p hunter2", "p'hunter2", "p#hunter2", "p@hunter2", ":hunter2"):
        assert str(ConfigError(f"at http://me:{password}@h/v1: no")) == "at http://***@h/v1: no"
    assert str(ConfigError("http://:p/hunter2@h/v1")) == "http://***@h/v1"
    plain = "http://h:8000 is not https://h/@x; a@b.example, 'http://h:port/v1': no"
    assert str(ConfigError(plain)) == plain
