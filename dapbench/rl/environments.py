"""Environments: vectorised Gymnasium tasks with Box spaces, seeded without overlap between runs."""

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation

from dapbench.errors import UserError
from dapbench.rl import mujoco_tasks, snapshots
from dapbench.rl.mujoco_tasks import MujocoTasks


def make_env(task: Mapping[str, Any]) -> gym.Env:
    """One environment of a task (``env_id`` and ``env_kwargs`` of ``conf/task``) with flat observations.

    Raises:
        UserError: Gymnasium cannot make it, or its spaces are not bounded Box actions and Box observations.
    """
    try:
        env = gym.make(task["env_id"], **task["env_kwargs"])
    except (gym.error.Error, TypeError, ValueError) as error:
        message = f"cannot make task {task['name']}: {str(error).splitlines()[0]}; check its file in conf/task"
        raise UserError(message) from error
    action_space = env.action_space
    for kind, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, Box):
            raise UserError(f"task {task['name']} has the {kind} space {space}; dapbench needs a Box")
    assert isinstance(action_space, Box)
    if len(action_space.shape) != 1 or not np.isfinite([action_space.low, action_space.high]).all():
        raise UserError(f"task {task['name']} has the action space {action_space}; dapbench needs a bounded vector")
    return env if len(env.observation_space.shape or ()) == 1 else FlattenObservation(env)


def task_spaces(task: Mapping[str, Any]) -> tuple[Box, Box]:
    """The observation and the action space of a task, with the errors of :func:`make_env`."""
    env = make_env(task)
    observations, actions = env.observation_space, env.action_space
    env.close()
    assert isinstance(observations, Box)
    assert isinstance(actions, Box)
    return observations, actions


class Environments(SyncVectorEnv):
    """Gathers of the infos only the true last observations: the rest costs 6–9 % of a step, and nothing reads it."""

    def _add_info(self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int) -> dict[str, Any]:
        if "final_obs" not in env_info:
            return vector_infos
        return super()._add_info(vector_infos, {"final_obs": env_info["final_obs"]}, env_num)

    def state(self) -> list[Any]:
        """The whole state of each environment, packed.

        Raises:
            NotPlain: an environment keeps state in an object that cannot be told apart.
        """
        return [snapshots.environment_state(env) for env in self.envs]

    def restore(self, saved: list[Any]) -> None:
        """Gives environments that have been reset once the state that :meth:`state` took."""
        for env, state in zip(self.envs, saved, strict=True):
            snapshots.restore_environment(env, state)


def make_envs(task: Mapping[str, Any], num_envs: int) -> MujocoTasks | Environments:
    """``num_envs`` copies of a task, stepped in turn on one core.

    An episode's end resets its environment within the same step: the true last observation arrives in
    ``infos["final_obs"]`` and no reset transition ever looks like a step. The MuJoCo tasks of
    :mod:`dapbench.rl.mujoco_tasks` come as one batch with the same numbers, all others as Gymnasium has them.
    """
    env = make_env(task)
    if mujoco_tasks.is_plain(env):
        if mujoco_tasks.is_as_written(env):
            return MujocoTasks(env, num_envs)
        _notice()
    env.close()
    return gymnasium_envs(task, num_envs)


def gymnasium_envs(task: Mapping[str, Any], num_envs: int) -> Environments:
    """``num_envs`` copies of a task in Gymnasium's own vector environment, whatever the task is."""
    return Environments([lambda: make_env(task)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


@cache
def _notice() -> None:
    """Says once that the tasks run slower than they could."""
    print(
        f"dapbench's fast environments repeat the classes of Gymnasium {mujoco_tasks.GYMNASIUM}; this is Gymnasium "
        f"{gym.__version__} or another class, so Gymnasium's vector environment steps the task, which is slower",
        file=sys.stderr,
    )


def env_seeds(seed: int, num_envs: int, stream: int = 0) -> list[int | None]:
    """One seed for each environment; runs, and streams within a run (0 trains, 1 evaluates), never share one."""
    return [int(word) for word in np.random.SeedSequence([seed, stream]).generate_state(num_envs)]


def to_env_actions(actions: np.ndarray, space: Box) -> np.ndarray:
    """Maps policy actions [..., A] from [-1, 1] to the action space's bounds, clipping what lies outside."""
    clipped = np.minimum(np.maximum(actions, -1.0), 1.0)  # np.clip takes longer on so few
    return space.low + (clipped + 1.0) * (0.5 * (space.high - space.low))


def to_policy_actions(actions: np.ndarray, space: Box) -> np.ndarray:
    """The inverse of :func:`to_env_actions` on actions [..., A] within the bounds."""
    return 2.0 * (actions - space.low) / (space.high - space.low) - 1.0
