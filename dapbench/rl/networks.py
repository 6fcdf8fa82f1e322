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
    """V(s)."""

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.value = MLP(inputs, hidden, 1, last_gain=1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """V [B] at normalized observations [B, O]."""
        return self.value(observations).squeeze(-1)


class ActionCritic(nn.Module):
    """V(s) and Q(s, a) on one trunk; Q reads the trunk's features and the action (arXiv 2409.01427v6).

    Args:
        inputs: width of the normalized observation.
        actions: number of action dimensions.
        hidden: widths of the trunk's layers; Q's own hidden layer is as wide as the last of them.
    """

    def __init__(self, inputs: int, actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        *before, last = hidden
        self.trunk = nn.Sequential(MLP(inputs, before, last, last_gain=math.sqrt(2.0)), Tanh())
        self.value = MLP(last, [], 1, last_gain=1.0)
        self.action_value = MLP(last + actions, [last], 1, last_gain=1.0)

    def forward(self, observations: Tensor) -> Tensor:
        """V [B] at normalized observations [B, O]."""
        return self.value(self.trunk(observations)).squeeze(-1)

    def q(self, features: Tensor, actions: Tensor) -> Tensor:
        """Q [...] at the trunk's ``features`` [..., H] of the states and ``actions`` [..., A] in [-1, 1]."""
        return self.action_value(torch.cat([features, actions], -1)).squeeze(-1)
