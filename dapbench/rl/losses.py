"""Every loss as a pure function of tensors, each tied to its equation."""

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)
MAX_GUIDANCE = 0.1  # the longest step along ∇_a Q


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


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    """E[|τ − 1(u < 0)| u²] of ``errors`` u [B] (Kostrikov et al. 2022, eq. 5); τ = ½ is half the squared error."""
    return (torch.where(errors < 0, 1.0 - expectile, expectile) * errors**2).mean()


def approximate_kl(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """KL(old ‖ new) from samples of old, by the low-variance estimator (r − 1) − log r (Schulman 2020)."""
    log_ratio = log_prob - old_log_prob
    return (log_ratio.exp() - 1.0 - log_ratio).mean()


def edm_weight(sigma: Tensor, sigma_data: Tensor) -> Tensor:
    """λ(σ) = (σ² + σ_d²) / (σ σ_d)² (Karras et al. 2022, Table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def edm_loss(denoised: Tensor, clean: Tensor, sigma: Tensor, sigma_data: Tensor) -> Tensor:
    """L_diff = E[λ(σ) ‖D(a + σε; σ, s) − a‖²] (Karras et al. 2022, eq. 8).

    Args:
        denoised, clean: D and a, [B, A].
        sigma: [B].
        sigma_data: standard deviation of the scaled actions, a scalar.
    """
    return (edm_weight(sigma, sigma_data) * ((denoised - clean) ** 2).sum(-1)).mean()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``values`` [B] where ``mask`` [B] is 1 and not 0; zero where it is nowhere."""
    return (mask * values).sum() / mask.sum().clamp(min=1.0)


def imitation_loss(proposals: Tensor, mean: Tensor, log_std: Tensor, mask: Tensor) -> Tensor:
    """L_aux = −E log π(ã | s) over the kept proposals ã [B, m, A] of those states whose ``mask`` [B] is 1.

    Args:
        mean, log_std: the policy's, [B, A] and [A].
    """
    return -masked_mean(gaussian_log_prob(proposals, mean.unsqueeze(-2), log_std).mean(-1), mask)


def energy_weights(q_values: Tensor, beta: Tensor) -> Tensor:
    """w_i ∝ exp(β Q(s, a_i)) [M, K] over each state's K proposals (arXiv 2409.01427v6, eq. 7), from Q [M, K]."""
    return torch.softmax(beta * q_values, -1)


def guidance_step(gradient: Tensor, sigma: Tensor, sigma_max: float, scale: float) -> Tensor:
    """α(σ) ∇_a Q with α(σ) = α_max (1 − σ/σ_max) (arXiv 2409.01427v6, eq. 8), cut to a norm of 0.1.

    Args:
        gradient: ∇_a Q [M, K, A].
        sigma: the noise level of the actions that move, a scalar.
        sigma_max: the highest level.
        scale: α_max.
    """
    step = scale * (1.0 - sigma / sigma_max) * gradient
    return step * (MAX_GUIDANCE / step.norm(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation of ``x`` and ``y`` [N], neither with ties."""
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).double()
    first, second = ranks - ranks.mean(1, keepdim=True)
    return (first * second).sum() / (first.norm() * second.norm())
