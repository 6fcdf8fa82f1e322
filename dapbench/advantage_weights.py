"""Weights of logged actions by how much better they are than the others: a critic fitted to the logs alone.

V and Q are implicit Q-learning's (Kostrikov et al. 2022): V is an upper expectile of Q over the logged actions, so that
no action that was not logged is ever judged. They shape what is learned from the logs before the first online step (the
prior, the warm start), and no rollout's advantage.
"""

import torch
from torch import Tensor

from dapbench.datasets.episodes import Transitions
from dapbench.rl.advantages import reverse_recurrence
from dapbench.rl.losses import expectile_loss, masked_mean
from dapbench.rl.networks import ActionCritic
from dapbench.rl.normalization import RunningMeanStd
from dapbench.rl.updates import Batch, FlatParameters, Update

EXPECTILE = 0.7  # Kostrikov et al. 2022, appendix B: on locomotion
MAX_WEIGHT = 100.0  # the same
HIDDEN = [256, 256]
FIRST_PASSES, PASSES = 5, 40  # over the logs: on their own returns, and on one-step targets
MINIBATCH_SIZE = 250
GAMMA = 0.99
SEED = 0  # of weights and minibatches; the luck of a study lies in its draws of logs
LEARNING_RATE = 3e-4


class LoggedCritic:
    """V and Q of logged transitions.

    Args:
        logs: N transitions.
        actions: [N, A], the logged actions in [-1, 1].
        compile: compile the passes.
    """

    def __init__(self, logs: Transitions, actions: Tensor, compile: bool) -> None:
        returns = reverse_recurrence(logs.rewards[:, None], GAMMA * ~logs.ends[:, None])[:, 0]
        scale = returns.std() + 1e-8
        self.stats = RunningMeanStd(logs.observations.shape[1:])
        self.stats.update(logs.observations)
        rewards, terminations, ends = (torch.as_tensor(x) for x in (logs.rewards, logs.terminations, logs.ends))
        self.inputs: Batch = {
            "observations": self.stats.normalize(torch.as_tensor(logs.observations)),
            "actions": actions,
            # The state after an episode's last logged step is not logged: where its value counts, Q learns nothing.
            "known": (terminations | ~ends).float(),
        }
        self.generator = torch.Generator().manual_seed(SEED)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.critic = ActionCritic(logs.observations.shape[1], actions.shape[1], HIDDEN)
        self.update = Update(FlatParameters({"critic": self.critic}), self.loss, LEARNING_RATE, compile=compile)
        own = torch.as_tensor(returns / scale, dtype=torch.float32)
        for _ in range(FIRST_PASSES):
            self.fit(own, own)
        for _ in range(PASSES):
            values, action_values = self.values()
            following = torch.cat([values[1:], values[-1:]]) * ~terminations
            self.fit((rewards / scale).float() + GAMMA * following, action_values)

    def fit(self, q_targets: Tensor, v_targets: Tensor) -> None:
        """A pass over the logs, with the targets [N] of Q and V as they were before it."""
        table = self.inputs | {"q_targets": q_targets, "v_targets": v_targets}
        self.update.epoch(table, min(MINIBATCH_SIZE, len(q_targets)), self.generator)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Q's squared error, and V's expectile loss (Kostrikov et al. 2022, eq. 6 and 5)."""
        features = self.critic.trunk(batch["observations"])
        error = self.critic.q(features, batch["actions"]) - batch["q_targets"]
        expectile = expectile_loss(batch["v_targets"] - self.critic.value(features).squeeze(-1), EXPECTILE)
        return masked_mean(0.5 * error**2, batch["known"]) + expectile, {}

    @torch.no_grad()
    def values(self) -> tuple[Tensor, Tensor]:
        """V and Q [N] of the logged states and actions."""
        features = self.critic.trunk(self.inputs["observations"])
        return self.critic.value(features).squeeze(-1), self.critic.q(features, self.inputs["actions"])


def advantage_weights(logs: Transitions, actions: Tensor, temperature: float, compile: bool) -> Tensor:
    """exp((Q − V) / (temperature · their standard deviation)) of each transition [N], at most 100, of mean 1.

    It is implicit Q-learning's policy weight (eq. 7) on advantages in units of their own spread, which makes one
    temperature do for all tasks.

    Args:
        logs: N transitions.
        actions: [N, A], the logged actions in [-1, 1].
        temperature: above 0; the lower, the fewer actions carry the weight.
        compile: compile the critic's passes.
    """
    values, action_values = LoggedCritic(logs, actions, compile).values()
    advantages = action_values - values
    weights = (advantages / (temperature * advantages.std() + 1e-8)).exp().clamp(max=MAX_WEIGHT)
    return weights / weights.mean()
