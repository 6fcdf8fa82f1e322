"""The priors: preconditioning, solver, guidance, adapters, quality and checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dapbench.errors import UserError
from dapbench.prior.base import ActionPrior, Guidance, build_prior
from dapbench.prior.pretraining import BATCHES_A_STEP, Pretraining, fit_prior
from dapbench.prior.quality import energy_distance, energy_score

CONFIG = {"width": 16, "depth": 1, "solver_steps": 5, "sigma_min": 0.02, "sigma_max": 5.0}
KINDS = {"diffusion": "dapbench.prior.diffusion.DiffusionPrior", "gaussian": "dapbench.prior.gaussian.GaussianPrior"}


def make(kind: str = "diffusion", **changes: Any) -> ActionPrior:
    torch.manual_seed(0)
    return build_prior(3, 2, {"_target_": KINDS[kind], **CONFIG, **changes})


def with_exact_denoiser(prior: ActionPrior, mean: torch.Tensor, std: float) -> ActionPrior:
    """Replaces D by the exact denoiser of N(mean, std²), whatever the state."""

    def denoise(embedded: Any, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (std**2 * noisy + sigma**2 * mean) / (std**2 + sigma**2)

    prior.denoise = denoise
    return prior


def test_preconditioning_is_edms() -> None:
    """With F = 0 (the output layer starts at zero) D is c_skip x, so σ → 0 is the identity (Table 1)."""
    prior = make()
    prior.sigma_data.fill_(0.5)
    x, embedded = torch.randn(4, 2), prior.network.embed(torch.zeros(4, 3))
    torch.testing.assert_close(prior.denoise(embedded, x, torch.full((4, 1), 0.5)), 0.5 * x)
    torch.testing.assert_close(prior.denoise(embedded, x, torch.full((4, 1), 1e-5)), x)


def test_schedule_is_karras_with_rho_7() -> None:
    sigmas = make(solver_steps=3, sigma_min=0.1, sigma_max=10.0).schedule()
    middle = (0.5 * (10 ** (1 / 7) + 0.1 ** (1 / 7))) ** 7
    assert sigmas == pytest.approx([10.0, middle, 0.1, 0.0])


def test_sampler_draws_from_the_distribution_of_its_denoiser() -> None:
    mean = torch.tensor([0.2, -0.1])
    prior = with_exact_denoiser(make(solver_steps=16, sigma_max=50.0), mean, 0.2)
    noise = torch.randn(4000, 2, 2, generator=torch.Generator().manual_seed(0))
    drawn = prior.sample(torch.zeros(4000, 3), noise).reshape(-1, 2)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((2,), 0.2), atol=0.02, rtol=0)


def test_solver_is_second_order() -> None:
    """Twice the steps give a quarter of the error against the exact probability-flow solution, within slack."""
    mean, std = torch.zeros(2), 0.3
    noise = torch.full((1, 1, 2), 0.1)

    def error(steps: int) -> float:
        prior = with_exact_denoiser(make(solver_steps=steps, sigma_min=0.02, sigma_max=2.0), mean, std)
        exact = noise * 2.0 * std / (std**2 + 4.0) ** 0.5  # x(σ) ∝ √(s² + σ²)
        reached = exact * (std**2 + 0.02**2) ** 0.5 / std  # the last step, from σ_min to zero, is the denoiser
        return float((prior.sample(torch.zeros(1, 3), noise) - reached * std**2 / (std**2 + 0.02**2)).abs().max())

    assert error(80) < error(40) / 3 < error(20) / 9


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_raises_q_and_stays_within_bounds(kind: str) -> None:
    prior = make(kind)
    states, noise = torch.randn(50, 3), torch.randn(50, 4, 2)
    target = torch.tensor([0.9, -0.9])

    def guide(features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return target - actions

    with torch.no_grad():
        plain = prior.sample(states, noise)
        guided = prior.sample(states, noise, Guidance(guide, states, 0.3))
    assert guided.abs().max() <= 1.0
    assert (guided - target).norm(dim=-1).mean() < (plain - target).norm(dim=-1).mean() - 0.05


def test_guidance_moves_each_latent_and_the_clean_action_by_eq_8() -> None:
    """With the exact denoiser of a point mass at 0, x after each step is σ'/σ · x plus α(σ') g, by hand."""
    prior = with_exact_denoiser(make(solver_steps=2, sigma_min=1.0, sigma_max=4.0), torch.zeros(2), 1e-6)
    gradient = torch.tensor([0.1, 0.0])
    guidance = Guidance(lambda features, actions: gradient.expand_as(actions), torch.zeros(1, 1), 0.4)
    noise = torch.full((1, 1, 2), 0.5)
    # σ: 4 → 1 → 0. The first step leaves 1/4 · 4 · 0.5, plus 0.4 (1 − 1/4) 0.1; the second nothing, plus 0.4 · 0.1.
    x, _ = prior.solver_step(
        prior.network.embed(torch.zeros(1, 3)), 4.0 * noise, 0.0 * noise, prior.solver()[0], guidance
    )
    torch.testing.assert_close(x[0, 0], torch.tensor([0.53, 0.5]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        prior.sample(torch.zeros(1, 3), noise, guidance)[0, 0], torch.tensor([0.04, 0.0]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_start_as_the_identity_and_can_learn(kind: str) -> None:
    """A LoRA whose two factors both start at zero never moves: one of them must not."""
    plain, adapted = make(kind), make(kind)
    adapted.add_adapters("lora", 4)
    rows = {
        "prior_observations": torch.randn(8, 3),
        "actions": torch.rand(8, 2),
        "sigma": torch.ones(8),
        "noise": torch.ones(8, 2),
    }
    torch.testing.assert_close(adapted.predict(rows), plain.predict(rows))
    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    assert {name.split(".lora_")[0].removeprefix("network.") for name in trainable} == set(plain.hidden_layers())
    if kind == "diffusion":
        torch.nn.init.normal_(adapted.network.out.weight)  # at zero nothing behind it has a gradient
    adapted.fit_loss(adapted.predict(rows), rows).backward()
    moved = [name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("lora_B" in name for name in moved)


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained_weights_survive_the_way_through_a_checkpoint(kind: str, tmp_path: Path) -> None:
    prior = make(kind)
    prior.fit_statistics(torch.randn(50, 3) * 5 + 1, torch.rand(50, 2))
    prior.save(tmp_path / "prior.ckpt", {"quality": "medium"})
    other = make(kind)
    for p in other.parameters():
        torch.nn.init.zeros_(p)
    other.add_adapters("lora", 4)
    other.load_pretrained(tmp_path / "prior.ckpt")
    rows = {
        "prior_observations": torch.randn(8, 3),
        "actions": torch.rand(8, 2),
        "sigma": torch.ones(8),
        "noise": torch.ones(8, 2),
    }
    torch.testing.assert_close(other.predict(rows), prior.predict(rows))
    torch.testing.assert_close(other.state_std, prior.state_std)


@pytest.mark.parametrize("compile", [False, True])
def test_pretraining_finds_the_density_of_the_actions(compile: bool) -> None:
    """a = s / 2 + 0.1 ε, whose mean and standard deviation at a state are known."""
    generator = torch.Generator().manual_seed(0)
    states = torch.rand(4000, 3, generator=generator) * 2.0 - 1.0
    actions = 0.5 * states[:, :2] + 0.1 * torch.randn(4000, 2, generator=generator)
    prior = make("gaussian", learning_rate=1e-2, batch_size=128, ema_decay=0.98)
    fit_prior(prior, states, actions, 600, 0, compile=compile)
    at = torch.tensor([[0.4, -0.6, 0.0], [-0.2, 0.2, 0.8]])
    with torch.no_grad():
        mean, log_std = prior.predict({"prior_observations": prior.normalize(at)}).chunk(2, -1)
    torch.testing.assert_close(mean, 0.5 * at[:, :2], atol=0.03, rtol=0.0)
    torch.testing.assert_close(log_std.exp(), torch.full((2, 2), 0.1), atol=0.02, rtol=0.0)


def test_pretraining_takes_every_batch_and_leaves_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = Pretraining.training_step

    def training_step(self: Pretraining, batches: int, batch_idx: int) -> None:
        step(self, batches, batch_idx)
        seen.append((batches, self.update.flat.detach().clone()))

    monkeypatch.setattr(Pretraining, "training_step", training_step)
    prior = make("gaussian", learning_rate=1e-2, batch_size=8, ema_decay=0.9)
    average = torch.cat([p.detach().flatten() for p in prior.parameters()])
    fit_prior(prior, torch.randn(50, 3), torch.rand(50, 2), 2 * BATCHES_A_STEP + 3, 0, compile=False)
    assert [batches for batches, _ in seen] == [BATCHES_A_STEP, BATCHES_A_STEP, 3]
    for batches, flat in seen:
        average = 0.9**batches * average + (1.0 - 0.9**batches) * flat
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in prior.parameters()]), average)


def test_bad_checkpoints_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "prior.ckpt"
    with pytest.raises(UserError, match="no prior at"):
        make().load_pretrained(path)
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(UserError, match="not a readable prior"):
        make().load_pretrained(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(UserError, match="lacks"):
        make().load_pretrained(path)
    torch.save(np.float64, path)  # a pickled global: refused unread
    with pytest.raises(UserError, match="not a readable prior"):
        make().load_pretrained(path)
    torch.manual_seed(0)
    build_prior(5, 2, {"_target_": KINDS["diffusion"], **CONFIG}).save(path, {})
    with pytest.raises(UserError, match="5 observations and 2 actions, but the task has 3 and 2"):
        make().load_pretrained(path)
    with pytest.raises(UserError, match="cannot be imported"):
        build_prior(3, 2, {"_target_": "dapbench.prior.nothing.Prior"})


def test_energy_distance_and_score_by_hand() -> None:
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]])
    assert energy_distance(x, y) == pytest.approx(2 * 1.0 - 1.0 - 0.0)
    assert energy_distance(x, x) == pytest.approx(0.0)
    proposals, actions = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0]])
    assert energy_score(proposals, actions) == pytest.approx(1.0 - 0.5 * 2.0)
