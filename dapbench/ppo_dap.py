"""PPO with a diffusion action prior (PPO-DAP, arXiv 2409.01427v6): what it adds to PPO, and nothing else.

The prior proposes actions at some of a rollout's states; the critic concentrates them; they reach the actor through an
imitation loss and a KL. PPO's objective and its on-policy data stay as they are. docs/ppo_dap.md has it on one page.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dapbench.ppo import Estimate, Experience, Prepared
from dapbench.prior.base import Guidance, build_prior, read_prior
from dapbench.rl.losses import (
    energy_weights,
    gaussian_kl,
    gaussian_log_prob,
    imitation_loss,
    masked_mean,
    rank_correlation,
    value_loss,
)
from dapbench.rl.networks import ActionCritic
from dapbench.rl.updates import Batch, Update
from dapbench.settings import check_at_most, check_number, choice, given, number
from dapbench.warm_start import WarmStartedPPO, WarmStartSettings


@dataclass(frozen=True)
class DAPSettings(WarmStartSettings):
    """The warm start's settings and PPO-DAP's own; conf/method/ppo_dap.yaml explains them."""

    prior: str = given()
    # Proposals
    state_share: float = number(0.0, 1.0)
    num_proposals: int = number(2, 10**4)  # one has no spread
    num_kept: int = number(1, 10**4)
    guidance_scale: float = number(0.0, 1e3)
    beta: float = number(0.0, 1e6)
    beta_anneal: float = number(0.0, 1.0)
    # The actor's terms
    imitation_weight: float = number(0.0, 1e3)
    kl_weight: float = number(0.0, 1e3)
    terms_decay: float | None = number(1e-6, 1e6)
    prior_std_min: float = number(1e-6, 10.0)
    # Q
    q_weight: float = number(0.0, 1e3)
    # The prior's tuning
    tuning: str = choice("lora", "full", "frozen")
    lora_rank: int = number(1, 10**6)
    tuning_every: int = number(1, 10**6)
    tuning_steps: int = number(1, 10**6)
    tuning_batch_size: int = number(1, 10**6)
    tuning_learning_rate: float = number(0.0, 1.0)

    def check(self, epoch_steps: int) -> None:
        super().check(epoch_steps)
        check_number("method.state_share", self.state_share, 1 / self.rollout_size, 1)  # one state at least
        rows, rollout = self.tuning_steps * self.tuning_batch_size, self.rollout_size
        check_at_most("method.tuning_steps * method.tuning_batch_size", rows, rollout, "the rollout's steps")


@dataclass(frozen=True)
class Proposals:
    """Proposals at M states.

    Attributes:
        kept: [M, m, A], in [-1, 1].
        proxy_mean, proxy_log_std: [M, A], the moments of the K raw ones.
        q_gain: [M], by which Q of the kept ones exceeds that of the raw ones.
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
    """Also what is reported of the rollout.

    Attributes:
        estimate: advantages and returns before the update, [N].
        metrics: of Q, of the proposals and of their weights.
    """

    estimate: Estimate
    metrics: dict[str, float]


