"""Bradley-Terry strengths against their definition, and the meetings of a tournament against what it promises."""

from __future__ import annotations

from itertools import combinations

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from rlaif.feedback.judge.rank import ALPHAS, groups, order, pair_up, strengths

Wins = NDArray[np.float64]


def random_wins(seed: int, n: int, density: float, spread: float = 2.0) -> Wins:
    """Soft wins of a random connected table: one chain through all responses, and other pairs by chance."""
    rng = np.random.default_rng(seed)
    wins = np.zeros((n, n))
    chain = rng.permutation(n)
    chained = {frozenset(pair) for pair in zip(chain[:-1].tolist(), chain[1:].tolist(), strict=True)}
    for i, j in combinations(range(n), 2):
        if frozenset((i, j)) in chained or rng.random() < density:
            wins[i, j] = expit(spread * rng.normal())
            wins[j, i] = 1 - wins[i, j]
    return wins


def direct(wins: Wins) -> NDArray[np.float64]:
    """The maximum of sum_ij w_ij log sigma(theta_i - theta_j), found without choix."""

    def gaps(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        return theta[:, None] - theta[None, :]

    def loss(theta: NDArray[np.float64]) -> float:
        return -float((wins * log_expit(gaps(theta))).sum())

    def gradient(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        pull = wins * expit(-gaps(theta))
        return pull.sum(axis=0) - pull.sum(axis=1)

    found = minimize(loss, np.zeros(len(wins)), jac=gradient, method="BFGS", options={"gtol": 1e-9})
    return np.asarray(found.x - found.x.mean())


def predicted(theta: NDArray[np.float64]) -> Wins:
    return np.asarray(expit(theta[:, None] - theta[None, :]))


@pytest.mark.parametrize("seed", range(30))
def test_strengths_maximise_the_likelihood(seed: int) -> None:
    wins = random_wins(seed, n=2 + seed % 7, density=[0.0, 0.4, 1.0][seed % 3])
    theta = strengths(wins)
    np.testing.assert_allclose(predicted(theta), predicted(direct(wins)), atol=1e-6)
    np.testing.assert_allclose(theta, direct(wins), atol=5e-6)
    assert theta.mean() == pytest.approx(0, abs=1e-8)


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=8), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_strengths_behind_consistent_labels_are_recovered(true: list[float], seed: int) -> None:
    theta = np.array(true)
    seen = random_wins(seed, len(true), density=0.3) > 0
    found = strengths(np.where(seen, predicted(theta), 0.0))
    np.testing.assert_allclose(predicted(found), predicted(theta), atol=1e-6)


@given(st.integers(0, 99), st.integers(2, 7), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_numbering_means_nothing(seed: int, n: int, random: object) -> None:
    wins = random_wins(seed, n, density=0.5)
    shuffled = list(range(n))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    np.testing.assert_allclose(strengths(wins[np.ix_(shuffled, shuffled)]), strengths(wins)[shuffled], atol=1e-7)


@given(st.integers(0, 99), st.integers(2, 7))
@settings(deadline=None, max_examples=50)
def test_exchanging_wins_and_losses_turns_the_ranking_round(seed: int, n: int) -> None:
    wins = random_wins(seed, n, density=0.5)
    np.testing.assert_allclose(strengths(wins.T), -strengths(wins), atol=1e-7)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.999, 1 - 1e-6, 1 - 1e-13, 1.0])
def test_one_comparison_gives_its_own_label_back(p: float) -> None:
    """What the regulariser costs is less than the rounding of strengths, however decided the label is."""
    theta = strengths(np.array([[0.0, p], [1 - p, 0.0]]))
    assert expit(theta[0] - theta[1]) == pytest.approx(p, abs=1e-9)
    assert p != 0.5 or theta.tolist() == [0.0, 0.0]


def test_certain_wins_are_finite_and_keep_their_order() -> None:
    """A response that wins everything has no finite maximum of the likelihood: the regulariser bounds it."""
    wins = np.triu(np.ones((16, 16)), 1)
    theta = strengths(wins)
    assert np.isfinite(theta).all()
    assert order(theta) == list(range(16))
    upper = np.triu_indices(16, 1)
    np.testing.assert_allclose(predicted(theta)[upper], 1.0, atol=1e-9)


def test_where_choix_runs_in_circles_the_next_regulariser_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tables do that depends on the machine's rounding, so here choix is told to."""
    wins = random_wins(3, n=5, density=0.5)
    usual, really, tried = strengths(wins), choix.ilsr_pairwise_dense, []

    def circles(table: Wins, alpha: float, max_iter: int) -> Wins:
        tried.append(alpha)
        if alpha == ALPHAS[0]:
            raise RuntimeError(f"Did not converge after {max_iter} iterations")
        return np.asarray(really(table, alpha=alpha, max_iter=max_iter))

    monkeypatch.setattr(choix, "ilsr_pairwise_dense", circles)
    np.testing.assert_allclose(strengths(wins), usual, atol=1e-6)
    assert tried == list(ALPHAS[:2])


