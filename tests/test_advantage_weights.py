"""Advantage weights on logs whose best actions are known, and what the prior and the warm start make of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dapbench import advantage_weights
from dapbench.advantage_weights import LoggedCritic
from dapbench.datasets.episodes import Transitions
from dapbench.errors import UserError
from dapbench.prior.base import build_prior
from dapbench.prior.pretraining import check_pretraining, fit_prior, pretrain
from dapbench.warm_start import WarmStartedPPO
from tests.conftest import KINDS, PRIOR


def logs(steps: int, episodes: int, reward: Callable[[np.ndarray], np.ndarray]) -> tuple[Transitions, torch.Tensor]:
    """Episodes that end in a terminal state; of the actions in [-1, 1] [episodes, steps] ``reward`` makes the rewards.

    The state tells the step and, after the first, the first action.
    """
    actions = np.random.default_rng(0).uniform(-1, 1, (episodes, steps)).astype(np.float32)
    first = np.where(np.arange(steps) > 0, actions[:, :1], 0.0).reshape(-1)
    observations = np.stack([np.tile(np.arange(steps), episodes), first], 1).astype(np.float32)
    ends = np.tile(np.arange(steps) == steps - 1, episodes)
    rewards = reward(actions).astype(np.float32).reshape(-1)
    flat = actions.reshape(-1, 1)
    return Transitions(observations, flat, rewards, ends.copy(), ends, np.zeros(episodes), {}), torch.as_tensor(flat)


@pytest.fixture(autouse=True)
def quick_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advantage_weights, "HIDDEN", [32, 32])
    monkeypatch.setattr(advantage_weights, "LEARNING_RATE", 3e-3)
    monkeypatch.setattr(advantage_weights, "MINIBATCH_SIZE", 100)


def test_better_actions_weigh_more_the_more_so_the_lower_the_temperature() -> None:
    data, actions = logs(1, 500, lambda a: a)
    mild, sharp = (advantage_weights.advantage_weights(data, actions, t, compile=False) for t in (1.0, 0.3))
    good, bad = actions[:, 0] > 0.8, actions[:, 0] < -0.8
    assert mild.mean() == pytest.approx(1.0, rel=1e-5)
    # An action is worth itself, and is uniform: the weight is exp(a / std) but for a factor.
    expected = actions[:, 0].exp() ** math.sqrt(3)
    torch.testing.assert_close(mild, expected / expected.mean(), rtol=0.25, atol=0.1)
    assert sharp[good].mean() / sharp[bad].mean() > 3 * mild[good].mean() / mild[bad].mean()


def test_an_action_is_worth_what_follows_from_it() -> None:
    """Three steps, of which the first action alone is rewarded, and only at the end."""

    def late(actions: np.ndarray) -> np.ndarray:
        rewards = np.zeros_like(actions)
        rewards[:, -1] = actions[:, 0]
        return rewards

    data, actions = logs(3, 200, late)
    weights = advantage_weights.advantage_weights(data, actions, 1.0, compile=False).view(-1, 3)
    correlations = [float(spearmanr(actions.view(-1, 3)[:, t], weights[:, t]).statistic) for t in range(3)]
    assert correlations[0] > 0.9
    assert max(map(abs, correlations[1:])) < 0.5


def test_v_is_an_upper_expectile() -> None:
    data, actions = logs(1, 1000, lambda a: a)
    values, action_values = LoggedCritic(data, actions, compile=False).values()
    scale = float(data.rewards.std())
    # Of U(-1, 1): the expectile τ solves τ (1 - e)² = (1 - τ)(1 + e)².
    root = math.sqrt(0.7 / 0.3)
    assert values.mean() * scale == pytest.approx((root - 1) / (root + 1), abs=0.06)
    torch.testing.assert_close(action_values * scale, actions[:, 0], atol=0.1, rtol=0.0)


@torch.no_grad()
def test_nothing_is_learned_where_the_next_state_is_not_logged() -> None:
    data, actions = logs(2, 10, lambda a: a)
    data.terminations[:] = False  # cut off in place of terminated
    critic = LoggedCritic(data, actions, compile=False)
    assert critic.inputs["known"].tolist() == [1.0, 0.0] * 10
    batch = critic.inputs | {"v_targets": critic.values()[0], "q_targets": critic.values()[1]}
    wrong = torch.where(critic.inputs["known"] == 1.0, batch["q_targets"], 1e6)
    assert critic.loss(batch | {"q_targets": wrong})[0] == pytest.approx(float(critic.loss(batch)[0]))
    assert critic.loss(batch | {"q_targets": batch["q_targets"] + 1.0})[0] > 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_proposes_what_weighs_more(kind: str) -> None:
    actions = torch.tensor([[0.5], [-0.5]]).repeat(300, 1)
    observations = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    config = {"learning_rate": 1e-2, "batch_size": 64, "ema_decay": 0.95}
    prior = build_prior(2, 1, {"_target_": KINDS[kind], **PRIOR, **config})
    fit_prior(prior, observations, actions, 600, 0, weights=torch.tensor([9.0, 1.0]).repeat(300))
    with torch.no_grad():
        drawn = prior.sample(prior.normalize(observations), torch.randn(600, 4, 1))
    assert drawn.mean() == pytest.approx(0.4, abs=0.12)  # 0.9 · 0.5 − 0.1 · 0.5


@torch.no_grad()
def test_the_warm_start_imitates_what_weighs_more(config_of: Callable[..., dict[str, Any]]) -> None:
    config = config_of("ppo_bc", "reacher", "method.warm_start_advantage_temperature=1.0")
    module = WarmStartedPPO(config)
    batch = {
        "policy_observations": torch.zeros(2, module.observation_size),
        "actions": torch.tensor([[0.5, 0.5], [-1.0, 0.0]]),
        "returns": torch.zeros(2),
    }
    weights = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0])
    alike, first = (module.warm_start_loss(batch | {"weights": w})[1] for w in weights)
    log_std, constant = -0.5, 0.5 * math.log(2 * math.pi)
    of_each = [
        sum(0.5 * (a / math.exp(log_std)) ** 2 + log_std + constant for a in pair) for pair in ([0.5] * 2, [1, 0])
    ]
    assert alike["cloning"] == pytest.approx(sum(of_each) / 2, abs=0.02)  # the first policy's mean is near zero
    assert first["cloning"] == pytest.approx(of_each[0], abs=0.02)


def test_a_warm_start_draws_on_the_weights(
    config_of: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all the weight on one logged action the policy is fitted to that one."""
    sole = config_of("ppo_bc", "reacher", "method.warm_start_advantage_temperature=1.0", "method.warm_start_epochs=150")
    module = WarmStartedPPO(sole)
    module.configure_optimizers()
    data = module.load_logs()

    def one(logs: Transitions, actions: torch.Tensor, temperature: float, compile: bool) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(0), len(actions)).float() * len(actions)

    monkeypatch.setattr("dapbench.warm_start.advantage_weights", one)
    module.warm_start(data)
    pairs = module.logged_pairs(data.observations[:1], data.actions[:1])
    mean, _ = module.actor(pairs["policy_observations"])
    torch.testing.assert_close(mean, pairs["actions"], atol=0.15, rtol=0.0)


