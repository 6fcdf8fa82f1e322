"""Control: PPO whose policy and value are warm-started on the logs that PPO-DAP's prior saw."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dapbench.datasets.episodes import load_logs
from dapbench.ppo import PPO
from dapbench.rl.advantages import reverse_recurrence
from dapbench.rl.environments import to_policy_actions
from dapbench.rl.losses import gaussian_log_prob, value_loss
from dapbench.rl.updates import Batch, Update


class PPOBC(PPO):
    """PPO after behaviour cloning; it tells what the logs alone are worth."""

    state = (*PPO.state, "logs")

    def make_updates(self) -> dict[str, Update]:
        updates = super().make_updates()
        rate = {"learning_rate": self.hp.warm_start_learning_rate}
        warm_start = self.update_of(updates["policy"].parameters, self.warm_start_loss, **rate)
        return updates | {"warm_start": warm_start}

    def load_inputs(self) -> None:
        spaces = self.observation_space, self.action_space
        logs = load_logs(Path(self.config["logs_dir"]), *spaces, self.config["task"]["env_id"])
        self.logs = logs.description
        returns = reverse_recurrence(logs.rewards[:, None], self.hp.gamma * ~logs.ends[:, None])[:, 0]
        self.observation_stats.update(logs.observations)
        if self.hp.scale_rewards:
            self.reward_stats.update(returns)
            returns = returns / self.reward_stats.std()
        actions = to_policy_actions(logs.actions, self.action_space)
        table = {
            "states": self.observation_stats.normalize(self.tensor(logs.observations)),
            "actions": self.tensor(actions),
            "returns": self.tensor(returns),
        }
        minibatches = len(returns) // self.hp.warm_start_minibatch_size
        for _ in range(self.hp.warm_start_epochs):
            self.updates["warm_start"].epoch(table, minibatches, self.generator)

    def warm_start_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """−E log π(a|s) of the logged actions, and ½ E[(V(s) − G)²] of their discounted returns."""
        cloning = -gaussian_log_prob(batch["actions"], *self.actor(batch["states"])).mean()
        value = value_loss(self.critic(batch["states"]), batch["returns"])
        return cloning + value, {"cloning": cloning, "value": value}

    def logs_description(self) -> dict[str, Any]:
        return self.logs

    def tensor(self, array: np.ndarray) -> Tensor:
        """A float32 tensor on the module's device."""
        return torch.as_tensor(array, dtype=torch.float32, device=self.device)
