"""The on-policy base: PPO as a LightningModule whose hooks are what the other methods override.

One ``training_step`` is one whole iteration: collect a rollout, estimate advantages, take PPO's epochs.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from dapbench.rl.advantages import discounted_returns_so_far, gae
from dapbench.rl.clock import Clock
from dapbench.rl.environments import env_seeds, make_envs, task_spaces
from dapbench.rl.losses import approximate_kl, clipped_surrogate, gaussian_entropy, gaussian_log_prob, value_loss
from dapbench.rl.networks import Critic, GaussianActor
from dapbench.rl.normalization import CLIP, EPSILON, RunningMeanStd
from dapbench.rl.rollout import Collector, Rollout
from dapbench.rl.snapshots import pack, restore, snapshot
from dapbench.rl.updates import Batch, FlatParameters, Update
from dapbench.runs.run_directory import stated


class Divergence(Exception):
    """A quantity of the run is no longer finite."""

    def __init__(self, quantity: str) -> None:
        super().__init__(f"{quantity}: no longer finite")
        self.quantity = quantity


def namespace(mapping: Mapping[str, Any]) -> SimpleNamespace:
    """A configuration as attributes, recursively."""
    return SimpleNamespace(**{k: namespace(v) if isinstance(v, Mapping) else v for k, v in mapping.items()})


class PPO(pl.LightningModule):
    """PPO (Schulman et al. 2017) with a diagonal Gaussian policy, and the hooks that derived methods override.

    Hooks, in the order of an iteration: :meth:`build` (networks), :meth:`make_updates` (their optimisers),
    :meth:`prepare` (after the rollout), :meth:`estimate` (advantages, once per epoch or per rollout), :meth:`loss` or
    :meth:`actor_terms` (one minibatch), :meth:`finish` (after the epochs). What a method carries from one iteration to
    the next beside parameters, buffers and optimisers it names in ``state``, so that a stopped run can go on.

    Args:
        config: a run's resolved configuration (``task``, ``method``, ``profile``, ``seed``, ``compile``, ...).
    """

    state: ClassVar[tuple[str, ...]] = ("iteration", "env_steps", "episodes", "discounted_return", "generator", "noise")
    observation_stats: RunningMeanStd
    reward_stats: RunningMeanStd
    discounted_return: np.ndarray

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = dict(config)
        self.hp = namespace(config["method"])
        self.clock = Clock()
        self.env_steps = 0
        self.metrics: list[dict[str, float]] = []
        self.episodes: list[tuple[float, int]] = []
        self.observation_space, self.action_space = task_spaces(config["task"])
        self.observation_size, self.action_size = self.observation_space.shape[0], self.action_space.shape[0]
        self.iteration = 0
        self.saved: dict[str, Any] | None = None  # what a stopped run left
        self.observation_stats = RunningMeanStd((self.observation_size,))
        self.reward_stats = RunningMeanStd(())
        self.generator = torch.Generator().manual_seed(config["seed"])
        self.noise = np.random.default_rng([config["seed"], 2])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config["seed"])
            self.build()

    @classmethod
    def complete(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Adds to a run's configuration what is read from the method's inputs, so that a checkpoint holds it."""
        return config

    # -- hooks -------------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Makes the networks."""
        self.actor = GaussianActor(self.observation_size, self.hp.hidden, self.action_size, self.hp.log_std)
        self.critic = Critic(self.observation_size, self.hp.hidden)

    def make_updates(self) -> dict[str, Update]:
        """The optimisers by name; ``policy`` takes PPO's epochs."""
        return {"policy": self.update_of({"actor": self.actor, "critic": self.critic}, self.loss)}

    def load_inputs(self) -> None:
        """Reads what the method starts from (a prior, logs) once, before a run's first iteration."""

    def prepare(self, rollout: Rollout, data: Batch) -> None:
        """Adds to the flat rollout ``data`` {name: [T·E, ...]} what the loss reads beyond PPO's.

        A method that needs them this early puts what :meth:`estimate` gives into ``data`` itself.
        """

    def estimate(self, rollout: Rollout) -> Batch:
        """Advantages and value targets [T·E] under the current value function."""
        values, next_values = self.values(rollout, self.critic)
        advantages = gae(
            self.scaled_rewards,
            values,
            next_values,
            rollout.terminations,
            rollout.dones,
            self.hp.gamma,
            self.hp.gae_lambda,
        )
        return {"advantages": self.flat(advantages), "returns": self.flat(advantages + values)}

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO's loss on one minibatch (Schulman et al. 2017, eq. 9), and what to report of it."""
        mean, log_std = self.actor(batch["observations"])
        log_prob = gaussian_log_prob(batch["actions"], mean, log_std)
        advantages = batch["advantages"]
        advantages = (advantages - advantages.mean()) / (advantages.std() + EPSILON)
        policy = clipped_surrogate(log_prob, batch["log_probs"], advantages, self.hp.clip)
        value = value_loss(self.critic(batch["observations"]), batch["returns"])
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

    def finish(self, rollout: Rollout, data: Batch) -> dict[str, float]:
        """Whatever follows PPO's epochs; returns further metrics."""
        return {}

    def logs_description(self) -> dict[str, Any] | None:
        """What the method's logs are (quality, size, returns shown), for a method that starts from logs."""
        return None

    # -- one iteration -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One iteration: rollout, advantages, PPO's epochs."""
        self.updates["policy"].set_learning_rate(self.hp.learning_rate * (1.0 - self.progress))
        with self.clock("rollout"):
            noise = self.noise.standard_normal((self.collector.steps, self.hp.num_envs, self.action_size), np.float32)
            rollout = self.collector.collect(
                self.mean_action(), noise * self.actor.log_std.exp().detach().cpu().numpy()
            )
        self.require_finite(observations=rollout.observations, rewards=rollout.rewards)
        data = self.flatten(rollout)
        self.prepare(rollout, data)
        with self.clock("update"):
            metrics = self.optimize(rollout, data)
        metrics |= self.finish(rollout, data)
        self.require_finite(parameters=self.updates["policy"].flat, **metrics)
        self.observation_stats.update(rollout.observations[:-1].reshape(-1, self.observation_size))
        self.env_steps += rollout.rewards.size
        self.iteration += 1
        self.metrics.append(metrics)
        self.episodes += zip(rollout.episode_returns.tolist(), rollout.episode_lengths.tolist(), strict=True)

    def optimize(self, rollout: Rollout, data: Batch) -> dict[str, float]:
        """PPO's epochs over the rollout, with advantages estimated anew before each one if so configured."""
        minibatches = len(data["actions"]) // self.hp.minibatch_size
        epochs = []
        for epoch in range(self.hp.update_epochs):
            if "advantages" not in data or (epoch > 0 and self.hp.recompute_advantages):
                data |= self.estimate(rollout)
            if epoch == 0:
                unexplained = (data["returns"] - data["old_values"]).var() / (data["returns"].var() + EPSILON)
            epochs.append(self.updates["policy"].epoch(data, minibatches, self.generator, again=epoch > 0))
        means = {name: float(np.mean([metrics[name] for metrics in epochs])) for name in epochs[0]}
        # The policy's shift is what it is after the last epoch, not on the way there.
        means |= {name: epochs[-1][name] for name in ("approx_kl", "clip_fraction") if name in means}
        rate = float(self.updates["policy"].optimizer.param_groups[0]["lr"])
        return means | {"explained_variance": 1.0 - float(unexplained), "learning_rate": rate}

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

    def flatten(self, rollout: Rollout) -> Batch:
        """The rollout as PPO's loss reads it, and its rewards scaled for :meth:`estimate`."""
        if self.hp.scale_rewards:
            returns, self.discounted_return = discounted_returns_so_far(
                rollout.rewards, rollout.dones, self.discounted_return, self.hp.gamma
            )
            self.reward_stats.update(returns.ravel())
            self.scaled_rewards = np.clip(rollout.rewards / self.reward_stats.std(), -CLIP, CLIP)
        else:
            self.scaled_rewards = rollout.rewards
        states = np.concatenate([rollout.observations.reshape(-1, self.observation_size), rollout.final_observations])
        # Once for all of the rollout's epochs; PPO's data are the first T·E of them.
        self.states = self.observation_stats.normalize(torch.as_tensor(states, device=self.device))
        observations = self.states[: rollout.rewards.size]
        actions = self.flat(rollout.actions)
        with torch.no_grad():
            mean, log_std = self.actor(observations)
            # The policy that acted, for whoever compares with it once it has been updated in place.
            self.old_policy = mean, log_std.clone()
            log_probs = gaussian_log_prob(actions, mean, log_std)
            old_values = self.critic(observations)
        return {"observations": observations, "actions": actions, "log_probs": log_probs, "old_values": old_values}

    @torch.no_grad()
    def values(self, rollout: Rollout, critic: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """V of each state [T, E], and of each state that followed: an ended episode's is its true last one.

        Reads the states that :meth:`flatten` normalised.
        """
        steps, envs = rollout.rewards.shape
        values = critic(self.states).double().cpu().numpy()
        by_step = values[: (steps + 1) * envs].reshape(steps + 1, envs)
        next_values = by_step[1:].copy()
        next_values[rollout.ends] = values[(steps + 1) * envs :]
        return by_step[:-1], next_values

    def mean_action(self) -> Callable[[np.ndarray], np.ndarray]:
        """A numpy copy of the policy's mean with its observation statistics: raw [B, O] to [B, A]."""
        forward = self.actor.mean.to_numpy()
        mean = self.observation_stats.mean.float().cpu().numpy()
        scale = (1.0 / (self.observation_stats.var + EPSILON).sqrt()).float().cpu().numpy()
        return lambda observations: forward(np.clip((observations - mean) * scale, -CLIP, CLIP))

    def require_finite(self, **quantities: Any) -> None:
        """Stops the run at the first quantity that is not finite."""
        for name, value in quantities.items():
            if not bool(torch.as_tensor(value).isfinite().all()):
                raise Divergence(name)

    @property
    def progress(self) -> float:
        """The share of the schedules' horizon that has passed, at most 1."""
        profile = self.config["profile"]
        return min(1.0, self.env_steps / (profile["schedule_epochs"] * profile["epoch_steps"]))

    # -- Lightning ---------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Makes the updates, whose optimisers Lightning then checkpoints."""
        self.updates = self.make_updates()
        return [update.optimizer for update in self.updates.values()]

    def on_fit_start(self) -> None:
        """Makes and seeds the environments."""
        envs = make_envs(self.config["task"], self.hp.num_envs)
        self.collector = Collector(envs, self.hp.rollout_steps, env_seeds(self.config["seed"], self.hp.num_envs))
        self.discounted_return = np.zeros(self.hp.num_envs)
        if self.saved is None:
            self.load_inputs()
        else:
            restore(self, self.saved["module"], self.device)
            self.collector.restore(self.saved["collector"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the configuration beside the weights, so that a checkpoint can be rebuilt from itself.

        While the run is at work, also all that it needs to go on from here to the same last bit.
        """
        checkpoint["config"] = stated(self.config)
        if self.trainer.training:
            checkpoint["run"] = {"module": snapshot(self, self.state), "collector": self.collector.snapshot()}
        checkpoint |= {name: pack(content) for name, content in checkpoint.items() if name != "state_dict"}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what :meth:`on_fit_start` restores."""
        self.saved = checkpoint.get("run")

    def on_fit_end(self) -> None:
        """Closes the environments."""
        self.collector.envs.close()
