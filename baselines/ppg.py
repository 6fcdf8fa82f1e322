"""Phasic Policy Gradient (Cobbe et al. 2021) for continuous control: policy and value nets stay separate.

Every N_π iterations an auxiliary phase trains a value head on the policy's features, held to the policy as it was by a
KL term, and trains the value net further.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dapbench.ppo import PPO, Carried, Estimate, Experience, PPOSettings, Prepared
from dapbench.rl.losses import gaussian_kl, value_loss
from dapbench.rl.updates import Batch, FlatParameters, Update
from dapbench.settings import check_divides, number


@dataclass(frozen=True)
class PPGSettings(PPOSettings):
    """PPO's settings and the auxiliary phase's; conf/method/ppg.yaml explains them."""

    policy_phases: int = number(1, 10**6)
    auxiliary_epochs: int = number(1, 10**6)
    auxiliary_minibatch_size: int = number(1, 10**6)
    auxiliary_learning_rate: float = number(0.0, 1.0)
    clone_weight: float = number(0.0, 1e6)

    def check(self, epoch_steps: int) -> None:
        super().check(epoch_steps)
        steps = self.policy_phases * self.rollout_size
        size = self.auxiliary_minibatch_size
        check_divides("method.auxiliary_minibatch_size", size, steps, "the steps of policy_phases rollouts")


@dataclass
class PPGCarried(Carried):
    """Also the rollouts since the last auxiliary phase: ``raw_observations`` [N, O] and ``returns`` [N] of each."""

    memory: list[Batch]


class PPG(PPO):
    """PPO's policy phases, and an auxiliary phase after every ``policy_phases`` of them."""

    Settings = PPGSettings
    hp: PPGSettings
    carried: PPGCarried

    def build(self) -> None:
        super().build()
        self.auxiliary_value = nn.Linear(self.hp.hidden[-1], 1)

    def carry(self) -> PPGCarried:
        return PPGCarried(**vars(super().carry()), memory=[])

    def make_updates(self) -> dict[str, Update]:
        modules = {"actor": self.actor, "critic": self.critic, "auxiliary_value": self.auxiliary_value}
        shared = FlatParameters(modules)
        auxiliary = self.update_of(shared, self.auxiliary_loss, learning_rate=self.hp.auxiliary_learning_rate)
        return {"policy": self.update_of(shared, self.loss), "auxiliary": auxiliary}

    def finish(self, experience: Experience, estimate: Estimate, prepared: Prepared) -> dict[str, float]:
        memory = self.carried.memory
        memory.append({"raw_observations": experience.raw_observations, "returns": estimate.returns})
        if len(memory) < self.hp.policy_phases:
            return {}
        raw, returns = (torch.cat([part[name] for part in memory]) for name in ("raw_observations", "returns"))
        memory.clear()
        with self.clock("auxiliary"):
            observations = self.observation_stats.normalize(raw)
            with torch.no_grad():
                old_mean, old_log_std = self.actor(observations)
            table = {"returns": returns, "policy_observations": observations, "old_mean": old_mean}
            table["old_log_std"] = old_log_std.expand_as(old_mean).clone()
            for _ in range(self.hp.auxiliary_epochs):
                size = self.hp.auxiliary_minibatch_size
                metrics = self.updates["auxiliary"].epoch(table, size, self.carried.generator)
        return {"auxiliary_value_loss": metrics["auxiliary_value_loss"], "clone_kl": metrics["clone_kl"]}

    def auxiliary_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_joint = ½ E[(V_aux − V_targ)²] + β KL(π_old ‖ π), and ½ E[(V − V_targ)²] (Cobbe et al. 2021, §2.1)."""
        *trunk, head = self.actor.mean
        features = batch["policy_observations"]
        for layer in trunk:
            features = layer(features)
        auxiliary = value_loss(self.auxiliary_value(features).squeeze(-1), batch["returns"])
        clone = gaussian_kl(batch["old_mean"], batch["old_log_std"], head(features), self.actor.log_std).mean()
        value = value_loss(self.critic(batch["policy_observations"]), batch["returns"])
        return auxiliary + self.hp.clone_weight * clone + value, {"auxiliary_value_loss": auxiliary, "clone_kl": clone}
