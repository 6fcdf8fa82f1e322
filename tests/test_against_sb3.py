"""One full PPO update against Stable-Baselines3's on the same rollout and weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from dapbench.rl.environments import make_env, make_envs
from dapbench.rl.rollout import Collector, Rollout
from dapbench.runs.training import build

STEPS, ENVS, EPOCHS = 50, 4, 4


def copy_weights(module: Any, policy: Any) -> None:
    """Ours into SB3's: both have tanh layers 64-64 for the policy and for the value apart."""
    extractor = policy.mlp_extractor
    theirs = [*extractor.policy_net[::2], policy.action_net, *extractor.value_net[::2], policy.value_net]
    ours = [m for net in (module.actor.mean, module.critic.value) for m in net if isinstance(m, torch.nn.Linear)]
    for a, b in zip(ours, theirs, strict=True):
        b.load_state_dict(a.state_dict())
    policy.log_std.data.copy_(module.actor.log_std)


def sb3_update(module: Any, rollout: Rollout) -> Any:
    """SB3's update of a copy of the module's weights, on the rollout as our module sees it."""
    env = make_env(module.config["task"])
    settings = {"n_steps": STEPS, "batch_size": STEPS * ENVS, "n_epochs": EPOCHS, "learning_rate": 1e-3}
    net = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "optimizer_kwargs": {"eps": 1e-5}}
    model = PPO("MlpPolicy", env, **settings, policy_kwargs=net, seed=0, device="cpu")
    copy_weights(module, model.policy)
    model.set_logger(Logger(None, []))
    buffer = model.rollout_buffer
    buffer.n_envs, buffer.buffer_size = ENVS, STEPS
    buffer.reset()
    starts = np.ones(ENVS)
    experience = module.observe(rollout)
    values, next_values = module.values(experience, module.critic)
    for t in range(STEPS):
        truncated = rollout.dones[t] & ~rollout.terminations[t]
        rewards = rollout.rewards[t] + model.gamma * next_values[t] * truncated
        rows = slice(t * ENVS, (t + 1) * ENVS)
        log_probs = experience.log_probs[rows]
        buffer.add(
            experience.policy_observations[rows].numpy(),
            rollout.actions[t],
            rewards,
            starts,
            torch.as_tensor(values[t]),
            log_probs,
        )
        starts = rollout.dones[t]
    buffer.compute_returns_and_advantage(torch.as_tensor(next_values[-1]), rollout.dones[-1])
    model.train()
    return model.policy


def test_an_update_equals_sb3s(small: Callable[..., dict[str, Any]]) -> None:
    """SB3 halves its squared value error by vf_coef alone; ours has the ½ in the loss, so the weight is 1."""
    module = build(
        small(
            "task=hopper",
            f"method.minibatch_size={STEPS * ENVS}",
            f"method.update_epochs={EPOCHS}",
            "method.recompute_advantages=false",
            "method.scale_rewards=false",
            "method.value_weight=1.0",
            "method.learning_rate=1e-3",
        )
    )
    module.configure_optimizers()
    collector = Collector(make_envs(module.config["task"], ENVS), STEPS, [1, 2, 3, 4])
    noise = np.random.default_rng(0).standard_normal((STEPS, ENVS, 3), np.float32) * np.exp(-0.5, dtype=np.float32)
    rollout = collector.collect(module.mean_action(), noise)
    collector.envs.close()
    assert rollout.terminations.any()
    theirs = sb3_update(module, rollout)
    before = module.updates["policy"].flat.clone()
    experience = module.observe(rollout)
    estimate = module.estimate(experience)
    module.optimize(experience, estimate, module.prepare(experience, estimate))
    assert (module.updates["policy"].flat - before).abs().max() > 1e-3
    extractor = theirs.mlp_extractor
    layers = [*extractor.policy_net[::2], theirs.action_net, *extractor.value_net[::2], theirs.value_net]
    ours = [m for net in (module.actor.mean, module.critic.value) for m in net if isinstance(m, torch.nn.Linear)]
    for a, b in zip(ours, layers, strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.bias, b.bias, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module.actor.log_std, theirs.log_std, rtol=1e-5, atol=1e-5)
