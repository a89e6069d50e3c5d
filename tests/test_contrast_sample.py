"""Contrastive sampling: what the model reads on either side, which pairs there are, and whose labels they carry."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif import stages
from rlaif.annotate.desk import read_questions
from rlaif.config import Recipe
from rlaif.config.feedback import SampleSection
from rlaif.config.load import load_recipe
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, DataError
from rlaif.evaluation.artefacts import EVALUATION
from rlaif.evaluation.report import write_report
from rlaif.feedback.judge.result import JudgeResult
from rlaif.feedback.origin import (
    Instructions,
    OriginAgreement,
    PairOrigin,
    hold_to_origin,
    label_by_origin,
    pair_origins,
    sample_contrasts,
    unpaired,
)
from rlaif.feedback.pairs import make_pairs
from rlaif.feedback.sample import SampleResult, Speakers, check_sample_failures
from rlaif.feedback.verdict import draw
from rlaif.jsonl import read_json, read_jsonl, write_json, write_jsonl
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.pipeline import STAGES, run_recipe
from rlaif.records import Failure, Judgment, Message, Origin, Pair, Preference, Prompt, Response, derive_seed
from rlaif.run_folder import Run
from rlaif.stages.forecast import work
from rlaif.testing import choose, letters, shown, small_recipe
from tests.forked import exit_code
from tests.test_resume import Kill, arm
from tests.test_stages import made, measure_nothing

PLAINLY, LEARNEDLY, WARMLY = "Use plain letters.", "Use digits.", "Be warm."
CONSTITUTION = f"""\
schema: rlaif/constitution/v1
id: letters
version: 1.0.0
title: Plain letters, no digits
principles:
  - id: plain-letters
    compare: Which response has more plain letters?
    contrast: {{for: {PLAINLY}, against: {LEARNEDLY}}}
  - id: warm
    compare: Which response is warmer?
    contrast: {{for: {WARMLY}}}
    weight: 3
    tags: [talk]
  - id: no-digits
    check: {{kind: regex_absent, pattern: '[0-9]'}}
