"""The diffusion prior: an EDM denoiser of one action given a state (Karras et al. 2022)."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dapbench.prior.base import ActionPrior, Guidance
from dapbench.rl.losses import edm_loss
from dapbench.rl.updates import maybe_compile

LOG_SIGMA_MEAN, LOG_SIGMA_STD = -1.2, 1.2  # P_mean and P_std (Karras et al. 2022, Table 1)
RHO = 7.0


class Denoiser(nn.Module):
    """F_ψ(x, c_noise, s): state, noisy action and noise level meet in the first layer, then hidden layers follow.

    The state's share of the first layer is computed once for all proposals and solver steps at that state.
    """

    def __init__(self, observation_size: int, action_size: int, width: int, depth: int) -> None:
        super().__init__()
        self.from_state = nn.Linear(observation_size, width)
        self.from_action = nn.Linear(action_size, width, bias=False)
        self.from_noise = nn.Linear(2, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, action_size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def embed(self, states: Tensor) -> Tensor:
        """The state's share [..., width] of the first layer."""
        return self.from_state(states)

    def forward(self, embedded: Tensor, x: Tensor, c_noise: Tensor) -> Tensor:
        """F [..., A] at embedded states [..., width], scaled noisy actions ``x`` [..., A] and ``c_noise`` [..., 1]."""
        noise_features = torch.cat([c_noise, c_noise**2], -1)
        h = nn.functional.silu(embedded + self.from_action(x) + self.from_noise(noise_features))
        for layer in self.hidden:
            h = h + nn.functional.silu(layer(h))
        return self.out(h)


class DiffusionPrior(ActionPrior):
    """p_ψ(a | s) as a denoiser with EDM preconditioning, sampled in a few second-order steps.

    Args:
        observation_size, action_size: O and A.
        config: ``width`` and ``depth`` of the denoiser, ``sigma_min``, ``sigma_max`` and ``solver_steps``.
    """

    network: Denoiser
    sigma_data: Tensor

    def __init__(self, observation_size: int, action_size: int, config: Mapping[str, Any]) -> None:
        super().__init__(observation_size, action_size, config)
        self.network = Denoiser(observation_size, action_size, config["width"], config["depth"])
        self.register_buffer("sigma_data", torch.tensor(0.5))

    def fit_statistics(self, observations: Tensor, actions: Tensor) -> None:
        """Also measures σ_d, the standard deviation of the scaled actions."""
        super().fit_statistics(observations, actions)
        self.sigma_data.copy_(actions.std().clamp(min=1e-3))

    def denoise(self, embedded: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """D(x; σ, s) (Karras et al. 2022, eq. 7 and Table 1) at ``noisy`` [..., A] and ``sigma`` [..., 1]."""
        total = (sigma**2 + self.sigma_data**2).sqrt()
        c_skip = (self.sigma_data / total) ** 2
        c_out = sigma * self.sigma_data / total
        return c_skip * noisy + c_out * self.network(embedded, noisy / total, sigma.log() / 4.0)

    def corrupt(self, actions: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """σ [B] with ln σ ~ N(−1.2, 1.2²), and noise ε [B, A]."""
        sigma = (LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.randn(len(actions), generator=generator)).exp()
        noise = torch.randn(actions.shape, generator=generator)
        return {"sigma": sigma.to(actions.device), "noise": noise.to(actions.device)}

    def predict(self, batch: Mapping[str, Tensor]) -> Tensor:
        """D(a + σε; σ, s) [B, A]."""
        sigma = batch["sigma"].unsqueeze(-1)
        embedded = self.network.embed(batch["prior_observations"])
        return self.denoise(embedded, batch["actions"] + sigma * batch["noise"], sigma)

    def fit_loss(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """L_diff of the denoised actions."""
        return edm_loss(prediction, batch["actions"], batch["sigma"], self.sigma_data)

    def drift(self, prediction: Tensor, previous: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """E[λ(σ) ‖D − D_previous‖²]."""
        return edm_loss(prediction, previous, batch["sigma"], self.sigma_data)

    def schedule(self) -> list[float]:
        """σ_0 > … > σ_{n−1}, 0: the ρ = 7 schedule (Karras et al. 2022, eq. 5)."""
        n = self.config["solver_steps"]
        high, low = self.config["sigma_max"] ** (1 / RHO), self.config["sigma_min"] ** (1 / RHO)
        return [(high + i / max(n - 1, 1) * (low - high)) ** RHO for i in range(n)] + [0.0]

    def hidden_layers(self) -> list[str]:
        """Those between the first layer and the last."""
        return [f"hidden.{i}" for i in range(len(self.network.hidden))]

    def solver(self) -> Tensor:
        """[n, 5], of each step: σ, the σ after it, and what x, the denoised and the last denoised weigh in the next x.

        DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order at one denoiser call a step.
        """
        rows, previous_step = [], math.inf
        for sigma, next_sigma in pairwise(self.schedule()):
            if next_sigma == 0.0:
                rows.append((sigma, 0.0, 0.0, 1.0, 0.0))
                continue
            step = math.log(sigma / next_sigma)
            extrapolation, share = step / (2.0 * previous_step), -math.expm1(-step)
            rows.append((sigma, next_sigma, next_sigma / sigma, share * (1.0 + extrapolation), -share * extrapolation))
            previous_step = step
        return self.state_mean.new_tensor(rows)

    def solver_step(
        self, embedded: Tensor, x: Tensor, previous: Tensor, coefficients: Tensor, guidance: Guidance | None
    ) -> tuple[Tensor, Tensor]:
        """One row of :meth:`solver`, then a step along the guidance; returns the next x and the denoised, [M, K, A]."""
        sigma, next_sigma, of_x, of_denoised, of_previous = coefficients.unbind()
        shared = embedded.unsqueeze(1).expand(-1, x.shape[1], -1)
        denoised = self.denoise(shared, x, sigma.view(1, 1, 1)).clamp(-1.0, 1.0)
        x = of_x * x + of_denoised * denoised + of_previous * previous
        return x if guidance is None else guidance.step(x, next_sigma, self.config["sigma_max"]), denoised

    def sample(self, prior_observations: Tensor, noise: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Solves the probability flow from σ_max to 0; each latent moves along the guidance, the clean one too."""
        embedded = self.network.embed(prior_observations)
        x, denoised = self.config["sigma_max"] * noise, torch.zeros_like(noise)
        for coefficients in self.solver().unbind():
            x, denoised = self.solver_step(embedded, x, denoised, coefficients, guidance)
        return x.clamp(-1.0, 1.0)

    def compile_sampler(self, compile: bool) -> None:
        """Compiles one solver step: the whole solver as one graph takes five times as long to compile."""
        compiled = maybe_compile(self.solver_step, compile, self.state_mean.device)
        self.solver_step = compiled  # type: ignore[method-assign]
