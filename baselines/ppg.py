"""Phasic Policy Gradient (Cobbe et al. 2021) for continuous control: policy and value nets stay separate.

Every N_π iterations an auxiliary phase trains a value head on the policy's features, held to the policy as it was by a
KL term, and trains the value net further.
"""

import torch
from torch import Tensor, nn

from dapbench.ppo import PPO
from dapbench.rl.losses import gaussian_kl, value_loss
from dapbench.rl.rollout import Rollout
from dapbench.rl.updates import Batch, FlatParameters, Update


class PPG(PPO):
    """PPO's policy phases, and an auxiliary phase after every ``policy_phases`` of them."""

    state = (*PPO.state, "memory")

    def build(self) -> None:
        super().build()
        self.auxiliary_value = nn.Linear(self.hp.hidden[-1], 1)
        self.memory: list[Batch] = []

    def make_updates(self) -> dict[str, Update]:
        modules = {"actor": self.actor, "critic": self.critic, "auxiliary_value": self.auxiliary_value}
        shared = FlatParameters(modules)
        auxiliary = self.update_of(shared, self.auxiliary_loss, learning_rate=self.hp.auxiliary_learning_rate)
        return {"policy": self.update_of(shared, self.loss), "auxiliary": auxiliary}

    def finish(self, rollout: Rollout, data: Batch) -> dict[str, float]:
        raw = self.flat(rollout.observations[:-1])
        self.memory.append({"raw": raw, "targets": data["returns"]})
        if len(self.memory) < self.hp.policy_phases:
            return {}
        table = {name: torch.cat([part[name] for part in self.memory]) for name in ("raw", "targets")}
        self.memory.clear()
        table["states"] = self.observation_stats.normalize(table.pop("raw"))
        with self.clock("auxiliary"):
            with torch.no_grad():
                table["old_mean"], old_log_std = self.actor(table["states"])
                table["old_log_std"] = old_log_std.expand_as(table["old_mean"]).clone()
            minibatches = len(table["targets"]) // self.hp.auxiliary_minibatch_size
            for _ in range(self.hp.auxiliary_epochs):
                metrics = self.updates["auxiliary"].epoch(table, minibatches, self.generator)
        return {"auxiliary_value_loss": metrics["auxiliary_value_loss"], "clone_kl": metrics["clone_kl"]}

    def auxiliary_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L_joint = ½ E[(V_aux − V_targ)²] + β KL(π_old ‖ π), and ½ E[(V − V_targ)²] (Cobbe et al. 2021, 2.1)."""
        *trunk, head = self.actor.mean
        features = batch["states"]
        for layer in trunk:
            features = layer(features)
        auxiliary = value_loss(self.auxiliary_value(features).squeeze(-1), batch["targets"])
        clone = gaussian_kl(batch["old_mean"], batch["old_log_std"], head(features), self.actor.log_std).mean()
        value = value_loss(self.critic(batch["states"]), batch["targets"])
        return auxiliary + self.hp.clone_weight * clone + value, {"auxiliary_value_loss": auxiliary, "clone_kl": clone}
