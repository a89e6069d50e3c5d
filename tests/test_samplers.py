"""Rollouts from a server: what is asked and checked, what is retried, and that a server which lags is found out.

The server is played by the model in the folder that it was told to serve; tests/test_vllm_rollouts.py has a real one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tenacity import wait_none
from transformers import AutoModelForCausalLM

from rlaif.config.models import ClientModel
from rlaif.config.optimise import Ppo
from rlaif.config.rollouts import VllmRollouts
from rlaif.config.training import Lora
from rlaif.errors import ModelError, TrainingError
from rlaif.models.client.tokens import Lost, TokenClient, TokenRequest
from rlaif.models.local.generate import Sampling
from rlaif.models.local.packing import Row
from rlaif.models.wire_tokens import Continuation
from rlaif.run_folder import Run
from rlaif.testing import HttpAnswer, Request, failed, fake_server, save_tiny
from rlaif.training.optimise.loop import train_policy
from rlaif.training.policy_model import PolicyModel
from rlaif.training.samplers import vllm
from rlaif.training.samplers.parity import Follower, LogprobPair, Parity, check
from rlaif.training.samplers.vllm import VllmSampler, _refuses, write_weights
from tests.fake_vllm import BUSY, HANG_UP, FakeVllm, fake_vllm
from tests.tiers import some
from tests.tiny_training import prompts, tiny_actors, tiny_method, tiny_tracker

LORA = Lora(rank=4, alpha=8.0)
SAMPLING = Sampling(max_tokens=8, temperature=0.7)
PROMPTS = [[1, 70, 80, 90, 2, 1], [1, 67, 68, 2, 1], [1, 70, 80, 90, 2, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Peaked distributions: a temperature shows."""
    return save_tiny(tmp_path_factory.mktemp("peaked"), initializer_range=0.3, num_hidden_layers=1)


def policy_of(folder: str, lora: Lora | None = LORA) -> PolicyModel:
    policy = PolicyModel.load(folder, None, torch.float32)
    policy.make_trainable(lora, seed=3)
    return policy


