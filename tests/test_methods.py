"""Every method of conf/method runs for two iterations; each baseline's own numbers by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dapbench.config import choices
from dapbench.datasets.episodes import load_transitions
from dapbench.ppo import PPO, Estimate
from dapbench.rl.environments import make_env, to_policy_actions
from dapbench.runs.evaluation import load_run
from dapbench.runs.training import Curve, build, fit, train

Small = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_runs_and_reloads(config_of: Small, tmp_path: Path, method: str) -> None:
    config = config_of(method, "reacher", f"out={tmp_path / 'run'}")
    train(config)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["method"] == method
    assert (summary["logs"] is None) == (config["method"]["starts_from"] == "nothing")
    module = load_run(tmp_path / "run")
    assert isinstance(module, PPO)


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in choices("task") if task != "reacher"])
@pytest.mark.parametrize("method", choices("method"))
def test_every_method_runs_on_every_task(config_of: Small, method: str, task: str) -> None:
    fit(build(config_of(method, task, "profile.epochs=1")), [])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "ppg", "ppo_rnd", "ppo_bc", "ppo_dapg", "ppo_gap", "ppo_dap_warm"])
def test_compiled_equals_eager(config_of: Small, method: str) -> None:
    """All of a method's updates and its sampler, over 24 policy updates and the rollouts between them."""
    config = config_of(method, "reacher", "profile.epochs=3", "profile.schedule_epochs=9")
    eager, compiled = build(config), build(config | {"compile": True})
    for module in (eager, compiled):
        fit(module, [])
    assert eager.updates.keys() == compiled.updates.keys()
    for name, update in eager.updates.items():
        assert (compiled.updates[name].flat - update.flat).norm() <= 1e-4 * update.flat.norm(), name


@pytest.mark.parametrize("method", ["ppo_dap", "ppo_bc"])
def test_missing_inputs_are_one_clear_error(small: Small, tmp_path: Path, method: str) -> None:
    from dapbench.errors import UserError

    missing = [f"prior_dir={tmp_path}/none", f"logs_dir={tmp_path}/none"]
    fitting = ["method.tuning_batch_size=20"] if method == "ppo_dap" else []
    with pytest.raises(UserError, match=f"{tmp_path}/none") as error:
        train(small("task=reacher", f"method={method}", *fitting, *missing, f"out={tmp_path}/run"))
    assert "\n" not in str(error.value)


def test_rnd_with_coefficient_zero_is_ppo(config_of: Small) -> None:
    ppo, rnd = build(config_of("ppo", "hopper")), build(config_of("ppo_rnd", "hopper", "method.intrinsic_weight=0"))
    curves = Curve(), Curve()
    for module, curve in zip((ppo, rnd), curves, strict=True):
        fit(module, [curve])
    assert curves[0].returns == curves[1].returns != []
    assert torch.equal(ppo.updates["policy"].flat, rnd.updates["policy"].flat)


def experiences(module: Any) -> list[Any]:
    """What a module observes from now on."""
    seen, observe = [], module.observe
    module.observe = lambda rollout: (seen.append(observe(rollout)), seen[-1])[1]
    return seen


