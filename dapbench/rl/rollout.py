"""Collecting on-policy rollouts: one small policy call and one environment step at a time, nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dapbench.rl import snapshots
from dapbench.rl.environments import Environments, MujocoTasks, to_env_actions

STATE = ("observation", "running_return", "running_length")


@dataclass
class Rollout:
    """T steps of E environments under one policy.

    Attributes:
        observations: [T + 1, E, O] float32, raw; the last row is where the next rollout starts.
        actions: [T, E, A] float32, in the policy's units ([-1, 1] is the action space), as sampled.
        rewards: [T, E] float64, raw.
        terminations: [T, E] bool: a terminal state was reached.
        dones: [T, E] bool: the episode ended, by termination or by the time limit.
        ends: step and environment of each ended episode, in the order of ``final_observations``.
        final_observations: [F, O] float32: the last observation of each ended episode.
        episode_returns, episode_lengths: [F] of the ended episodes.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    dones: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]
    final_observations: np.ndarray
    episode_returns: np.ndarray
    episode_lengths: np.ndarray


class Collector:
    """Steps the environments; episodes run on from one rollout into the next.

    Args:
        envs: vectorised environments in SAME_STEP autoreset.
        steps: T, the steps of each environment in a rollout.
        seeds: one for each environment.
    """

    def __init__(self, envs: MujocoTasks | Environments, steps: int, seeds: list[int | None]) -> None:
        self.envs = envs
        self.steps = steps
        assert isinstance(envs.single_action_space, Box)
        self.action_space = envs.single_action_space
        self.observation: np.ndarray = envs.reset(seed=seeds)[0]
        self.running_return = np.zeros(envs.num_envs)
        self.running_length = np.zeros(envs.num_envs, dtype=np.int64)

    def collect(self, mean_action: Callable[[np.ndarray], np.ndarray], noise: np.ndarray) -> Rollout:
        """One rollout of a = mean_action(s) + noise.

        Args:
            mean_action: maps raw observations [E, O] to mean actions [E, A].
            noise: [T, E, A] float32, already scaled by the policy's standard deviation.
        """
        steps, envs = self.steps, self.envs.num_envs
        observations = np.empty((steps + 1, envs, self.observation.shape[-1]), dtype=np.float32)
        actions = np.empty_like(noise)
        rewards = np.empty((steps, envs))
        terminations, dones = np.empty((steps, envs), dtype=bool), np.empty((steps, envs), dtype=bool)
        ends, final, returns, lengths = [], [], [], []
        for t in range(steps):
            observations[t] = self.observation
            actions[t] = mean_action(observations[t]) + noise[t]
            env_actions = to_env_actions(actions[t], self.action_space)
            self.observation, rewards[t], terminations[t], truncations, infos = self.envs.step(env_actions)
            np.logical_or(terminations[t], truncations, out=dones[t])
            self.running_return += rewards[t]
            self.running_length += 1
            for e in np.flatnonzero(dones[t]).tolist():
                ends.append((t, e))
                final.append(infos["final_obs"][e])
                returns.append(self.running_return[e])
                lengths.append(self.running_length[e])
                self.running_return[e] = self.running_length[e] = 0
        observations[steps] = self.observation
        where = np.array(ends, dtype=np.int64).reshape(-1, 2)
        return Rollout(
            observations,
            actions,
            rewards,
            terminations,
            dones,
            (where[:, 0], where[:, 1]),
            np.array(final, dtype=np.float32).reshape(-1, observations.shape[-1]),
            np.array(returns),
            np.array(lengths, dtype=np.int64),
        )

    def snapshot(self) -> dict[str, Any]:
        """Where the episodes are: the state of every environment, what it showed last, the returns so far."""
        return {"environments": self.envs.state()} | snapshots.snapshot(self, STATE)

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts the environments where :meth:`snapshot` found them."""
        self.envs.restore(saved["environments"])
        snapshots.restore(self, {name: saved[name] for name in STATE})
