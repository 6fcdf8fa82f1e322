"""Deterministic evaluation: mean action, frozen statistics, seeds of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dapbench.checkpoints import read_checkpoint
from dapbench.errors import UserError
from dapbench.ppo import PPO
from dapbench.rl.environments import env_seeds, make_envs, to_env_actions
from dapbench.settings import check_number

# Of a seed's streams; 0 trains, film.py has 2, and recording logs those from 4 on.
EVALUATION_STREAM, CURVE_STREAM = 1, 3
REMEDY = "copy or pull it again, or remove it and train the run again"


def evaluate(module: PPO, episodes: int, seed: int, stream: int = EVALUATION_STREAM) -> list[float]:
    """Returns of ``episodes`` episodes under the mean action, with the observation statistics as they are.

    Every environment plays a quota of episodes fixed beforehand, so that short episodes are not favoured.
    """
    num_envs = min(module.hp.num_envs, episodes)
    quotas = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    envs = make_envs(module.config["task"], num_envs)
    mean_action = module.mean_action()
    observation, _ = envs.reset(seed=env_seeds(seed, num_envs, stream))
    running = np.zeros(num_envs)
    while any(len(done) < quota for done, quota in zip(returns, quotas, strict=True)):
        actions = to_env_actions(mean_action(observation.astype(np.float32)), module.action_space)
        observation, rewards, terminations, truncations, _ = envs.step(actions)
        running += rewards
        for e in np.flatnonzero(terminations | truncations):
            if len(returns[e]) < quotas[e]:
                returns[e].append(float(running[e]))
            running[e] = 0.0
    envs.close()
    return [episode_return for of_env in returns for episode_return in of_env]


def load_run(run_dir: Path) -> PPO:
    """The module of a finished run, with its weights and statistics.

    Raises:
        UserError: the checkpoint is missing, damaged or not of this project.
    """
    path = run_dir / "model.ckpt"
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; dapbench train out={run_dir} makes one (or: dvc pull)")
    checkpoint = read_checkpoint(path, "dapbench checkpoint", ("config", "state_dict"), REMEDY)
    config = checkpoint["config"]
    method = module_class(config)
    try:
        method.read_settings(config)
    except UserError as error:
        raise foreign(path, error) from error
    module = method(config)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise foreign(path, error) from error
    return module


def foreign(path: Path, error: Exception) -> UserError:
    """The error for a sound checkpoint that this code does not fit."""
    reason = " ".join(str(error).split())
    return UserError(f"{path} is of other code than this ({reason}); use the version of dapbench that made it")


def module_class(config: Mapping[str, Any]) -> type[PPO]:
    """The class that a method's ``_target_`` names.

    Raises:
        UserError: it does not exist or is no PPO.
    """
    from hydra.utils import get_class

    target = config["method"]["_target_"]
    try:
        found = get_class(target)
    except (ImportError, ValueError) as error:
        raise UserError(f"method._target_={target} cannot be imported: {' '.join(str(error).split())}") from error
    if not issubclass(found, PPO):
        raise UserError(f"method._target_={target} is not a subclass of dapbench.ppo.PPO")
    return found


def evaluate_run(config: Mapping[str, Any]) -> None:
    """`dapbench evaluate`: prints the deterministic return of a run directory's policy as JSON.

    Raises:
        UserError: a bad value, or no sound checkpoint.
    """
    check_number("episodes", config["episodes"], 1, 10**6, integer=True)
    check_number("seed", config["seed"], 0, 2**31 - 1, integer=True)
    torch.set_num_threads(1)
    module = load_run(Path(config["run"]))
    returns = evaluate(module, config["episodes"], config["seed"])
    result = {"eval_return": float(np.mean(returns)), "eval_std": float(np.std(returns)), "eval_episodes": len(returns)}
    print(json.dumps({"task": module.config["task"]["name"], "method": module.config["method"]["name"]} | result))
