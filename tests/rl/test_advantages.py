"""GAE against numbers worked out by hand, a plain loop and Stable-Baselines3."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.buffers import RolloutBuffer

from dapbench.rl.advantages import discounted_returns_so_far, gae, reverse_recurrence


def random_rollout(seed: int, steps: int = 40, envs: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    terminations = rng.random((steps, envs)) < 0.08
    truncations = ~terminations & (rng.random((steps, envs)) < 0.08)
    return {
        "rewards": rng.normal(size=(steps, envs)),
        "values": rng.normal(size=(steps, envs)),
        "next_values": rng.normal(size=(steps, envs)),
        "terminations": terminations,
        "dones": terminations | truncations,
    }


def test_gae_by_hand() -> None:
    # γ = 0.5, λ = 0.5: δ = (1 + 0.5·2 − 1, 1 + 0.5·4 − 2) = (1, 1); A_1 = 1, A_0 = 1 + 0.25·1.
    column = lambda *numbers: np.array(numbers, dtype=float)[:, None]  # noqa: E731
    no = np.zeros((2, 1), dtype=bool)
    advantages = gae(column(1, 1), column(1, 2), column(2, 4), no, no, 0.5, 0.5)
    np.testing.assert_allclose(advantages, column(1.25, 1.0))


def test_termination_drops_the_next_value_and_truncation_keeps_it() -> None:
    one = np.ones((1, 1))
    yes, no = np.ones((1, 1), dtype=bool), np.zeros((1, 1), dtype=bool)
    assert gae(one, one, 10 * one, yes, yes, 0.9, 0.95)[0, 0] == pytest.approx(0.0)  # 1 − 1
    assert gae(one, one, 10 * one, no, yes, 0.9, 0.95)[0, 0] == pytest.approx(9.0)  # 1 + 0.9·10 − 1


@pytest.mark.parametrize("seed", range(5))
def test_gae_against_a_loop(seed: int) -> None:
    data, gamma, lam = random_rollout(seed), 0.97, 0.9
    expected, following = np.zeros_like(data["rewards"]), np.zeros(3)
    for t in reversed(range(len(expected))):
        bootstrap = np.where(data["terminations"][t], 0.0, data["next_values"][t])
        delta = data["rewards"][t] + gamma * bootstrap - data["values"][t]
        following = delta + gamma * lam * np.where(data["dones"][t], 0.0, following)
        expected[t] = following
    np.testing.assert_allclose(gae(**data, gamma=gamma, gae_lambda=lam), expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_gae_against_stable_baselines3(seed: int) -> None:
    """SB3 bootstraps a time limit by adding γV(s') to the reward, and takes V of the next row otherwise."""
    data, gamma, lam = random_rollout(seed), 0.99, 0.95
    steps, envs = data["rewards"].shape
    last_values = np.random.default_rng(seed + 100).normal(size=envs)
    running_on = np.concatenate([data["values"][1:], last_values[None]])
    data["next_values"] = np.where(data["dones"], data["next_values"], running_on)
    buffer = RolloutBuffer(steps, Box(-1, 1, (1,)), Box(-1, 1, (1,)), gae_lambda=lam, gamma=gamma, n_envs=envs)
    truncated = data["dones"] & ~data["terminations"]
    starts = np.ones(envs)
    for t in range(steps):
        reward = data["rewards"][t] + gamma * data["next_values"][t] * truncated[t]
        value = torch.as_tensor(data["values"][t])
        buffer.add(np.zeros((envs, 1)), np.zeros((envs, 1)), reward, starts, value, torch.zeros(envs))
        starts = data["dones"][t]
    buffer.compute_returns_and_advantage(torch.as_tensor(last_values), data["dones"][-1])
    ours = gae(**data, gamma=gamma, gae_lambda=lam)
    np.testing.assert_allclose(ours, buffer.advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours + data["values"], buffer.returns, rtol=1e-4, atol=1e-5)


def test_recurrence_does_not_leak_between_environments() -> None:
    inputs = np.array([[1.0, 100.0], [2.0, 200.0]])
    solution = reverse_recurrence(inputs, np.full((2, 2), 0.5))
    np.testing.assert_allclose(solution, [[2.0, 200.0], [2.0, 200.0]])


def test_discounted_returns_carry_over_rollouts_and_stop_at_ends() -> None:
    rewards, dones = np.ones((4, 1)), np.array([[False], [True], [False], [False]])
    returns, carry = discounted_returns_so_far(rewards, dones, np.array([2.0]), 0.5)
    np.testing.assert_allclose(returns[:, 0], [2.0, 2.0, 1.0, 1.5])
    np.testing.assert_allclose(carry, [1.5])
    _, carry = discounted_returns_so_far(rewards, np.ones((4, 1), dtype=bool), np.array([2.0]), 0.5)
    np.testing.assert_allclose(carry, [0.0])
