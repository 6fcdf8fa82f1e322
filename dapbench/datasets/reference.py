"""`dapbench reference`: measures what counts as 0 and as 1 on a task, where D4RL has no reference scores."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dapbench.datasets.episodes import load_episodes
from dapbench.errors import UserError
from dapbench.files import require_writable_file, withheld, write_json
from dapbench.rl.environments import make_env, task_spaces
from dapbench.settings import check_number

SOURCE = "our random policy and expert logs"
MADE_BY = "dapbench collect task={task} logs=expert profile=paper && dapbench reference task={task}"


def random_returns(task: Mapping[str, Any], episodes: int, seed: int) -> list[float]:
    """Undiscounted returns of ``episodes`` episodes of actions that are uniform over the action space."""
    env = make_env(task)
    env.action_space.seed(seed)
    returns = []
    for episode in range(episodes):
        env.reset(seed=seed if episode == 0 else None)
        total, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            ended = terminated or truncated
        returns.append(total)
    env.close()
    return returns


def read_entries(out: Path) -> dict[str, Any]:
    """The entries of a file of scores; none where there is no file."""
    try:
        return json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    except (OSError, ValueError) as error:
        raise withheld(out, error) or UserError(f"out={out} is not JSON ({error}); choose another file") from error


def reference(config: Mapping[str, Any]) -> None:
    """Puts a task's entry into ``out``: both scores, whose they are, and how they were made.

    Raises:
        UserError: the logs are missing, malformed, of another task or not of expert quality; ``out`` is not JSON.
    """
    check_number("episodes", config["episodes"], 1, 10**6, integer=True)
    check_number("seed", config["seed"], 0, 2**31 - 1, integer=True)
    task, logs_dir, out = config["task"], Path(config["logs_dir"]), Path(config["out"])
    require_writable_file(out)
    _, logs = load_episodes(logs_dir, *task_spaces(task), task["env_id"])
    if logs["quality"] != "expert":
        raise UserError(f"logs_dir={logs_dir} holds logs of quality {logs['quality']}; collect them with logs=expert")
    entries = read_entries(out)
    returns = random_returns(task, config["episodes"], config["seed"])
    entry = {
        "random": float(np.mean(returns)),
        "random_std": float(np.std(returns)),
        "random_episodes": len(returns),
        "random_seed": config["seed"],
        "expert": logs["return_mean"],
        "expert_std": logs["return_std"],
        "expert_episodes": logs["episodes"],
        "expert_seed": logs.get("behaviour_seed"),
        "expert_env_steps": logs["env_steps"],
        "source": SOURCE,
        "made_by": MADE_BY.format(task=task["name"]),
        "versions": logs.get("versions"),
    }
    if not entry["expert"] > entry["random"]:
        raise UserError(
            f"logs_dir={logs_dir} return {entry['expert']:.2f}, no more than a random policy's {entry['random']:.2f}; "
            "collect better ones"
        )
    write_json(out, entries | {task["name"]: entry})
    print(
        f"{task['name']}: random {entry['random']:.2f} ({entry['random_episodes']} episodes), expert "
        f"{entry['expert']:.2f} ({entry['expert_episodes']} episodes), in {out}"
    )
