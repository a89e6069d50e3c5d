"""Asking through a Ray cluster: the replies and bytes of one process, whatever is lost on the way; what is refused."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.shards import pairs
from rlaif.audits.requirement import identity
from rlaif.config import Recipe, dump_recipe
from rlaif.config.feedback import LabelSection
from rlaif.config.judging import CompareMode
from rlaif.config.models import ClientModel, LocalModel, RayModel, RayPolicy, ScriptedModel, with_weights
from rlaif.constitution import Constitution, load_constitution
from rlaif.errors import ConfigError, ModelError
from rlaif.feedback.judge import SingleJudge, judge_by_mode, judge_shards
from rlaif.feedback.judge.shards import written
from rlaif.jsonl import lines_of
from rlaif.models.cache import CachedModel, shared
from rlaif.models.engine import ChatRequest, Elsewhere, Likelihood, Reply, ask
from rlaif.models.local.model import LocalChatModel
from rlaif.models.open import open_model
from rlaif.models.ray import cluster as connection
from rlaif.models.ray.worker import Worker, answered, packed, packed_replies, unpacked, unpacked_replies
from rlaif.models.scripted import ScriptedChatModel
from rlaif.pipeline import STAGES, run_recipe
from rlaif.records import Message, Pair
from rlaif.run_folder import Run
from rlaif.testing import small_recipe
from tests import unlucky_judge
from tests.forked import exit_code
from tests.test_modes import MODES, judged, recipe_with

pytest.importorskip("ray", reason="needs the extra `ray`")


def request(text: str, **changes: Any) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), **changes)


MANY = [request(f"question {n}", seed=n) for n in range(200)]


def through_ray(function: str, **changes: Any) -> RayModel:
    return RayModel(
        engine=ScriptedModel(model=f"tests.unlucky_judge:{function}"), **{"workers": 2, "window": 8} | changes
    )


# -------------------------------------------------------------------------------------------------- without a cluster


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": 0}, "greater than or equal to 1"),
        ({"window": 0}, "greater than or equal to 1"),
        ({"gpus": -1}, "greater than or equal to 0"),
        ({"engine": {"backend": "ray", "workers": 1}}, "does not match any of the expected tags"),
        (
            {"engine": {"backend": "ray", "workers": 1, "engine": {"backend": "scripted", "model": "a:b"}}},
            "expected tags",
        ),
    ],
)
def test_what_is_no_section_is_refused(changes: dict[str, Any], said: str) -> None:
    values = {"engine": {"backend": "scripted", "model": "a:b"}, "workers": 1}
    with pytest.raises(ValidationError, match=said):
        RayModel.model_validate(values | changes)
    with pytest.raises(ValidationError, match="expected tags"):
        RayPolicy.model_validate(values)  # a script has no weights


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'^Ray is not installed: pip install "rlaif\[ray\]"$'):
        open_model(through_ray("parrot"))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("nowhere.invalid:6379", "no Ray cluster answers there"),
        ("[::1]:70000", "no Ray cluster answers there"),
        ("ray://127.0.0.1:10001", "ray job submit"),
        ("127.0.0.1", "must be host:port"),
    ],
)
def test_an_address_without_a_cluster_is_refused_in_one_line(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ModelError, match=said) as found:
        open_model(through_ray("parrot"))
    assert address in str(found.value) and "\n" not in str(found.value)
    assert connection._models == []


def test_what_travels_arrives_as_it_was() -> None:
    turns = (Message(role="system", content="Be kind."), Message(role="user", content="a long beginning: one"))
    alike = [
        ChatRequest(messages=turns, labels=("A", "B"), shared_prefix=18),
        ChatRequest(messages=(*turns[:1], Message(role="user", content="a long beginning: ü")), shared_prefix=18),
        ChatRequest(messages=(Message(role="user", content="another"),), shared_prefix=30, answer="", seed=2**63 - 1),
        ChatRequest(messages=(Message(role="user", content="a long beginning: one"),), second=True, temperature=0.7),
    ]
    found = list(unpacked(packed(alike)))
    assert found == alike
    assert [(vars(r), r.model_dump_json()) for r in found] == [(vars(r), r.model_dump_json()) for r in alike]
    replies = [
        (3, Reply(error="no")),
        (0, Reply(text="ü", finish_reason="length", token_ids=(1, 2), prompt_tokens=7)),
        (1, Reply(label_logprobs={"A": float("-inf")})),
        (2, Reply(likelihood=Likelihood(logprob=-1.5, end_logprob=-0.1, tokens=3))),
    ]
    back = unpacked_replies(packed_replies(replies), 10)
    assert back == [(number + 10, reply) for number, reply in replies]
    assert [r.model_dump_json() for _, r in back] == [r.model_dump_json() for _, r in replies]
    assert len(packed([alike[0]] * 1000)) < 60_000


def test_the_workers_of_a_stage_change_nothing_that_it_declares(tmp_path: Path) -> None:
    """Finished labels stay finished, replies of an unknown revision are found again, and an audit stays the judge's."""

    def recipe(judge: Any, policy: Any = None) -> Recipe:
        changes = {} if policy is None else {"policy": policy}
        return small_recipe(tmp_path, "model", judge=judge.model_dump(), **changes)

    script = ScriptedModel(model="tests.scripted_judge:likes_short")
    one, other = (RayModel(engine=script, workers=n, window=n, gpus=n) for n in (1, 8))
    assert STAGES["label"].settings(recipe(one)) == STAGES["label"].settings(recipe(other))
    policies = [{"backend": "ray", "engine": {"backend": "local", "model": "m"}, "workers": n} for n in (1, 2)]
    settings = [STAGES["sample"].settings(recipe(script, policy)) for policy in policies]
    assert settings[0] == settings[1]
    client = ClientModel(model="m", base_urls=("http://a/v1",))
    silent = ScriptedChatModel(lambda request: "")
    keys = {shared(silent, config, "run")._scope for config in (client, RayModel(engine=client, workers=3))}
    assert len(keys) == 1
    plain, by_ray = recipe(script), recipe(one)
    constitution = load_constitution(plain.constitution)
    assert identity(plain, constitution) == identity(by_ray, constitution)