class PPODAP(WarmStartedPPO):
    """PPO-DAP."""

    Settings = DAPSettings
    hp: DAPSettings
    critic: ActionCritic
    annealed_imitation_weight: Tensor
    annealed_kl_weight: Tensor
    annealed_beta: Tensor

    @classmethod
    def complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Puts the pretrained prior's configuration and its logs' description into the run's configuration."""
        content = read_prior(Path(config["prior_dir"]) / "prior.ckpt")
        return config | {"prior": content["config"], "logs": content["logs"]}

    def build(self) -> None:
        super().build()
        self.critic = ActionCritic(self.observation_size, self.action_size, self.hp.hidden)
        self.prior = build_prior(self.observation_size, self.action_size, self.config["prior"])
        self.prior.add_adapters(self.hp.tuning, self.hp.lora_rank)
        # What changes during a run is a tensor, since compiled functions take Python numbers for constants.
        for name in ("annealed_imitation_weight", "annealed_kl_weight", "annealed_beta"):
            self.register_buffer(name, torch.zeros(()))

    def load_inputs(self) -> None:
        self.prior.load_pretrained(Path(self.config["prior_dir"]) / "prior.ckpt")
        super().load_inputs()

    def logs_description(self) -> dict[str, Any]:
        return self.config["logs"]

    def make_updates(self) -> dict[str, Update]:
        self.prior.compile_sampler(self.config["compile"])
        updates = super().make_updates()
        if self.hp.tuning != "frozen":
            # Eager: a few steps every few iterations never earn back a compilation.
            options = {"learning_rate": self.hp.tuning_learning_rate, "compile": False}
            updates["prior"] = self.update_of({"prior": self.prior}, self.tuning_loss, **options)
        return updates

    # -- before PPO's epochs: proposals under the critic and the prior as they are ------------------------------------

    def prepare(self, experience: Experience, estimate: Estimate) -> PreparedDAP:
        """Proposals and Q's targets; nothing once the terms' weights have fallen to zero: from there on it is PPO."""
        hp, left = self.hp, self.left_of_terms()
        self.annealed_imitation_weight.fill_(hp.imitation_weight * left)
        self.annealed_kl_weight.fill_(hp.kl_weight * left)
        self.annealed_beta.fill_(hp.beta * (min(1.0, self.progress / hp.beta_anneal) if hp.beta_anneal > 0 else 1.0))
        metrics = {"beta": float(self.annealed_beta), "imitation_weight": float(self.annealed_imitation_weight)}
        metrics["kl_weight"] = float(self.annealed_kl_weight)
        if left == 0.0:
            return PreparedDAP({}, estimate, metrics)
        with self.clock("q"):
            columns = self.q_columns(experience)
            if self.is_monitored:
                metrics |= self.q_monitors(experience, estimate, columns)
        with self.clock("proposals"), torch.no_grad():
            rows, proposals = self.propose_at_some(experience)
            columns |= proposals.columns(rows, len(experience.actions))
        metrics["q_gain"] = float(proposals.q_gain.mean())
        if self.is_monitored:
            metrics["pg_share"] = self.pg_share(experience.columns() | estimate.columns() | columns)
        return PreparedDAP(columns, estimate, metrics)

    def left_of_terms(self) -> float:
        """The share of λ_aux and λ_KL that the schedule leaves."""
        return 1.0 if self.hp.terms_decay is None else max(0.0, 1.0 - self.progress / self.hp.terms_decay)

    def q_columns(self, experience: Experience) -> Batch:
        """The actions taken, as Q reads them, and Q's targets r + γ V(s') with V as it is before the update."""
        _, next_values = self.values(experience, self.critic)
        targets = experience.rewards + self.hp.gamma * next_values * ~experience.rollout.terminations
        return {"taken": experience.actions.clamp(-1.0, 1.0), "q_targets": self.flat(targets)}

    def propose_at_some(self, experience: Experience) -> tuple[Tensor, Proposals]:
        """Proposals at a random share of the rollout's N states, with their rows."""
        generator, count = self.carried.generator, max(1, round(self.hp.state_share * len(experience.actions)))
        rows = torch.randperm(len(experience.actions), generator=generator)[:count].to(self.device)
        noise = torch.randn(len(rows), self.hp.num_proposals, self.action_size, generator=generator).to(self.device)
        uniform = torch.rand(len(rows), self.hp.num_kept, generator=generator).to(self.device)
        prior_observations = self.prior.normalize(experience.raw_observations[rows])
        return rows, self.propose(prior_observations, experience.policy_observations[rows], noise, uniform)

    def propose(
        self, prior_observations: Tensor, policy_observations: Tensor, noise: Tensor, uniform: Tensor
    ) -> Proposals:
        """K proposals at each of M states, raw and guided from the same noise, and m draws of the guided ones.

        Args:
            prior_observations, policy_observations: the states as the prior and as the policy normalize them, [M, O].
            noise, uniform: standard normal [M, K, A] and uniform [M, m] draws.
        """
        features, scale = self.critic.trunk(policy_observations), self.hp.guidance_scale
        raw = self.prior.sample(prior_observations, noise)
        guidance = Guidance(self.q_gradient, features, scale)
        guided = self.prior.sample(prior_observations, noise, guidance) if scale > 0 else raw
        q_values = self.q_of(features, guided)
        weights = energy_weights(q_values, self.annealed_beta)
        # m draws with replacement, by the inverse of the weights' distribution function.
        index = torch.searchsorted(weights.cumsum(-1), uniform).clamp(max=weights.shape[-1] - 1)
        kept = guided.gather(1, index.unsqueeze(-1).expand(-1, -1, guided.shape[-1]))
        log_std = raw.std(1, correction=0).clamp(min=self.hp.prior_std_min).log()
        gain = q_values.gather(1, index).mean(-1) - self.q_of(features, raw).mean(-1)
        return Proposals(kept, raw.mean(1), log_std, gain)

    def q_of(self, features: Tensor, actions: Tensor) -> Tensor:
        """Q [M, K] at the trunk's features [M, H] of the states and K actions [M, K, A] at each."""
        return self.critic.q(features.unsqueeze(1).expand(-1, actions.shape[1], -1), actions)

    def q_gradient(self, features: Tensor, actions: Tensor) -> Tensor:
        """∇_a Q [M, K, A]."""
        return torch.func.grad(lambda a: self.q_of(features, a).sum())(actions)

    # -- PPO's epochs: two further terms of the actor's loss, and Q's beside V's ---------------------------------------

    def optimize(
        self, experience: Experience, estimate: Estimate, prepared: Prepared
    ) -> tuple[Estimate, dict[str, float]]:
        """PPO's epochs. The loss that follows the terms compiles with theirs, and not in the middle of a run."""
        if self.carried.iteration == 0 and self.hp.terms_decay is not None:
            table = experience.columns() | estimate.columns()
            self.updates["policy"].compile_for(table, self.hp.minibatch_size)
        return super().optimize(experience, estimate, prepared)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO's loss with the actor's terms, plus ½ λ_Q E[(Q(s, a) − r − γ V(s'))²] on the rollout's own actions."""
        loss, metrics = super().loss(batch)
        if "q_targets" not in batch:
            return loss, metrics
        q = self.critic.q(self.critic.trunk(batch["policy_observations"]), batch["taken"])
        metrics["q_loss"] = value_loss(q, batch["q_targets"])
        return loss + self.hp.q_weight * metrics["q_loss"], metrics

    def actor_terms(self, batch: Batch, mean: Tensor, log_std: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """λ_aux L_aux + λ_KL KL(π ‖ Gaussian proxy), the mean over the states with proposals (eq. 9)."""
        if "has_proposals" not in batch:
            return super().actor_terms(batch, mean, log_std)
        terms, metrics, mask = mean.new_zeros(()), {}, batch["has_proposals"]
        if self.hp.imitation_weight > 0:
            metrics["imitation_loss"] = imitation_loss(batch["kept"], mean, log_std, mask)
            terms = terms + self.annealed_imitation_weight * metrics["imitation_loss"]
        if self.hp.kl_weight > 0:
            divergence = gaussian_kl(mean, log_std, batch["proxy_mean"], batch["proxy_log_std"])
            metrics["prior_kl"] = masked_mean(divergence, mask)
            terms = terms + self.annealed_kl_weight * metrics["prior_kl"]
        return terms, metrics

    # -- after PPO's epochs: tune the prior ----------------------------------------------------------------------------

    def finish(self, experience: Experience, estimate: Estimate, prepared: PreparedDAP) -> dict[str, float]:
        metrics = prepared.metrics | {"prior_drift": 0.0}
        due = (self.carried.iteration + 1) % self.hp.tuning_every == 0
        if prepared.columns and self.hp.tuning != "frozen" and due:
            with self.clock("pet"):
                metrics |= self.tune(experience)
        if self.is_monitored:
            metrics |= self.bound_terms(experience, prepared, metrics["prior_drift"])
        return metrics

    def tune(self, experience: Experience) -> dict[str, float]:
        """A few steps of the prior's own loss on the rollout's (s, a), and how far they moved the prior."""
        generator, size = self.carried.generator, self.hp.tuning_batch_size
        rows = torch.randperm(len(experience.actions), generator=generator)[: self.hp.tuning_steps * size]
        rows = rows.to(self.device)
        actions = experience.actions[rows].clamp(-1.0, 1.0)
        table = {"prior_observations": self.prior.normalize(experience.raw_observations[rows]), "actions": actions}
        table |= self.prior.corrupt(actions, generator)
        with torch.no_grad():
            before = self.prior.predict(table)
        metrics = self.updates["prior"].epoch(table, size, generator)
        with torch.no_grad():
            drift = self.prior.drift(self.prior.predict(table), before, table)
        return {"prior_loss": metrics["prior_loss"], "prior_drift": float(drift)}

    def tuning_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_diff, or the Gaussian's likelihood."""
        loss = self.prior.fit_loss(self.prior.predict(batch), batch)
        return loss, {"prior_loss": loss}

    # -- monitoring, which reads and changes nothing: in an epoch's last iteration -------------------------------------

    @property
    def is_monitored(self) -> bool:
        """Whether this iteration is an epoch's last one."""
        return (self.carried.iteration + 1) * self.hp.rollout_size % self.config["profile"]["epoch_steps"] == 0

    @torch.no_grad()
    def q_monitors(self, experience: Experience, estimate: Estimate, columns: Batch) -> dict[str, float]:
        """How well Q ranks the actions of a rollout that it has not seen.

        Returns:
            ``q_td_rank`` and ``q_advantage_rank``: the rank correlation of Q(s, a) − V(s) with the one-step TD error
            and with the advantage; ``td_mae``: the mean of \\|Q(s, a) − r − γ V(s')\\|.
        """
        q = self.critic.q(self.critic.trunk(experience.policy_observations), columns["taken"])
        values, targets = experience.old_values, columns["q_targets"]
        return {
            "q_td_rank": float(rank_correlation(q - values, targets - values)),
            "q_advantage_rank": float(rank_correlation(q - values, estimate.advantages)),
            "td_mae": float((q - targets).abs().mean()),
        }

    def pg_share(self, table: Batch) -> float:
        """PGShare: the norm of PPO's part of the actor's gradient over that of the whole, on the rollout."""
        further, _ = self.actor_terms(table, *self.actor(table["policy_observations"]))
        whole, _ = self.loss(table)
        actor = list(self.actor.parameters())
        gradients = [
            torch.cat([g.flatten() for g in torch.autograd.grad(x, actor, retain_graph=True)])
            for x in (whole - further, whole)
        ]
        return float(gradients[0].norm() / gradients[1].norm())

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
        gain = torch.zeros(())
        if columns:
            kept, mask = columns["kept"], columns["has_proposals"]
            gain = imitation_loss(kept, *experience.old_policy, mask) - imitation_loss(kept, mean, log_std, mask)
        return {
            "policy_kl": float(kl),
            "bound_surrogate": surrogate / (1.0 - gamma),
            "bound_policy_shift": 2.0 * gamma * epsilon * math.sqrt(float(kl) / 2.0) / (1.0 - gamma) ** 2,
            "bound_imitation": float(self.annealed_imitation_weight * gain),
            "bound_prior_drift": prior_drift,
        }
