"""Where the processor's time of PPO goes: python -m dapbench.timing.profile [TASK ...]

Wraps the functions that one iteration passes through and counts the time that each has to itself, as µs an environment
step and as a share. Times are the thread's own, so that a busy machine shifts them little.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

from dapbench.config import compose
from dapbench.ppo import PPO
from dapbench.rl.mujoco_tasks import MujocoTasks
from dapbench.runs.training import build, fit

EPOCHS = 8  # the first one compiles and does not count
PARTS = {
    "physics": "MuJoCo's step",
    "task": "the task in Python: observation, reward, info",
    "wrappers": "Gymnasium's wrappers, where it steps the task itself",
    "reset": "resets",
    "vector": "the vector environment: batching, time limit, infos",
    "policy": "policy: normalization and mean in numpy",
    "collector": "collector: noise, clipping, buffers, episodes",
    "iteration": "statistics, reward scaling, log-probabilities, Lightning",
    "advantages": "values and GAE, anew each of ten epochs",
    "update": "gradient steps",
}


class Profile(pl.Callback):
    """Counts each part's own thread time after the first epoch."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.inner = [0.0]

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose time less that of the timed functions within is added to ``part``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.inner.append(0.0)
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                total = time.thread_time() - start
                self.seconds[part] += total - self.inner.pop()
                self.inner[-1] += total

        return call

    def wrap(self, part: str, owner: Any, name: str) -> None:
        """Has ``owner.name`` timed as ``part``."""
        setattr(owner, name, self.timed(part, getattr(owner, name)))

    def on_train_start(self, trainer: pl.Trainer, module: PPO) -> None:
        """Wraps what an iteration passes through."""
        envs = module.collector.envs
        if isinstance(envs, MujocoTasks):
            self.wrap("physics", envs, "simulate")
            self.wrap("task", envs, "before")
            self.wrap("task", envs, "after")
            self.wrap("reset", envs, "reset_one")
        else:
            for env in envs.envs:
                self.wrap("physics", env.unwrapped, "do_simulation")
                self.wrap("task", env.unwrapped, "step")
                self.wrap("wrappers", env, "step")
                self.wrap("reset", env, "reset")
        self.wrap("vector", envs, "step")
        self.wrap("collector", module.collector, "collect")
        self.wrap("advantages", module, "estimate")
        self.wrap("update", module.updates["policy"], "epoch")
        mean_action = module.mean_action
        module.mean_action = lambda: self.timed("policy", mean_action())  # type: ignore[method-assign]

    def on_train_epoch_end(self, trainer: pl.Trainer, module: PPO) -> None:
        """Starts to count once the compiled functions exist."""
        if trainer.current_epoch == 0:
            self.seconds.clear()
            self.inner[0] = 0.0
            self.start = time.thread_time(), module.carried.env_steps

    def on_train_end(self, trainer: pl.Trainer, module: PPO) -> None:
        """Prints the table; what no timed function took is the iteration's."""
        total, steps = time.thread_time() - self.start[0], module.carried.env_steps - self.start[1]
        self.seconds["iteration"] = total - self.inner[0]
        print(f"{module.config['task']['name']}: {1e6 * total / steps:.1f} µs a step of an environment")
        for part, text in PARTS.items():
            print(f"  {100 * self.seconds[part] / total:5.1f} %  {1e6 * self.seconds[part] / steps:6.2f} µs  {text}")


def main() -> None:
    """Profiles PPO with the defaults on each task."""
    for task in sys.argv[1:] or ["half_cheetah", "humanoid"]:
        fit(build(compose("train", f"task={task}", f"profile.epochs={EPOCHS}")), [Profile()])


if __name__ == "__main__":
    main()
