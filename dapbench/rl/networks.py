"""The policy and value networks: tanh layers with orthogonal initialisation."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


class Tanh(nn.Module):
    """tanh as 2 σ(2x) − 1, whose exponential is vectorized where torch's tanh is not; within 2e-7 of it."""

    def forward(self, x: Tensor) -> Tensor:
        """tanh x."""
        return 2.0 * torch.sigmoid(2.0 * x) - 1.0


class MLP(nn.Sequential):
    """Linear layers with tanh between them; weights orthogonal with gain √2, the last with ``last_gain``.

    Args:
        inputs: width of the input.
        hidden: widths of the hidden layers.
        outputs: width of the output.
        last_gain: gain of the last layer; 0.01 keeps a policy's first actions near zero, 1.0 suits a value.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, last_gain: float) -> None:
        widths = [inputs, *hidden, outputs]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layer = nn.Linear(fan_in, fan_out)
            is_last = i == len(hidden)
            nn.init.orthogonal_(layer.weight, last_gain if is_last else math.sqrt(2.0))
            nn.init.zeros_(layer.bias)
            layers += [layer] if is_last else [layer, Tanh()]
        super().__init__(*layers)

    def to_numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        """A copy of the network that maps numpy [B, inputs] to [B, outputs]: a third of torch's cost at B = 10."""
        linear = [m for m in self if isinstance(m, nn.Linear)]
        layers = [(m.weight.detach().cpu().numpy().T.copy(), m.bias.detach().cpu().numpy().copy()) for m in linear]

        def forward(x: np.ndarray) -> np.ndarray:
            for weight, bias in layers[:-1]:
                x = np.tanh(x @ weight + bias)
            weight, bias = layers[-1]
            return x @ weight + bias

        return forward


class GaussianActor(nn.Module):
    """A diagonal Gaussian policy: mean [B, A] from the state, log-std [A] free of it.

    Args:
        inputs: width of the (normalized) observation.
        hidden: widths of the hidden layers.
        actions: number of action dimensions.
        log_std: initial log standard deviation.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], actions: int, log_std: float) -> None:
        super().__init__()
        self.mean = MLP(inputs, hidden, actions, last_gain=0.01)
        self.log_std = nn.Parameter(torch.full((actions,), float(log_std)))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, A] and log-std [A] at normalized observations [B, O]."""
        return self.mean(observations), self.log_std


class Critic(nn.Module):
    """A scalar function of its inputs: V(s), or Q(s, a) when given the concatenation of both."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.value = MLP(inputs, hidden, 1, last_gain=1.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Values [B] at ``inputs``, each [B, ·], joined along the last axis."""
        joined = inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1)
        return self.value(joined).squeeze(-1)