def learn(policy: PolicyModel, size: float) -> None:
    """Move every weight that learns, as an update would."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn_like(parameter))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    with fake_vllm() as fake:
        monkeypatch.setattr(vllm, "require_vllm", lambda: None)
        monkeypatch.setattr(vllm, "start_server", fake.start)
        monkeypatch.setattr(vllm, "TokenClient", partial(TokenClient, backoff=wait_none()))
        yield fake


def sampler_of(policy: PolicyModel, tmp_path: Path, **settings: Any) -> VllmSampler:
    return VllmSampler(VllmRollouts(max_model_len=1024, **settings), policy, tmp_path / "served")


# ------------------------------------------------------------------------------------------------ a good server


def test_it_writes_as_the_policy_and_says_how_likely(fake: FakeVllm, folder: str, tmp_path: Path) -> None:
    policy = policy_of(folder)
    learn(policy, 0.02)
    policy.model.generation_config.eos_token_id = [2, *range(140, 170)]
    sampler = sampler_of(policy, tmp_path)
    sampler.sync()
    written = sampler.sample(PROMPTS, SAMPLING, [5, 6, 5])
    assert written[0] == written[2] != written[1], "prompt and seed decide"
    for prompt, one in zip(PROMPTS, written, strict=True):
        assert one.finished == (one.tokens[-1] == 2 or 140 <= one.tokens[-1] < 170)
        assert one.finished or len(one.tokens) == SAMPLING.max_tokens
        scored = policy.without_gradients([Row(tuple(prompt), tuple(one.tokens))], 0.7, 999)
        assert one.logprobs == pytest.approx(scored.logprobs_BT[0].tolist(), abs=1e-4)
    sampler.close()
    assert fake.process.stopped == 1 and not (tmp_path / "served").exists()
    sampler.close()


def test_the_server_is_told_what_the_checks_rely_on(fake: FakeVllm, folder: str, tmp_path: Path) -> None:
    sampler = sampler_of(policy_of(folder), tmp_path, arguments=("--seed", "3"))
    sampler.sync()
    sampler.sync()
    sampler.sample(PROMPTS[:1], SAMPLING, [5])
    assert fake.environment["VLLM_SERVER_DEV_MODE"] == "1", "else it cannot be told to reload"
    assert (fake.config.dtype, fake.config.max_model_len) == ("float32", 1024)
    line = " ".join(fake.config.arguments)
    assert "--logprobs-mode processed_logprobs" in line and line.endswith("--seed 3")
    assert fake.server is not None
    paths = [request.path for request in fake.server.seen]
    assert paths.index("/collective_rpc") == paths.index("/reset_prefix_cache") - 1
    last = fake.server.seen[-1].body
    assert last["stop_token_ids"] == [2] and last["ignore_eos"] and last["seed"] == 5 and last["top_p"] == 1.0


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "all weights"])
@pytest.mark.parametrize("own_head", [True, False])
def test_the_folder_holds_the_merged_policy(folder: str, tmp_path: Path, lora: Lora | None, own_head: bool) -> None:
    policy = policy_of(folder, lora)
    learn(policy, 0.02)
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    for _ in range(2):
        write_weights(policy, tmp_path / "served", own_head=own_head)
    assert {path.name for path in tmp_path.iterdir()} == {"served"}
    after = policy.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the policy is as it was"
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "served").eval()
    shared = served.lm_head.weight.data_ptr() == served.model.embed_tokens.weight.data_ptr()
    assert shared != own_head and policy.model.config.tie_word_embeddings
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.no_grad():
        torch.testing.assert_close(served(ids).logits, policy.model(ids).logits, atol=1e-5, rtol=1e-4)
    with policy.adapter.off() if policy.adapter else pytest.MonkeyPatch.context(), torch.no_grad():
        untouched = torch.allclose(served(ids).logits, policy.model(ids).logits, atol=1e-3)
    assert untouched == (lora is None)


@some("kind", ["ppo"], ["rloo"])
def test_a_policy_learns_from_it_and_a_server_that_goes_deaf_ends_the_run(
    fake: FakeVllm, folder: str, tmp_path: Path, kind: str
) -> None:
    section = tiny_method(kind, steps=3, rollouts=VllmRollouts(max_model_len=1024), learning_rate=1e-2)
    actors = tiny_actors(folder, section)
    actors = dataclasses.replace(actors, sampler=sampler_of(actors.policy, tmp_path))

    def train(checks: Any) -> None:
        train_policy(actors, prompts(6), section, 0, tmp_path / "checkpoints", tiny_tracker(tmp_path), checks)

    def then_deaf(texts: Sequence[str], answered: Any) -> dict[str, float]:
        fake.deaf = len(Run(tmp_path).read_metrics("optimise")) == 1  # from the second step on
        return {}

    with pytest.raises(TrainingError, match="stale weights"):
        train(then_deaf)
    rows = Run(tmp_path).read_metrics("optimise")
    assert len(rows) == 2 and all(row["sampler_gap"] < 1e-4 for row in rows)


def test_weights_that_cannot_be_written_are_one_line(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match=r"cannot write the policy's weights for the server to .*file"):
        write_weights(policy_of(folder), tmp_path / "file" / "served", own_head=True)


# ------------------------------------------------------------------------------------------------ a server that lags


@some("size", [1e-4], [1e-2])
def test_a_server_that_follows_passes_and_a_deaf_one_does_not(
    fake: FakeVllm, folder: str, tmp_path: Path, size: float
) -> None:
    policy = policy_of(folder, None)
    sampler = sampler_of(policy, tmp_path)
    sampler.sync()
    assert sampler.parity is not None
    assert sampler.parity.gap < 1e-4 and sampler.parity.followed is None
    learn(policy, size)
    sampler.sync()
    assert sampler.parity.gap < 1e-4
    assert sampler.parity.followed == pytest.approx(1.0, abs=0.05)
    fake.deaf = True
    learn(policy, size)
    with pytest.raises(TrainingError, match=r"stale weights: .* moved 0% of the way .* fake\.log"):
        sampler.sync()


def test_a_server_that_stays_as_it_was_while_nothing_is_learnt_is_fine(
    fake: FakeVllm, folder: str, tmp_path: Path
) -> None:
    sampler = sampler_of(policy_of(folder), tmp_path)
    fake.deaf = True
    for _ in range(3):
        sampler.sync()
        assert sampler.parity is not None and sampler.parity.followed is None


def test_log_probabilities_at_another_temperature_are_found_out(fake: FakeVllm, folder: str, tmp_path: Path) -> None:
    fake.raw = True
    with pytest.raises(TrainingError, match=r"differ from the policy's by \S+ a token .*parity_tolerance 0\.1"):
        sampler_of(policy_of(folder), tmp_path).sync()


def says(seed: int, noise: float, tokens: int = 200) -> Callable[[torch.Tensor, torch.Tensor], LogprobPair]:
    """Both sides of true log-probabilities, each with rounding of its own."""
    random = torch.Generator().manual_seed(seed)

    def draw(server_N: torch.Tensor, policy_N: torch.Tensor) -> LogprobPair:
        rounding = [noise * torch.randn(tokens, generator=random, dtype=torch.float64) for _ in range(2)]
        return LogprobPair(server_N + rounding[0], policy_N + rounding[1])

    return draw


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("stale_from", [None, 0, 5])
def test_small_steps_under_rounding_are_seen_once_they_add_up(seed: int, stale_from: int | None) -> None:
    draw, follower = says(seed, 0.03), Follower()
    direction_N = torch.randn(200, generator=torch.Generator().manual_seed(seed + 99), dtype=torch.float64)
    found = []
    for step in range(30):
        policy_N = 0.02 * step * direction_N - 2
        server_N = policy_N if stale_from is None or step <= stale_from else 0.02 * stale_from * direction_N - 2
        found.append(follower.look(draw(server_N, policy_N)))
    shares = [share for share in found if share is not None]
    assert found[:2] == [None, None] and len(shares) >= 3
    if stale_from is None:
        assert min(shares) > 0.6 and max(shares) < 1.2
    else:
        stale = next(i for i, share in enumerate(found) if share is not None and share < 0.5)
        assert stale <= stale_from + 12


def test_a_server_that_says_the_very_same_again_is_stale_however_small_the_step() -> None:
    draw, follower = says(1, 0.03), Follower()
    true_N = torch.zeros(200, dtype=torch.float64)
    first = draw(true_N, true_N)
    assert follower.look(first) is None
    assert follower.look(first) is None, "nobody moved"
    assert follower.look(draw(true_N, true_N)) is None, "both moved, by less than can be judged"
    last = draw(true_N, true_N)
    follower.look(last)
    assert follower.look(last._replace(policy_N=last.policy_N + 1e-3)) == 0.0


@pytest.mark.parametrize("parity", [Parity(float("nan"), None), Parity(0.0, float("nan")), Parity(0.11, 1.0)])
def test_what_cannot_be_compared_does_not_pass(parity: Parity) -> None:
    with pytest.raises(TrainingError):
        check(parity, 0.1, "log")


# ------------------------------------------------------------------------------------------------ a server that fails


def test_passing_failures_are_retried_and_lasting_ones_name_the_prompt(
    fake: FakeVllm, folder: str, tmp_path: Path
) -> None:
    policy = policy_of(folder)
    sampler = sampler_of(policy, tmp_path)
    sampler.sync()
    good = sampler.sample(PROMPTS, SAMPLING, [5, 6, 7])
    met: list[HttpAnswer] = []

    def now_and_then(request: Request) -> HttpAnswer | None:
        if len(met) < 4:
            met.append(HANG_UP if len(met) % 2 else BUSY)
            return met[-1]
        return None

    fake.faults = now_and_then
    assert sampler.sample(PROMPTS, SAMPLING, [5, 6, 7]) == good and len(met) == 4
    fake.faults = lambda request: failed(400, "too long") if request.body["prompt"] == PROMPTS[1] else None
    with pytest.raises(
        TrainingError, match=r"1 of 3 rollouts failed; .*prompt '\.\.\.ab': HTTP 400: too long; see .*max_"
    ):
        sampler.sample(PROMPTS, SAMPLING, [5, 6, 7])
    fake.faults = lambda request: BUSY
    with pytest.raises(TrainingError, match=r"3 of 3 rollouts failed; .* failed after 5 tries: HTTP 500: oops"):
        sampler.sample(PROMPTS, SAMPLING, [5, 6, 7])
    fake.process.status = "exit status 1"
    with pytest.raises(ModelError, match=r"the vLLM server stopped .*its last words"):
        sampler.sample(PROMPTS, SAMPLING, [5, 6, 7])


@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        ("/collective_rpc", failed(404, "no such path"), "refused /collective_rpc: HTTP 404: no such path"),
        ("/collective_rpc", BUSY, "failed at /collective_rpc: failed after 5 tries: HTTP 500"),
        ("/reset_prefix_cache", HttpAnswer(body={"success": False}), "could not reset its prefix cache"),
    ],
)
def test_a_sync_that_fails_says_where(
    fake: FakeVllm, folder: str, tmp_path: Path, path: str, answer: HttpAnswer, message: str
) -> None:
    sampler = sampler_of(policy_of(folder), tmp_path)
    sampler.sync()
    fake.faults = lambda request: answer if request.path == path else None
    with pytest.raises(ModelError, match=message):
        sampler.sync()


ASK = TokenRequest((1, 2, 3), max_tokens=2, temperature=1.0, top_p=1.0, seed=0, end_tokens=(9,))


def reply(tokens: list[int] | None, logprobs: list[float] | None) -> dict[str, Any]:
    return {"choices": [{"token_ids": tokens, "logprobs": {"token_logprobs": logprobs}}]}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (reply([4, 5], [-1.0, 0.001]), Continuation([4, 5], [-1.0, 0.0])),
        (reply([9], [-1.0]), Continuation([9], [-1.0])),
        (reply([4], [-1.0]), Lost("the reply stops after 1 of 2 tokens without an end token")),
        (reply([4, 5, 9], [-1.0] * 3), Lost("the reply has 3 tokens, 2 were asked for")),
        (reply([4, 5], [-1.0]), Lost("the reply has 1 log-probabilities for 2 tokens")),
        (reply([4, 5], [-1.0, 0.5]), Lost("the reply has a log-probability of 0.5")),
        (reply([4, 5], [-1.0, -1e999]), Lost("the reply has a log-probability of -inf")),
        (reply([], []), Lost("the reply has no token ids")),
        (reply(None, [-1.0]), Lost("the reply has no token ids")),
        ({"choices": []}, Lost("the reply has no choices")),
    ],
)
def test_a_reply_is_checked_before_it_is_believed(body: dict[str, Any], expected: Continuation | Lost) -> None:
    with fake_server(lambda _: HttpAnswer(body=json.dumps(body).encode())) as server:
        client = TokenClient(ClientModel(model="policy", base_urls=(server.url,), max_tries=1))
        assert client.write([ASK]) == [expected]


def test_a_commands_answer_may_be_anything() -> None:
    assert _refuses(b'{"success": false}')
    for told in (b"", b"OK", b"[]", b"null", b"\xff", b"[" * 200_000, b'{"success": null}', b'{"success": true}'):
        assert not _refuses(told)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([None, {"2": {"logprob": -1.5}}, {"3": {"logprob": -0.5}}], [-1.5, -0.5]),
        ([None, {"2": {"logprob": -1.5}}], Lost("the reply has log-probabilities of 2 tokens, not of 3")),
        ([None, {"7": {"logprob": -1.5}}, None], Lost("the reply has no log-probability of token 2")),
    ],
)
def test_a_text_that_is_read_is_checked_as_well(told: list[Any], expected: list[float] | Lost) -> None:
    with fake_server(lambda _: HttpAnswer(body={"choices": [{"prompt_logprobs": told}]})) as server:
        client = TokenClient(ClientModel(model="policy", base_urls=(server.url,), max_tries=1))
        assert client.read([[1, 2, 3]]) == [expected]


def test_a_context_too_short_for_the_rollouts_is_refused_by_the_recipe() -> None:
    with pytest.raises(ValueError, match=r"rollouts\.max_model_len must be at least .* \(640\)"):
        Ppo(rollouts=VllmRollouts(max_model_len=639))
    Ppo(rollouts=VllmRollouts(max_model_len=640))