def test_rnd_rewards_and_predictor(config_of: Small) -> None:
    module = build(config_of("ppo_rnd", "hopper"))
    target = [p.clone() for p in module.target.parameters()]
    predictor = [p.clone() for p in module.predictor.parameters()]
    seen = experiences(module)
    fit(module, [])
    assert all(torch.equal(a, b) for a, b in zip(target, module.target.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(predictor, module.predictor.parameters(), strict=True))
    # ½ ‖f − g‖² by hand, divided by the running std of the discounted bonus.
    x = seen[-1].reached[:1]
    expected = 0.5 * ((module.predictor(x) - module.target(x)) ** 2).sum()
    torch.testing.assert_close(module.prediction_errors(x)[0], expected)
    assert seen[-1].reached.abs().max() <= 5.0
    assert seen[-1].intrinsic_rewards.min() >= 0.0


def test_rnd_advantages_are_non_episodic(config_of: Small) -> None:
    """The intrinsic stream bootstraps through ends of episodes: with V = 0 and λ = 1 it is the discounted sum."""
    module = build(config_of("ppo_rnd", "reacher", "method.gae_lambda=1.0"))
    fit(module, [])
    for p in module.intrinsic_critic.parameters():
        torch.nn.init.zeros_(p)
    noise = np.zeros((50, 4, 2), np.float32)
    from dapbench.rl.environments import make_envs
    from dapbench.rl.rollout import Collector

    rollout = Collector(make_envs(module.config["task"], 4), 50, [1, 2, 3, 4]).collect(module.mean_action(), noise)
    assert rollout.dones.any()
    experience = module.observe(rollout)
    estimate = module.estimate(experience)
    discounts = module.hp.intrinsic_gamma ** np.arange(50)
    first = (experience.intrinsic_rewards * discounts[:, None]).sum(0)
    np.testing.assert_allclose(estimate.intrinsic_returns.view(50, 4)[0], first, rtol=1e-4)


def test_ppgs_auxiliary_loss_by_hand(config_of: Small) -> None:
    module = build(config_of("ppg", "reacher"))
    states, targets = torch.randn(6, 10), torch.randn(6)
    mean, log_std = module.actor(states)
    old_mean, old_log_std = mean + 0.5, (log_std - 0.1).expand_as(mean)
    batch = {"policy_observations": states, "returns": targets, "old_mean": old_mean, "old_log_std": old_log_std}
    loss, metrics = module.auxiliary_loss(batch)
    # KL(N(μ + 0.5, σ_old) ‖ N(μ, σ)) in each of 2 dimensions, with σ = e^−0.5 and σ_old = e^−0.6.
    kl = 2 * (0.1 + (np.exp(-1.2) + 0.25) / (2 * np.exp(-1.0)) - 0.5)
    assert metrics["clone_kl"].item() == pytest.approx(kl, rel=1e-4)
    features = module.actor.mean[3](module.actor.mean[2](module.actor.mean[1](module.actor.mean[0](states))))
    auxiliary = 0.5 * ((module.auxiliary_value(features)[:, 0] - targets) ** 2).mean()
    value = 0.5 * ((module.critic(states) - targets) ** 2).mean()
    torch.testing.assert_close(loss, auxiliary + metrics["clone_kl"] + value)


def test_ppg_runs_its_auxiliary_phase_every_n_iterations(config_of: Small) -> None:
    module = build(config_of("ppg", "reacher", "method.policy_phases=2", "profile.epochs=3"))
    head = module.auxiliary_value.weight.clone()
    fit(module, [])
    assert module.updates["auxiliary"].optimizer.state_dict()["state"][0]["step"] == 3 * (2 * 200 // 100)
    assert len(module.carried.memory) == 1
    assert not torch.equal(head, module.auxiliary_value.weight)


def test_warm_start_takes_the_logs_statistics_and_fits_them(config_of: Small) -> None:
    module = build(config_of("ppo_bc", "reacher", "method.warm_start_epochs=200", "profile.epochs=1"))
    module.configure_optimizers()
    module.on_fit_start()
    assert module.observation_stats.count == 180
    env = make_env(module.config["task"])
    logs = load_transitions(Path(module.config["logs_dir"]), env.observation_space, env.action_space)
    states = module.observation_stats.normalize(torch.as_tensor(logs.observations))
    mean = module.actor(states)[0].detach().numpy()
    # Random actions around zero with states free to remember them: fitted better than by any constant.
    assert ((mean - logs.actions) ** 2).mean() < 0.7 * logs.actions.var()
    module.collector.envs.close()


def test_dapgs_weight_and_term_by_hand(config_of: Small) -> None:
    """λ0 λ1^k max A times the mean negative log-likelihood of logged pairs (Rajeswaran et al. 2018, eq. 5)."""
    module = build(config_of("ppo_dapg", "reacher", "method.demonstration_decay=0.5"))
    fit(module, [])
    module.carried.iteration = 3
    advantages = torch.randn(200, generator=torch.Generator().manual_seed(0))
    columns = module.prepare(None, Estimate(advantages, advantages)).columns
    highest = ((advantages - advantages.mean()) / advantages.std()).max()
    assert module.current_weight.item() == pytest.approx(0.1 * 0.5**3 * highest.item(), rel=1e-5)
    logs = load_transitions(Path(module.config["logs_dir"]), module.observation_space, module.action_space)
    assert np.isin(columns["logged_actions"].numpy(), to_policy_actions(logs.actions, module.action_space)).all()
    mean, log_std = module.actor(columns["logged_policy_observations"])
    normal = torch.distributions.Normal(mean, log_std.exp())
    expected = -module.current_weight * normal.log_prob(columns["logged_actions"]).sum(-1).mean()
    torch.testing.assert_close(module.actor_terms(columns, mean, log_std)[0], expected)
