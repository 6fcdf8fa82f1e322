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
    q = torch.tensor([[1.0, 2.0, 3.0]])
    expected = torch.tensor([[1.0, math.exp(2), math.exp(4)]])
    torch.testing.assert_close(losses.energy_weights(q, torch.tensor(2.0)), expected / expected.sum())
    torch.testing.assert_close(losses.energy_weights(q * 100 + 7, torch.tensor(0.0)), torch.full((1, 3), 1 / 3))
    # Raw Q: twice its scale is another distribution.
    assert losses.energy_weights(2 * q, torch.tensor(1.0))[0, 2] > losses.energy_weights(q, torch.tensor(1.0))[0, 2]


def test_guidance_step_grows_as_the_noise_falls_and_is_cut() -> None:
    gradient = torch.tensor([[[0.03, 0.04], [3.0, 4.0]]])  # norms 0.05 and 5
    at = [losses.guidance_step(gradient, torch.tensor(sigma), 5.0, 0.3) for sigma in (5.0, 2.5, 0.0)]
    assert torch.equal(at[0], torch.zeros_like(gradient))
    torch.testing.assert_close(at[1][0, 0], 0.15 * gradient[0, 0])
    torch.testing.assert_close(at[2][0, 0], 0.3 * gradient[0, 0])
    torch.testing.assert_close(at[2][0, 1], torch.tensor([0.06, 0.08]))  # 0.3 · 5 is above 0.1
    assert torch.equal(losses.guidance_step(torch.zeros(1, 2, 2), torch.tensor(0.0), 5.0, 0.3), torch.zeros(1, 2, 2))


def test_expectile_loss_by_hand_and_against_scipy() -> None:
    assert losses.expectile_loss(torch.tensor([-1.0, 2.0]), 0.7) == pytest.approx((0.3 + 0.7 * 4.0) / 2)
    sample = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expectile = torch.tensor(scipy.stats.expectile(sample.numpy(), 0.7), requires_grad=True)
    losses.expectile_loss(sample - expectile, 0.7).backward()
    assert expectile.grad == pytest.approx(0.0, abs=1e-6)


def test_rank_correlation_against_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, generator=generator)
    y = x.exp() + torch.randn(300, generator=generator)
    expected = scipy.stats.spearmanr(x.numpy(), y.numpy()).statistic
    assert losses.rank_correlation(x, y).item() == pytest.approx(expected, abs=1e-9)
