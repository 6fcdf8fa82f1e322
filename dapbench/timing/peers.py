"""What `dapbench throughput` times: our PPO, the bare environments, the physics alone, and the PPO of other libraries.

Each program runs for ever in a process of its own and calls ``lap(env_steps)`` between its iterations, which is where
it waits for its turn. Each imports only what it needs, so that no other library's memory or threads mix in.
dapbench leaves the actions that it took, which the bare environments and the physics take again.
"""

import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from dapbench.errors import UserError

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP = 2  # iterations before the first turn: compilation, and what the second one still finds cold


class Turns:
    """Times a program in the turns that the parent process grants, and has it wait in between.

    Args:
        connection: to the parent. Once the program is warm and after each turn, a pair goes out: steps per second, and
            what the program left for the next one. What comes in starts a turn: what the program before it left.
        seconds: the least length of a turn.
        warm_up: environment steps before the first turn.
        clock: tells the seconds.

    Attributes:
        left: what the program leaves for the next one, gathered since its last turn.
    """

    def __init__(
        self,
        connection: Connection,
        seconds: float,
        warm_up: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.connection, self.seconds, self.warm_up, self.clock = connection, seconds, warm_up, clock
        self.start: tuple[float, int] | None = None
        self.left: list[Any] = []

    def __call__(self, steps: int) -> list[Any]:
        """Takes the environment steps so far; returns once the program may go on.

        Returns:
            What the program before this one left, if a turn begins; nothing if one goes on.

        Raises:
            EOFError: the parent is gone.
        """
        rate = 0.0
        if self.start is not None:
            seconds = self.clock() - self.start[0]
            if seconds < self.seconds:
                return []
            rate = (steps - self.start[1]) / seconds
        elif steps < self.warm_up:
            return []
        self.connection.send((rate, self.left))
        self.left = []
        given = self.connection.recv()
        self.start = self.clock(), steps
        return given


def serve(name: str, config: dict[str, Any], connection: Connection) -> None:
    """The whole of a child process: runs one of :data:`PROGRAMS`; an error goes to the parent as one line."""
    sys.stdout = sys.stderr  # the parent's output is the result and nothing else
    envs = config["peer_envs" if name in PEERS else "num_envs"]
    warm_up = WARM_UP * envs * config["method"]["rollout_steps"]
    # A turn of what repeats actions is as long as the actions that it is given, and nothing in it warms up.
    least, warm_up = (0.0, 0) if name in REPEATING else (config["seconds"], warm_up)
    try:
        PROGRAMS[name](config, Turns(connection, least, warm_up, CLOCKS[config["clock"]]))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return  # the parent is done, or Ctrl-C came, of which it tells
    except UserError as error:
        connection.send(str(error))
    except Exception as error:  # whatever the measured library raises, the parent tells
        connection.send(" ".join(f"{type(error).__name__}: {error}".split()))


def run_bare(config: dict[str, Any], lap: Turns) -> None:
    """Gymnasium's vectorised environments under the very actions that dapbench took.

    They start as dapbench's do, so that each step is the same one: how long MuJoCo takes depends on where a body is.
    """
    from dapbench.rl.environments import env_seeds, gymnasium_envs

    envs = gymnasium_envs(config["task"], config["num_envs"])
    envs.reset(seed=env_seeds(config["seed"], config["num_envs"]))
    done = 0
    while True:
        for actions, _ in lap(done):
            for action in actions:
                envs.step(action)
            done += len(actions) * config["num_envs"]


def run_physics(config: dict[str, Any], lap: Turns) -> None:
    """MuJoCo's steps alone under the actions that dapbench took, from the same starts: the limit of what is possible.

    Nothing is observed. Gymnasium resets a simulation where dapbench's episode ended.
    """
    import mujoco
    import numpy as np

    from dapbench.rl.environments import env_seeds, gymnasium_envs

    envs = gymnasium_envs(config["task"], config["num_envs"])
    envs.reset(seed=env_seeds(config["seed"], config["num_envs"]))
    task: Any = envs.envs[0].unwrapped
    model, frames = task.model, task.frame_skip  # one model for all spares memory that is read in each step
    simulations = [env.unwrapped.data for env in envs.envs]  # type: ignore[attr-defined]
    controls = [data.ctrl for data in simulations]
    done = 0
    while True:
        for actions, dones in lap(done):
            for action, ended in zip(actions, dones, strict=True):
                for data, control, of_env in zip(simulations, controls, action, strict=True):
                    control[:] = of_env
                    mujoco.mj_step(model, data, frames)
                if ended.any():
                    for e in np.flatnonzero(ended):
                        envs.envs[e].reset()
            done += len(actions) * config["num_envs"]


def run_dapbench(config: dict[str, Any], lap: Turns) -> None:
    """Our PPO as `dapbench train` runs it, with its curve; leaves actions [T, E, A] and the episodes' ends [T, E]."""
    import lightning.pytorch as pl

    from dapbench.ppo import PPO
    from dapbench.rl.environments import to_env_actions
    from dapbench.rl.rollout import Rollout
    from dapbench.runs.training import Curve, build, fit

    class Laps(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: PPO) -> None:  # type: ignore[override]
            collector = module.collector
            collect = collector.collect

            def recorded(*args: Any) -> Rollout:
                rollout = collect(*args)
                lap.left.append((to_env_actions(rollout.actions, collector.action_space), rollout.dones))
                return rollout

            collector.collect = recorded  # type: ignore[method-assign, assignment]

        def on_train_batch_end(self, trainer: pl.Trainer, module: PPO, *_: Any) -> None:
            lap(module.carried.env_steps)

    fit(build(config), [Curve(), Laps()])


def run_sb3(config: dict[str, Any], lap: Turns) -> None:
    """The PPO of Stable-Baselines3."""
    import torch
    from stable_baselines3 import PPO

    torch.set_num_threads(1)
    learn(peer(PPO, torch.nn.Tanh, config), lap)


def run_sbx(config: dict[str, Any], lap: Turns) -> None:
    """The PPO of SBX; JAX takes as many threads as the process may use cores, which is one."""
    import torch
    from flax.linen import tanh
    from sbx import PPO

    torch.set_num_threads(1)
    learn(peer(PPO, tanh, config), lap)


PEERS = {"sb3": ("stable_baselines3", run_sb3), "sbx": ("sbx", run_sbx)}  # the package that must be there, the program
REPEATING = {"bare": run_bare, "physics": run_physics}
PROGRAMS = {"dapbench": run_dapbench} | REPEATING | {name: program for name, (_, program) in PEERS.items()}


def peer(algorithm: Callable[..., Any], tanh: Any, config: dict[str, Any]) -> Any:
    """A peer's PPO with our hyper-parameters, on normalized environments stepped in turn as SB3 makes them.

    Args:
        algorithm: a PPO with SB3's interface.
        tanh: the activation as that library names it.
        config: ``task``, ``method``, ``peer_envs`` and ``seed``.
    """
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    from dapbench.rl.environments import make_env

    hp = config["method"]
    envs = make_vec_env(lambda: make_env(config["task"]), n_envs=config["peer_envs"], seed=config["seed"])
    return algorithm(
        "MlpPolicy",
        VecNormalize(envs, norm_reward=hp["scale_rewards"], gamma=hp["gamma"]),
        learning_rate=hp["learning_rate"],
        n_steps=hp["rollout_steps"],
        batch_size=hp["minibatch_size"],
        n_epochs=hp["update_epochs"],
        gamma=hp["gamma"],
        gae_lambda=hp["gae_lambda"],
        clip_range=hp["clip"],
        ent_coef=hp["entropy_weight"],
        vf_coef=hp["value_weight"],
        max_grad_norm=hp["max_grad_norm"],
        policy_kwargs={
            "net_arch": {"pi": hp["hidden"], "vf": hp["hidden"]},
            "activation_fn": tanh,
            "log_std_init": hp["log_std"],
            "optimizer_kwargs": {"eps": hp["adam_eps"]},
        },
        seed=config["seed"],
        device="cpu",
    )


def learn(model: Any, lap: Turns) -> None:
    """Trains a peer's model for ever."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Laps(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            lap(self.model.num_timesteps)

    model.learn(10**12, Laps())
