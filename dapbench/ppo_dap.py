"""PPO with a diffusion action prior (PPO-DAP, arXiv 2409.01427): what it adds to PPO, and nothing else.

The prior proposes actions at some of a rollout's states; the critic Q concentrates them; they reach the actor through
an imitation loss and an optional KL. PPO's objective and its on-policy data stay as they are.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dapbench.config import check_choice, check_number
from dapbench.ppo import PPO
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
from dapbench.rl.rollout import Rollout
from dapbench.rl.updates import Batch, Update

RANGES = {
    "guidance_scale": (0.0, 2.0),
    "beta": (0.0, 1e3),
    "beta_anneal": (0.0, 1.0),
    "imitation_weight": (0.0, 1e3),
    "imitation_decay": (1e-6, 1e6),
    "kl_weight": (0.0, 1e3),
    "prior_std_min": (1e-6, 10.0),
    "q_learning_rate": (0.0, 1.0),
    "tuning_learning_rate": (0.0, 1.0),
    "tuning_anchor": (0.0, 1e6),
}
COUNTS = ("kept", "q_epochs", "q_minibatch_size", "lora_rank", "tuning_every", "tuning_steps", "tuning_batch_size")


def check_settings(method: dict[str, Any]) -> None:
    """Refuses hyper-parameters that cannot run.

    Raises:
        UserError: names the first bad value and the valid ones.
    """
    for key, (low, high) in RANGES.items():
        check_number(f"method.{key}", method[key], low, high)
    for key in COUNTS:
        check_number(f"method.{key}", method[key], 1, 10**6, integer=True)
    check_number("method.proposals", method["proposals"], 2, 10**4, integer=True)  # one has no spread
    check_number("method.kept", method["kept"], 1, method["proposals"], integer=True)
    check_choice("method.kl_form", method["kl_form"], ("moments", "score"))
    check_choice("method.tuning", method["tuning"], ("lora", "full", "frozen"))
    rollout = method["num_envs"] * method["rollout_steps"]
    for key in ("state_share", "kl_state_share"):
        check_number(f"method.{key}", method[key], 1 / rollout, 1)  # one state at least
    for key in ("q_minibatch_size", "tuning_batch_size"):
        check_number(f"method.{key}", method[key], 1, rollout, integer=True)


class PPODAP(PPO):
    """PPO-DAP. Its own hyper-parameters are explained in conf/method/ppo_dap.yaml."""

    imitation_weight: Tensor
    beta: Tensor

    @classmethod
    def complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Puts the pretrained prior's configuration and its logs' description into the run's configuration."""
        check_settings(config["method"])
        content = read_prior(Path(config["prior_dir"]) / "prior.ckpt")
        return config | {"prior": content["config"], "logs": content["logs"]}

    def build(self) -> None:
        super().build()
        self.q = Critic(self.observation_size + self.action_size, self.hp.hidden)
        self.prior = build_prior(self.observation_size, self.action_size, self.config["prior"])
        self.prior.add_adapters(self.hp.tuning, self.hp.lora_rank)
        # What changes during a run is a tensor, since compiled functions take Python numbers for constants.
        self.register_buffer("imitation_weight", torch.zeros(()))
        self.register_buffer("beta", torch.zeros(()))

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
        count = max(1, round(self.hp.kl_state_share * self.hp.num_envs * self.hp.rollout_steps))
        states = torch.zeros(count, self.observation_size, device=self.device)
        noise = states.new_zeros(count, self.hp.proposals, self.action_size)
        self.propose(states, states, noise, noise[..., 0])

    # -- before PPO's epochs: fit Q, draw proposals ------------------------------------------------------------------

    def prepare(self, rollout: Rollout, data: Batch) -> None:
        annealed = min(1.0, self.progress / self.hp.beta_anneal) if self.hp.beta_anneal > 0 else 1.0
        self.beta.fill_(self.hp.beta * annealed)
        self.imitation_weight.fill_(self.hp.imitation_weight * max(0.0, 1.0 - self.progress / self.hp.imitation_decay))
        with self.clock("q"):
            data |= self.estimate(rollout)
            self.old_advantages, targets = data["advantages"], data["returns"]
            table = {"states": data["observations"], "taken": data["actions"].clamp(-1.0, 1.0), "targets": targets}
            minibatches = len(targets) // self.hp.q_minibatch_size
            for _ in range(self.hp.q_epochs):
                self.q_metrics = self.updates["q"].epoch(table, minibatches, self.generator)
        with self.clock("proposals"), torch.no_grad():
            raw = self.flat(rollout.observations[:-1])
            data |= self.propose_at_some(raw, data["observations"])
            if self.hp.kl_weight > 0 and self.hp.kl_form == "score":
                data |= self.score_draws(raw)
            self.old_imitation_loss = imitation_loss(data["kept"], *self.old_policy, data["proposed"])

    def propose_at_some(self, raw: Tensor, observations: Tensor) -> Batch:
        """Proposals at a random share of the N states, as columns with a row for each state.

        Args:
            raw, observations: the states as the environments gave them and as the policy standardises them, [N, O].

        Returns:
            ``kept`` [N, m, A], ``prior_mean`` and ``prior_log_std`` [N, A], zero where ``proposed`` [N] is 0.
        """
        share = self.hp.state_share if self.imitation_weight > 0 else self.hp.kl_state_share
        count = max(1, round(share * len(raw)))
        chosen = torch.randperm(len(raw), generator=self.generator)[:count].to(self.device)
        shape = (count, self.hp.proposals, self.action_size)
        noise = torch.randn(shape, generator=self.generator).to(self.device)
        uniform = torch.rand(shape[:2], generator=self.generator).to(self.device)
        proposals = self.propose(self.prior.standardise(raw[chosen]), observations[chosen], noise, uniform)
        self.q_gain = float(proposals.pop("q_gain").mean())
        columns = {name: part.new_zeros(len(raw), *part.shape[1:]) for name, part in proposals.items()}
        for name, part in proposals.items():
            columns[name][chosen] = part
        return columns | {"proposed": raw.new_zeros(len(raw)).index_fill(0, chosen, 1.0)}

    def score_draws(self, raw: Tensor) -> Batch:
        """What the score form of the KL reads at each of the N states: the prior's view of it, and random draws."""
        level = torch.rand(len(raw), generator=self.generator)
        xi, epsilon = torch.randn(2, len(raw), self.action_size, generator=self.generator)
        draws = {"kl_level": level, "kl_xi": xi, "kl_epsilon": epsilon}
        states = {"prior_states": self.prior.standardise(raw)}
        return states | {name: draw.to(self.device) for name, draw in draws.items()}

    def q_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """½ E[(Q(s, a) − R)²] with the λ-returns R of the current rollout at the actions taken."""
        loss = value_loss(self.q(batch["states"], batch["taken"]), batch["targets"])
        return loss, {"q_loss": loss}

    def propose(self, states: Tensor, observations: Tensor, noise: Tensor, uniform: Tensor) -> Batch:
        """K proposals at each state: guided sampling, energy weights, a share kept.

        Args:
            states, observations: the M states as the prior and as the policy standardise them, [M, O].
            noise, uniform: standard normal [M, K, A] and uniform [M, K] draws.

        Returns:
            ``kept`` [M, m, A], the moments of all K (``prior_mean``, ``prior_log_std`` [M, A]), and ``q_gain`` [M], by
            which Q of the kept proposals exceeds that of the mean one.
        """
        scale = self.hp.guidance_scale
        guidance = Guidance(self.q_gradient, observations, scale) if scale > 0 else None
        actions = self.prior.sample(states, noise, guidance)
        q_values = self.q_of(observations, actions)
        # Gumbel-top-m draws m of K without replacement, each with its energy weight (Kool et al. 2019).
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-6, 1.0 - 1e-6)))
        scores = energy_weights(q_values, self.beta).log() + gumbel
        index = scores.topk(self.hp.kept, -1).indices
        kept = actions.gather(1, index.unsqueeze(-1).expand(-1, -1, actions.shape[-1]))
        return {
            "kept": kept,
            "prior_mean": actions.mean(1),
            "prior_log_std": actions.std(1).clamp(min=self.hp.prior_std_min).log(),
            "q_gain": q_values.gather(1, index).mean(-1) - q_values.mean(-1),
        }

    def q_of(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q [M, K] at observations [M, O] and K actions [M, K, A] at each."""
        return self.q(observations.unsqueeze(1).expand(-1, actions.shape[1], -1), actions)

    def q_gradient(self, observations: Tensor, actions: Tensor) -> Tensor:
        """∇_a Q [M, K, A]."""
        return torch.func.grad(lambda a: self.q_of(observations, a).sum())(actions)

    # -- PPO's epochs: the two extra terms of the actor's loss -------------------------------------------------------

    def actor_terms(self, batch: Batch, mean: Tensor, log_std: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        terms, metrics = mean.new_zeros(()), {}
        if self.hp.imitation_weight > 0:
            metrics["imitation_loss"] = imitation_loss(batch["kept"], mean, log_std, batch["proposed"])
            terms = terms + self.imitation_weight * metrics["imitation_loss"]
        if self.hp.kl_weight > 0:
            metrics["prior_kl"] = self.prior_kl(batch, mean, log_std)
            terms = terms + self.hp.kl_weight * metrics["prior_kl"]
        return terms, metrics

    def prior_kl(self, batch: Batch, mean: Tensor, log_std: Tensor) -> Tensor:
        """KL(π ‖ p): ``moments`` against the Gaussian that matches the proposals, ``score`` through the denoiser."""
        if self.hp.kl_form == "moments":
            divergence = gaussian_kl(mean, log_std, batch["prior_mean"], batch["prior_log_std"])
            return masked_mean(divergence, batch["proposed"])
        actions = mean + log_std.exp() * batch["kl_xi"]
        surprise = self.prior.surprise(batch["prior_states"], actions, batch["kl_level"], batch["kl_epsilon"])
        return surprise.mean() - gaussian_entropy(log_std)

    # -- after PPO's epochs: tune the prior, measure the bound's terms -----------------------------------------------

    def finish(self, rollout: Rollout, data: Batch) -> dict[str, float]:
        metrics = {"q_loss": self.q_metrics["q_loss"], "q_gain": self.q_gain}
        metrics |= {"beta": float(self.beta), "imitation_weight": float(self.imitation_weight), "prior_drift": 0.0}
        if self.hp.tuning != "frozen" and (self.iteration + 1) % self.hp.tuning_every == 0:
            with self.clock("pet"):
                metrics |= self.tune(rollout, data)
        return metrics | self.bound_terms(data, metrics["prior_drift"])

    def tune(self, rollout: Rollout, data: Batch) -> dict[str, float]:
        """A few steps of the prior's own loss on the rollout's (s, a), kept close to the prior as it was."""
        rows = self.hp.tuning_steps * self.hp.tuning_batch_size
        chosen = torch.randperm(len(data["actions"]), generator=self.generator)[:rows].to(self.device)
        actions = data["actions"][chosen].clamp(-1.0, 1.0)
        table = {"states": self.prior.standardise(self.flat(rollout.observations[:-1])[chosen]), "actions": actions}
        table |= self.prior.corrupt(actions, self.generator)
        with torch.no_grad():
            table["previous"] = self.prior.predict(table)
        metrics = self.updates["prior"].epoch(table, len(chosen) // self.hp.tuning_batch_size, self.generator)
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
    def bound_terms(self, data: Batch, prior_drift: float) -> dict[str, float]:
        """The measured terms of the one-step performance lower bound, in scaled reward.

        J(π') − J(π) ≥ surrogate / (1 − γ) − 2 γ ε D_TV / (1 − γ)² (Achiam et al. 2017, corollary 1), with
        ε = max |E_π'[A]| bounded by max |A| and E[D_TV] ≤ √(E[KL] / 2) by Pinsker and Jensen. The two terms of PPO-DAP
        stand beside it: what the update gained on the weighted imitation objective, and how far the prior drifted.
        """
        mean, log_std = self.actor(data["observations"])
        log_probs = gaussian_log_prob(data["actions"], mean, log_std)
        ratio = (log_probs - data["log_probs"]).exp()
        surrogate = float(((ratio - 1.0) * self.old_advantages).mean())
        old_mean, old_log_std = self.old_policy
        kl = gaussian_kl(old_mean, old_log_std, mean, log_std).mean().clamp(min=0.0)
        gamma, epsilon = self.hp.gamma, float(self.old_advantages.abs().max())
        gained = self.old_imitation_loss - imitation_loss(data["kept"], mean, log_std, data["proposed"])
        return {
            "policy_kl": float(kl),
            "bound_surrogate": surrogate / (1.0 - gamma),
            "bound_policy_shift": 2.0 * gamma * epsilon * math.sqrt(float(kl) / 2.0) / (1.0 - gamma) ** 2,
            "bound_imitation": float(self.imitation_weight * gained),
            "bound_prior_drift": prior_drift,
        }
