"""Sampling: seeds and ids from content, failures kept apart, canonical order."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config.feedback import SampleSection
from rlaif.errors import DataError
from rlaif.feedback.sample import SampleResult, Speakers, check_sample_failures, sample_responses
from rlaif.models.engine import ChatRequest, Reply
from rlaif.models.scripted import ScriptedChatModel
from rlaif.records import Message, Prompt, Response

SECTION = SampleSection(responses_per_prompt=3, temperature=0.9, top_p=0.8, max_tokens=7)


def prompt(text: str) -> Prompt:
    return Prompt.of((Message(role="user", content=text),), ("t",))


def answer(request: ChatRequest) -> Reply:
    text = request.messages[-1].content
    if text == "broken":
        return Reply(error="timed out", prompt_tokens=99, completion_tokens=99)
    return Reply(
        text=f"  {text} {request.seed}\n",
        finish_reason="length" if text == "long" else "stop",
        prompt_tokens=5,
        completion_tokens=2,
    )


MODEL = ScriptedChatModel(answer, name="policy")


def run(texts: list[str], seed: int = 0, stage: str = "sample", n: int | None = None) -> SampleResult:
    return sample_responses(Speakers(MODEL), [prompt(text) for text in texts], SECTION, seed, stage, n=n)


def test_responses_carry_what_was_sampled() -> None:
    result = run(["short", "long"])
    assert [(r.prompt[0].content, r.index) for r in result.responses] == [
        (text, index) for text in ("short", "long") for index in range(3)
    ]
    first = result.responses[0]
    assert first.text == first.text.strip() and first.text.startswith("short ")
    assert (first.tokens, first.model, first.tags) == (2, "policy", ("t",))
    assert [r.finished for r in result.responses] == [True] * 3 + [False] * 3
    assert (result.prompt_tokens, result.completion_tokens) == (30, 12)
    assert len({r.id for r in result.responses}) == 6


def test_requests_carry_the_knobs() -> None:
    seen: list[ChatRequest] = []

    def note(request: ChatRequest) -> str:
        seen.append(request)
        return "x"

    sample_responses(Speakers(ScriptedChatModel(note)), [prompt("x")], SECTION, 0, "sample")
    assert {(r.temperature, r.top_p, r.max_tokens, r.labels) for r in seen} == {(0.9, 0.8, 7, ())}
    assert len({r.seed for r in seen}) == 3


def test_errors_are_failures_never_responses() -> None:
    result = run(["broken", "short"])
    assert {r.prompt[0].content for r in result.responses} == {"short"}
    assert [(f.stage, f.id, f.reason, f.detail) for f in result.failures] == [
        ("sample", prompt("broken").id, "model error", f"response {i}: timed out") for i in range(3)
    ]
    assert result.prompt_tokens == 15
    assert {f.stage for f in run(["broken"], stage="evaluate").failures} == {"evaluate"}


@given(st.permutations(["a", "b", "c", "d"]), st.integers(1, 4))
def test_a_response_depends_on_its_own_prompt_and_index_only(order: list[str], n: int) -> None:
    alone = {r.id: r for text in order for r in run([text], n=n).responses}
    assert {r.id: r for r in run(order, n=n).responses} == alone


def test_ids_and_seeds_are_what_they_were_before_there_were_instructions() -> None:
    """Told from elsewhere: labels, caches and folders of plain samples stay. Evaluation draws by the same section."""
    seeds = []

    def note(request: ChatRequest) -> str:
        seeds.append(request.seed)
        return "x"

    model = ScriptedChatModel(note, "policy")
    model.revision = "r1"
    for section in (SampleSection(responses_per_prompt=2), SampleSection(responses_per_prompt=2, contrast={})):
        seeds.clear()
        found = sample_responses(Speakers(model), [prompt("Why is the sky blue?")], section, 7, "sample").responses
        assert [r.id for r in found] == ["9c988d55ba166d15", "a1431a5542196876"]
        assert seeds == [6218630962431758415, 3615513189083802215]
        assert {r.origin for r in found} == {None}


def test_a_row_from_before_there_were_origins_is_read() -> None:
    (row,) = run(["x"], n=1).responses
    old = row.model_dump()
    del old["origin"]
    assert Response.model_validate(old) == row


def test_seed_stage_and_knobs_change_the_response() -> None:
    base = run(["x"]).responses
    for other in (run(["x"], seed=1).responses, run(["x"], stage="evaluate").responses):
        assert not {r.text for r in base} & {r.text for r in other}
        assert not {r.id for r in base} & {r.id for r in other}
    warmer = SECTION.model_copy(update={"temperature": 0.1})
    warm = sample_responses(Speakers(MODEL), [prompt("x")], warmer, 0, "sample")
    assert not {r.id for r in base} & {r.id for r in warm.responses}


def test_progress_counts_responses() -> None:
    seen = count()
    speakers = Speakers(MODEL, None, lambda n: [next(seen) for _ in range(n)])
    sample_responses(speakers, [prompt("x"), prompt("y")], SECTION, 0, "sample")
    assert next(seen) == 6


def test_nothing_to_sample() -> None:
    assert run([]) == SampleResult((), (), 0, 0)


def test_failures_within_the_limit_are_let_pass() -> None:
    result = run(["broken", *map(str, range(149))])  # 3 of 450 responses
    check_sample_failures(result, 0.02, "sample")
    check_sample_failures(run([]), 0.0, "sample")
    with pytest.raises(DataError) as caught:
        check_sample_failures(result, 0.005, "sample")
    assert str(caught.value) == (
        "sample: 3 of 450 responses failed (0.7%, limit 0.5%); first: model error (response 0: timed out); "
        "run again to ask only for what is missing, or raise label.max_failures"
    )
    with pytest.raises(DataError, match="3 of 3 responses failed"):
        check_sample_failures(run(["broken"]), 1.0, "sample")  # nothing at all to go on with


@pytest.mark.parametrize(
    "error", ["prompt of 9 tokens does not fit a context of 8", "maximum context length is 4096 tokens"]
)
def test_a_prompt_that_is_too_long_is_not_asked_again_in_vain(error: str) -> None:
    model = ScriptedChatModel(lambda request: Reply(error=error))
    result = sample_responses(Speakers(model), [prompt("x")], SECTION, 0, "sample")
    with pytest.raises(DataError, match=r"shorten the prompts .* or raise policy\.max_model_len"):
        check_sample_failures(result, 0.02, "sample")


def test_reasoning_without_an_answer_is_a_failure_and_paid_for() -> None:
    def thinks(request: ChatRequest) -> Reply:
        if request.messages[-1].content == "hard":
            return Reply(finish_reason="reasoning", completion_tokens=7)
        return Reply(text="Yes.", completion_tokens=3)

    asked = [prompt("hard"), prompt("easy")]
    result = sample_responses(Speakers(ScriptedChatModel(thinks)), asked, SECTION, 0, "sample", n=1)
    assert [r.text for r in result.responses] == ["Yes."]
    (failure,) = result.failures
    assert failure.reason == "no answer after reasoning"
    assert failure.detail == "response 0: 7 tokens of reasoning and no answer after it"
    assert result.completion_tokens == 10
    with pytest.raises(DataError, match=r"raise sample.max_tokens or set policy.thinking=false"):
        check_sample_failures(result, 0.0, "sample")
