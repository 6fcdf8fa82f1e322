"""Advantages and returns: generalised advantage estimation with correct ends of episodes."""

import numpy as np
from scipy.linalg import solve_banded


def reverse_recurrence(inputs: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """Solves y_t = x_t + d_t · y_{t+1}, y_T = 0, for every column of [T, E] at once.

    It is one upper bidiagonal system, so LAPACK solves it without a loop over time in Python.
    """
    steps, envs = inputs.shape
    diagonals = np.ones((2, steps * envs))
    upper = decay.astype(np.float64).T.copy()
    upper[:, -1] = 0.0  # an environment's last step does not run on into the next environment's first
    diagonals[0, 1:] = -upper.ravel()[:-1]
    solution = solve_banded((0, 1), diagonals, inputs.T.ravel(), check_finite=False, overwrite_ab=True)
    return solution.reshape(envs, steps).T


def discounted_returns_so_far(
    rewards: np.ndarray, dones: np.ndarray, start: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """The running discounted return G_t = r_t + γ G_{t-1} that reward scaling measures.

    Args:
        rewards, dones: [T, E]; a done starts the next step from zero.
        start: [E], the value carried over from the previous rollout.
        gamma: discount.

    Returns:
        G [T, E], and the value [E] to carry into the next rollout.
    """
    inputs = rewards.astype(np.float64)
    inputs[0] += gamma * start
    decay = np.zeros_like(inputs)
    decay[1:] = gamma * ~dones[:-1]
    returns = reverse_recurrence(inputs[::-1], decay[::-1])[::-1]
    return returns, returns[-1] * ~dones[-1]


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminations: np.ndarray,
    dones: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), bootstrapped at time limits.

    Args:
        rewards, values: [T, E].
        next_values: [T, E], V of the state that followed; where an episode ended, of its true last state.
        terminations: [T, E] bool: the episode reached a terminal state, whose value is zero.
        dones: [T, E] bool: the episode ended, by termination or by the time limit.
        gamma, gae_lambda: discount, and λ.

    Returns:
        Advantages [T, E], float64. Adding ``values`` gives the λ-returns.
    """
    deltas = rewards + gamma * next_values * ~terminations - values
    return reverse_recurrence(deltas, gamma * gae_lambda * ~dones)
