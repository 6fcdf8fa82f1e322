"""A conditional Gaussian prior: what the diffusion is compared with."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dapbench.prior.base import ActionPrior, Guidance
from dapbench.rl.losses import gaussian_kl, gaussian_log_prob

LOG_STD_RANGE = (-5.0, 1.0)


class GaussianPrior(ActionPrior):
    """N(μ_ψ(s), diag σ_ψ(s)²), fitted by maximum likelihood.

    Args:
        observation_size, action_size: O and A.
        config: ``width`` and ``depth`` of the network.
    """

    def __init__(self, observation_size: int, action_size: int, config: Mapping[str, Any]) -> None:
        super().__init__(observation_size, action_size, config)
        widths = [observation_size] + [config["width"]] * (config["depth"] + 1)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.SiLU()]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], 2 * action_size))

    def predict(self, batch: Mapping[str, Tensor]) -> Tensor:
        """μ and log σ [B, 2A]."""
        mean, log_std = self.network(batch["prior_observations"]).chunk(2, -1)
        return torch.cat([mean, log_std.clamp(*LOG_STD_RANGE)], -1)

    def fit_loss(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """−E log p(a | s)."""
        return -gaussian_log_prob(batch["actions"], *prediction.chunk(2, -1)).mean()

    def drift(self, prediction: Tensor, previous: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """E KL(previous ‖ now), in nats."""
        return gaussian_kl(*previous.chunk(2, -1), *prediction.chunk(2, -1)).mean()

    def hidden_layers(self) -> list[str]:
        """Those between the first layer and the last."""
        return [name for name, layer in self.network.named_children() if isinstance(layer, nn.Linear)][1:-1]

    def sample(self, prior_observations: Tensor, noise: Tensor, guidance: Guidance | None = None) -> Tensor:
        """μ + σ · noise, moved along the guidance once, as a clean action is."""
        mean, log_std = self.predict({"prior_observations": prior_observations}).unsqueeze(1).chunk(2, -1)
        actions = mean + log_std.exp() * noise
        return (actions if guidance is None else guidance.step(actions, actions.new_zeros(()), 1.0)).clamp(-1.0, 1.0)
