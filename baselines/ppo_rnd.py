"""PPO with Random Network Distillation (Burda et al. 2019): a bonus for states that a predictor does not know yet."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dapbench.ppo import PPO, Carried, Estimate, Experience, PPOSettings, Prepared
from dapbench.rl.advantages import discounted_returns_so_far, gae
from dapbench.rl.losses import value_loss
from dapbench.rl.networks import MLP, Critic
from dapbench.rl.normalization import RunningMeanStd
from dapbench.rl.rollout import Rollout
from dapbench.rl.updates import Batch, Update
from dapbench.settings import check_at_most, number

CLIP = 5.0  # both networks see normalized observations within ±5 (Burda et al. 2019, §2.4)


@dataclass(frozen=True)
class RNDSettings(PPOSettings):
    """PPO's settings and the bonus's; conf/method/ppo_rnd.yaml explains them."""

    features: int = number(1, 10**5)
    intrinsic_weight: float = number(0.0, 1e6)
    intrinsic_gamma: float = number(0.0, 1.0)
    intrinsic_epochs: int = number(1, 10**6)
    predictor_steps: int = number(1, 10**6)
    predictor_learning_rate: float = number(0.0, 1.0)

    @property
    def predictor_states(self) -> int:
        """How many of a rollout's states train the predictor."""
        return self.predictor_steps * self.minibatch_size

    def check(self, epoch_steps: int) -> None:
        super().check(epoch_steps)
        most = self.rollout_size // self.minibatch_size
        check_at_most("method.predictor_steps", self.predictor_steps, most, "the minibatches of a rollout")


@dataclass(frozen=True)
class ExperienceWithBonus(Experience):
    """Also what the predictor makes of the states reached.

    Attributes:
        reached: [N, O], the observations that followed, as target and predictor see them.
        intrinsic_rewards: [T, E] float64, divided by the running std of their discounted return.
    """

    reached: Tensor
    intrinsic_rewards: np.ndarray


@dataclass(frozen=True)
class TwoStreams(Estimate):
    """Advantages of both streams together; ``returns`` of the extrinsic one, ``intrinsic_returns`` [N] of the other."""

    intrinsic_returns: Tensor


@dataclass
class RNDCarried(Carried):
    """Also the intrinsic stream's running discounted return [E], and its own random numbers."""

    intrinsic_return: np.ndarray
    rnd_generator: torch.Generator


class PPORND(PPO):
    """PPO whose advantages add a non-episodic stream of intrinsic reward with a value function of its own.

    The predictor and the intrinsic value have optimizers and random numbers of their own, so that with
    ``intrinsic_weight=0`` a run equals PPO's to the last bit. The return reported is the extrinsic one.
    """

    Settings = RNDSettings
    hp: RNDSettings
    carried: RNDCarried

    def build(self) -> None:
        super().build()
        self.target, self.predictor = (
            MLP(self.observation_size, self.hp.hidden, self.hp.features, last_gain=2.0**0.5) for _ in range(2)
        )
        self.target.requires_grad_(False)
        self.intrinsic_critic = Critic(self.observation_size, self.hp.hidden)
        self.intrinsic_stats = RunningMeanStd(())

    def carry(self) -> RNDCarried:
        generator = torch.Generator().manual_seed(self.config["seed"])
        return RNDCarried(**vars(super().carry()), intrinsic_return=np.zeros(self.hp.num_envs), rnd_generator=generator)

    def make_updates(self) -> dict[str, Update]:
        predictor = {"learning_rate": self.hp.predictor_learning_rate}
        return super().make_updates() | {
            "predictor": self.update_of({"predictor": self.predictor}, self.predictor_loss, **predictor),
            "intrinsic": self.update_of({"critic": self.intrinsic_critic}, self.intrinsic_loss),
        }

    def observe(self, rollout: Rollout) -> ExperienceWithBonus:
        experience = super().observe(rollout)
        with torch.no_grad():
            reached = self.observation_stats.normalize(self.flat(rollout.observations[1:])).clamp(-CLIP, CLIP)
            bonus = self.prediction_errors(reached).cpu().numpy().reshape(rollout.rewards.shape)
        never = np.zeros_like(rollout.dones)
        returns, self.carried.intrinsic_return = discounted_returns_so_far(
            bonus, never, self.carried.intrinsic_return, self.hp.intrinsic_gamma
        )
        self.intrinsic_stats.update(returns.ravel())
        rewards = bonus / self.intrinsic_stats.std()
        return ExperienceWithBonus(**vars(experience), reached=reached, intrinsic_rewards=rewards)

    def estimate(self, experience: ExperienceWithBonus) -> TwoStreams:
        extrinsic = super().estimate(experience)
        values, _ = self.values(experience, self.intrinsic_critic)
        steps, envs = values.shape
        with torch.no_grad():
            last = self.intrinsic_critic(experience.visited[steps * envs : (steps + 1) * envs])
        # Non-episodic: an ended episode runs on into the next one's first state.
        next_values = np.concatenate([values[1:], last.double().cpu().numpy()[None]])
        never = np.zeros_like(experience.rollout.dones)
        gamma, lam = self.hp.intrinsic_gamma, self.hp.gae_lambda
        advantages = gae(experience.intrinsic_rewards, values, next_values, never, never, gamma, lam)
        combined = extrinsic.advantages + self.hp.intrinsic_weight * self.flat(advantages)
        return TwoStreams(combined, extrinsic.returns, intrinsic_returns=self.flat(advantages + values))

    def finish(self, experience: ExperienceWithBonus, estimate: TwoStreams, prepared: Prepared) -> dict[str, float]:
        size, generator = self.hp.minibatch_size, self.carried.rnd_generator
        with self.clock("rnd"):
            order = torch.randperm(len(experience.reached), generator=generator).to(self.device)
            known = {"reached": experience.reached[order[: self.hp.predictor_states]]}
            metrics = self.updates["predictor"].epoch(known, size, generator)
            table = {"policy_observations": experience.policy_observations, "targets": estimate.intrinsic_returns}
            for _ in range(self.hp.intrinsic_epochs):
                metrics |= self.updates["intrinsic"].epoch(table, size, generator)
        reward = {"intrinsic_reward": float(experience.intrinsic_rewards.mean())}
        return {name: metrics[name] for name in ("predictor_loss", "intrinsic_value_loss")} | reward

    def prediction_errors(self, reached: Tensor) -> Tensor:
        """½ ‖predictor(s) − target(s)‖² [B]."""
        return 0.5 * ((self.predictor(reached) - self.target(reached)) ** 2).sum(-1)

    def predictor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean prediction error, over the minibatch's ``reached`` [B, O]."""
        loss = self.prediction_errors(batch["reached"]).mean()
        return loss, {"predictor_loss": loss}

    def intrinsic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """½ E[(V_int − R_int)²]."""
        loss = value_loss(self.intrinsic_critic(batch["policy_observations"]), batch["targets"])
        return loss, {"intrinsic_value_loss": loss}