def test_groups_that_never_met_share_no_scale() -> None:
    wins = np.zeros((5, 5))
    wins[0, 3], wins[3, 0] = 0.9, 0.1
    wins[1, 4], wins[4, 1] = 0.2, 0.8
    assert groups(wins) == [[0, 3], [1, 4], [2]]
    theta = strengths(wins)
    np.testing.assert_allclose(theta[[0, 3]], [np.log(9) / 2, -np.log(9) / 2], atol=1e-6)
    np.testing.assert_allclose(theta[[1, 4]], [-np.log(4) / 2, np.log(4) / 2], atol=1e-6)
    assert theta[2] == 0


def test_equals_keep_their_numbers() -> None:
    wins = np.full((4, 4), 0.5) - np.eye(4) / 2
    assert strengths(wins).tolist() == [0.0] * 4
    assert order(np.array([0.0, 1.0, 0.0, 1.0])) == [1, 3, 0, 2]


# ------------------------------------------------------------------------------------------------ tournaments


def play(n: int, rounds: int, seed: int, allowed: set[tuple[int, int]] | None = None) -> list[list[tuple[int, int]]]:
    """The meetings of each round, strengths being a random truth."""
    truth = np.random.default_rng(seed).normal(size=n) * 2
    unmet = set(combinations(range(n), 2)) if allowed is None else set(allowed)
    wins = np.zeros((n, n))
    played = []
    for _ in range(rounds):
        meetings = pair_up(order(strengths(wins)), unmet, wins)
        unmet -= set(meetings)
        for i, j in meetings:
            wins[i, j] += expit(truth[i] - truth[j])
            wins[j, i] += expit(truth[j] - truth[i])
        played.append(meetings)
    return played


@given(st.integers(2, 12), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_nobody_plays_twice_in_a_round_and_no_pair_meets_twice(n: int, seed: int) -> None:
    played = play(n, n + 1, seed)
    for meetings in played:
        players = [player for meeting in meetings for player in meeting]
        assert len(players) == len(set(players))
    everything = [meeting for meetings in played for meeting in meetings]
    assert len(everything) == len(set(everything))
    # While K / 2 opponents or more are left for everyone, no round is short (Dirac's theorem).
    assert all(len(meetings) == n // 2 for meetings in played[: max(1, n // 2)])


@given(st.sampled_from([3, 5, 7, 9, 11]), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_nobody_sits_twice_before_everyone_has(n: int, seed: int) -> None:
    sat = [set(range(n)) - {player for meeting in meetings for player in meeting} for meetings in play(n, n // 2, seed)]
    assert all(len(players) == 1 for players in sat)
    assert len(set.union(*sat)) == n // 2


def test_three_play_each_other_once() -> None:
    assert sorted(meeting for meetings in play(3, 3, 0) for meeting in meetings) == [(0, 1), (0, 2), (1, 2)]


@given(st.integers(2, 16), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_few_rounds_join_all_responses(n: int, seed: int) -> None:
    """ceil(log2 K) rounds do where K is even, one more where someone sits; then every pair has a label."""
    rounds = int(np.ceil(np.log2(n))) + n % 2
    wins = np.zeros((n, n))
    for meetings in play(n, rounds, seed):
        for i, j in meetings:
            wins[i, j] = wins[j, i] = 1
    assert len(groups(wins)) == 1


def test_neighbours_meet_once_all_are_joined() -> None:
    wins = np.full((6, 6), 0.5) - np.eye(6) / 2
    unmet = list(combinations(range(6), 2))
    assert pair_up([5, 0, 3, 1, 4, 2], unmet, wins) == [(0, 5), (1, 3), (2, 4)]
    # The first two have met: they take their next neighbours, and nobody is left over.
    unmet.remove((0, 5))
    assert pair_up([5, 0, 3, 1, 4, 2], unmet, wins) == [(0, 1), (2, 4), (3, 5)]


def test_only_open_meetings_are_chosen() -> None:
    wins = np.zeros((4, 4))
    assert pair_up([0, 1, 2, 3], [(0, 2)], wins) == [(0, 2)]
    assert pair_up([0, 1, 2, 3], [(0, 1), (1, 2), (2, 3)], wins) == [(0, 1), (2, 3)]
    assert pair_up([0, 1, 2, 3], [], wins) == []
