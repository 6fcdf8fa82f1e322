"""PPO with Random Network Distillation (Burda et al. 2019): a bonus for states that a predictor does not know yet."""

import numpy as np
import torch
from torch import Tensor

from dapbench.ppo import PPO
from dapbench.rl.advantages import discounted_returns_so_far, gae
from dapbench.rl.losses import value_loss
from dapbench.rl.networks import MLP, Critic
from dapbench.rl.normalization import RunningMeanStd
from dapbench.rl.rollout import Rollout
from dapbench.rl.updates import Batch, Update

CLIP = 5.0  # of the normalised observations that both networks see (Burda et al. 2019, 2.4)


class PPORND(PPO):
    """PPO whose advantages add a non-episodic stream of intrinsic reward with a value function of its own.

    The predictor and the intrinsic value have optimisers and random numbers of their own, so that with
    ``intrinsic_weight=0`` a run equals PPO's to the last bit. The return reported is the extrinsic one.
    """

    state = (*PPO.state, "intrinsic_return", "rnd_generator")

    def build(self) -> None:
        super().build()
        self.target, self.predictor = (
            MLP(self.observation_size, self.hp.hidden, self.hp.features, last_gain=2.0**0.5) for _ in range(2)
        )
        self.target.requires_grad_(False)
        self.intrinsic_critic = Critic(self.observation_size, self.hp.hidden)
        self.intrinsic_stats = RunningMeanStd(())
        self.intrinsic_return = np.zeros(self.hp.num_envs)
        self.rnd_generator = torch.Generator().manual_seed(self.config["seed"])

    def make_updates(self) -> dict[str, Update]:
        predictor = {"learning_rate": self.hp.predictor_learning_rate}
        return super().make_updates() | {
            "predictor": self.update_of({"predictor": self.predictor}, self.predictor_loss, **predictor),
            "intrinsic": self.update_of({"critic": self.intrinsic_critic}, self.intrinsic_loss),
        }

    def prepare(self, rollout: Rollout, data: Batch) -> None:
        """Intrinsic rewards of the states reached, divided by the running std of their discounted return."""
        with torch.no_grad():
            reached = self.observation_stats.normalize(self.flat(rollout.observations[1:])).clamp(-CLIP, CLIP)
            bonus = self.prediction_errors(reached).cpu().numpy().reshape(rollout.rewards.shape)
        never = np.zeros_like(rollout.dones)
        returns, self.intrinsic_return = discounted_returns_so_far(
            bonus, never, self.intrinsic_return, self.hp.intrinsic_gamma
        )
        self.intrinsic_stats.update(returns.ravel())
        self.intrinsic_rewards = bonus / self.intrinsic_stats.std()
        self.reached = reached

    def estimate(self, rollout: Rollout) -> Batch:
        extrinsic = super().estimate(rollout)
        values, _ = self.values(rollout, self.intrinsic_critic)
        with torch.no_grad():
            last = self.intrinsic_critic(
                self.observation_stats.normalize(torch.as_tensor(rollout.observations[-1], device=self.device))
            )
        # Non-episodic: an ended episode runs on into the next one's first state.
        next_values = np.concatenate([values[1:], last.double().cpu().numpy()[None]])
        never = np.zeros_like(rollout.dones)
        gamma, lam = self.hp.intrinsic_gamma, self.hp.gae_lambda
        advantages = gae(self.intrinsic_rewards, values, next_values, never, never, gamma, lam)
        self.intrinsic_returns = self.flat(advantages + values)
        combined = extrinsic["advantages"] + self.hp.intrinsic_weight * self.flat(advantages)
        return extrinsic | {"advantages": combined}

    def finish(self, rollout: Rollout, data: Batch) -> dict[str, float]:
        with self.clock("rnd"):
            known = torch.randperm(len(self.reached), generator=self.rnd_generator).to(self.device)
            chosen = {"reached": self.reached[known[: round(self.hp.predictor_share * len(known))]]}
            size = self.hp.minibatch_size
            metrics = self.updates["predictor"].epoch(chosen, len(chosen["reached"]) // size, self.rnd_generator)
            table = {"states": data["observations"], "targets": self.intrinsic_returns}
            for _ in range(self.hp.intrinsic_epochs):
                metrics |= self.updates["intrinsic"].epoch(table, len(known) // size, self.rnd_generator)
        reward = {"intrinsic_reward": float(self.intrinsic_rewards.mean())}
        return {name: metrics[name] for name in ("predictor_loss", "intrinsic_value_loss")} | reward

    def prediction_errors(self, reached: Tensor) -> Tensor:
        """½ ‖predictor(s) − target(s)‖² [B]."""
        return 0.5 * ((self.predictor(reached) - self.target(reached)) ** 2).sum(-1)

    def predictor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.prediction_errors(batch["reached"]).mean()
        return loss, {"predictor_loss": loss}

    def intrinsic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = value_loss(self.intrinsic_critic(batch["states"]), batch["targets"])
        return loss, {"intrinsic_value_loss": loss}
