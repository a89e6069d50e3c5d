"""Optimiser and checkpoints: small bf16 updates count, stopping and going on changes no bit, bad gradients stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlaif.errors import TrainingError
from rlaif.training import session as session_module
from rlaif.training.checkpoints import Checkpoints
from rlaif.training.session import Group, Session, check_finite, narrow, widen


def parameters(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, 4, generator=generator).to(dtype).requires_grad_(True) for name in ("first", "second")}


def pull(params: dict[str, Tensor], step: int) -> None:
    """Gradients that depend on weights and step."""
    for name, p in params.items():
        (p.float() * (step + 1) + len(name)).square().mean().backward()


def copies(*groups: dict[str, Tensor]) -> list[Tensor]:
    return [p.detach().clone() for params in groups for p in params.values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_tiny_updates_of_bf16_weights_add_up(tmp_path: Path) -> None:
    """At 1.0 bf16 knows no step smaller than 1/256, so 200 updates of 1e-4 come to nothing without masters."""
    plain = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    optimizer = torch.optim.AdamW([plain], lr=1e-4, eps=1e-5, weight_decay=0.0)
    ours = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    session = Session([Group({"w": ours}, 1e-4)], tmp_path, max_grad_norm=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        plain.float().sum().backward()
        optimizer.step()
        ours.float().sum().backward()
        session.update("here")
    assert plain.tolist() == [1.0] * 4
    assert ours.tolist() == pytest.approx([0.98] * 4, abs=2**-8)
    assert ours.dtype == torch.bfloat16


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_in_float32_it_is_adamw_after_clipping(limit: float, tmp_path: Path) -> None:
    """A gradient below the limit stays as it is."""
    ours, theirs = parameters(0), parameters(0)
    session = Session([Group(ours, 0.01)], tmp_path, max_grad_norm=limit, weight_decay=0.1)
    optimizer = torch.optim.AdamW(theirs.values(), lr=0.01, eps=1e-5, weight_decay=0.1)
    for step in range(5):
        pull(ours, step)
        pull(theirs, step)
        expected = float(torch.nn.utils.clip_grad_norm_(theirs.values(), limit))
        optimizer.step()
        optimizer.zero_grad()
        assert session.update("here") == pytest.approx(expected)
        assert all(p.grad is None for p in ours.values())
    assert equal(copies(ours), copies(theirs))


def test_the_gradient_that_steps_is_clipped_each_group_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = parameters(0), parameters(1)
    session = Session([Group(one, 0.01), Group(other, 0.01)], tmp_path, max_grad_norm=0.25)
    norms: list[float] = []
    step = session.optimizer.step

    def spy() -> None:
        for group in session.optimizer.param_groups:
            norms.append(float(torch.cat([p.grad.flatten() for p in group["params"]]).norm()))
        step()

    monkeypatch.setattr(session.optimizer, "step", spy)
    pull(one, 9)
    pull(other, 0)
    before_clipping = session.update("here")
    assert before_clipping > 1
    assert norms == pytest.approx([0.25, 0.25], rel=1e-4)


def test_the_scale_multiplies_the_learning_rate_of_each_group(tmp_path: Path) -> None:
    one, other = parameters(0), parameters(1)
    session = Session([Group(one, 0.01), Group(other, 0.002)], tmp_path, max_grad_norm=1.0)
    before = copies(one), copies(other)
    pull(one, 0)
    pull(other, 0)
    session.update("here", scale=0.5)
    # AdamW's first step is the learning rate, whatever the gradient (eps aside).
    for params, start, rate in ((one, before[0], 0.005), (other, before[1], 0.001)):
        steps = torch.cat([(p - s).abs().flatten() for p, s in zip(copies(params), start, strict=True)])
        assert float(steps.median()) == pytest.approx(rate, rel=0.01)


def test_a_frozen_group_stands_still_and_starts_fresh_later(tmp_path: Path) -> None:
    one, other = parameters(0), parameters(1)
    session = Session([Group(one, 0.01), Group(other, 0.01)], tmp_path, max_grad_norm=1.0, weight_decay=0.1)
    start = copies(one)
    for step in range(3):
        pull(one, step)
        pull(other, step)
        session.update("here", moving=(1,))
        assert equal(copies(one), start)
        assert all(p.grad is None for p in one.values())
    assert not equal(copies(other), copies(parameters(1)))
    pull(one, 0)
    session.update("here")
    alone = parameters(0)
    fresh = Session([Group(alone, 0.01)], tmp_path, max_grad_norm=1.0, weight_decay=0.1)
    pull(alone, 0)
    fresh.update("here")
    assert equal(copies(one), copies(alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_going_on_from_a_checkpoint_changes_no_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    def run(session: Session, params: dict[str, Tensor], steps: range) -> None:
        for step in steps:
            pull(params, step)
            session.update("here", scale=1 / (step + 1))

    undisturbed = parameters(0, dtype)
    run(Session([Group(undisturbed, 1e-3)], tmp_path / "a", 1.0), undisturbed, range(8))

    stopped = parameters(0, dtype)
    session = Session([Group(stopped, 1e-3)], tmp_path / "b", 1.0)
    run(session, stopped, range(5))
    session.save(5, {"kl_coef": 0.123})
    run(session, stopped, range(5, 7))  # lost with the kill

    resumed = parameters(99, dtype)  # whatever the weights are when a session opens
    session = Session([Group(resumed, 1e-3)], tmp_path / "b", 1.0)
    assert session.restore() == (5, {"kl_coef": 0.123})
    run(session, resumed, range(5, 8))
    assert equal(copies(resumed), copies(undisturbed))


def test_without_a_checkpoint_there_is_nothing_done(tmp_path: Path) -> None:
    assert Session([Group(parameters(0), 0.01)], tmp_path / "none", 1.0).restore() == (0, {})


def test_the_newest_checkpoint_stands_alone_and_a_half_written_one_is_ignored(tmp_path: Path) -> None:
    params = parameters(0)
    session = Session([Group(params, 0.01)], tmp_path, 1.0)
    session.save(5, {})
    (tmp_path / ".writing-123.pt").write_bytes(b"half")
    assert Session([Group(params, 0.01)], tmp_path, 1.0).restore()[0] == 5
    session.save(10, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000010.pt"]


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    Session([Group(parameters(0), 0.01)], tmp_path, 1.0).save(5, {})
    other = Session([Group({"third": torch.ones(1, requires_grad=True)}, 0.01)], tmp_path, 1.0)
    with pytest.raises(TrainingError, match="belongs to other parameters"):
        other.restore()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("group", [0, 1])
def test_a_gradient_that_is_not_finite_stops_the_run_and_names_the_place(
    bad: float, group: int, tmp_path: Path
) -> None:
    groups = parameters(0), parameters(1)
    session = Session([Group(params, 0.01) for params in groups], tmp_path, 1.0)
    for params in groups:
        pull(params, 0)
    groups[group]["second"].grad[0, 0] = bad  # type: ignore[index]
    before = copies(*groups)
    with pytest.raises(TrainingError, match="ppo step 7"):
        session.update("ppo step 7")
    assert equal(copies(*groups), before)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_place() -> None:
    check_finite(torch.tensor(1.0), "here")
    with pytest.raises(TrainingError, match="reward step 3, pairs"):
        check_finite(torch.tensor(float("nan")), "reward step 3, pairs ['x']")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stepping_a_part_at_a_time_changes_no_bit(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(part: int) -> list[Tensor]:
        monkeypatch.setattr(session_module, "PART", part)
        one, other = parameters(0, dtype), parameters(1, dtype)
        session = Session([Group(one, 0.01), Group(other, 0.002)], tmp_path, 1e9, weight_decay=0.1)
        for step in range(4):
            pull(one, step)
            pull(other, step)
            session.update("here", moving=(1,) if step == 1 else None)
        return copies(one, other)

    whole = run(10**9)
    assert equal(run(1), whole)
    assert equal(run(5), whole)
    assert equal(run(30), whole)


def test_never_are_all_gradients_there_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "PART", 24)  # two tensors
    groups = [parameters(seed, torch.bfloat16) for seed in range(3)]
    session = Session([Group(params, 0.01) for params in groups], tmp_path, 1.0)
    held: list[int] = []
    step = session.optimizer.step

    def spy() -> None:
        held.append(
            sum(p.grad.numel() for g in session.optimizer.param_groups for p in g["params"] if p.grad is not None)
        )
        step()

    monkeypatch.setattr(session.optimizer, "step", spy)
    for params in groups:
        pull(params, 0)
    session.update("here")
    assert held == [24, 24, 24]


def test_float32_weights_are_their_own_masters(tmp_path: Path) -> None:
    whole, half = parameters(0), parameters(0, torch.bfloat16)
    session = Session([Group(whole, 0.01), Group(half, 0.01)], tmp_path, 1.0)
    first, second = (group["params"] for group in session.optimizer.param_groups)
    assert [m.data_ptr() for m in first] == [p.data_ptr() for p in whole.values()]
    assert all(m.dtype == torch.float32 and m.numel() == 0 for m in second)  # filled while they are stepped


def test_the_fused_kernel_takes_the_same_steps_up_to_rounding_and_resumes_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str, fused_from: int, stop: int = 6) -> list[Tensor]:
        monkeypatch.setattr(session_module, "FUSED_FROM", fused_from)
        for last in (stop, 6):
            params = parameters(0, torch.bfloat16)
            session = Session([Group(params, 1e-3)], tmp_path / folder, 1.0, weight_decay=0.1)
            assert session.optimizer.defaults["fused"] is (fused_from == 1)
            done, _ = session.restore()
            for step in range(done, last):
                pull(params, step)
                session.update("here")
                session.save(step + 1, {})
        return [widen(params[name].detach(), low) for name, low in session._lows[0].items()]

    plain, fused = run("plain", 10**9), run("fused", 1)
    for theirs, ours in zip(plain, fused, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert equal(run("resumed", 1, stop=3), fused)


def test_a_checkpoint_of_another_sharding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step-000005.1-of-4.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="made with 4 processes, sharded; go on as it was begun, or delete"):
        Session([Group(parameters(0), 0.01)], tmp_path, 1.0).restore()


def test_the_norm_is_that_of_all_parts_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters(0, torch.float32)
    session = Session([Group(params, 0.01)], tmp_path, 1.0)
    monkeypatch.setattr(session_module, "PART", 5)
    pull(params, 0)
    expected = torch.cat([p.grad.flatten() for p in params.values() if p.grad is not None]).double().norm()
    assert session.update("here") == pytest.approx(float(expected), rel=1e-6)


def test_a_checkpoint_that_was_cut_otherwise_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Session([Group(parameters(0), 0.01)], tmp_path, 1.0).save(1, {})
    monkeypatch.setattr(session_module, "PART", 5)
    with pytest.raises(TrainingError, match="made by another version of rlaif; delete"):
        Session([Group(parameters(0), 0.01)], tmp_path, 1.0).restore()


def test_masters_are_exact_beside_weights_that_are_them_rounded() -> None:
    """Every kind of float32: random bits, halves, the smallest, the largest; halves are rounded away from zero."""
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    masters = bits.view(torch.float32)
    masters = masters[masters.isfinite() & (masters.abs() < 3e38)]
    halves = torch.tensor([1.0, -1.0, 1e-41, -1e-41, 0.0, -0.0]).repeat(3)
    halves.view(torch.int32)[6:].add_(0x8000)
    masters = torch.cat([masters, halves])
    own, low = torch.empty_like(masters, dtype=torch.bfloat16), torch.empty_like(masters, dtype=torch.int16)
    narrow(masters.clone(), own, low)
    assert torch.equal(widen(own, low).view(torch.int32), masters.view(torch.int32))
    nearest = masters.bfloat16()
    tie = low == -(2**15)
    assert torch.equal(own[~tie], nearest[~tie])
    assert bool((own[tie].float().abs() > masters[tie].abs()).all())
    assert int(tie.sum()) >= 6


def test_a_checkpoint_of_an_older_rlaif_is_refused_in_one_line(tmp_path: Path) -> None:
    params = parameters(0)
    Checkpoints(tmp_path, sharded=False).save(5, {"masters": [params], "optimizer": {}, "extra": {}})
    with pytest.raises(TrainingError, match="another version of rlaif; delete"):
        Session([Group(params, 0.01)], tmp_path, 1.0).restore()
