"""Each loss against numbers worked out by hand or an independent reference."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Independent, Normal, kl_divergence

from dapbench.rl import losses


def normal(mean: torch.Tensor, log_std: torch.Tensor) -> Independent:
    return Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)


@pytest.fixture
def gaussians() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(5, 3), torch.randn(3) * 0.3, torch.randn(5, 3), torch.randn(5, 3) * 0.3


def test_gaussian_log_prob_against_scipy(gaussians: tuple[torch.Tensor, ...]) -> None:
    mean, log_std, actions, _ = gaussians
    expected = scipy.stats.norm.logpdf(actions.numpy(), mean.numpy(), log_std.exp().numpy()).sum(-1)
    np.testing.assert_allclose(losses.gaussian_log_prob(actions, mean, log_std), expected, rtol=1e-5)


def test_gaussian_entropy_and_kl_against_torch(gaussians: tuple[torch.Tensor, ...]) -> None:
    mean, log_std, other_mean, other_log_std = gaussians
    p, q = normal(mean, log_std), Independent(Normal(other_mean, other_log_std.exp()), 1)
    torch.testing.assert_close(losses.gaussian_entropy(log_std), p.entropy()[0])
    torch.testing.assert_close(losses.gaussian_kl(mean, log_std, other_mean, other_log_std), kl_divergence(p, q))


def test_clipped_surrogate_by_hand() -> None:
    # Ratios 1.5, 1.5, 0.5, 0.5 with ε = 0.2: min(1.5, 1.2)·1, min(−1.5, −1.2), min(0.5, 0.8)·1, min(−0.5, −0.8).
    ratios, advantages = torch.tensor([1.5, 1.5, 0.5, 0.5]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss = losses.clipped_surrogate(ratios.log(), torch.zeros(4), advantages, 0.2)
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)


def test_clipped_surrogate_has_no_gradient_where_it_clips() -> None:
    log_prob = torch.tensor([1.5, 0.5]).log().requires_grad_()
    losses.clipped_surrogate(log_prob, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2).backward()
    torch.testing.assert_close(log_prob.grad, torch.zeros(2))


def test_value_loss_and_approximate_kl_by_hand() -> None:
    assert losses.value_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])).item() == pytest.approx(1.25)
    log_ratio = torch.tensor([0.1, -0.2])
    expected = np.mean([math.exp(0.1) - 1 - 0.1, math.exp(-0.2) - 1 + 0.2])
    assert losses.approximate_kl(log_ratio, torch.zeros(2)).item() == pytest.approx(expected, rel=1e-4)


def test_edm_loss_by_hand() -> None:
    # σ = 1, σ_d = 0.5: λ = (1 + 0.25) / 0.25 = 5; ‖(1, 2) − (0, 0)‖² = 5.
    loss = losses.edm_loss(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.ones(1), torch.tensor(0.5))
    assert loss.item() == pytest.approx(25.0)


def test_diffusion_bound_is_a_gaussians_log_density() -> None:
    """With the exact denoiser of N(m, s²), the bound's integral is (a − m)² / 2s² up to a constant in a."""
    m, s = 0.3, 0.4
    log_low, log_high, count = math.log(1e-3), math.log(1e3), 200_001
    sigma = torch.linspace(log_low, log_high, count, dtype=torch.float64).exp()

    def bound(a: float) -> float:
        # E over ε of ‖D(a + σε) − a‖², with D(x) = (s²x + σ²m) / (s² + σ²): the two are uncorrelated.
        shift = sigma**2 * (m - a) / (s**2 + sigma**2)
        spread = s**2 * sigma / (s**2 + sigma**2)
        return sum(
            losses.diffusion_bound(d.unsqueeze(-1), torch.zeros(count, 1), sigma, log_high - log_low).mean().item()
            for d in (shift, spread)
        )

    assert bound(1.0) - bound(m) == pytest.approx((1.0 - m) ** 2 / (2 * s**2), rel=1e-4)


def test_imitation_loss_is_the_mean_negative_log_prob(gaussians: tuple[torch.Tensor, ...]) -> None:
    mean, log_std, first, second = gaussians
    proposals, everywhere = torch.stack([first, second], 1), torch.ones(len(mean))
    p = normal(mean, log_std)
    expected = -0.5 * (p.log_prob(first).mean() + p.log_prob(second).mean())
    torch.testing.assert_close(losses.imitation_loss(proposals, mean, log_std, everywhere), expected)
    one = torch.zeros(len(mean)).index_fill(0, torch.tensor([1]), 1.0)
    expected = -0.5 * (p.log_prob(first) + p.log_prob(second))[1]
    torch.testing.assert_close(losses.imitation_loss(proposals, mean, log_std, one), expected)
    assert losses.imitation_loss(proposals, mean, log_std, torch.zeros(len(mean))) == 0


def test_imitation_loss_moves_the_std_too() -> None:
    """Without it the gain was measured to vanish (design: the std must follow the proposals)."""
    log_std = torch.zeros(2, requires_grad=True)
    losses.imitation_loss(torch.zeros(4, 1, 2), torch.zeros(4, 2), log_std, torch.ones(4)).backward()
    torch.testing.assert_close(log_std.grad, torch.ones(2))  # all proposals at the mean: shrink


def test_energy_weights_by_hand() -> None:
    q = torch.tensor([[1.0, 2.0, 3.0]])  # standardized: −1, 0, 1
    expected = torch.tensor([[math.exp(-2), 1.0, math.exp(2)]])
    torch.testing.assert_close(
        losses.energy_weights(q, torch.tensor(2.0)), expected / expected.sum(), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(losses.energy_weights(q * 100 + 7, torch.tensor(0.0)), torch.full((1, 3), 1 / 3))


def test_guidance_step_is_bounded_and_shrinks() -> None:
    gradient = torch.tensor([[[3.0, 4.0], [0.0, 0.1]]])  # norms 5 and 0.1, mean 2.55
    sigma_data = torch.tensor(0.5)
    large = losses.guidance_step(gradient, torch.tensor(1e3), sigma_data, 0.3)
    torch.testing.assert_close(large[0, 0], 0.3 * torch.tensor([0.6, 0.8]), rtol=1e-4, atol=0)
    torch.testing.assert_close(large[0, 1], 0.3 * torch.tensor([0.0, 0.1]) / 2.55, rtol=1e-4, atol=1e-7)
    small = losses.guidance_step(gradient, torch.tensor(0.05), sigma_data, 0.3)
    assert small.norm() < 0.11 * large.norm()
    assert torch.equal(
        losses.guidance_step(torch.zeros(1, 2, 2), torch.tensor(1.0), sigma_data, 0.3), torch.zeros(1, 2, 2)
    )