@pytest.mark.parametrize("prior", ["diffusion", "diffusion_weighted"])
def test_pretraining_gives_each_row_its_own_weight(
    config_of: Callable[..., dict[str, Any]],
    compose: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    prior: str,
) -> None:
    """A row's weight goes with it when episodes are held out, and only a prior that asks for weights gets any."""
    logs_dir = config_of("ppo_bc", "reacher")["logs_dir"]
    seen = []

    def weigh(logs: Transitions, actions: torch.Tensor, temperature: float, compile: bool) -> torch.Tensor:
        assert temperature == 1.0
        return actions[:, 0] + 2.0

    def fit(
        prior: Any, observations: Any, actions: torch.Tensor, batches: int, seed: int, weights: Any, compile: bool
    ) -> None:
        seen.append((actions, weights))
        prior.fit_statistics(observations, actions)

    monkeypatch.setattr("dapbench.prior.pretraining.advantage_weights", weigh)
    monkeypatch.setattr("dapbench.prior.pretraining.fit_prior", fit)
    paths = f"logs_dir={logs_dir}", f"out={tmp_path}/prior"
    pretrain(compose("pretrain", "task=reacher", f"prior={prior}", "seed=2", *paths))  # holds out the first episode
    assert len(seen) == 2  # the Gaussian beside it too
    for actions, weights in seen:
        if prior == "diffusion":
            assert weights is None
        else:
            torch.testing.assert_close(weights, actions[:, 0] + 2.0)


def test_a_bad_temperature_is_refused(compose: Callable[..., dict[str, Any]]) -> None:
    config = compose("pretrain", "task=reacher", "prior=diffusion_weighted", "prior.advantage_temperature=0")
    with pytest.raises(UserError, match=r"prior\.advantage_temperature=0"):
        check_pretraining(config)
