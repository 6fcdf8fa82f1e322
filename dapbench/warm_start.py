"""The warm start: PPO whose policy and value are fitted to logs before the first iteration.

It is the authors' optional Stage I for actor and critic (arXiv 2409.01427v6). Logs enter neither a rollout nor an
advantage: what is learned from them is where PPO starts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dapbench.advantage_weights import advantage_weights
from dapbench.datasets.episodes import Transitions, load_transitions
from dapbench.ppo import PPO, Carried, PPOSettings
from dapbench.rl.advantages import reverse_recurrence
from dapbench.rl.environments import to_policy_actions
from dapbench.rl.losses import gaussian_log_prob, value_loss
from dapbench.rl.updates import Batch, Update
from dapbench.settings import check_at_most, number


@dataclass(frozen=True)
class WarmStartSettings(PPOSettings):
    """PPO's settings and the warm start's; conf/method/ppo_bc.yaml explains them."""

    warm_start_epochs: int = number(0, 10**6)
    warm_start_minibatch_size: int = number(1, 10**6)
    warm_start_learning_rate: float = number(0.0, 1.0)
    warm_start_advantage_temperature: float | None = number(1e-3, 1e6)


@dataclass
class WarmStartCarried(Carried):
    """Also the description of the logs, which only the start of a run reads."""

    logs: dict[str, Any]


class WarmStartedPPO(PPO):
    """PPO that starts from logs, unless ``warm_start_epochs`` is 0."""

    Settings = WarmStartSettings
    hp: WarmStartSettings
    carried: WarmStartCarried

    def carry(self) -> WarmStartCarried:
        return WarmStartCarried(**vars(super().carry()), logs={})

    def make_updates(self) -> dict[str, Update]:
        updates = super().make_updates()
        if self.hp.warm_start_epochs > 0:
            rate = {"learning_rate": self.hp.warm_start_learning_rate}
            updates["warm_start"] = self.update_of(updates["policy"].parameters, self.warm_start_loss, **rate)
        return updates

    def load_inputs(self) -> None:
        if self.hp.warm_start_epochs > 0:
            self.warm_start(self.load_logs())

    def load_logs(self) -> Transitions:
        """The logged transitions that the run starts from.

        Raises:
            UserError: they are missing, malformed or of another task.
        """
        spaces = self.observation_space, self.action_space
        return load_transitions(Path(self.config["logs_dir"]), *spaces, self.config["task"]["env_id"])

    def warm_start(self, logs: Transitions) -> None:
        """Takes over the logs' statistics and fits policy and value to them."""
        self.carried.logs = logs.description
        returns = reverse_recurrence(logs.rewards[:, None], self.hp.gamma * ~logs.ends[:, None])[:, 0]
        self.observation_stats.update(logs.observations)
        if self.hp.scale_rewards:
            self.reward_stats.update(returns)
            returns = returns / self.reward_stats.std()
        table = self.logged_pairs(logs.observations, logs.actions) | {"returns": self.tensor(returns)}
        table["weights"] = torch.ones_like(table["returns"])
        if (temperature := self.hp.warm_start_advantage_temperature) is not None:
            actions = torch.as_tensor(to_policy_actions(logs.actions, self.action_space)).clamp(-1.0, 1.0)
            table["weights"] = advantage_weights(logs, actions, temperature, self.config["compile"]).to(self.device)
        size = self.hp.warm_start_minibatch_size
        check_at_most("method.warm_start_minibatch_size", size, len(returns), "the logs' transitions")
        for _ in range(self.hp.warm_start_epochs):
            self.updates["warm_start"].epoch(table, size, self.carried.generator)

    def logged_pairs(self, observations: np.ndarray, actions: np.ndarray) -> Batch:
        """Logged states [N, O] as the policy normalizes them now, and their actions [N, A] in its units."""
        return {
            "policy_observations": self.observation_stats.normalize(self.tensor(observations)),
            "actions": self.tensor(to_policy_actions(actions, self.action_space)),
        }

    def warm_start_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """−E w log π(a|s) of the logged actions, and ½ E[(V(s) − G)²] of their discounted returns."""
        log_prob = gaussian_log_prob(batch["actions"], *self.actor(batch["policy_observations"]))
        cloning = -(batch["weights"] * log_prob).mean()
        value = value_loss(self.critic(batch["policy_observations"]), batch["returns"])
        return cloning + value, {"cloning": cloning, "value": value}

    def logs_description(self) -> dict[str, Any] | None:
        return self.carried.logs or None

    def tensor(self, array: np.ndarray) -> Tensor:
        """A float32 tensor on the module's device."""
        return torch.as_tensor(array, dtype=torch.float32, device=self.device)
