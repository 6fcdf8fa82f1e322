"""Gymnasium's MuJoCo tasks many at a time: the simulations step in turn, all the rest is numpy on the whole batch.

Every number is the one that Gymnasium's own environments give, bit for bit: the constants are read from Gymnasium's
environment, which also resets the simulations, and the operations come in the order in which its code has them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from dapbench.rl import snapshots

GYMNASIUM = "1.4.0"  # whose code the tasks below repeat

Gather = Callable[[], np.ndarray]
Gatherer = Callable[..., Gather]
Outcome = tuple[np.ndarray, np.ndarray, np.ndarray]
# Of one task: what to keep from before a step, and what that and the actions [E, A] make of the step: observations
# [E, O], rewards [E] and terminations [E].
Task = tuple[Gather, Callable[[np.ndarray, np.ndarray], Outcome]]


def _ant(env: Any, gather: Gatherer) -> Task:
    states = env.model.nq + env.model.nv
    arrays = gather(lambda data: data.qpos, lambda data: data.qvel, lambda data: data.cfrc_ext)
    x = gather(lambda data: data.body(env._main_body).xpos[:1])
    skipped = 2 * bool(env._exclude_current_positions_from_observation)

    def after(before: np.ndarray, actions: np.ndarray) -> Outcome:
        values = arrays()
        state, forces = values[:, :states], np.clip(values[:, states:], *env._contact_force_range)
        low, high = env._healthy_z_range
        healthy = np.isfinite(state).all(axis=1) & (low <= state[:, 2]) & (state[:, 2] <= high)
        forward = ((x() - before) / env.dt)[:, 0] * env._forward_reward_weight
        costs = _control_cost(env, actions) + env._contact_cost_weight * _sum(np.square(forces))
        shown = (state[:, skipped:], forces[:, 6:]) if env._include_cfrc_ext_in_observation else (state[:, skipped:],)
        rewards = forward + healthy * env._healthy_reward - costs
        return np.concatenate(shown, axis=1), rewards, _unhealthy(env, healthy)

    return x, after


def _half_cheetah(env: Any, gather: Gatherer) -> Task:
    return _swimming(env, gather, skipped=1)


def _swimmer(env: Any, gather: Gatherer) -> Task:
    return _swimming(env, gather, skipped=2)


def _swimming(env: Any, gather: Gatherer, skipped: int) -> Task:
    """Forward speed less the control cost, for ever."""
    state, x = gather(lambda data: data.qpos, lambda data: data.qvel), gather(lambda data: data.qpos[:1])
    skipped *= bool(env._exclude_current_positions_from_observation)

    def after(before: np.ndarray, actions: np.ndarray) -> Outcome:
        values = state()
        forward = env._forward_reward_weight * ((values[:, 0] - before[:, 0]) / env.dt)
        rewards = forward - _control_cost(env, actions)
        return values[:, skipped:].copy(), rewards, np.zeros(len(values), dtype=bool)

    return x, after


def _hopper(env: Any, gather: Gatherer) -> Task:
    def healthy(state: np.ndarray) -> np.ndarray:
        within = _within(state[:, 2:], env._healthy_state_range).all(axis=1)
        upright = _within(state[:, 1], env._healthy_z_range) & _within(state[:, 2], env._healthy_angle_range)
        return within & upright

    return _walking(env, gather, healthy)


def _walker2d(env: Any, gather: Gatherer) -> Task:
    def healthy(state: np.ndarray) -> np.ndarray:
        return _within(state[:, 1], env._healthy_z_range) & _within(state[:, 2], env._healthy_angle_range)

    return _walking(env, gather, healthy)


def _walking(env: Any, gather: Gatherer, is_healthy: Callable[[np.ndarray], np.ndarray]) -> Task:
    """Forward speed and a reward for health less the control cost, until the body falls."""
    state, x = gather(lambda data: data.qpos, lambda data: data.qvel), gather(lambda data: data.qpos[:1])
    skipped = int(bool(env._exclude_current_positions_from_observation))
    positions = env.model.nq - skipped

    def after(before: np.ndarray, actions: np.ndarray) -> Outcome:
        values = state()
        healthy = is_healthy(values)
        forward = env._forward_reward_weight * ((values[:, 0] - before[:, 0]) / env.dt)
        rewards = forward + healthy * env._healthy_reward - _control_cost(env, actions)
        observations = values[:, skipped:].copy()
        np.clip(observations[:, positions:], -10, 10, out=observations[:, positions:])
        return observations, rewards, _unhealthy(env, healthy)

    return x, after


def _humanoid(env: Any, gather: Gatherer) -> Task:
    skipped = 2 * bool(env._exclude_current_positions_from_observation)
    shown = [lambda data: data.qpos[skipped:], lambda data: data.qvel]
    shown += [lambda data: data.cinert[1:]] if env._include_cinert_in_observation is True else []
    shown += [lambda data: data.cvel[1:]] if env._include_cvel_in_observation is True else []
    shown += [lambda data: data.qfrc_actuator[6:]] if env._include_qfrc_actuator_in_observation is True else []
    shown += [lambda data: data.cfrc_ext[1:]] if env._include_cfrc_ext_in_observation is True else []
    observations, bodies = gather(*shown), gather(lambda data: data.xipos)
    height, control, forces = (
        gather(lambda data: data.qpos[2:3]),
        gather(lambda data: data.ctrl),
        gather(lambda data: data.cfrc_ext),
    )
    mass = env.model.body_mass[:, None].copy()

    def center() -> np.ndarray:
        return (mass * bodies().reshape(-1, *env.data.xipos.shape)).sum(axis=1)[:, 0] / np.sum(mass)

    def after(before: np.ndarray, actions: np.ndarray) -> Outcome:
        healthy = _within(height()[:, 0], env._healthy_z_range)
        contact = env._contact_cost_weight * _sum(np.square(forces()))
        costs = _control_cost(env, control()) + np.clip(contact, *env._contact_cost_range)
        forward = env._forward_reward_weight * ((center() - before) / env.dt)
        rewards = forward + healthy * env._healthy_reward - costs
        return observations(), rewards, _unhealthy(env, healthy)

    return center, after


def _inverted_double_pendulum(env: Any, gather: Gatherer) -> Task:
    arrays = gather(
        lambda data: data.qpos,
        lambda data: data.qvel,
        lambda data: data.qfrc_constraint[:1],
        lambda data: data.site_xpos[0],
    )

    def after(before: np.ndarray, actions: np.ndarray) -> Outcome:
        values = arrays()
        angles, moving = values[:, 1:3].copy(), np.clip(values[:, 3:7], -10, 10)
        terminations = values[:, 9] <= 1
        # Powers of single numbers, as in Gymnasium: numpy squares an array in another way.
        penalties = [
            (0.01 * x**2 + (y - 2) ** 2, 1e-3 * v1**2 + 5e-3 * v2**2)
            for x, y, v1, v2 in values[:, [7, 9, 4, 5]].tolist()
        ]
        distance, speed = np.array(penalties).T
        rewards = env._healthy_reward * ~terminations - distance - speed
        return np.concatenate((values[:, :1], np.sin(angles), np.cos(angles), moving), axis=1), rewards, terminations

    return _nothing, after


def _reacher(env: Any, gather: Gatherer) -> Task:
    state = gather(
        lambda data: data.qpos,
        lambda data: data.qvel[:2],
        lambda data: data.body("fingertip").xpos,
        lambda data: data.body("target").xpos,
    )

    def after(before: np.ndarray, actions: np.ndarray) -> Outcome:
        values = state()
        difference = values[:, -6:-3] - values[:, -3:]
        # Dot products, as in Gymnasium's norm: a sum of squares over an axis may differ in the last bit.
        distance = np.sqrt((difference[:, None, :] @ difference[:, :, None])[:, 0, 0])
        control = -_sum(np.square(actions)) * env._reward_control_weight
        rewards = -distance * env._reward_dist_weight + control
        angles = values[:, :2].copy()
        shown = (np.cos(angles), np.sin(angles), values[:, 2:-6], difference[:, :2])
        return np.concatenate(shown, axis=1), rewards, np.zeros(len(values), dtype=bool)

    return _nothing, after


def _nothing() -> np.ndarray:
    return np.empty(0)


def _control_cost(env: Any, actions: np.ndarray) -> np.ndarray:
    return env._ctrl_cost_weight * _sum(np.square(actions))


def _sum(values: np.ndarray) -> np.ndarray:
    """The sum of each row, in the order that np.sum has for one row."""
    return np.add.reduce(values, axis=1)


def _within(values: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    return (bounds[0] < values) & (values < bounds[1])


def _unhealthy(env: Any, healthy: np.ndarray) -> np.ndarray:
    return ~healthy if env._terminate_when_unhealthy else np.zeros_like(healthy)


# Gymnasium's id: the class that the function repeats, and the function.
TASKS: dict[str, tuple[str, Callable[[Any, Gatherer], Task]]] = {
    "Ant-v5": ("ant_v5:AntEnv", _ant),
    "HalfCheetah-v5": ("half_cheetah_v5:HalfCheetahEnv", _half_cheetah),
    "Hopper-v5": ("hopper_v5:HopperEnv", _hopper),
    "Humanoid-v5": ("humanoid_v5:HumanoidEnv", _humanoid),
    "InvertedDoublePendulum-v5": ("inverted_double_pendulum_v5:InvertedDoublePendulumEnv", _inverted_double_pendulum),
    "Reacher-v5": ("reacher_v5:ReacherEnv", _reacher),
    "Swimmer-v5": ("swimmer_v5:SwimmerEnv", _swimmer),
    "Walker2d-v5": ("walker2d_v5:Walker2dEnv", _walker2d),
}
CONTACT_FORCES = (_ant, _humanoid)  # the tasks that read cfrc_ext, which a step of MuJoCo leaves alone
WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker)  # of which only the time limit changes a number


class MujocoTasks(VectorEnv):
    """E simulations of one of :data:`TASKS` in SAME_STEP autoreset, with the numbers of Gymnasium's SyncVectorEnv.

    Args:
        env: Gymnasium's environment of the task, as ``gymnasium.make`` wraps it; its constants hold for all.
        num_envs: E.
    """

    def __init__(self, env: gym.Env, num_envs: int) -> None:
        super().__init__()
        assert env.spec is not None
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = env.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}
        task: Any = env.unwrapped
        self.task = task
        limits = [layer._max_episode_steps for layer in _layers(env) if isinstance(layer, TimeLimit)]
        self.limit = min(limits, default=np.inf)
        self.model = task.model
        self.simulations = [mujoco.MjData(self.model) for _ in range(num_envs)]
        self.generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self.elapsed = np.zeros(num_envs, dtype=np.int64)
        self._controls = [data.ctrl for data in self.simulations]
        function = TASKS[env.spec.id][1]
        self._reads_forces = function in CONTACT_FORCES
        self.before, self.after = function(task, self._gather)

    def _gather(self, *views: Callable[[mujoco.MjData], np.ndarray]) -> Gather:
        """A function that copies the arrays at which ``views`` look in each simulation into rows [E, N]."""
        arrays = [view(data) for data in self.simulations for view in views]
        flat = [array.reshape(-1) for array in arrays]
        assert all(array.flags.c_contiguous for array in arrays)  # so that flat is no copy
        envs = self.num_envs
        return lambda: np.concatenate(flat).reshape(envs, -1)

    def reset(  # type: ignore[override]
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets all environments, each with its own seed if there are any; an integer counts up from the first."""
        seeds = [seed + e for e in range(self.num_envs)] if isinstance(seed, int) else seed or [None] * self.num_envs
        return np.stack([self.reset_one(e, of_env) for e, of_env in zip(range(self.num_envs), seeds, strict=True)]), {}

    def reset_one(self, index: int, seed: int | None = None) -> np.ndarray:
        """Has Gymnasium reset one simulation, with its own random numbers; returns the observation [O]."""
        self.task.data, self.task.np_random = self.simulations[index], self.generators[index]
        observation, _ = self.task.reset(seed=seed)
        self.generators[index] = self.task.np_random
        self.elapsed[index] = 0
        return observation

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all under actions [E, A]; an episode's last observation is in ``infos["final_obs"]``."""
        actions = np.ascontiguousarray(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions have the shape {actions.shape} in place of {self.action_space.shape}")
        before = self.before()
        self.simulate(actions)
        observations, rewards, terminations = self.after(before, actions)
        self.elapsed += 1
        truncations = self.elapsed >= self.limit
        dones = terminations | truncations
        if not np.count_nonzero(dones):  # which is faster than any()
            return observations, rewards, terminations, truncations, {}
        final = np.full(self.num_envs, None, dtype=object)
        for e in np.flatnonzero(dones).tolist():
            final[e] = observations[e].copy()
            observations[e] = self.reset_one(e)
        return observations, rewards, terminations, truncations, {"final_obs": final, "_final_obs": dones}

    def simulate(self, actions: np.ndarray) -> None:
        """Steps every simulation through the frames of one action [A] of ``actions`` [E, A]."""
        model, frames, step = self.model, self.task.frame_skip, mujoco.mj_step
        for data, control, action in zip(self.simulations, self._controls, actions.astype(np.float64), strict=True):
            control[:] = action
            step(model, data, frames)
        if self._reads_forces:
            for data in self.simulations:
                mujoco.mj_rnePostConstraint(model, data)

    def state(self) -> list[Any]:
        """The whole state of each environment, packed."""
        return [
            {"simulation": snapshots.simulation_state(data)}
            | {"elapsed": int(elapsed), "np_random": snapshots.pack(generator)}
            for data, elapsed, generator in zip(self.simulations, self.elapsed, self.generators, strict=True)
        ]

    def restore(self, saved: list[Any]) -> None:
        """Gives environments that have been reset once the state that :meth:`state` took."""
        for e, of_env in enumerate(saved):
            snapshots.restore_simulation(self.simulations[e], of_env["simulation"])
            snapshots.unpack(of_env["np_random"], self.generators[e])
            self.elapsed[e] = of_env["elapsed"]

    def close_extras(self, **kwargs: Any) -> None:
        """Closes Gymnasium's environment."""
        self.task.close()


def _layers(env: gym.Env) -> list[gym.Env]:
    """The wrappers of an environment from the outermost inwards, without the environment itself."""
    layers: list[gym.Env] = []
    while isinstance(env, gym.Wrapper):
        layers.append(env)
        env = env.env
    return layers


def is_plain(env: gym.Env) -> bool:
    """Whether the environment is of :data:`TASKS` by its id, draws nothing, and has none but Gymnasium's wrappers."""
    known = env.spec is not None and env.spec.id in TASKS and env.render_mode is None
    return known and all(type(layer) in WRAPPERS for layer in _layers(env))


def is_as_written(env: gym.Env) -> bool:
    """Whether a plain environment's class and Gymnasium's version are those that its function repeats."""
    assert env.spec is not None
    written, kind = TASKS[env.spec.id][0], type(env.unwrapped)
    return gym.__version__ == GYMNASIUM and f"{kind.__module__}:{kind.__name__}" == f"gymnasium.envs.mujoco.{written}"
