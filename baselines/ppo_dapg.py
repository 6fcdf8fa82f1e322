"""Control: DAPG's augmented objective (Rajeswaran et al. 2018) on PPO: a warm start, then a fading pull to the logs."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dapbench.datasets.episodes import Transitions
from dapbench.ppo import Estimate, Experience, Prepared
from dapbench.rl.losses import gaussian_log_prob
from dapbench.rl.normalization import EPSILON
from dapbench.rl.updates import Batch
from dapbench.settings import number
from dapbench.warm_start import WarmStartedPPO, WarmStartSettings


@dataclass(frozen=True)
class DAPGSettings(WarmStartSettings):
    """The warm start's settings and DAPG's own; conf/method/ppo_dapg.yaml explains them."""

    demonstration_weight: float = number(0.0, 1e3)
    demonstration_decay: float = number(0.0, 1.0)


class PPODAPG(WarmStartedPPO):
    """PPO whose actor also raises the likelihood of logged pairs, by a weight that decays geometrically."""

    Settings = DAPGSettings
    hp: DAPGSettings
    current_weight: Tensor

    def build(self) -> None:
        super().build()
        self.register_buffer("current_weight", torch.zeros(()))

    @cached_property
    def demonstrations(self) -> Transitions:
        """The logs, which a run that goes on reads anew."""
        return self.load_logs()

    def prepare(self, experience: Experience, estimate: Estimate) -> Prepared:
        """Draws a logged pair for each step, and weighs them by λ0 λ1^k max A (their eq. 5), A as PPO normalizes it."""
        advantages, hp = estimate.advantages, self.hp
        highest = (advantages.max() - advantages.mean()) / (advantages.std() + EPSILON)
        self.current_weight.copy_(hp.demonstration_weight * hp.demonstration_decay**self.carried.iteration * highest)
        logs = self.demonstrations
        rows = torch.randint(len(logs.actions), advantages.shape, generator=self.carried.generator)
        pairs = self.logged_pairs(logs.observations[rows], logs.actions[rows])
        return Prepared({f"logged_{name}": column for name, column in pairs.items()})

    def actor_terms(self, batch: Batch, mean: Tensor, log_std: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logged = self.actor(batch["logged_policy_observations"])
        cloning = -gaussian_log_prob(batch["logged_actions"], *logged).mean()
        return self.current_weight * cloning, {"cloning": cloning}
