"""Decoding as a policy: logits are shaped as transformers shapes them, the divergence is the definition's, the search
finds optima that are known, and everything that draws from the policy's folder uses what was found."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rlaif.config.decode import Decode
from rlaif.errors import ConfigError
from rlaif.forms import OBJECT
from rlaif.jsonl import read_json
from rlaif.models.cache.model import _asked
from rlaif.models.decoded import DecodedModel
from rlaif.models.decoding import Decoding, Shape
from rlaif.models.engine import ChatRequest, ask
from rlaif.models.local.generate import Sampling, generate
from rlaif.models.local.shaping import Shaper, draw_logprobs, pick_tokens
from rlaif.models.local.tokens import encode_prompt
from rlaif.models.scripted import ScriptedChatModel
from rlaif.models.wire import request_body
from rlaif.pipeline import run_recipe
from rlaif.records import Message, Response
from rlaif.run_folder import Run
from rlaif.serve.guard.config import load_guard
from rlaif.serve.guard.service import open_guard, policy_of
from rlaif.testing import small_recipe, tiny_model, tiny_tokenizer
from rlaif.training.decode import Measured, Params, decoding_of, sampler_kl, search, token_ids, valued
from rlaif.training.policy_model import PolicyModel

SHAPE = Shape(top_k=45, repetition_penalty=1.3, banned=(7, 9), bias=((5, 2.5), (11, -3.0)))
ROWS = [[5, 6, 7, 8], [9, 9, 40, 11], [12]]
Z = tiny_tokenizer().convert_tokens_to_ids("Z")


@pytest.mark.parametrize(("top_k", "top_p"), [(50, 1.0), (45, 0.99)])
def test_logits_are_shaped_as_transformers_does(top_k: int, top_p: float) -> None:
    torch.manual_seed(0)
    logits_BV = torch.randn(3, 50) * 3
    shape = SHAPE.model_copy(update={"top_k": top_k})
    ours = draw_logprobs(Shaper(shape, ROWS, 50, logits_BV.device).shaped(logits_BV), 0.8, top_p)
    theirs = LogitsProcessorList(
        [
            SequenceBiasLogitsProcessor([[[5], 2.5], [[11], -3.0]]),
            RepetitionPenaltyLogitsProcessor(1.3),
            NoBadWordsLogitsProcessor([[7], [9]]),
            TemperatureLogitsWarper(0.8),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
        ]
    )
    for row, logits_V, own_V in zip(ROWS, logits_BV, ours, strict=True):
        wanted = theirs(torch.tensor([row]), logits_V[None].clone()).log_softmax(-1)[0]
        torch.testing.assert_close(own_V, wanted)


def test_tokens_are_drawn_as_likely_as_is_said() -> None:
    torch.manual_seed(1)
    logits_V = torch.randn(30) * 2
    uniform_B = (torch.arange(20_000) + 0.5) / 20_000
    drawn_B = pick_tokens(logits_V.expand(20_000, -1), uniform_B, 0.7, 0.85)
    share_V = torch.bincount(drawn_B, minlength=30) / 20_000
    torch.testing.assert_close(share_V, draw_logprobs(logits_V[None], 0.7, 0.85)[0].exp(), atol=1e-4, rtol=0)


def test_a_row_remembers_what_it_wrote_and_never_writes_what_is_banned() -> None:
    model = tiny_model(1)
    model.generation_config.eos_token_id = list(range(100, 130))  # rows end, and leave the batch, at many steps
    prompts, seeds = [[5, 6], [40, 41, 42], [60]] * 4, list(range(12))
    sampling = Sampling(20, 0.8, 0.95, Shape(repetition_penalty=1.8, banned=tuple(range(200, 262)), top_k=50))
    samples = generate(model, prompts, sampling, seeds, 0)
    assert len({len(sample.tokens) for sample in samples}) > 3
    for prompt, seed, sample in zip(prompts, seeds, samples, strict=True):
        draws = torch.rand(20, generator=torch.Generator().manual_seed(seed))
        row = [*prompt]
        for token, draw in zip(sample.tokens, draws, strict=False):
            with torch.no_grad():
                logits_BV = model(input_ids=torch.tensor([row])).logits[:, -1]
            shaped_BV = Shaper(sampling.shape, [row], 262, logits_BV.device).shaped(logits_BV)
            assert token == int(pick_tokens(shaped_BV, draw[None], 0.8, 0.95)) < 200
            row.append(token)


# ---------------------------------------------------------------------------------------------- the divergence


def logprobs_of(model: Any, ids: list[int], decoding: Decoding) -> np.ndarray:
    """Of the next token, in float64, by the definition."""
    with torch.no_grad():
        x = model(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy().copy()
    shape = decoding.shape or Shape()
    for token, value in shape.bias:
        x[token] += value
    for token in set(ids):
        x[token] = x[token] / shape.repetition_penalty if x[token] > 0 else x[token] * shape.repetition_penalty
    x[list(shape.banned)] = -np.inf
    if shape.top_k:
        x[x < np.sort(x)[-shape.top_k]] = -np.inf
    logs = log_softmax(x / decoding.temperature)
    order = np.argsort(-logs)
    before = np.cumsum(np.exp(logs[order])) - np.exp(logs[order])
    logs[order[before >= decoding.top_p]] = -np.inf
    return log_softmax(logs)


SHAPED = Shape(top_k=40, repetition_penalty=1.5, banned=(8,), bias=((30, 3.0),))
DECODING = Decoding(temperature=0.6, top_p=0.9, shape=SHAPED, system="Z.")
PROMPT = (Message(role="user", content="Why?"),)


def response_of(*tokens: int) -> Response:
    return Response(
        id=str(tokens),
        prompt_id="why",
        prompt=PROMPT,
        index=0,
        text="",
        finished=True,
        tokens=len(tokens),
        token_ids=tokens,
        model="m",
    )


def test_the_divergence_is_unbiased_for_whole_responses() -> None:
    """The mean over all first tokens, each as often as it is drawn, is the KL of responses of two tokens, by
    enumeration. The writer reads a system turn that the reference does not."""
    model = tiny_model(3)
    policy = PolicyModel(model, tiny_tokenizer())
    asked, plain = (encode_prompt(policy.tokenizer, each) for each in (DECODING.messages(PROMPT), PROMPT))
    assert asked != plain
    first = logprobs_of(model, asked, DECODING)
    drawn = np.flatnonzero(np.isfinite(first))
    reference = Decoding(temperature=1.2)
    truth = 0.0
    other = logprobs_of(model, plain, reference)
    for token in drawn:
        second, theirs = (
            logprobs_of(model, [*ids, int(token)], by) for ids, by in ((asked, DECODING), (plain, reference))
        )
        kept = np.isfinite(second)
        inner = np.exp(second[kept]) @ (second[kept] - theirs[kept])
        truth += np.exp(first[token]) * (first[token] - other[token] + inner)
    found = sampler_kl((policy, policy), DECODING, [response_of(int(t), 200) for t in drawn], 1.2, 64)
    assert min(found) > 0
    assert float(np.exp(first[drawn]) @ np.array(found)) == pytest.approx(truth, rel=1e-4)


def test_the_reference_is_no_way_from_itself() -> None:
    policy = PolicyModel(tiny_model(3), tiny_tokenizer())
    found = sampler_kl((policy, policy), Decoding(temperature=0.7), [response_of(90, 17, 2), response_of(20)], 0.7, 64)
    assert found == pytest.approx([0, 0], abs=1e-6)


# ---------------------------------------------------------------------------------------------- the search


def tilted(section: Decode) -> tuple[Any, list[Params]]:
    """A world of one token in ten that is worth 1: of all policies exp(reward / beta) x reference is the best, so the
    best bias of the token is 1 / beta, and any temperature but the reference's costs."""
    base, token = np.linspace(0, 1.5, 10), 0
    asked: list[Params] = []

    def measure(params: Params) -> Measured:
        asked.append(params)
        logits = base.copy()
        logits[token] += float(params["bias Z"] or 0)
        own, reference = log_softmax(logits / float(params["temperature"] or 1)), log_softmax(base)
        return Measured(float(np.exp(own[token])), float(np.exp(own) @ (own - reference)))

    return measure, asked


