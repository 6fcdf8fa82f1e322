"""`dapbench collect`: records behaviour policies, or takes given logs, and writes a Minari dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from dapbench.behaviour import (
    behaviour_module,
    behaviour_seed,
    check_behaviour,
    mixture,
    read_policies,
    train_policies,
)
from dapbench.datasets.episodes import Episode, load_episodes, write_dataset
from dapbench.errors import UserError
from dapbench.files import require_writable
from dapbench.ppo import PPO
from dapbench.rl.environments import env_seeds, make_env, make_envs, task_spaces, to_env_actions
from dapbench.settings import check_number

RECORDING_STREAM = 3


def record(module: PPO, transitions: int, stream: int, least: int = 1) -> list[Episode]:
    """Whole episodes of the stochastic policy, at least ``least`` of them and ``transitions`` steps in all."""
    envs = make_envs(module.config["task"], module.hp.num_envs)
    observation, _ = envs.reset(seed=env_seeds(module.config["seed"], envs.num_envs, RECORDING_STREAM + stream))
    noise = np.random.default_rng([module.config["seed"], RECORDING_STREAM + stream])
    mean_action, std = module.mean_action(), module.actor.log_std.exp().detach().numpy()
    running: list[list[tuple]] = [[] for _ in range(envs.num_envs)]
    episodes: list[Episode] = []
    while len(episodes) < least or sum(len(episode.rewards) for episode in episodes) < transitions:
        mean = mean_action(observation.astype(np.float32))
        actions = to_env_actions(mean + std * noise.standard_normal(mean.shape), module.action_space)
        following, rewards, terminations, truncations, infos = envs.step(actions)
        for e in range(envs.num_envs):
            running[e].append((observation[e], actions[e], rewards[e], terminations[e], truncations[e]))
            if terminations[e] or truncations[e]:
                states, *columns = (np.array(column) for column in zip(*running[e], strict=True))
                episodes.append(Episode(np.concatenate([states, infos["final_obs"][e][None]]), *columns))
                running[e] = []
        observation = following
    envs.close()
    return episodes


def recorded_spec(task: Mapping[str, Any]) -> EnvSpec | None:
    """What Minari recovers a task's environment from, if the environment can be told in JSON."""
    env = make_env(task)
    env.close()
    try:
        assert env.spec is not None
        env.spec.to_json()
    except (TypeError, ValueError):  # it was registered as a function or class in place of "module:Class"
        return None
    return env.spec


def behaviour_logs(config: dict[str, Any]) -> tuple[list[Episode], dict[str, Any]]:
    """Records the behaviour policies, each for its share of the transitions; returns episodes and their description.

    They are those in ``policies_dir``, or trained now where it is null.
    """
    folder, shares = config["policies_dir"], mixture(config)
    policies = train_policies(config) if folder is None else read_policies(Path(folder), config)
    module = behaviour_module(config)
    least = 2 if len(shares) == 1 else 1  # of all episodes a prior holds out one, to be measured on
    episodes, described = [], []
    for policy in policies:
        policy.act_in(module)
        share = shares[policy.epoch]
        recorded = record(module, round(share * config["profile"]["log_transitions"]), policy.epoch, least)
        returns = [float(episode.rewards.sum()) for episode in recorded]
        entry = {"epoch": policy.epoch, "training_env_steps": policy.env_steps, "share": share}
        described.append(entry | {"return_mean": float(np.mean(returns)), "episodes": len(returns)})
        episodes += recorded
    recorded_steps = sum(len(episode.rewards) for episode in episodes)
    return episodes, {
        "source": "collected",
        "behaviour": "ppo",
        "behaviour_seed": behaviour_seed(config),
        "policies": described,
        "env_steps": policies[-1].env_steps + recorded_steps,
    }


def collect(config: dict[str, Any]) -> None:
    """Writes the dataset of one task, quality and draw to ``out``.

    Raises:
        UserError: bad configuration, policies that cannot be read or trained, or given logs that do not fit the task,
            or that are asked for a second draw.
    """
    check_behaviour(config)
    check_number("profile.log_transitions", config["profile"]["log_transitions"], 1, 10**9, integer=True)
    require_writable(Path(config["out"]))
    source = config["logs"]["source"]
    if source is not None and config["draw"]:
        raise UserError(
            f"logs.source={source} is one dataset, so one draw, and draw={config['draw']} is not it; collect draw=0, "
            "and train with profile.log_draws=1"
        )
    spaces = task_spaces(config["task"])
    if source is None:
        episodes, description = behaviour_logs(config)
    else:
        episodes, given = load_episodes(source, *spaces, config["task"]["env_id"])
        description = {"source": source, "env_steps": given["env_steps"]}
    identity = {"quality": config["logs"]["name"], "task": config["task"]["name"], "draw": config["draw"]}
    name = f"dapbench/{config['task']['name']}/{config['logs']['name']}-{config['draw']}-v0"
    written = write_dataset(
        Path(config["out"]),
        episodes,
        *spaces,
        dataset_id=name,
        env_spec=recorded_spec(config["task"]),
        metadata=identity | description,
    )
    print(
        f"{config['task']['name']} {config['logs']['name']} draw {config['draw']}: {written['transitions']:,} "
        f"transitions in {written['episodes']} episodes with a mean return of {written['return_mean']:.1f}, in "
        f"{config['out']}"
    )
