"""PPO with a diffusion action prior (PPO-DAP, arXiv 2409.01427): what it adds to PPO, and nothing else.

The prior proposes actions at some of a rollout's states; the critic Q concentrates them; they reach the actor through
an imitation loss and an optional KL. PPO's objective and its on-policy data stay as they are.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dapbench.ppo import PPO, Estimate, Experience, PPOSettings, Prepared
from dapbench.prior.base import Guidance, build_prior, read_prior
from dapbench.rl.losses import (
    energy_weights,
    gaussian_entropy,
    gaussian_kl,
    gaussian_log_prob,
    imitation_loss,
    masked_mean,
    value_loss,
)
from dapbench.rl.networks import Critic
from dapbench.rl.updates import Batch, Update
from dapbench.settings import check_at_most, check_divides, check_number, choice, given, number


@dataclass(frozen=True)
class DAPSettings(PPOSettings):
    """PPO's settings and PPO-DAP's own; conf/method/ppo_dap.yaml explains them."""

    prior: str = given()
    # Proposals
    state_share: float = number(0.0, 1.0)
    kl_state_share: float = number(0.0, 1.0)
    num_proposals: int = number(2, 10**4)  # one has no spread
    num_kept: int = number(1, 10**4)
    guidance_scale: float = number(0.0, 2.0)
    beta: float = number(0.0, 1e3)
    beta_anneal: float = number(0.0, 1.0)
    # The actor's terms
    imitation_weight: float = number(0.0, 1e3)
    imitation_decay: float = number(1e-6, 1e6)
    kl_weight: float = number(0.0, 1e3)
    kl_form: str = choice("moments", "score")
    prior_std_min: float = number(1e-6, 10.0)
    # Q
    q_epochs: int = number(1, 10**6)
    q_minibatch_size: int = number(1, 10**6)
    q_learning_rate: float = number(0.0, 1.0)
    # The prior's tuning
    tuning: str = choice("lora", "full", "frozen")
    lora_rank: int = number(1, 10**6)
    tuning_every: int = number(1, 10**6)
    tuning_steps: int = number(1, 10**6)
    tuning_batch_size: int = number(1, 10**6)
    tuning_learning_rate: float = number(0.0, 1.0)
    tuning_anchor: float = number(0.0, 1e6)

    def check(self, epoch_steps: int) -> None:
        super().check(epoch_steps)
        check_at_most("method.num_kept", self.num_kept, self.num_proposals, "num_proposals")
        for key in ("state_share", "kl_state_share"):
            check_number(f"method.{key}", getattr(self, key), 1 / self.rollout_size, 1)  # one state at least
        check_divides("method.q_minibatch_size", self.q_minibatch_size, self.rollout_size, "the rollout's steps")
        rows, rollout = self.tuning_steps * self.tuning_batch_size, self.rollout_size
        check_at_most("method.tuning_steps * method.tuning_batch_size", rows, rollout, "the rollout's steps")


@dataclass(frozen=True)
class Proposals:
    """Guided proposals at M states.

    Attributes:
        kept: [M, m, A], in [-1, 1].
        proxy_mean, proxy_log_std: [M, A], the moments of all K.
        q_gain: [M], by which Q of the kept proposals exceeds that of the mean one.
    """

    kept: Tensor
    proxy_mean: Tensor
    proxy_log_std: Tensor
    q_gain: Tensor

    def columns(self, rows: Tensor, length: int) -> Batch:
        """What the actor's terms read: ``length`` rows, zero but at ``rows`` [M], where ``has_proposals`` is 1."""
        columns = {}
        for name in ("kept", "proxy_mean", "proxy_log_std"):
            part = getattr(self, name)
            columns[name] = part.new_zeros(length, *part.shape[1:]).index_copy(0, rows, part)
        return columns | {"has_proposals": self.q_gain.new_zeros(length).index_fill(0, rows, 1.0)}


@dataclass(frozen=True)
class PreparedDAP(Prepared):
    """Also what :meth:`PPODAP.finish` compares with.

    Attributes:
        estimate: advantages and returns before the update, [N].
        imitation_loss: a scalar, of the policy that acted.
        metrics: of Q and of the proposals.
    """

    estimate: Estimate
    imitation_loss: Tensor
    metrics: dict[str, float]


