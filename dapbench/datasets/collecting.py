"""`dapbench collect`: trains a behaviour policy with PPO, or takes given logs, and writes a Minari dataset."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from gymnasium.envs.registration import EnvSpec

from dapbench.datasets.episodes import Episode, load_episodes, write_dataset
from dapbench.errors import UserError
from dapbench.files import require_writable
from dapbench.ppo import PPO, Divergence
from dapbench.rl.environments import env_seeds, make_env, make_envs, task_spaces, to_env_actions
from dapbench.runs.progress import Progress
from dapbench.runs.training import build, fit
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


class Recorder(pl.Callback):
    """Records the behaviour policy at the epochs of a mixture, each for its share of the transitions."""

    def __init__(self, shares: dict[int, float], transitions: int) -> None:
        self.shares = shares
        self.transitions = transitions
        self.episodes: list[Episode] = []
        self.policies: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: PPO) -> None:
        """Records if the epoch that ended is one of the mixture's."""
        epoch = trainer.current_epoch + 1
        if epoch in self.shares:
            least = 2 if len(self.shares) == 1 else 1  # of all episodes a prior holds out one, to be measured on
            recorded = record(module, round(self.shares[epoch] * self.transitions), epoch, least)
            returns = [float(episode.rewards.sum()) for episode in recorded]
            policy = {"epoch": epoch, "training_env_steps": module.carried.env_steps, "share": self.shares[epoch]}
            self.policies.append(policy | {"return_mean": float(np.mean(returns)), "episodes": len(returns)})
            self.episodes += recorded


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
    """Trains the behaviour policy and returns its episodes with their description."""
    budget, logs = config["profile"]["behaviour_epochs"], config["logs"]
    mixture = {float(share): float(weight) for share, weight in logs["mixture"].items()}
    if not mixture or min(mixture) <= 0 or max(mixture) > 1 or abs(sum(mixture.values()) - 1.0) > 1e-6:
        raise UserError(
            f"logs.mixture={mixture} is no mixture: its keys are shares of the behaviour's budget in (0, 1] and "
            "its values add up to 1"
        )
    shares: dict[int, float] = {}
    for share, weight in mixture.items():
        epoch = max(1, round(share * budget))
        shares[epoch] = shares.get(epoch, 0.0) + weight
    profile = config["profile"] | {"epochs": max(shares), "schedule_epochs": budget}
    recorder = Recorder(shares, config["profile"]["log_transitions"])
    seed = config["logs"]["behaviour_seed"] + config["draw"]
    module = build(config | {"profile": profile, "method": config["behaviour"], "seed": seed})
    try:
        fit(module, [recorder, Progress()])
    except Divergence as error:
        raise UserError(
            f"the behaviour policy of {config['task']['name']} diverged after {module.carried.env_steps} steps: "
            f"{error}; choose another logs.behaviour_seed or behaviour's settings"
        ) from error
    recorded_steps = sum(len(episode.rewards) for episode in recorder.episodes)
    return recorder.episodes, {
        "source": "collected",
        "behaviour": "ppo",
        "behaviour_seed": seed,
        "policies": recorder.policies,
        "env_steps": module.carried.env_steps + recorded_steps,
    }


def collect(config: dict[str, Any]) -> None:
    """Writes the dataset of one task, quality and draw to ``out``.

    Raises:
        UserError: bad configuration, or given logs that do not fit the task, or that are asked for a second draw.
    """
    check_number("profile.behaviour_epochs", config["profile"]["behaviour_epochs"], 1, 10**6, integer=True)
    check_number("logs.behaviour_seed", config["logs"]["behaviour_seed"], 0, 10**9, integer=True)
    check_number("draw", config["draw"], 0, 10**9, integer=True)
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
