"""PPO, top to bottom: its settings, what its hooks hand over, its losses and its iteration.

The other methods derive from :class:`PPO` and override hooks; what each adds stands in its own file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from dapbench.errors import UserError
from dapbench.rl.advantages import discounted_returns_so_far, gae
from dapbench.rl.clock import Clock
from dapbench.rl.environments import env_seeds, make_envs, task_spaces
from dapbench.rl.losses import approximate_kl, clipped_surrogate, gaussian_entropy, gaussian_log_prob, value_loss
from dapbench.rl.networks import Critic, GaussianActor
from dapbench.rl.normalization import CLIP, EPSILON, RunningMeanStd
from dapbench.rl.rollout import Collector, Rollout
from dapbench.rl.snapshots import restore, snapshot
from dapbench.rl.updates import Batch, FlatParameters, Update
from dapbench.settings import check_divides, choice, given, number, read_settings


@dataclass(frozen=True)
class PPOSettings:
    """PPO's hyper-parameters; conf/method/ppo.yaml has their values and says what each means."""

    name: str = given()
    title: str = given()
    starts_from: str = choice("nothing", "logs", "prior", "both")
    num_envs: int = number(1, 10**4)
    rollout_steps: int = number(1, 10**6)
    hidden: list[int] = number(1, 10**5)
    log_std: float = number(-20.0, 5.0)
    gamma: float = number(0.0, 1.0)
    gae_lambda: float = number(0.0, 1.0)
    clip: float = number(0.0, 10.0)
    update_epochs: int = number(1, 10**6)
    minibatch_size: int = number(2, 10**6)  # the advantages of one alone have no spread
    learning_rate: float = number(0.0, 1.0)
    adam_eps: float = number(0.0, 1.0)
    max_grad_norm: float = number(0.0, 1e6)
    value_weight: float = number(0.0, 1e6)
    entropy_weight: float = number(0.0, 1e6)
    recompute_advantages: bool = given()
    scale_rewards: bool = given()
    log_quality: str | None = None  # None: the quality that the profile names

    @property
    def rollout_size(self) -> int:
        """N, the steps of all environments in one rollout."""
        return self.num_envs * self.rollout_steps

    def check(self, epoch_steps: int) -> None:
        """Refuses settings that do not fit each other, or an epoch of ``epoch_steps``.

        Raises:
            UserError: names the bad value and what it has to fit.
        """
        if epoch_steps % self.rollout_size:
            raise UserError(
                f"method.num_envs={self.num_envs} * method.rollout_steps={self.rollout_steps} is {self.rollout_size}, "
                f"which does not divide profile.epoch_steps={epoch_steps}"
            )
        check_divides("method.minibatch_size", self.minibatch_size, self.rollout_size, "the rollout's steps")


@dataclass(frozen=True)
class Experience:
    """A rollout as the losses read it: N = T·E rows, one for each step.

    Attributes:
        rollout: as collected.
        rewards: [T, E] float64, divided by the running std of their discounted return if so configured.
        visited: [N + E + F, O], all of the rollout's observations as the policy normalizes them: of the N steps, of
            the state after the last step, and of the true last state of each ended episode.
        actions: [N, A], as sampled.
        old_policy: mean [N, A] and log-std [A] of the policy that acted.
        log_probs: [N], of the actions under it.
        old_values: [N], V before the update.
    """

    rollout: Rollout
    rewards: np.ndarray
    visited: Tensor
    actions: Tensor
    old_policy: tuple[Tensor, Tensor]
    log_probs: Tensor
    old_values: Tensor

    @property
    def policy_observations(self) -> Tensor:
        """[N, O], as the policy normalizes them."""
        return self.visited[: len(self.actions)]

    @property
    def raw_observations(self) -> Tensor:
        """[N, O], as the environments gave them."""
        return torch.as_tensor(self.rollout.observations[:-1], device=self.actions.device).flatten(0, 1)

    def columns(self) -> Batch:
        """What PPO's loss reads of it, a row for each step."""
        return {
            "policy_observations": self.policy_observations,
            "actions": self.actions,
            "log_probs": self.log_probs,
        }


@dataclass(frozen=True)
class Estimate:
    """Advantages and value targets under the current value function, [N] each."""

    advantages: Tensor
    returns: Tensor

    def columns(self) -> Batch:
        """What PPO's loss reads of it."""
        return {"advantages": self.advantages, "returns": self.returns}


@dataclass(frozen=True)
class Prepared:
    """What a method makes of a rollout before PPO's epochs.

    Attributes:
        columns: {name: [N, ...]}, what its loss reads beyond PPO's.
    """

    columns: Batch


