"""What every test shares: small configurations, one thread, and no tracking outside a temporary folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from sizes import SMALL

from dapbench import config
from dapbench.datasets.episodes import Episode, write_dataset
from dapbench.prior.base import build_prior
from dapbench.rl.environments import make_env

Small = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_tracking(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database of MLflow's to copy, since making one takes seconds."""
    from dapbench.tracking.recording import prepare

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def compose() -> Callable[..., dict[str, Any]]:
    """Composes a command's configuration: compose("train", "task=hopper", ...)."""
    return config.compose


PRIOR = {"width": 16, "depth": 1, "solver_steps": 3, "sigma_min": 0.02, "sigma_max": 5.0}
KINDS = {"diffusion": "dapbench.prior.diffusion.DiffusionPrior", "gaussian": "dapbench.prior.gaussian.GaussianPrior"}
PRIORS = KINDS | {"diffusion_weighted": KINDS["diffusion"]}
SIZES = {
    "auxiliary_minibatch_size": 100,
    "policy_phases": 2,
    "predictor_steps": 1,
    "state_share": 0.5,
    "tuning_every": 1,
    "tuning_batch_size": 20,
    "warm_start_epochs": 1,
    "warm_start_minibatch_size": 50,
}


@pytest.fixture
def small(compose: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A run of two epochs of 200 steps, eager: small("task=reacher", "method=ppo", ...)."""
    return lambda *overrides: compose("train", *SMALL, *overrides)


@pytest.fixture
def inputs(tmp_path: Path) -> Callable[[str], list[str]]:
    """Makes small logs and priors for a task; returns the overrides that name them."""

    def make(task: dict[str, Any]) -> list[str]:
        env = make_env(task)
        rng = np.random.default_rng(0)
        o, a = env.observation_space.shape[0], env.action_space.shape[0]
        low, high = env.action_space.low, env.action_space.high
        ended = np.arange(60) == 59
        episodes = [
            Episode(rng.normal(size=(61, o)), rng.uniform(low, high, (60, a)), rng.normal(size=60), ended, ~ended)
            for _ in range(3)
        ]
        space = Box(-np.inf, np.inf, (o,), np.float64)
        write_dataset(tmp_path / "logs", episodes, space, env.action_space, dataset_id="test/t-v0", metadata={})
        env.close()
        for kind, target in PRIORS.items():
            build_prior(o, a, {"_target_": target, **PRIOR}).save(tmp_path / kind / "prior.ckpt", {"quality": "test"})
        return [f"logs_dir={tmp_path}/logs", f"prior_dir={tmp_path}/${{oc.select:method.prior,none}}"]

    for kind in PRIORS:
        (tmp_path / kind).mkdir()
    return make


@pytest.fixture
def config_of(small: Small, inputs: Callable[..., list[str]]) -> Small:
    """The small configuration of a method with its inputs made: config_of("ppg", "hopper", ...)."""

    def made(method: str, task: str, *overrides: str) -> dict[str, Any]:
        plain = small(f"task={task}", f"method={method}")
        sizes = [f"method.{name}={value}" for name, value in SIZES.items() if name in plain["method"]]
        given = inputs(plain["task"]) if plain["method"]["starts_from"] != "nothing" else []
        return small(f"task={task}", f"method={method}", *sizes, *given, *overrides)

    return made
