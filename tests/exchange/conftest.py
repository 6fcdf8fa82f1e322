"""Runs to compare and to export: dapbench's made up, Stable-Baselines3's by running it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from some_runs import PROFILE, write_run


@pytest.fixture(scope="session")
def profile_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of results that hold every run of PROFILE."""
    root = tmp_path_factory.mktemp("results")
    for method in PROFILE["methods"]:
        for seed in PROFILE["seeds"]:
            write_run(root / "mini/runs/hopper" / method / str(seed), "hopper", method, seed)
    return root


@pytest.fixture(scope="session")
def sb3(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SimpleNamespace]:
    """A run of Stable-Baselines3 by its kind: "Monitor" (one a file for each of 2 environments) or "VecMonitor" (of 1).

    Returns its folder, and of each training episode, in the order of their ends, the steps so far and the return.
    """
    made: dict[str, SimpleNamespace] = {}

    def run(kind: str) -> SimpleNamespace:
        if kind not in made:
            made[kind] = _run_sb3(tmp_path_factory.mktemp(kind) / "run", kind)
        return made[kind]

    return run


def _run_sb3(folder: Path, kind: str) -> SimpleNamespace:
    import gymnasium as gym
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

    folder.mkdir()
    task = "InvertedDoublePendulum-v5"  # its episodes are short
    if kind == "Monitor":
        env = DummyVecEnv([lambda i=i: Monitor(gym.make(task), str(folder / str(i))) for i in range(2)])  # type: ignore[misc]
    else:
        env = VecMonitor(DummyVecEnv([lambda: gym.make(task)]), str(folder))
    evaluated = DummyVecEnv([lambda: Monitor(gym.make(task))])
    episodes: list[tuple[int, float]] = []

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            infos = self.locals["infos"]
            episodes.extend((self.num_timesteps, float(info["episode"]["r"])) for info in infos if "episode" in info)
            return True

    evaluation = EvalCallback(evaluated, n_eval_episodes=3, eval_freq=100, log_path=str(folder), verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PPO("MlpPolicy", env, n_steps=100, batch_size=50, n_epochs=1, seed=0).learn(
            400, callback=CallbackList([Note(), evaluation])
        )
    env.close()
    return SimpleNamespace(folder=folder, episodes=episodes)
