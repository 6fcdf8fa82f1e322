"""What every action prior p(a | s) has: its own state statistics, a network, losses and low-rank adapters."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from dapbench.checkpoints import read_checkpoint, write_checkpoint
from dapbench.errors import UserError
from dapbench.rl.losses import guidance_step

STATE_CLIP = 10.0


class Guidance(NamedTuple):
    """What proposals move along while they are drawn.

    Attributes:
        gradient: gives ∇_a Q [M, K, A] at ``features`` and actions [M, K, A].
        features: [M, ...], of the states as Q reads them.
        scale: α_max.
    """

    gradient: Callable[[Tensor, Tensor], Tensor]
    features: Tensor
    scale: float

    def step(self, actions: Tensor, sigma: Tensor, sigma_max: float) -> Tensor:
        """Noisy ``actions`` [M, K, A] at level σ, one step along ∇_a Q further."""
        return actions + guidance_step(self.gradient(self.features, actions), sigma, sigma_max, self.scale)


class ActionPrior(nn.Module, ABC):
    """A conditional density over actions scaled to [-1, 1], pretrained on logged (s, a).

    Derived classes have a ``network`` and define :meth:`corrupt`, :meth:`predict`, :meth:`fit_loss`, :meth:`drift`,
    :meth:`sample` and :meth:`hidden_layers`.

    Args:
        observation_size, action_size: O and A.
        config: a file of conf/prior.
    """

    network: nn.Module
    state_mean: Tensor
    state_std: Tensor

    def __init__(self, observation_size: int, action_size: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.observation_size, self.action_size = observation_size, action_size
        self.config = dict(config)
        self.register_buffer("state_mean", torch.zeros(observation_size))
        self.register_buffer("state_std", torch.ones(observation_size))

    def fit_statistics(self, observations: Tensor, actions: Tensor) -> None:
        """Measures what the prior standardizes by: ``observations`` [N, O] raw, ``actions`` [N, A] in [-1, 1]."""
        self.state_mean.copy_(observations.mean(0))
        self.state_std.copy_(observations.std(0).clamp(min=1e-3))

    def normalize(self, observations: Tensor) -> Tensor:
        """Raw observations [B, O] by the log's own statistics, clipped at ±10."""
        return ((observations - self.state_mean) / self.state_std).clamp(-STATE_CLIP, STATE_CLIP)

    def corrupt(self, actions: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The random inputs [B, ...] that :meth:`predict` needs beside observations and actions [B, A]."""
        return {}

    @abstractmethod
    def predict(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The network's prediction for ``prior_observations`` [B, O], ``actions`` [B, A] and the corruption."""

    @abstractmethod
    def fit_loss(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The pretraining loss, a scalar, of a prediction."""

    @abstractmethod
    def drift(self, prediction: Tensor, previous: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """How far a prediction is from the one of the previous prior, a scalar in the units of :meth:`fit_loss`."""

    @abstractmethod
    def sample(self, prior_observations: Tensor, noise: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Proposals [M, K, A] in [-1, 1] at ``prior_observations`` [M, O], from normal ``noise`` [M, K, A]."""

    def compile_sampler(self, compile: bool) -> None:
        """Compiles what :meth:`sample` repeats, if there is anything worth it."""

    @abstractmethod
    def hidden_layers(self) -> list[str]:
        """The names of the layers in ``network`` that map hidden units to hidden units."""

    # -- adapters ----------------------------------------------------------------------------------------------------

    def add_adapters(self, kind: str, rank: int) -> None:
        """Chooses what online tuning may move: ``lora`` adapters of the hidden layers, ``full``ly all, or nothing."""
        if kind == "lora":
            settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=self.hidden_layers())
            self.network = inject_adapter_in_model(settings, self.network)
        self.requires_grad_(False)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(kind == "full" or (kind == "lora" and "lora_" in name))

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def load_pretrained(self, path: Path) -> None:
        """Takes over the weights and statistics of a checkpoint; adapters stay as they are.

        Raises:
            UserError: the checkpoint is missing, damaged, or of another task or width.
        """
        content = read_prior(path)
        sizes = content["observation_size"], content["action_size"]
        if sizes != (self.observation_size, self.action_size):
            raise UserError(
                f"{path} is a prior for {sizes[0]} observations and {sizes[1]} actions, but the task has "
                f"{self.observation_size} and {self.action_size}; pretrain one on this task's logs"
            )
        for name, tensor in self.state_dict().items():
            if "lora_" in name:
                continue
            name = name.replace(".base_layer", "")
            saved = content["state_dict"].get(name)
            if saved is None or saved.shape != tensor.shape:
                found, wanted = "nothing" if saved is None else tuple(saved.shape), tuple(tensor.shape)
                raise UserError(f"{path} holds {found} for {name} in place of {wanted}; run dapbench pretrain again")
            tensor.copy_(saved)

    def save(self, path: Path, description: Mapping[str, Any]) -> None:
        """Writes weights, statistics, sizes and the description of the logs."""
        sizes = {"observation_size": self.observation_size, "action_size": self.action_size}
        content = {"config": self.config, "state_dict": self.state_dict(), "logs": dict(description)} | sizes
        write_checkpoint(path, content)


def read_prior(path: Path) -> dict[str, Any]:
    """The content of a prior's checkpoint: ``config``, ``state_dict``, ``logs`` and the sizes.

    Raises:
        UserError: the file is missing, damaged or foreign.
    """
    if not path.is_file():
        raise UserError(
            f"no prior at {path}; make one with dapbench collect and dapbench pretrain (draw=DRAW), or dapbench repro"
        )
    keys = ("config", "state_dict", "logs", "observation_size", "action_size")
    return read_checkpoint(path, "prior", keys, "run dapbench pretrain again")


def build_prior(observation_size: int, action_size: int, config: Mapping[str, Any]) -> ActionPrior:
    """The prior that a file of conf/prior describes.

    Raises:
        UserError: its ``_target_`` is no ActionPrior.
    """
    from hydra.utils import get_class

    try:
        found = get_class(config["_target_"])
    except (ImportError, ValueError, KeyError) as error:
        raise UserError(f"prior._target_={config.get('_target_')} cannot be imported; see conf/prior") from error
    if not issubclass(found, ActionPrior):
        raise UserError(f"prior._target_={config['_target_']} is not a subclass of dapbench.prior.base.ActionPrior")
    return found(observation_size, action_size, config)
