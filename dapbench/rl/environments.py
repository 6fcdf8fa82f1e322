"""Environments: vectorised Gymnasium tasks with Box spaces, seeded without overlap between runs."""

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import DtypeObservation, FlattenObservation

from dapbench.errors import UserError
from dapbench.rl import mujoco_tasks, snapshots
from dapbench.rl.mujoco_tasks import MujocoTasks


def make_env(task: Mapping[str, Any]) -> gym.Env:
    """One environment of a task (``env_id`` and ``env_kwargs`` of ``conf/task``) with flat float observations.

    Raises:
        UserError: Gymnasium cannot make it, its episodes have no time limit, or its spaces are not a Box of
            observations and a bounded vector of actions.
    """
    name, env_id, kwargs = (task.get(key) for key in ("name", "env_id", "env_kwargs"))
    if not isinstance(env_id, str) or not isinstance(kwargs, Mapping):
        found = f"env_id: {env_id} and env_kwargs: {kwargs}"
        raise UserError(f"task {name} has {found}; write env_id: Hopper-v5, say, and env_kwargs: {{}} in conf/task")
    try:
        env = gym.make(env_id, **kwargs)
    except Exception as error:  # an environment and the modules that it imports may raise anything
        raise UserError(f"cannot make task {name}: {_said(error)}; check its file in conf/task") from error
    observations, actions = env.observation_space, env.action_space
    for kind, space in (("observation", observations), ("action", actions)):
        if not isinstance(space, Box):
            raise UserError(f"task {name} has the {kind} space {_shown(space)}; dapbench needs a Box")
    assert isinstance(actions, Box)
    with np.errstate(over="ignore", invalid="ignore"):
        widths = actions.high - actions.low  # infinite where the bounds are the largest numbers there are
    is_vector = len(actions.shape) == 1 and actions.shape[0] > 0 and np.issubdtype(actions.dtype, np.floating)
    if not (is_vector and np.isfinite(widths).all() and (widths > 0).all()):
        raise UserError(
            f"task {name} has the action space {_shown(actions)}; dapbench needs a bounded vector of floating-point "
            "numbers, each lower bound below its upper one"
        )
    if 0 in (observations.shape or ()):
        raise UserError(f"task {name} has the observation space {_shown(observations)}, which shows nothing")
    if getattr(env.spec, "max_episode_steps", None) is None:
        raise UserError(
            f"task {name} has no time limit, so an episode may never end; add one to its env_kwargs in conf/task, such "
            "as max_episode_steps: 1000"
        )
    if len(observations.shape or ()) != 1:
        env = FlattenObservation(env)
    return env if observations.dtype in (np.float32, np.float64) else DtypeObservation(env, "float32")


def _said(error: Exception) -> str:
    """The first line of an error, with its kind where the line is not made to be read alone."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    told = isinstance(error, gym.error.Error | TypeError | ValueError | OSError | ImportError)
    return line if told or line == type(error).__name__ else f"{type(error).__name__}: {line}"


def _shown(space: gym.Space) -> str:
    """A space in one line."""
    return " ".join(str(space).split())


def task_spaces(task: Mapping[str, Any]) -> tuple[Box, Box]:
    """The observation and the action space of a task, with the errors of :func:`make_env`.

    One step is played, so that an environment that can be made and not played is refused before the work.
    """
    env = make_env(task)
    observations, actions = env.observation_space, env.action_space
    assert isinstance(observations, Box)
    assert isinstance(actions, Box)
    try:
        shown, _ = env.reset(seed=0)
        following, reward, terminated, truncated, _ = env.step(to_env_actions(np.zeros(actions.shape), actions))
        float(reward), bool(terminated), bool(truncated)
    except Exception as error:  # an environment may raise anything
        raise UserError(f"task {task['name']} cannot be played: {_said(error)}; check {task['env_id']}") from error
    for observation in (shown, following):
        if not isinstance(observation, np.ndarray) or observation.shape != observations.shape:
            kind = f"a {type(observation).__name__} of shape {np.shape(observation)}"
            raise UserError(
                f"task {task['name']} shows {kind} in place of an array of shape {observations.shape}; check "
                f"{task['env_id']}"
            )
    env.close()
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