def test_a_policy_of_workers_says_whose_weights_are_trained() -> None:
    policy = RayPolicy(engine=LocalModel(model="m", revision="r", dtype="float32"), workers=2)
    assert (policy.model, policy.revision, policy.dtype) == ("m", "r", "float32")
    trained = with_weights(policy, "folder")
    assert (trained.model, trained.revision, trained.workers) == ("folder", None, 2)  # type: ignore[union-attr]


def test_what_an_engine_raises_comes_back_as_it_was() -> None:
    """What an actor raises would come with ten lines of Ray's."""
    assert str(Worker(ScriptedModel(model="tests.unlucky_judge:no")).open()).startswith("scripted model 'tests.unlucky")
    worker = Worker(ScriptedModel(model="tests.unlucky_judge:has_a_bug"))
    assert not isinstance(worker.open(), Exception)
    error = worker.do(pickle.dumps(answered), pickle.dumps(packed(MANY[:1])))
    assert isinstance(error, ConfigError) and "IndexError" in str(error) and "unlucky_judge.py:" in str(error)


@pytest.mark.parametrize("of", [1, 2, 3])
def test_workers_share_out_the_batches_of_one_process(of: int, tiny_folder: str) -> None:
    config = LocalModel(model=tiny_folder, dtype="bfloat16", batch_size=4)
    requests = [request("word " * (n % 7 + 1), labels=("A", "B")) for n in range(21)]
    requests += [request(f"Say {n}", max_tokens=3, temperature=1.0, seed=n) for n in range(6)]
    worker = Worker(config)
    assert worker.open()[:2] == (Path(tiny_folder).name, LocalChatModel(config).revision)  # type: ignore[index]
    shares = [[unpacked_replies(lot, 0) for lot in worker.share(packed(requests), n, of)] for n in range(of)]  # type: ignore[arg-type]
    joined = [shares[n % of][n // of] for n in range(sum(map(len, shares)))]
    assert joined == [list(lot) for lot in LocalChatModel(config).lots(requests)]


# ------------------------------------------------------------------------------------------------- several machines


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of three nodes, simulated on this machine, where `RAY_ADDRESS` says."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in connection.ENVIRONMENT.items():
            patch.setenv(name, value)
        marks = tmp_path_factory.mktemp("marks")
        patch.setenv("RLAIF_TEST_MARKS", str(marks))
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(2):
            found.add_node(num_cpus=1)
        patch.setenv("RAY_ADDRESS", found.address)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def marks(machines: Any) -> Path:
    """Where the workers' scripts say that they came by; empty."""
    folder = Path(os.environ["RLAIF_TEST_MARKS"])
    for mark in folder.iterdir():
        mark.unlink()
    return folder


def replies_of(config: RayModel, requests: Iterable[ChatRequest] = MANY) -> list[Reply]:
    with closing(open_model(config)) as model:
        found = dict(model.stream(requests))
    return [found[number] for number in range(len(found))]


EXPECTED = ask(ScriptedChatModel(unlucky_judge.parrot), MANY)


@pytest.mark.slow
def test_each_request_has_its_one_reply_also_if_workers_die(marks: Path) -> None:
    assert replies_of(through_ray("unlucky")) == EXPECTED
    assert {mark.name for mark in marks.iterdir()} == {"died at 60", "died at 130", "cannot"}


@pytest.mark.slow
def test_a_node_that_goes_in_the_middle_costs_no_reply(machines: Any) -> None:
    node = machines.add_node(num_cpus=1)

    def requests() -> Iterator[ChatRequest]:
        for number, one in enumerate(MANY):
            if number == 100:
                machines.remove_node(node, allow_graceful=False)
            yield one

    assert replies_of(through_ray("parrot", workers=3), requests()) == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("dies_of_one", r"^ray: a worker was lost: .* \(the last of 3 that had nothing but this work\)$"),
        ("cannot", r"^its server is gone \(the last of 3 that had nothing but this work\)$"),
        ("never_can", "^no such label$"),
    ],
)
def test_what_no_worker_can_do_is_one_line(function: str, said: str, marks: Path) -> None:
    with pytest.raises(ModelError, match=said) as found:
        replies_of(through_ray(function))
    assert "\n" not in str(found.value)
    if function == "never_can":
        assert len(list(marks.iterdir())) <= 2, "nobody else is asked what nobody has answered"
    assert connection._models == []


