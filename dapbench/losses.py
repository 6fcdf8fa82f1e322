"""Every loss as a pure function of tensors, each tied to its equation."""

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


def gaussian_log_prob(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(a; μ, diag σ²) [B] of ``actions`` [B, A], with ``mean`` [B, A] and ``log_std`` [A] or [B, A]."""
    return (-0.5 * ((actions - mean) * (-log_std).exp()) ** 2 - log_std - 0.5 * LOG_2PI).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy, in nats, of a diagonal Gaussian with ``log_std`` [..., A]."""
    return (log_std + 0.5 * (1.0 + LOG_2PI)).sum(-1)


def gaussian_kl(mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor) -> Tensor:
    """KL(p ‖ q) [B] between diagonal Gaussians, in nats; means [B, A], log-stds [A] or [B, A]."""
    ratio = (2.0 * (log_std_p - log_std_q)).exp()
    distance = ((mean_p - mean_q) * (-log_std_q).exp()) ** 2
    return 0.5 * (ratio + distance - 1.0 - 2.0 * (log_std_p - log_std_q)).sum(-1)


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate as a loss (Schulman et al. 2017, eq. 7); inputs [B], returns a scalar."""
    ratio = (log_prob - old_log_prob).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages).mean()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """½ E[(V − R)²], the mean over [B]."""
    return 0.5 * ((values - returns) ** 2).mean()


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """KL(old ‖ new) from samples of old, by the low-variance estimator (r − 1) − log r (Schulman 2020)."""
    log_ratio = log_prob - old_log_prob
    return (log_ratio.exp() - 1.0 - log_ratio).mean()