@dataclass
class Carried:
    """What a run carries from one iteration to the next beside parameters, buffers and optimizers.

    A stopped run goes on from this: a method that carries more adds fields, and :meth:`PPO.carry` fills them.

    Attributes:
        iteration: of the next rollout, from 0.
        env_steps: taken so far, by all environments.
        discounted_return: [E], the running discounted return of each environment's episode, for reward scaling.
        generator: shuffles minibatches, and draws whatever else the updates need.
        noise: of the policy's actions.
    """

    iteration: int
    env_steps: int
    discounted_return: np.ndarray
    generator: torch.Generator
    noise: np.random.Generator


class Divergence(Exception):
    """A quantity of the run is no longer finite."""

    def __init__(self, quantity: str) -> None:
        super().__init__(f"{quantity}: no longer finite")
        self.quantity = quantity


class PPO(pl.LightningModule):
    """PPO (Schulman et al. 2017) with a diagonal Gaussian policy, as a LightningModule with manual optimization.

    One ``training_step`` is one iteration: rollout → experience → estimate → what the method prepares → epochs of
    minibatches → what the method does afterwards. Hooks, in that order: :meth:`build` (networks), :meth:`carry`,
    :meth:`make_updates` (optimizers), :meth:`load_inputs`, :meth:`observe`, :meth:`estimate`, :meth:`prepare`,
    :meth:`loss` or :meth:`actor_terms` (of one minibatch), :meth:`finish`.

    Args:
        config: a run's resolved configuration (``task``, ``method``, ``profile``, ``seed``, ``compile``, ...).
    """

    Settings: ClassVar[type[PPOSettings]] = PPOSettings
    hp: PPOSettings
    actor: GaussianActor
    critic: nn.Module  # V(s)
    carried: Carried
    updates: dict[str, Update]
    collector: Collector
    observation_stats: RunningMeanStd
    reward_stats: RunningMeanStd

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = dict(config)
        self.hp = self.read_settings(config)
        self.clock = Clock()
        self.observation_space, self.action_space = task_spaces(config["task"])
        self.observation_size, self.action_size = self.observation_space.shape[0], self.action_space.shape[0]
        self.observation_stats = RunningMeanStd((self.observation_size,))
        self.reward_stats = RunningMeanStd(())
        self.carried = self.carry()
        self.saved: dict[str, Any] | None = None  # what a stopped run left, until the environments are made
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])
            self.build()

    @classmethod
    def read_settings(cls, config: Mapping[str, Any]) -> PPOSettings:
        """The method's checked hyper-parameters; conf/method has unknown, missing and bad ones told in one line."""
        hp = read_settings(cls.Settings, config["method"], "method")
        hp.check(config["profile"]["epoch_steps"])
        return hp

    @classmethod
    def complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Adds to a run's configuration what is read from the method's inputs, so that a checkpoint holds it."""
        return config

    # -- hooks -------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Makes the networks."""
        self.actor = GaussianActor(self.observation_size, self.hp.hidden, self.action_size, self.hp.log_std)
        self.critic = Critic(self.observation_size, self.hp.hidden)

    def carry(self) -> Carried:
        """What a fresh run carries."""
        seed = self.config["seed"]
        generator = torch.Generator().manual_seed(seed)
        return Carried(0, 0, np.zeros(self.hp.num_envs), generator, np.random.default_rng([seed, 2]))

    def make_updates(self) -> dict[str, Update]:
        """The optimizers by name; ``policy`` takes PPO's epochs."""
        return {"policy": self.update_of({"actor": self.actor, "critic": self.critic}, self.loss)}

    def load_inputs(self) -> None:
        """Reads what the method starts from (a prior, logs) once, before a run's first iteration."""

    def observe(self, rollout: Rollout) -> Experience:
        """The rollout as the losses read it: scaled rewards, normalized observations, the policy that acted."""
        rewards = self.scale(rollout)
        raw = np.concatenate([rollout.observations.reshape(-1, self.observation_size), rollout.final_observations])
        visited = self.observation_stats.normalize(torch.as_tensor(raw, device=self.device))
        policy_observations, actions = visited[: rewards.size], self.flat(rollout.actions)
        with torch.no_grad():
            mean, log_std = self.actor(policy_observations)
            old_policy = mean, log_std.clone()  # a copy, since the update changes it in place
            log_probs = gaussian_log_prob(actions, *old_policy)
            old_values = self.critic(policy_observations)
        return Experience(rollout, rewards, visited, actions, old_policy, log_probs, old_values)

    def estimate(self, experience: Experience) -> Estimate:
        """Advantages and value targets under the current value function (Schulman et al. 2016)."""
        values, next_values = self.values(experience, self.critic)
        rollout, hp = experience.rollout, self.hp
        terminations, dones = rollout.terminations, rollout.dones
        advantages = gae(experience.rewards, values, next_values, terminations, dones, hp.gamma, hp.gae_lambda)
        return Estimate(self.flat(advantages), self.flat(advantages + values))

    def prepare(self, experience: Experience, estimate: Estimate) -> Prepared:
        """What the method makes of the rollout before PPO's epochs."""
        return Prepared({})

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO's loss on one minibatch (Schulman et al. 2017, eq. 9), and what to report of it.

        Args:
            batch: rows of the columns that :class:`Experience`, :class:`Estimate` and :class:`Prepared` name, [B, ...].
        """
        mean, log_std = self.actor(batch["policy_observations"])
        log_prob = gaussian_log_prob(batch["actions"], mean, log_std)
        advantages = batch["advantages"]
        advantages = (advantages - advantages.mean()) / (advantages.std() + EPSILON)
        policy = clipped_surrogate(log_prob, batch["log_probs"], advantages, self.hp.clip)
        value = value_loss(self.critic(batch["policy_observations"]), batch["returns"])
        entropy = gaussian_entropy(log_std)
        metrics = {
            "policy_loss": policy,
            "value_loss": value,
            "entropy": entropy,
            "approx_kl": approximate_kl(log_prob, batch["log_probs"]),
            "clip_fraction": ((log_prob - batch["log_probs"]).exp() - 1.0).abs().gt(self.hp.clip).float().mean(),
        }
        further, reported = self.actor_terms(batch, mean, log_std)
        loss = policy + self.hp.value_weight * value - self.hp.entropy_weight * entropy + further
        return loss, metrics | reported

    def actor_terms(self, batch: Batch, mean: Tensor, log_std: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What a method adds to PPO's loss at the policy's output ``mean`` [B, A], and what to report of it."""
        return mean.new_zeros(()), {}

    def finish(self, experience: Experience, estimate: Estimate, prepared: Prepared) -> dict[str, float]:
        """Whatever follows PPO's epochs, ``estimate`` being the last one's; returns further metrics."""
        return {}

    def logs_description(self) -> dict[str, Any] | None:
        """What the method's logs are (quality, size, returns shown), for a method that starts from logs."""
        return None

    # -- one iteration -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One iteration.

        Returns:
            ``metrics`` by name, and the ``returns`` and ``lengths`` of the training episodes that ended.

        Raises:
            Divergence: an observation, a loss or a parameter is no longer finite.
        """
        self.updates["policy"].set_learning_rate(self.hp.learning_rate * (1.0 - self.progress))
        with self.clock("rollout"):
            rollout = self.collect()
        require_finite(observations=rollout.observations, rewards=rollout.rewards)
        with self.clock("update"):
            experience = self.observe(rollout)
            estimate = self.estimate(experience)
        prepared = self.prepare(experience, estimate)
        with self.clock("update"):
            estimate, metrics = self.optimize(experience, estimate, prepared)
        metrics |= self.finish(experience, estimate, prepared)
        require_finite(parameters=self.updates["policy"].flat, **metrics)
        self.observation_stats.update(rollout.observations[:-1].reshape(-1, self.observation_size))
        self.carried.env_steps += rollout.rewards.size
        self.carried.iteration += 1
        returns, lengths = rollout.episode_returns.tolist(), rollout.episode_lengths.tolist()
        return {"metrics": metrics, "returns": returns, "lengths": lengths}

    def collect(self) -> Rollout:
        """A rollout of the policy as it is."""
        shape = self.hp.rollout_steps, self.hp.num_envs, self.action_size
        noise = self.carried.noise.standard_normal(shape, np.float32)
        return self.collector.collect(self.mean_action(), noise * self.actor.log_std.exp().detach().cpu().numpy())

    def optimize(
        self, experience: Experience, estimate: Estimate, prepared: Prepared
    ) -> tuple[Estimate, dict[str, float]]:
        """PPO's epochs over the rollout, with advantages estimated anew before each further one if so configured.

        Returns:
            The last epoch's estimate, and metrics.
        """
        unexplained = (estimate.returns - experience.old_values).var() / (estimate.returns.var() + EPSILON)
        epochs = []
        for epoch in range(self.hp.update_epochs):
            if epoch > 0 and self.hp.recompute_advantages:
                estimate = self.estimate(experience)
            table = experience.columns() | estimate.columns() | prepared.columns
            update, size, generator = self.updates["policy"], self.hp.minibatch_size, self.carried.generator
            epochs.append(update.epoch(table, size, generator))
        means = {name: float(np.mean([metrics[name] for metrics in epochs])) for name in epochs[0]}
        # The policy's shift is what it is after the last epoch, not on the way there.
        means |= {name: epochs[-1][name] for name in ("approx_kl", "clip_fraction") if name in means}
        rate = float(self.updates["policy"].optimizer.param_groups[0]["lr"])
        return estimate, means | {"explained_variance": 1.0 - float(unexplained), "learning_rate": rate}

    # -- helpers for the hooks ---------------------------------------------------------------------------------------

    def update_of(
        self,
        modules: Mapping[str, nn.Module] | FlatParameters,
        loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]],
        **options: Any,
    ) -> Update:
        """An :class:`Update` with PPO's learning rate and clipping unless ``options`` say otherwise."""
        parameters = modules if isinstance(modules, FlatParameters) else FlatParameters(modules)
        defaults = {
            "learning_rate": self.hp.learning_rate,
            "eps": self.hp.adam_eps,
            "max_grad_norm": self.hp.max_grad_norm,
            "compile": self.config["compile"],
        }
        return Update(parameters, loss, **defaults | options)

    def flat(self, array: np.ndarray) -> Tensor:
        """An array [T, E, ...] as a float32 tensor [T·E, ...] on the module's device."""
        return torch.as_tensor(array, dtype=torch.float32, device=self.device).flatten(0, 1)

    def scale(self, rollout: Rollout) -> np.ndarray:
        """Rewards [T, E] divided by the running std of their discounted return and clipped, if so configured."""
        if not self.hp.scale_rewards:
            return rollout.rewards
        returns, self.carried.discounted_return = discounted_returns_so_far(
            rollout.rewards, rollout.dones, self.carried.discounted_return, self.hp.gamma
        )
        self.reward_stats.update(returns.ravel())
        return np.clip(rollout.rewards / self.reward_stats.std(), -CLIP, CLIP)

    @torch.no_grad()
    def values(self, experience: Experience, critic: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """V of each state [T, E], and of each state that followed: an ended episode's is its true last one."""
        steps, envs = experience.rewards.shape
        values = critic(experience.visited).double().cpu().numpy()
        by_step = values[: (steps + 1) * envs].reshape(steps + 1, envs)
        next_values = by_step[1:].copy()
        next_values[experience.rollout.ends] = values[(steps + 1) * envs :]
        return by_step[:-1], next_values

    def mean_action(self) -> Callable[[np.ndarray], np.ndarray]:
        """A numpy copy of the policy's mean with its observation statistics: raw [B, O] to [B, A]."""
        forward = self.actor.mean.to_numpy()
        mean = self.observation_stats.mean.float().cpu().numpy()
        scale = (1.0 / (self.observation_stats.var + EPSILON).sqrt()).float().cpu().numpy()
        return lambda observations: forward(np.clip((observations - mean) * scale, -CLIP, CLIP))

    @property
    def progress(self) -> float:
        """The share of the schedules' horizon that has passed, at most 1."""
        profile = self.config["profile"]
        return min(1.0, self.carried.env_steps / (profile["schedule_epochs"] * profile["epoch_steps"]))

    # -- Lightning ---------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Makes the updates, whose optimizers Lightning then checkpoints."""
        self.updates = self.make_updates()
        return [update.optimizer for update in self.updates.values()]

    def on_fit_start(self) -> None:
        """Makes and seeds the environments; then a fresh run reads its inputs, and a stopped one goes on."""
        envs = make_envs(self.config["task"], self.hp.num_envs)
        self.collector = Collector(envs, self.hp.rollout_steps, env_seeds(self.config["seed"], self.hp.num_envs))
        if self.saved is None:
            self.load_inputs()
        else:
            restore(self.carried, self.saved["carried"], self.device)
            self.collector.restore(self.saved["collector"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """While the run is at work, adds all that it needs to go on from here to the same last bit."""
        if self.trainer.training:
            checkpoint["run"] = {"carried": snapshot(self.carried), "collector": self.collector.snapshot()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what :meth:`on_fit_start` restores."""
        self.saved = checkpoint.get("run")

    def on_fit_end(self) -> None:
        """Closes the environments."""
        self.collector.envs.close()


def require_finite(**quantities: Any) -> None:
    """Raises a :class:`Divergence` at the first quantity that is not finite."""
    for name, value in quantities.items():
        if not bool(torch.as_tensor(value).isfinite().all()):
            raise Divergence(name)