@pytest.mark.slow
def test_a_model_that_is_not_there_and_workers_that_find_no_place(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = RayModel(engine=LocalModel(model=str(tmp_path)), workers=2)
    with pytest.raises(ModelError, match=str(tmp_path)):
        open_model(missing)
    monkeypatch.setattr("rlaif.models.ray.crew.PATIENCE_S", 0.5)
    with pytest.raises(ModelError, match=r"no worker began within 0.5 s: each wants 4 GPU and the cluster has {'CPU'"):
        open_model(through_ray("parrot", gpus=4))


@pytest.mark.slow
def test_requests_are_read_as_workers_are_free_and_a_stream_may_be_left(machines: Any) -> None:
    taken = 0

    def counted() -> Iterator[ChatRequest]:
        nonlocal taken
        for one in chain(MANY, MANY):
            taken += 1
            yield one

    with closing(open_model(through_ray("parrot"))) as model:
        stream = model.stream(counted())
        for number, _ in enumerate(stream, 1):
            assert taken - number <= (2 * 2 + 2) * 8, "two windows for each worker, one beside, what is handed on"
            if number == 50:
                break
        stream.close()  # type: ignore[attr-defined]
        assert ask(model, MANY) == EXPECTED
        interleaved = zip(model.stream(MANY), model.stream(MANY), strict=True)
        assert {number for pair in interleaved for number, _ in pair} == set(range(len(MANY)))


@pytest.mark.slow
def test_a_local_model_gives_the_bytes_of_one_process_also_after_a_kill(
    machines: Any, tiny_folder: str, tmp_path: Path
) -> None:
    config = LocalModel(model=tiny_folder, dtype="bfloat16", batch_size=4)
    requests = [request("word " * (n % 7 + 1), labels=("A", "B")) for n in range(40)]
    requests += [request(f"Say {n}", max_tokens=3, temperature=1.0, seed=n) for n in range(10)]
    expected = ask(LocalChatModel(config), requests)
    with closing(CachedModel(open_model(RayModel(engine=config, workers=2)), tmp_path / "replies.sqlite")) as model:
        stopped = model.lots(requests)
        for _ in range(4):
            next(stopped)
        stopped.close()  # type: ignore[attr-defined]
        assert ask(model, requests) == expected
        assert model.reused > 0


# --------------------------------------------------------------------------------------------------------- whole runs


def run_until(recipe: Recipe, folder: Path, last: int, environment: dict[str, str]) -> None:
    """The label stage, by a process that dies when it reads what so many tasks gave; 0: it lives."""
    os.environ.update(environment)
    from rlaif.models.ray.model import RayChatModel

    count, found = 0, RayChatModel._found

    def deadly(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return found(*given)

    RayChatModel._found = deadly  # type: ignore[method-assign]
    run_recipe(recipe, folder, ["label"])


def by_ray(recipe: Recipe, **changes: Any) -> Recipe:
    judge = RayModel(engine=recipe.judge, **{"workers": 2, "window": 5} | changes)
    return recipe.model_copy(update={"judge": judge})


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["kind"])
def test_labels_are_those_of_one_process(mode: dict[str, Any], machines: Any, tmp_path: Path, tiny_folder: str) -> None:
    recipe = recipe_with(tmp_path, tiny_folder, mode)
    responses = run_recipe(recipe, tmp_path / "sampled", ["sample"]).responses
    one = judged(recipe, tmp_path / "one", responses, ["label"])
    many = judged(by_ray(recipe), tmp_path / "many", responses, ["label"])
    files = {path.name: path.read_bytes() for path in (one.judgments, one.failures, *one.evidence) if path.exists()}
    assert files == {name: (many.folder / name).read_bytes() for name in files}
    assert {path.name for path in many.evidence if path.exists()} <= files.keys()
    facts = [run.read_manifest()["stages"]["label"] for run in (one, many)]
    assert facts[0]["judge_calls"] == facts[1]["judge_calls"] > 0


TWO = Constitution.model_validate(
    {
        "schema": "rlaif/constitution/v1",
        "id": "two",
        "version": "1.0.0",
        "title": "Two",
        "principles": [{"id": f"p{n}", "compare": f"Which is better by rule {n}?"} for n in range(2)],
    }
)


def test_what_is_judged_elsewhere_is_written_as_here() -> None:
    judge = SingleJudge(CompareMode(), TWO, LabelSection(), 0)
    model = ScriptedChatModel(unlucky_judge.dies_judging, "judge")
    some = list(pairs(15))
    here, there = (
        judge(model, some),
        pickle.loads(pickle.dumps(written(pickle.loads(pickle.dumps(judge)), model, some))),
    )
    assert (there.cost, len(there.judgments), there.judgments[3]) == (here.cost, 15, here.judgments[3])
    assert list(there.judgments) == list(here.judgments)
    assert lines_of(there.judgments) == lines_of(here.judgments) and lines_of(there.scores) == b""


def test_progress_counts_what_is_judged_elsewhere_failures_too() -> None:
    def some_fail(request: ChatRequest) -> Reply:
        error = "no" if "Answer 4 a" in request.messages[-1].content else None
        return Reply(error=error, label_logprobs={"A": -0.2, "B": -1.9})

    model: Any = ScriptedChatModel(some_fail, "judge")
    each: Any = lambda work, parts: (work(model, part) for part in parts)  # noqa: E731
    model.elsewhere = Elsewhere(each, 24)
    steps: list[int] = []
    result = judge_by_mode(lambda _: nullcontext(model), list(pairs(15)), TWO, LabelSection(), 0, steps.append)
    assert (sum(steps), len(steps), len({failure.id for failure in result.failures})) == (15, 3, 1)
    assert len(result.judgments) == 14


@pytest.mark.slow
def test_pairs_are_judged_once_and_in_order_whatever_is_lost(machines: Any, marks: Path, tmp_path: Path) -> None:
    """Two workers are killed, a server goes, and a node."""
    node = machines.add_node(num_cpus=1)
    taken = 0

    def some() -> Iterator[Pair]:
        nonlocal taken
        for taken, pair in enumerate(pairs(300), 1):
            if taken == 150:
                machines.remove_node(node, allow_graceful=False)
            yield pair

    config = through_ray("dies_judging", workers=3, window=16)
    with closing(CachedModel(open_model(config), tmp_path / "replies.sqlite", "scope")) as model:
        results = judge_shards(lambda _: nullcontext(model), some(), TWO, LabelSection(), 0)
        lines, seen = b"", 0
        for result in results:
            lines, seen = lines + lines_of(result.judgments), seen + len(result.judgments)
            assert taken - seen <= 4 * (2 * 3 * (4 + 1) + 2), "what waits for a part that takes longer is bounded"
        assert model.asked == 0, "nothing is asked from here"
    assert len(list(marks.iterdir())) == 3
    with closing(CachedModel(open_model(config.engine), tmp_path / "replies.sqlite", "scope")) as here:
        expected = judge_by_mode(lambda _: nullcontext(here), list(pairs(300)), TWO, LabelSection(), 0)
        assert here.asked == 0, "what was answered there is kept here"
    assert lines == lines_of(expected.judgments)


@pytest.mark.slow
def test_a_killed_driver_goes_on_from_the_replies(
    machines: Any, tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with(tmp_path, tiny_folder, {"kind": "compare"})
    responses = run_recipe(recipe, tmp_path / "sampled", ["sample"]).responses
    one = judged(recipe, tmp_path / "one", responses, ["label"])
    monkeypatch.setenv("RLAIF_REPLIES", str(tmp_path / "of many.sqlite"))
    many = Run(tmp_path / "many")
    many.folder.mkdir()
    many.recipe.write_text(dump_recipe(by_ray(recipe)))
    many.responses.write_bytes(responses.read_bytes())
    for last in (2, 3):
        assert exit_code(run_until, by_ray(recipe), many.folder, last, dict(os.environ)) == -signal.SIGKILL
        assert not many.judgments.exists()
    assert exit_code(run_until, by_ray(recipe, workers=1), many.folder, 0, dict(os.environ)) == 0
    assert many.judgments.read_bytes() == one.judgments.read_bytes()


@pytest.mark.slow
def test_a_whole_run_samples_and_evaluates_through_a_cluster_of_its_own(
    tmp_path: Path, shallow_folder: str, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """Without `RAY_ADDRESS` one is started, and ends with each stage."""
    import ray

    ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    recipe = small_recipe(
        tmp_path,
        shallow_folder,
        prompts=16,
        prompts__heldout=4,
        optimise={"kind": "sft", "data": {"kind": "chosen"}},
        reward__epochs=1,
    )
    one = run_recipe(recipe, tmp_path / "one")
    policy = RayPolicy(engine=recipe.policy, workers=2)
    many = run_recipe(by_ray(recipe.model_copy(update={"policy": policy}), workers=1), tmp_path / "many")
    for name in ("responses.jsonl", "judgments.jsonl", "preferences.jsonl"):
        assert (one.folder / name).read_bytes() == (many.folder / name).read_bytes(), name
    found = [json.loads((run.folder / "evaluation.json").read_text()) for run in (one, many)]
    for evaluation in found:
        del evaluation["cost"]["seconds"]
    assert found[0] == found[1]
    assert not ray.is_initialized()