class PPODAP(PPO):
    """PPO-DAP."""

    Settings = DAPSettings
    hp: DAPSettings
    annealed_imitation_weight: Tensor
    annealed_beta: Tensor

    @classmethod
    def complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Puts the pretrained prior's configuration and its logs' description into the run's configuration."""
        content = read_prior(Path(config["prior_dir"]) / "prior.ckpt")
        return config | {"prior": content["config"], "logs": content["logs"]}

    def build(self) -> None:
        super().build()
        self.q = Critic(self.observation_size + self.action_size, self.hp.hidden)
        self.prior = build_prior(self.observation_size, self.action_size, self.config["prior"])
        self.prior.add_adapters(self.hp.tuning, self.hp.lora_rank)
        # What changes during a run is a tensor, since compiled functions take Python numbers for constants.
        self.register_buffer("annealed_imitation_weight", torch.zeros(()))
        self.register_buffer("annealed_beta", torch.zeros(()))

    def load_inputs(self) -> None:
        self.prior.load_pretrained(Path(self.config["prior_dir"]) / "prior.ckpt")

    def logs_description(self) -> dict[str, Any]:
        return self.config["logs"]

    def make_updates(self) -> dict[str, Update]:
        self.prior.compile_sampler(self.config["compile"])
        self.compile_for_later()
        updates = super().make_updates()
        updates["q"] = self.update_of({"q": self.q}, self.q_loss, learning_rate=self.hp.q_learning_rate)
        if self.hp.tuning != "frozen":
            # Eager: a few steps every few iterations never earn back a compilation.
            options = {"learning_rate": self.hp.tuning_learning_rate, "compile": False}
            updates["prior"] = self.update_of({"prior": self.prior}, self.tuning_loss, **options)
        return updates

    @torch.no_grad()
    def compile_for_later(self) -> None:
        """Has the sampler compiled for ``kl_state_share`` now, and not in the middle of a run."""
        count = max(1, round(self.hp.kl_state_share * self.hp.rollout_size))
        observations = torch.zeros(count, self.observation_size, device=self.device)
        noise = observations.new_zeros(count, self.hp.num_proposals, self.action_size)
        self.propose(observations, observations, noise, noise[..., 0])

    # -- before PPO's epochs: fit Q, draw proposals ------------------------------------------------------------------

    def prepare(self, experience: Experience, estimate: Estimate) -> PreparedDAP:
        hp = self.hp
        annealed = min(1.0, self.progress / hp.beta_anneal) if hp.beta_anneal > 0 else 1.0
        self.annealed_beta.fill_(hp.beta * annealed)
        left = max(0.0, 1.0 - self.progress / hp.imitation_decay)
        self.annealed_imitation_weight.fill_(hp.imitation_weight * left)
        with self.clock("q"):
            metrics = self.fit_q(experience, estimate)
        with self.clock("proposals"), torch.no_grad():
            # By the schedule and not by λ_aux itself, so that a method without imitation has the KL at the same states.
            share = hp.state_share if left > 0 else hp.kl_state_share
            rows, proposals = self.propose_at_some(experience, share)
            columns = proposals.columns(rows, len(experience.actions))
            if hp.kl_weight > 0 and hp.kl_form == "score":
                columns |= self.score_draws(experience)
            before = imitation_loss(columns["kept"], *experience.old_policy, columns["has_proposals"])
        metrics = {"q_loss": metrics["q_loss"], "q_gain": float(proposals.q_gain.mean())}
        return PreparedDAP(columns, estimate, before, metrics)

    def fit_q(self, experience: Experience, estimate: Estimate) -> dict[str, float]:
        """Fits Q to the λ-returns of this rollout's actions; returns the last pass's metrics."""
        taken = experience.actions.clamp(-1.0, 1.0)
        table = {"policy_observations": experience.policy_observations, "taken": taken, "returns": estimate.returns}
        for _ in range(self.hp.q_epochs):
            metrics = self.updates["q"].epoch(table, self.hp.q_minibatch_size, self.carried.generator)
        return metrics

    def propose_at_some(self, experience: Experience, share: float) -> tuple[Tensor, Proposals]:
        """Proposals at a random ``share`` of the rollout's N states, with their rows [M]."""
        generator, length = self.carried.generator, len(experience.actions)
        count = max(1, round(share * length))
        rows = torch.randperm(length, generator=generator)[:count].to(self.device)
        shape = (count, self.hp.num_proposals, self.action_size)
        noise = torch.randn(shape, generator=generator).to(self.device)
        uniform = torch.rand(shape[:2], generator=generator).to(self.device)
        prior_observations = self.prior.normalize(experience.raw_observations[rows])
        return rows, self.propose(prior_observations, experience.policy_observations[rows], noise, uniform)

    def propose(
        self, prior_observations: Tensor, policy_observations: Tensor, noise: Tensor, uniform: Tensor
    ) -> Proposals:
        """K proposals at each of M states: guided sampling, energy weights, a few kept.

        Args:
            prior_observations, policy_observations: the states as the prior and as the policy normalize them, [M, O].
            noise, uniform: standard normal [M, K, A] and uniform [M, K] draws.
        """
        scale = self.hp.guidance_scale
        guidance = Guidance(self.q_gradient, policy_observations, scale) if scale > 0 else None
        actions = self.prior.sample(prior_observations, noise, guidance)
        q_values = self.q_of(policy_observations, actions)
        # Gumbel-top-m draws m of K without replacement, each with its energy weight (Kool et al. 2019).
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-6, 1.0 - 1e-6)))
        scores = energy_weights(q_values, self.annealed_beta).log() + gumbel
        index = scores.topk(self.hp.num_kept, -1).indices
        kept = actions.gather(1, index.unsqueeze(-1).expand(-1, -1, actions.shape[-1]))
        log_std = actions.std(1).clamp(min=self.hp.prior_std_min).log()
        return Proposals(kept, actions.mean(1), log_std, q_values.gather(1, index).mean(-1) - q_values.mean(-1))

    def score_draws(self, experience: Experience) -> Batch:
        """What the score form of the KL reads at each of the N states: the prior's view of it, and random draws."""
        generator, shape = self.carried.generator, experience.actions.shape
        level = torch.rand(shape[0], generator=generator)
        xi, epsilon = torch.randn(2, *shape, generator=generator)
        draws = {"kl_level": level, "kl_xi": xi, "kl_epsilon": epsilon}
        observations = {"prior_observations": self.prior.normalize(experience.raw_observations)}
        return observations | {name: draw.to(self.device) for name, draw in draws.items()}

    def q_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """½ E[(Q(s, a) − R)²] with the λ-returns R of the current rollout at the actions taken."""
        loss = value_loss(self.q(batch["policy_observations"], batch["taken"]), batch["returns"])
        return loss, {"q_loss": loss}

    def q_of(self, policy_observations: Tensor, actions: Tensor) -> Tensor:
        """Q [M, K] at states [M, O] and K actions [M, K, A] at each."""
        return self.q(policy_observations.unsqueeze(1).expand(-1, actions.shape[1], -1), actions)

    def q_gradient(self, policy_observations: Tensor, actions: Tensor) -> Tensor:
        """∇_a Q [M, K, A]."""
        return torch.func.grad(lambda a: self.q_of(policy_observations, a).sum())(actions)

    # -- PPO's epochs: the two extra terms of the actor's loss -------------------------------------------------------

    def actor_terms(self, batch: Batch, mean: Tensor, log_std: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        terms, metrics = mean.new_zeros(()), {}
        if self.hp.imitation_weight > 0:
            metrics["imitation_loss"] = imitation_loss(batch["kept"], mean, log_std, batch["has_proposals"])
            terms = terms + self.annealed_imitation_weight * metrics["imitation_loss"]
        if self.hp.kl_weight > 0:
            metrics["prior_kl"] = self.prior_kl(batch, mean, log_std)
            terms = terms + self.hp.kl_weight * metrics["prior_kl"]
        return terms, metrics

    def prior_kl(self, batch: Batch, mean: Tensor, log_std: Tensor) -> Tensor:
        """KL(π ‖ p): ``moments`` against the Gaussian that matches the proposals, ``score`` through the denoiser."""
        if self.hp.kl_form == "moments":
            divergence = gaussian_kl(mean, log_std, batch["proxy_mean"], batch["proxy_log_std"])
            return masked_mean(divergence, batch["has_proposals"])
        actions = mean + log_std.exp() * batch["kl_xi"]
        surprise = self.prior.surprise(batch["prior_observations"], actions, batch["kl_level"], batch["kl_epsilon"])
        return surprise.mean() - gaussian_entropy(log_std)

    # -- after PPO's epochs: tune the prior, measure the bound's terms -----------------------------------------------

    def finish(self, experience: Experience, estimate: Estimate, prepared: PreparedDAP) -> dict[str, float]:
        weights = {"beta": float(self.annealed_beta), "imitation_weight": float(self.annealed_imitation_weight)}
        metrics = prepared.metrics | weights | {"prior_drift": 0.0}
        if self.hp.tuning != "frozen" and (self.carried.iteration + 1) % self.hp.tuning_every == 0:
            with self.clock("pet"):
                metrics |= self.tune(experience)
        return metrics | self.bound_terms(experience, prepared, metrics["prior_drift"])

    def tune(self, experience: Experience) -> dict[str, float]:
        """A few steps of the prior's own loss on the rollout's (s, a), kept close to the prior as it was."""
        generator, size = self.carried.generator, self.hp.tuning_batch_size
        rows = torch.randperm(len(experience.actions), generator=generator)[: self.hp.tuning_steps * size]
        rows = rows.to(self.device)
        actions = experience.actions[rows].clamp(-1.0, 1.0)
        table = {"prior_observations": self.prior.normalize(experience.raw_observations[rows]), "actions": actions}
        table |= self.prior.corrupt(actions, generator)
        with torch.no_grad():
            table["previous"] = self.prior.predict(table)
        metrics = self.updates["prior"].epoch(table, size, generator)
        with torch.no_grad():
            drift = self.prior.drift(self.prior.predict(table), table["previous"], table)
        return {"prior_loss": metrics["prior_loss"], "prior_drift": float(drift)}

    def tuning_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_diff (or the Gaussian's likelihood) plus the weighted drift from the previous prior."""
        prediction = self.prior.predict(batch)
        loss = self.prior.fit_loss(prediction, batch)
        drift = self.prior.drift(prediction, batch["previous"], batch)
        return loss + self.hp.tuning_anchor * drift, {"prior_loss": loss}

    @torch.no_grad()
    def bound_terms(self, experience: Experience, prepared: PreparedDAP, prior_drift: float) -> dict[str, float]:
        """The measured terms of the one-step performance lower bound, in scaled reward.

        J(π') − J(π) ≥ surrogate / (1 − γ) − 2 γ ε D_TV / (1 − γ)² (Achiam et al. 2017, corollary 1), with
        ε = max |E_π'[A]| bounded by max |A| and E[D_TV] ≤ √(E[KL] / 2) by Pinsker and Jensen. The two terms of PPO-DAP
        stand beside it: what the update gained on the weighted imitation objective, and how far the prior drifted.
        """
        mean, log_std = self.actor(experience.policy_observations)
        ratio = (gaussian_log_prob(experience.actions, mean, log_std) - experience.log_probs).exp()
        advantages, columns = prepared.estimate.advantages, prepared.columns
        surrogate = float(((ratio - 1.0) * advantages).mean())
        kl = gaussian_kl(*experience.old_policy, mean, log_std).mean().clamp(min=0.0)
        gamma, epsilon = self.hp.gamma, float(advantages.abs().max())
        after = imitation_loss(columns["kept"], mean, log_std, columns["has_proposals"])
        return {
            "policy_kl": float(kl),
            "bound_surrogate": surrogate / (1.0 - gamma),
            "bound_policy_shift": 2.0 * gamma * epsilon * math.sqrt(float(kl) / 2.0) / (1.0 - gamma) ** 2,
            "bound_imitation": float(self.annealed_imitation_weight * (prepared.imitation_loss - after)),
            "bound_prior_drift": prior_drift,
        }