"""
ECHO = ScriptedChatModel(lambda request: f"{request.messages} {request.seed}", "policy")
HALVES = SampleSection.model_validate({"responses_per_prompt": 4, "contrast": {}})


def constitution_of(text: str, folder: Path) -> Constitution:
    (folder / "constitution.yaml").write_text(text)
    return load_constitution(str(folder / "constitution.yaml"))


@pytest.fixture(scope="module")
def constitution(tmp_path_factory: pytest.TempPathFactory) -> Constitution:
    return constitution_of(CONSTITUTION, tmp_path_factory.mktemp("constitution"))


def prompt(text: str, *tags: str, system: str = "") -> Prompt:
    before = (Message(role="system", content=system),) if system else ()
    return Prompt.of((*before, Message(role="user", content=text)), tags)


def instructions(constitution: Constitution, *principles: str) -> Instructions:
    section = SampleSection.model_validate({"contrast": {"principles": list(principles)}}).contrast
    assert section is not None
    return Instructions.of(section, constitution)


@pytest.fixture(scope="module")
def every(constitution: Constitution) -> Instructions:
    return instructions(constitution)


# ------------------------------------------------------------------------------------------------ what is asked


def sampled(constitution: Constitution, *prompts: Prompt, seed: int = 0) -> tuple[SampleResult, list[ChatRequest]]:
    asked: list[ChatRequest] = []

    def write(request: ChatRequest) -> str:
        asked.append(request)
        return f"text {len(asked)}"

    model = ScriptedChatModel(write, "policy")
    return sample_contrasts(Speakers(model), prompts, instructions(constitution), HALVES, seed, "sample"), asked


def said(request: ChatRequest) -> list[str]:
    return [f"{m.role}: {m.content}" for m in request.messages]


def test_half_of_a_prompts_responses_are_written_under_either_instruction(constitution: Constitution) -> None:
    result, asked = sampled(constitution, prompt("Why?", system="Be quick."))
    for number, request in enumerate(asked):
        instruction = PLAINLY if number < 2 else LEARNEDLY
        assert said(request) == [f"system: {instruction}\n\nBe quick.", "user: Why?"]
    assert [(r.origin, r.index) for r in result.responses] == [
        (Origin(principle="plain-letters", side=side), index)
        for index, side in enumerate(("for", "for", "against", "against"))
    ]
    assert {r.prompt for r in result.responses} == {prompt("Why?", system="Be quick.").messages}
    assert len({r.id for r in result.responses}) == 4


def test_an_empty_instruction_is_the_prompt_as_it_is(constitution: Constitution) -> None:
    warm = next(p for p in constitution.principles if p.id == "warm")
    places = instructions(constitution).places(prompt("Hi", "talk"), warm, 2)
    assert [place.messages[0].content for place in places] == [WARMLY, "Hi"]
    assert places[1].messages == prompt("Hi").messages


def test_seeds_are_those_of_plain_sampling_and_ids_know_what_was_read(
    constitution: Constitution, tmp_path: Path
) -> None:
    asked = prompt("Why?")
    result, requests = sampled(constitution, asked, seed=7)
    assert [r.seed for r in requests] == [derive_seed(7, "sample", asked.id, index) for index in range(4)]
    other, _ = sampled(constitution_of(CONSTITUTION.replace(PLAINLY, "Other words."), tmp_path), asked, seed=7)
    same = [one.id == two.id for one, two in zip(result.responses, other.responses, strict=True)]
    assert same == [False, False, True, True]


@given(st.permutations(range(6)), st.integers(0, 5))
def test_a_response_depends_on_its_own_prompt_only(every: Instructions, order: list[int], seed: int) -> None:
    prompts = [prompt(f"{number}", *(["talk"] if number % 2 else [])) for number in range(6)]

    def responses(prompts: Sequence[Prompt]) -> set[Response]:
        return {*sample_contrasts(Speakers(ECHO), prompts, every, HALVES, seed, "sample").responses}

    apart = {response for one in prompts for response in responses([one])}
    assert responses([prompts[i] for i in order]) == apart and len(apart) == 24


# -------------------------------------------------------------------------------------------------- which principle


def test_one_principle_a_prompt_is_drawn_by_weight_among_those_that_apply(every: Instructions) -> None:
    able = every.constitution.principles[:2]
    prompts = [prompt(f"{number}", "talk") for number in range(400)]
    drawn = [every.principle_for(one, 3) for one in prompts]
    assert drawn == [draw(able, 3, one.id) for one in prompts]
    share = sum(p is not None and p.id == "warm" for p in drawn) / 400
    assert abs(share - 3 / 4) < 4 * (3 / 16 / 400) ** 0.5
    assert {every.principle_for(prompt(str(n)), 3) for n in range(20)} == {able[0]}
    only_warm = instructions(every.constitution, "warm")
    assert {only_warm.principle_for(one, 3) for one in prompts} == {able[1]}


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["plain-leters"], "no principle 'plain-leters'; did you mean 'plain-letters'?"),
        (["no-digits"], "principle 'no-digits' has no `contrast`; valid choices: plain-letters, warm"),
        (["warm", "x"], "no principle 'x'; valid choices: plain-letters, warm"),
    ],
)
def test_a_principle_that_cannot_be_drawn_is_named(constitution: Constitution, names: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        instructions(constitution, *names)
    assert str(caught.value) == f"sample.contrast.principles: {problem}"


def test_a_constitution_without_contrasts_is_refused(tmp_path: Path) -> None:
    without = "\n".join(line for line in CONSTITUTION.split("\n") if "contrast" not in line)
    with pytest.raises(ConfigError, match=r"^sample.contrast: no principle of constitution letters has a `contrast`; "):
        instructions(constitution_of(without, tmp_path))


def test_a_prompt_to_which_no_principle_applies_is_a_failure_for_each_response(constitution: Constitution) -> None:
    counted: list[int] = []
    model = ScriptedChatModel(lambda request: "x", "policy")
    prompts = [prompt("plain"), prompt("warm", "talk")]
    only_warm = instructions(constitution, "warm")
    result = sample_contrasts(Speakers(model, None, counted.append), prompts, only_warm, HALVES, 0, "sample")
    assert [r.prompt_id for r in result.responses] == [prompts[1].id] * 4
    assert {(f.stage, f.id, f.reason) for f in result.failures} == {("sample", prompts[0].id, "no principle applies")}
    assert [f.detail for f in result.failures] == [f"response {i}: prompt tags: none" for i in range(4)]
    assert sum(counted) == 8
    with pytest.raises(DataError, match=r"4 of 8 responses failed .*; give a principle with a `contrast` no tags, or"):
        check_sample_failures(result, 0.02, "sample")


# ------------------------------------------------------------------------------------------------------ which pairs

Written = list[tuple[str, Literal["for", "against"]]]
WRITTEN = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from(["for", "against"])), max_size=8)


def responses(of: Prompt, written: Written, principle: str = "p") -> list[Response]:
    return [
        Response(
            id=f"{of.id} {index}",
            prompt_id=of.id,
            prompt=of.messages,
            index=index,
            text=text,
            finished=True,
            tokens=1,
            model="policy",
            origin=Origin(principle=principle, side=side),
        )
        for index, (text, side) in enumerate(written)
    ]


def sides(written: Written) -> tuple[list[str], list[str]]:
    return [t for t, side in written if side == "for"], [t for t, side in written if side == "against"]


@given(WRITTEN, st.none() | st.integers(1, 4), st.integers(0, 3), st.randoms())
def test_pairs_cross_the_two_sides_only_and_whatever_makes_none_is_counted(
    written: Written, per_prompt: int | None, seed: int, random: Any
) -> None:
    """By the definition: couples of a `for` and an `against` response, less equal texts, less those both ways."""
    one = prompt("one")
    rows = responses(one, written)
    couples = list(product(*sides(written)))
    equal = [c for c in couples if c[0] == c[1]]
    both = [c for c in couples if c[0] != c[1] and c[::-1] in couples]
    left = {frozenset(c) for c in couples if c not in equal and c not in both}

    pairs = make_pairs([one], rows, per_prompt, seed)
    found = {frozenset((pair.a, pair.b)) for pair in pairs}
    assert len(pairs) == len(found) == min(len(left), per_prompt or len(left)) and found <= left
    assert unpaired(rows) == {k: n for k, n in (("equal_texts", len(equal)), ("both_ways", len(both))) if n}

    crossed = pair_origins(pairs, rows)
    assert [crossed[pair.id].text for pair in pairs] == [a if (a, b) in couples else b for a, b in map(texts, pairs)]
    shuffled = random.sample(rows, len(rows))
    assert {p.id for p in make_pairs([one], shuffled, per_prompt, seed)} == {p.id for p in pairs}
    assert pair_origins([pair.swapped() for pair in pairs], shuffled) == crossed


def texts(pair: Pair) -> tuple[str, str]:
    return pair.a, pair.b


def test_sides_of_two_principles_or_of_none_make_no_pair() -> None:
    one = prompt("one")
    rows = responses(one, [("x", "for"), ("y", "against")])
    (other,) = responses(one, [("z", "against")], "q")
    plain = other.model_copy(update={"origin": None, "text": "w"})
    (pair,) = make_pairs([one], [*rows, other, plain], None, 0)
    assert set(texts(pair)) == {"x", "y"} and unpaired([*rows, other, plain]) == {}
    assert pair_origins([pair], rows)[pair.id] == PairOrigin("p", "x", "policy")


# --------------------------------------------------------------------------------------------------- whose label


@given(st.floats(0.5, 1, exclude_min=True), st.integers(0, 20), st.booleans())
def test_the_origins_label_is_for_the_side_that_was_asked_for_however_the_pair_is_held(
    constitution: Constitution, p_origin: float, seed: int, swap: bool
) -> None:
    one = prompt("one")
    rows = responses(one, [("x", "for"), ("y", "against")], "plain-letters")
    (pair,) = make_pairs([one], rows, None, seed)
    pair = pair.swapped() if swap else pair
    section = SampleSection.model_validate({"contrast": {"p_origin": p_origin}})
    (judgment,) = label_by_origin([pair], pair_origins([pair], rows), section, constitution, "r1", 5).judgments
    assert (judgment.p_of("x"), judgment.p_of("y")) == (p_origin, 1 - p_origin)
    assert judgment.p_a == (p_origin if pair.a == "x" else 1 - p_origin)
    assert (judgment.pair, judgment.source, judgment.annotator) == (pair, "ai", "origin:policy")
    (principle,) = judgment.principles
    assert (principle.principle, principle.p_a, principle.verdicts) == ("plain-letters", judgment.p_a, ())
    origin = judgment.provenance
    assert origin is not None and origin.sampling == {
        "temperature": 0.7,
        "top_p": 1.0,
        "max_tokens": 256,
        "p_origin": p_origin,
        "seed": 5,
    }
    assert (origin.judge, origin.judge_revision, origin.template) == ("policy", "r1", "contrast")
    assert (origin.constitution_hash, origin.aggregation) == (constitution.hash, "origin")


PS = st.floats(0, 1) | st.just(0.5)


@given(st.lists(st.tuples(PS, st.booleans()), max_size=6), st.booleans())
def test_both_agree_where_the_judge_prefers_what_was_written_under_for(
    said: list[tuple[float, bool]], agreed_only: bool
) -> None:
    """(P of the text under `for`, whether that is a)."""
    judgments, crossed = [], {}
    for number, (p, first) in enumerate(said):
        pair = Pair.of(prompt(str(number)), *(("x", "y") if first else ("y", "x")))
        crossed[pair.id] = PairOrigin("p", "x", "policy")
        p_a = p if first else 1 - p
        judgments.append(Judgment(pair=pair, source="ai", annotator="judge", p_a=p_a))
    result, agreement = hold_to_origin(JudgeResult(tuple(judgments), ()), crossed, agreed_only)
    liked = [judgment.p_of("x") for judgment in judgments]
    even = sum(abs(p - 0.5) <= 1e-12 for p in liked)
    with_it = sum(p > 0.5 + 1e-12 for p in liked)
    assert agreement == OriginAgreement(with_it, len(said) - even - with_it, even)
    for before, after, p in zip(judgments, result.judgments, liked, strict=True):
        kept = not agreed_only or p >= 0.5 - 1e-12
        assert after == (before if kept else before.model_copy(update={"p_a": 0.5}))


# ------------------------------------------------------------------------------------------------------- the stages


def contrast_recipe(folder: Path, model: str = "smollm2-135m", **changes: Any) -> Recipe:
    """Half of the answers in letters, half in digits."""
    settings: dict[str, Any] = {
        "prompts": 40,
        "prompts__heldout": 10,
        "sample__responses_per_prompt": 2,
        "evaluate__bootstrap_samples": 20,
    }
    recipe = small_recipe(folder, model, **(settings | {"sample__contrast": {"labels": "origin"}} | changes))
    (folder / "letters.yaml").write_text(CONSTITUTION.partition("  - id: no-digits")[0])
    return recipe


def answer(request: ChatRequest) -> Reply:
    """Letters when told so, but every fourth seed forgets what it was told and writes both."""
    told = request.messages[0].content
    first, second = f"{request.seed:x}", f"{request.seed}"
    text = "".join(c for c in first if c.isalpha()) if told == PLAINLY else second
    if request.seed % 4 == 0:
        text = second + "abcdef" * (told != PLAINLY)
    return Reply(text=text, finish_reason="stop", completion_tokens=2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[ChatRequest]]:
    """Requests by model: policies are scripts, and the judge is one that likes letters."""
    seen: dict[str, list[ChatRequest]] = {"judge": [], "policy": []}

    def opened(config: Any) -> ScriptedChatModel:
        name = "judge" if config.backend == "scripted" else "policy"

        def reply(request: ChatRequest) -> Any:
            seen[name].append(request)
            if name == "policy":
                return answer(request)
            first, second = map(letters, shown(request))
            return choose(0.8 * (first - second))

        return ScriptedChatModel(reply, name)

    monkeypatch.setattr("rlaif.models.open.open_model", opened)
    measure_nothing(monkeypatch)
    return seen


def labelled(recipe: Recipe, run: Run) -> tuple[dict[str, Any], dict[str, Any], list[Judgment], list[Preference]]:
    """Facts of sample and label, judgments and preferences."""
    facts = stages.sample(recipe, run), stages.label(recipe, run)
    stages.pairs(recipe, run)
    return *facts, read_jsonl(run.judgments, Judgment), read_jsonl(run.preferences, Preference)


def test_labels_of_origin_ask_no_judge_and_train_on_the_plain_prompt(
    tmp_path: Path, asked: dict[str, list[ChatRequest]]
) -> None:
    recipe, run = contrast_recipe(tmp_path), Run(tmp_path / "run")
    sample_facts, facts, judgments, preferences = labelled(recipe, run)
    assert {said(request)[0] for request in asked["policy"]} == {f"system: {PLAINLY}", f"system: {LEARNEDLY}"}
    assert not asked["judge"]
    assert sample_facts["prompts_by_principle"] == {"plain-letters": 30}
    assert facts == {
        "pairs": 30,
        "unlabelled": 0,
        "judge_calls": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }
    assert run.failures.exists() and not read_jsonl(run.failures, Failure)
    written = {(r.prompt_id, r.text): r.origin for r in read_jsonl(run.responses, Response)}
    assert len(judgments) == len(preferences) == 30
    for row in preferences:
        assert [m.role for m in row.prompt] == ["user"] and row.p_chosen == 0.9
        chosen, rejected = (written[row.prompt_id, side[0].content] for side in (row.chosen, row.rejected))
        assert chosen is not None and rejected is not None and (chosen.side, rejected.side) == ("for", "against")


@pytest.mark.parametrize("labels", ["judge", "both"])
def test_the_judge_labels_the_same_pairs_and_is_held_against_their_origin(
    tmp_path: Path, asked: dict[str, list[ChatRequest]], capsys: pytest.CaptureFixture[str], labels: str
) -> None:
    recipe, run = contrast_recipe(tmp_path, sample__contrast={"labels": labels}), Run(tmp_path / "run")
    _, facts, judgments, preferences = labelled(recipe, run)
    assert len(asked["judge"]) == 2 * 30 and facts["judge_calls"] == 60
    crossed = pair_origins([j.pair for j in judgments], read_jsonl(run.responses, Response))
    principles = [j.principles[0].p_a for j in judgments]
    letters_more = [letters(j.pair.a) - letters(j.pair.b) for j in judgments]
    assert all((p > 0.5) == (n > 0) for p, n in zip(principles, letters_more, strict=True)), "what it says stays"
    right = [
        (letters_more[i] > 0) == (crossed[j.pair.id].text == j.pair.a) and letters_more[i] != 0
        for i, j in enumerate(judgments)
    ]
    with_it, against, even = (facts[f"judge_{name}"] for name in ("with_origin", "against_origin", "even"))
    assert (with_it, against + even) == (sum(right), 30 - sum(right)) and 0 < with_it < 30
    told = capsys.readouterr().out
    assert f"the judge prefers the response written under `for` in {with_it} of 30 pairs" in told
    assert ("; the others become ties" in told) == (labels == "both")
    ties = [j for j in judgments if j.p_a == 0.5]
    if labels == "both":
        assert len(ties) == 30 - with_it and not any(j.p_raw for j in ties)
        assert {row.pair_id for row in preferences} <= {j.pair.id for j, ok in zip(judgments, right, strict=True) if ok}
    else:
        assert len(ties) == even


def test_evaluation_samples_the_plain_prompt_and_counts_no_origin_as_a_judgment(
    tmp_path: Path, asked: dict[str, list[ChatRequest]]
) -> None:
    recipe, run = contrast_recipe(tmp_path), Run(tmp_path / "run")
    labelled(recipe, run)
    asked["policy"].clear()
    made(run)
    stages.evaluate(recipe, run)
    assert len(asked["policy"]) == 2 * 10
    assert {len(request.messages) for request in asked["policy"]} == {1}
    assert coverage_of(run) == (None, 0), "before and after are the same texts, so there is nothing to judge here"
    by_judge = contrast_recipe(tmp_path, sample__contrast={"labels": "judge"})
    stages.label(by_judge, run)
    stages.evaluate(by_judge, run)
    assert coverage_of(run) == (1, 30)


def coverage_of(run: Run) -> tuple[float | None, int]:
    coverage = read_json(run.evaluation, EVALUATION)["judge"]["coverage"]
    return coverage["value"], coverage["judged"]


def test_equal_texts_are_counted_on_the_screen_and_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deaf(request: ChatRequest) -> str:
        return "same" if request.seed % 2 else f"{request.messages[0].content} {request.seed}"

    monkeypatch.setattr("rlaif.models.open.open_model", lambda config: ScriptedChatModel(deaf, "policy"))
    recipe = contrast_recipe(tmp_path, sample__responses_per_prompt=4)
    run = run_recipe(recipe, tmp_path / "run", ["sample", "label"])
    rows = read_jsonl(run.responses, Response)
    same = sum(
        a.text == b.text for a, b in product(rows, rows) if a.prompt_id == b.prompt_id and a.index < 2 <= b.index
    )
    assert same > 0
    assert run.read_manifest()["stages"]["label"]["equal_texts"] == same
    assert f"equal_texts {same}" in capsys.readouterr().out


def test_people_are_asked_about_the_same_pairs(tmp_path: Path, asked: dict[str, list[ChatRequest]]) -> None:
    recipe = contrast_recipe(tmp_path, sample__responses_per_prompt=4)
    run = run_recipe(recipe, tmp_path / "run", ["sample"])
    before = {pair.id for pair in read_questions(run, None, None, False).pairs}
    run_recipe(recipe, tmp_path / "run", ["label"])
    assert before == {j.pair.id for j in read_jsonl(run.judgments, Judgment)}
    assert len(before) == 30 * 4


def test_responses_that_have_lost_their_origin_are_refused(tmp_path: Path, asked: dict[str, list[ChatRequest]]) -> None:
    recipe, run = contrast_recipe(tmp_path), Run(tmp_path / "run")
    stages.sample(recipe, run)
    rows = read_jsonl(run.responses, Response)
    write_jsonl(run.responses, [row.model_copy(update={"origin": None}) for row in rows])
    with pytest.raises(DataError, match=r"responses.jsonl: responses without `origin`, which sample.contrast gives"):
        stages.label(recipe, run)


def test_a_changed_instruction_is_sampled_and_labelled_again(tmp_path: Path) -> None:
    for recipe, there in (
        (contrast_recipe(tmp_path), True),
        (contrast_recipe(tmp_path, sample__contrast=None), False),
    ):
        for stage in ("sample", "label"):
            files = {file.name for file in STAGES[stage].inputs(recipe, Run(tmp_path / "run"))}
            assert ({"contrast.jinja"} <= files) == there
        sample_files = {file.name for file in STAGES["sample"].inputs(recipe, Run(tmp_path / "run"))}
        assert ({"letters.yaml"} <= sample_files) == there


# ----------------------------------------------------------------------------------- what it does not go together with

HUMAN = [{"kind": "file", "path": "labels.jsonl"}]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sample__responses_per_prompt": 3}, "responses_per_prompt must be even with `contrast`, half for each"),
        (
            {"preferences__labels": {"kind": "ai", "pairs": "human", "human_data": HUMAN}},
            "preferences.labels.pairs is 'human', so nothing is sampled; set sample.contrast=null or pairs=sampled",
        ),
        ({"label__mode": {"kind": "revise"}}, "label.mode.kind is 'revise', which revises plain samples"),
        ({"label__audit": {"file": "a.json"}}, "label.audit is about the judge, which sample.contrast.labels=origin"),
        (
            {"reward__loss": {"kind": "regression"}, "label__mode": {"kind": "score"}},
            "reward.loss.kind is 'regression', which learns the judge's ratings alone; set sample.contrast.labels=",
        ),
        (
            {
                "sample__contrast": {"labels": "both"},
                "preferences__labels": {"kind": "mix", "human_data": HUMAN, "policy": {"kind": "debiased"}},
            },
            "preferences.labels.policy.kind is 'debiased', which would label by length alone the ties that ",
        ),
    ],
)
def test_what_would_do_nothing_or_wrong_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("(", r"\(")):
        contrast_recipe(tmp_path, **changes)
    contrast_recipe(tmp_path, **(changes | {"sample__contrast": None}))


def test_human_labels_alone_use_no_sample_whatever_it_says(tmp_path: Path) -> None:
    """So that an arm of a study may differ from the others in its labels only."""
    contrast_recipe(tmp_path, preferences__labels={"kind": "human", "human_data": HUMAN})


def test_overrides_turn_it_on_and_off() -> None:
    on = load_recipe("quickstart", ["sample.contrast={}"]).sample.contrast
    assert on is not None and (on.labels, on.principles) == ("origin", ())
    on = load_recipe("quickstart", ["sample.contrast.labels=both"]).sample.contrast
    assert on is not None and (on.labels, on.p_origin) == ("both", 0.9)
    assert load_recipe("quickstart", ["sample.contrast={}"], ["sample.contrast=null"]).sample.contrast is None


# ---------------------------------------------------------------------------------------- forecast, report, kills


COMPARE = "label.mode={kind: compare}"


def test_the_forecast_knows_what_is_read_and_judged() -> None:
    usual, origin, judge = (
        work(load_recipe("quickstart", ["label.pairs_per_prompt=null", *more]))
        for more in (["sample.contrast=null", COMPARE], ["sample.contrast={}", COMPARE], [COMPARE])
    )
    assert usual is not None and origin is not None and judge is not None
    assert origin.label == 0 and judge.label == pytest.approx(usual.label * 4 / 6)
    assert origin.sample == judge.sample > usual.sample
    assert origin[2:] == judge[2:] == usual[2:]


@pytest.mark.parametrize(
    ("labels", "said", "unsaid"),
    [
        ("origin", "written under two instructions, labelled by which of them it was", "the judge prefers"),
        ("judge", "the judge prefers what was written under <code>for</code> in 75% of 40", "are ties"),
        (
            "both",
            "the judge prefers what was written under <code>for</code> in 75% of 40, and the others are ties",
            "labelled by",
        ),
        (None, "", "two instructions"),
    ],
)
def test_the_page_says_how_pairs_were_written(tmp_path: Path, labels: str | None, said: str, unsaid: str) -> None:
    run = Run(tmp_path)
    section = "null" if labels is None else f"{{labels: {labels}}}"
    run.recipe.write_text(f"name: x\nsample: {{contrast: {section}}}\n")
    counts = {"judge_with_origin": 30, "judge_against_origin": 9, "judge_even": 1} if labels != "origin" else {}
    write_json(run.manifest, {"stages": {"label": {"pairs": 40, **counts}}})
    page = write_report(run.folder).read_text()
    assert said in page and unsaid not in page.partition("Recipe, resolved")[0]


KILLS = [
    Kill("sample", "replies", 2, after=True),
    Kill("label", "replies", 9, after=True),
    Kill("label", "replace", 2),
    Kill("pairs", "mark", 1),
]


def label_in_a_process(recipe: Recipe, folder: Path, kill: Kill | None) -> None:
    import os

    import torch

    torch.set_num_threads(1)
    os.environ["RLAIF_REPLIES"] = str(folder.parent / "replies.sqlite")
    if kill is not None:
        stage = STAGES[kill.stage]

        def armed(*arguments: Any) -> dict[str, Any]:
            arm(kill)
            return stage.run(*arguments)

        STAGES[kill.stage] = stage._replace(run=armed)
    run_recipe(recipe, folder, ["sample", "label", "pairs"])


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path, shallow_folder: str) -> None:
    recipe = contrast_recipe(
        tmp_path,
        shallow_folder,
        sample__contrast={"labels": "both"},
        sample__responses_per_prompt=4,
        sample__max_tokens=8,
        policy__batch_size=32,
        preferences__tie_margin=0.0,
        prompts=30,
    )
    peaceful, killed = Run(tmp_path / "peaceful" / "run"), Run(tmp_path / "killed" / "run")
    for run in (peaceful, killed):
        run.folder.parent.mkdir()
    assert exit_code(label_in_a_process, recipe, peaceful.folder, None) == 0
    ends = [exit_code(label_in_a_process, recipe, killed.folder, kill) for kill in KILLS]
    assert ends == [-signal.SIGKILL] * len(KILLS)
    assert exit_code(label_in_a_process, recipe, killed.folder, None) == 0
    for name in ("responses", "sample_failures", "judgments", "failures", "preferences"):
        one, other = getattr(peaceful, name), getattr(killed, name)
        assert one.read_bytes() == other.read_bytes(), name
    counts = [run.read_manifest()["stages"]["label"]["judge_with_origin"] for run in (peaceful, killed)]
    assert counts[0] == counts[1] > 0


def test_a_reward_model_learns_from_origins_what_the_instructions_say(
    tmp_path: Path, asked: dict[str, list[ChatRequest]], tiny_folder: str
) -> None:
    """A quarter of the responses forget what they were told. Held-out prompts are ranked by what was planted, which no
    label says outright: responses in letters above those in digits."""
    recipe = contrast_recipe(tmp_path, tiny_folder, prompts=170, preferences__tie_margin=0.0, reward__epochs=4)
    run = Run(tmp_path / "run")
    labelled(recipe, run)
    facts = stages.reward(recipe, run)
    assert facts["heldout_pairs"] > 20
    assert facts["heldout_correct"] / facts["heldout_pairs"] > 0.8
