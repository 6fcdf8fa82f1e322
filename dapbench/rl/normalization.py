"""Running statistics as module buffers, so that every checkpoint carries them."""

import numpy as np
import torch
from torch import Tensor, nn

CLIP = 10.0
EPSILON = 1e-8


class RunningMeanStd(nn.Module):
    """Mean and variance over all data seen so far (Chan et al. 1979, parallel update), in float64.

    Args:
        shape: the shape of one datum; ``()`` for scalars.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, data: np.ndarray) -> None:
        """Takes in a batch [N, *shape]."""
        batch = torch.as_tensor(data, dtype=torch.float64, device=self.mean.device)
        total = self.count + len(batch)
        delta = batch.mean(0) - self.mean
        spread = batch.var(0, correction=0) * len(batch) + delta**2 * self.count * len(batch) / total
        self.var.copy_((self.var * self.count + spread) / total)
        self.mean.add_(delta * len(batch) / total)
        self.count.copy_(total)

    def normalize(self, data: Tensor) -> Tensor:
        """Standardizes float32 ``data`` [..., *shape] and clips it at ±10."""
        mean, std = self.mean.float(), (self.var + EPSILON).sqrt().float()
        return ((data - mean) / std).clamp(-CLIP, CLIP)

    def std(self) -> float:
        """The standard deviation of scalar data."""
        return float((self.var + EPSILON).sqrt())