def section_of(**changes: Any) -> Decode:
    bias = [{"token": "Z", "low": 0, "high": 8}]
    return Decode.model_validate({"bias": bias, "top_p": None, "temperature": (0.5, 2.0), "trials": 120, **changes})


@pytest.mark.parametrize("search_kind", ["tpe", "cma_es"])
def test_the_best_setting_of_a_known_world_is_found(search_kind: str, tmp_path: Path) -> None:
    section = section_of(search=search_kind, kl_coef=0.25)
    trials = search(section, 0, tilted(section)[0], tmp_path / "trials.jsonl")
    best = max(trials, key=lambda trial: trial.value)
    assert best.params["bias Z"] == pytest.approx(4.0, abs=0.5)
    assert best.params["temperature"] == pytest.approx(1.0, abs=0.2)
    logits = np.linspace(0, 1.5, 10)
    most = 0.25 * (np.logaddexp.reduce(logits + 4.0 * (np.arange(10) == 0)) - np.logaddexp.reduce(logits))
    assert most - 0.005 < best.value < most + 1e-9  # beta log E exp(reward / beta): nothing is better


@pytest.mark.parametrize("search_kind", ["tpe", "cma_es"])
def test_a_search_that_was_killed_goes_on_to_the_same_trials(search_kind: str, tmp_path: Path) -> None:
    section = section_of(search=search_kind, trials=24, system=["Be brief."], ban=["x"], top_k=[1, 50])
    measure, asked = tilted(section)
    whole = search(section, 5, measure, tmp_path / "whole.jsonl")
    assert len(asked) == 24 and search(section, 6, measure, tmp_path / "other.jsonl") != whole

    def dies(params: Params) -> Measured:
        if len(asked) == 13:
            raise KeyboardInterrupt
        return measure(params)

    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        search(section, 5, dies, tmp_path / "killed.jsonl")
    assert search(section, 5, measure, tmp_path / "killed.jsonl") == whole
    assert len(asked) == 24 and (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


# ---------------------------------------------------------------------------------------------- a whole run

CONSTITUTION = """\
schema: rlaif/constitution/v1
id: zed
version: 1.0.0
title: A known letter
principles:
  - id: plain-letters
    compare: Which response has more plain letters?
  - id: has-a-zed
    check: {kind: regex_present, pattern: 'Z'}
"""


def recipe_of(folder: Path, model: str, **changes: Any) -> Any:
    section = {
        "kind": "decode",
        "trials": 12,
        "prompts": 24,
        "scoring": {"kind": "checks"},
        "temperature": None,
        "top_p": None,
        "kl_coef": 0.01,
        "bias": [{"token": "Z", "low": -2, "high": 8}],
        "system": ["Say Z."],
    }
    settings = {
        "sample__max_tokens": 6,
        "evaluate__bootstrap_samples": 50,
        "evaluate__prompts": 16,
        "evaluate__measures": [{"kind": "words"}],
    }
    recipe = small_recipe(folder, model, prompts=60, **settings, optimise=section | changes)
    (folder / "letters.yaml").write_text(CONSTITUTION)
    return recipe


@pytest.mark.usefixtures("blank_plots")
@pytest.mark.slow
def test_a_run_finds_the_token_that_pays_and_everything_draws_by_it(tmp_path: Path, tiny_folder: str) -> None:
    recipe = recipe_of(tmp_path, tiny_folder)
    run = run_recipe(recipe, tmp_path / "run")
    kept = read_json(run.policy / "decode.json", OBJECT)
    assert kept["best"]["reward"] > 0.9
    assert kept["reference"]["reward"] < 0.3
    decoding = Decoding.of(run.policy)
    assert decoding is not None and decoding.shape is not None
    ((token, bias),) = decoding.shape.bias
    assert token == Z and bias > 3

    # transformers reads the same from the folder.
    config = GenerationConfig.from_pretrained(run.policy)
    assert config.do_sample and config.sequence_bias == [[[Z], bias]] and config.temperature == 1.0
    model = AutoModelForCausalLM.from_pretrained(run.policy).eval()
    torch.manual_seed(0)
    written = model.generate(torch.tensor([[5, 6]] * 64), max_new_tokens=6, pad_token_id=0)[:, 2:]
    assert float((written == Z).any(1).float().mean()) > 0.8

    # So do evaluation, with its KL, and a guard.
    evaluation = read_json(run.evaluation, OBJECT)
    passes = evaluation["principles"]["has-a-zed"]["pass_rate"]
    assert passes["after"] > 0.8
    assert passes["before"] < 0.3
    assert evaluation["policy"]["kl"]["value"] == pytest.approx(kept["best"]["kl"], rel=0.35)
    assert "Decoding" in run.report.read_text()
    (tmp_path / "guard.yaml").write_text(f"schema: rlaif/guard/v1\nconstitution: {tmp_path}/letters.yaml\n")
    with open_guard(load_guard(str(tmp_path / "guard.yaml")), policy_of(str(run.folder))) as (guard, _):
        assert isinstance(guard.policy, DecodedModel)


def test_a_large_kl_keeps_the_reference(tmp_path: Path, tiny_folder: str) -> None:
    """Also of a policy that brings a setting of its own, of which nothing else is left in its folder."""
    own = shutil.copytree(tiny_folder, tmp_path / "own")
    kept = {"top_k": 20, "min_p": 0.2, "no_repeat_ngram_size": 3, "eos_token_id": [2, 5], "pad_token_id": 0}
    (own / "generation_config.json").write_text(json.dumps({"do_sample": True, **kept}))
    run = run_recipe(recipe_of(tmp_path, str(own), kl_coef=1e4, trials=6), tmp_path / "own-run", ["optimise"])
    config = GenerationConfig.from_pretrained(run.policy)
    assert (config.eos_token_id, config.pad_token_id, config.top_k) == ([2, 5], 0, 0)
    assert not config.min_p and not config.no_repeat_ngram_size
    run = run_recipe(recipe_of(tmp_path, tiny_folder, kl_coef=1e4, trials=6), tmp_path / "run", ["optimise"])
    kept = read_json(run.policy / "decode.json", OBJECT)
    assert kept["best"] == kept["reference"] and kept["best"]["kl"] == pytest.approx(0, abs=1e-5)
    assert all(trial["value"] < kept["reference"]["value"] for trial in kept["trials"])
    assert Decoding.of(run.policy) == Decoding(temperature=1.0)


def test_a_killed_stage_ends_with_the_same_bytes(
    tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, tiny_folder, trials=5, search="cma_es", temperature=(0.5, 1.5))
    whole = run_recipe(recipe, tmp_path / "whole", ["optimise"])
    calls = []

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return valued(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("rlaif.training.decode.valued", dies)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, tmp_path / "killed", ["optimise"])
    again = run_recipe(recipe, tmp_path / "killed", ["optimise"])
    for name in ("decode.json", "generation_config.json"):
        assert (again.policy / name).read_bytes() == (whole.policy / name).read_bytes()
    assert again.metrics.read_bytes() == whole.metrics.read_bytes()


# ---------------------------------------------------------------------------------------------- refused, and as before


def test_what_cannot_be_searched_is_refused_before_any_work(tmp_path: Path, tiny_folder: str) -> None:
    for changes, said in (
        ({"ban": ["ab"]}, r"optimise\.ban: 'ab' is not one token of the policy's tokenizer but 'a', 'b'"),
        ({"bias": [{"token": "né", "low": 0, "high": 1}]}, r"optimise\.bias: 'né' is not one token"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_recipe(recipe_of(tmp_path, tiny_folder, **changes), tmp_path / "refused")
        assert not Run(tmp_path / "refused").responses.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": None, "bias": ()}, "nothing is searched"),
        ({"temperature": (1.0, 0.5)}, "temperature: a range from low to high, not 1 to 0.5"),
        ({"search": "cma_es", "temperature": None}, "two ranges at least"),
        ({"ban": ["Z"]}, "'Z' is there twice"),
        ({"bias": [{"token": "Z", "low": 0, "high": 300}]}, "less than or equal to 100"),
    ],
)
def test_a_search_without_sense_is_no_section(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        section_of(**changes)


def test_special_tokens_are_known_by_their_names() -> None:
    section = section_of(ban=["<|im_end|>", "q"])
    ids = token_ids(tiny_tokenizer(), section)
    assert ids["<|im_end|>"] == 2 and ids["Z"] == Z
    params: Params = {"temperature": 1.1, "ban <|im_end|>": True, "ban q": False, "bias Z": 1.5}
    found = decoding_of(params, section, ids, Decoding(temperature=1.0, top_p=0.9))
    assert found == Decoding(temperature=1.1, top_p=0.9, shape=Shape(banned=(2,), bias=((Z, 1.5),)))


def test_a_setting_survives_its_files(tmp_path: Path) -> None:
    decoding = Decoding(temperature=0.7, top_p=0.9, shape=SHAPE, system="Be brief.")
    assert Decoding.of(tmp_path) is None
    model = tiny_model()
    for name, value in decoding.generation_config.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(tmp_path)
    (tmp_path / "decode.json").write_text(json.dumps({"system": "Be brief."}))
    assert Decoding.of(tmp_path) == decoding


def test_a_request_without_a_shape_is_what_it_was() -> None:
    request = ChatRequest(messages=(Message(role="user", content="x"),), temperature=0.7)
    shaped = request.model_copy(update={"shape": SHAPE})
    assert "shape" not in _asked(request) and _asked(shaped) == _asked(request) | {
        "shape": SHAPE.model_dump(mode="json")
    }
    body = request_body(request, "m", None, {})
    assert not {"top_k", "repetition_penalty", "logit_bias"} & body.keys()
    assert request_body(shaped, "m", None, {}) == body | {
        "top_k": 45,
        "repetition_penalty": 1.3,
        "logit_bias": {"5": 2.5, "11": -3.0, "7": -100.0, "9": -100.0},
    }


def test_a_server_is_told_what_differs_from_its_rest() -> None:
    assert Shape().wire == {}
    assert Shape(top_k=1).wire == {"top_k": 1}
    assert Shape(banned=(1,)).wire == {"logit_bias": {"1": -100.0}}
    assert Shape(repetition_penalty=0.9).wire == {"repetition_penalty": 0.9}


def test_the_system_turn_takes_the_place_of_the_prompts() -> None:
    seen = []

    def echo(request: ChatRequest) -> str:
        seen.append(request)
        return "yes"

    model = DecodedModel(ScriptedChatModel(echo), Decoding(temperature=0.3, system="New."))
    old = (Message(role="system", content="Old."), Message(role="user", content="x"))
    ask(model, [ChatRequest(messages=old), ChatRequest(messages=old[1:])])
    assert {m.content for r in seen for m in r.messages} == {"New.", "x"} and {r.temperature for r in seen} == {0.3}
    assert math.isclose(seen[0].top_p, 1.0)
