"""``device=cuda`` without a GPU: torch's meta device stands in for it, whose tensors refuse to meet the CPU's."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dapbench.config import choices
from dapbench.ppo import PPO
from dapbench.rl.snapshots import snapshot
from dapbench.runs.training import build

Small = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def meta_counts_as_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    adam = import_module("torch.optim.adam")  # torch.optim itself hides it
    monkeypatch.setattr(adam, "_get_capturable_supported_devices", lambda: ["meta"])


class PretendedGPU(TorchFunctionMode):
    """Has meta tensors behave like a GPU's: their numbers, which are made up, come to the CPU, but not as numpy."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if args and isinstance(args[0], Tensor) and args[0].device.type == "meta":
            if function == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
                return True
            if name == "numpy":
                raise TypeError("can't convert a GPU's tensor to numpy")
            if name == "cpu" or (name == "to" and str(args[1]) == "cpu"):
                return torch.ones(args[0].shape, dtype=args[0].dtype)
            if name in ("tolist", "item", "__float__", "__bool__"):
                return getattr(torch.ones(args[0].shape), name)()
        return function(*args, **(kwargs or {}))


def on_the_gpu(config: dict[str, Any], saved: dict[str, Any] | None = None) -> PPO:
    """The module as Lightning has it when training starts, or goes on from what a stopped run saved."""
    module = build(config).to("meta")
    module.configure_optimizers()
    module.saved = saved
    module.on_fit_start()
    return module


@pytest.mark.parametrize("method", choices("method"))
def test_iterations_keep_to_the_gpu(config_of: Small, method: str) -> None:
    with PretendedGPU():
        module = on_the_gpu(config_of(method, "reacher"))
        for _ in range(2):  # PPG's auxiliary phase comes with the second
            module.training_step(None, 0)
    for update in module.updates.values():
        assert all(part.is_meta for part in (update.flat, *update.optimizer.state[update.flat].values()))


def test_a_stopped_run_goes_on_on_the_gpu(config_of: Small) -> None:
    """A checkpoint is read onto the CPU; what it holds of PPG's memory must meet the rollouts on the GPU."""
    config = config_of("ppg", "reacher")
    stopped = build(config)
    stopped.configure_optimizers()
    stopped.on_fit_start()
    stopped.training_step(None, 0)
    assert len(stopped.carried.memory) == 1
    saved = {"carried": snapshot(stopped.carried), "collector": stopped.collector.snapshot()}
    with PretendedGPU():
        module = on_the_gpu(config, saved)
        module.training_step(None, 0)
    assert module.carried.memory == []


def test_a_tensor_left_on_the_cpu_is_found(config_of: Small) -> None:
    with PretendedGPU():
        module = on_the_gpu(config_of("ppo", "reacher"))
        module.critic.value[0] = torch.nn.Linear(10, 64)
        with pytest.raises(RuntimeError, match="device"):
            module.training_step(None, 0)
