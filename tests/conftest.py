"""What every test shares: small configurations, one thread, and no tracking outside a temporary folder."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dapbench.config import CONF, resolved


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_tracking(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def compose() -> Callable[..., dict[str, Any]]:
    """Composes a command's configuration: compose("train", "task=hopper", ...)."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    def composed(name: str, *overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return resolved(hydra_compose(name, list(overrides)))

    return composed


SMALL = (
    "profile=smoke",
    "profile.epoch_steps=200",
    "method.num_envs=4",
    "method.rollout_steps=50",
    "method.minibatch_size=50",
    "method.update_epochs=2",
    "tracking=false",
)


@pytest.fixture
def small(compose: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A run of two epochs of 200 steps, eager: small("task=reacher", "method=ppo", ...)."""
    return lambda *overrides: compose("train", *SMALL, *overrides)
