"""PPO-DAP's invariants: who may move whom. Breaking a detach or a freeze makes one of these fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dapbench.errors import UserError
from dapbench.ppo import PPO, Estimate, Experience
from dapbench.ppo_dap import PPODAP, PreparedDAP
from dapbench.prior.base import Guidance, build_prior
from dapbench.rl.rollout import Rollout
from dapbench.rl.updates import Batch
from dapbench.runs.training import Curve, build, fit

Make = Callable[..., PPODAP]
PRIOR = {"width": 16, "depth": 1, "solver_steps": 3, "sigma_min": 0.02, "sigma_max": 5.0}


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).clone()


@pytest.fixture
def make(small: Callable[..., dict[str, Any]], tmp_path: Path) -> Make:
    """A PPO-DAP run on Reacher with a small random prior: make("method.tuning=frozen", ...)."""
    torch.manual_seed(0)
    prior = build_prior(10, 2, {"_target_": "dapbench.prior.diffusion.DiffusionPrior", **PRIOR})
    torch.nn.init.normal_(prior.network.out.weight)
    prior.save(tmp_path / "prior.ckpt", {"quality": "medium"})
    settings = ("task=reacher", "method=ppo_dap", f"prior_dir={tmp_path}", "method.tuning_every=1")
    sizes = (
        "method.state_share=0.5",
        "method.tuning_batch_size=40",
        "method.num_proposals=8",
        "method.terms_decay=null",
    )
    return lambda *overrides: build(small(*settings, *sizes, *overrides))


@pytest.fixture
def stepped(make: Make) -> PPODAP:
    """After a few iterations, with the last rollout's batch at hand."""
    module = make()
    fit(module, [])
    return module


def made_up_experience(module: PPODAP, steps: int) -> Experience:
    """A rollout of made-up numbers under the policy as it is."""
    torch.manual_seed(1)
    raw, actions = torch.randn(steps, 10), torch.randn(steps, 2)
    observations = np.concatenate([raw.numpy(), raw.numpy()[:1]])[:, None]
    ended = np.zeros((steps, 1), dtype=bool)
    rewards, none = np.zeros((steps, 1)), np.empty(0)
    where = none.astype(int), none.astype(int)
    rollout = Rollout(observations, actions.numpy()[:, None], rewards, ended, ended, where, none, none, none)
    with torch.no_grad():
        mean, log_std = module.actor(raw)
    visited = torch.cat([raw, raw[:1]])  # the state after the last step too
    return Experience(
        rollout, rewards, visited, actions, (mean, log_std.clone()), torch.randn(steps), torch.randn(steps)
    )


def proposal_columns(module: PPODAP, experience: Experience) -> Batch:
    with torch.no_grad():
        rows, proposals = module.propose_at_some(experience)
    return proposals.columns(rows, len(experience.actions))


def loss_batch(module: PPODAP) -> Batch:
    """A minibatch of 20 states, of which half have proposals."""
    experience = made_up_experience(module, 20)
    estimate = Estimate(torch.randn(20), torch.randn(20))
    columns = module.q_columns(experience) | proposal_columns(module, experience)
    return experience.columns() | estimate.columns() | columns


def ppo_loss(module: PPODAP, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(PPODAP, "actor_terms", PPO.actor_terms)
        return module.loss(batch)[0]


def test_the_actors_terms_reach_neither_the_prior_nor_the_critic(make: Make) -> None:
    module = make("method.tuning=full", "method.kl_weight=1.0")
    fit(module, [])
    batch = loss_batch(module)
    module.annealed_imitation_weight.fill_(1.0)
    module.annealed_kl_weight.fill_(1.0)
    module.zero_grad(set_to_none=True)
    module.actor_terms(batch, *module.actor(batch["policy_observations"]))[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.actor.parameters())
    assert all(p.grad is None for p in module.critic.parameters())
    module.loss(batch)[0].backward()
    assert all(p.grad is None for p in module.prior.parameters())


def test_qs_loss_moves_the_critic_and_not_the_actor(stepped: PPODAP) -> None:
    """½ λ_Q E[(Q − r − γ V(s'))²] comes on top of PPO's loss, with a target that carries no gradient."""
    batch = loss_batch(stepped)
    loss, metrics = stepped.loss(batch)
    q = stepped.critic.q(stepped.critic.trunk(batch["policy_observations"]), batch["taken"])
    by_hand = 0.5 * ((q - batch["q_targets"]) ** 2).mean()
    torch.testing.assert_close(metrics["q_loss"], by_hand)
    torch.testing.assert_close(loss - PPO.loss(stepped, batch)[0], stepped.hp.q_weight * by_hand)
    stepped.zero_grad(set_to_none=True)
    by_hand.backward()
    moved = {name for name, p in stepped.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in moved} == {"critic"}
    assert not any(name.startswith("critic.value") for name in moved)


def test_q_targets_are_one_step_with_v_from_before_the_update(make: Make) -> None:
    module = make("profile.epochs=1")
    seen = []
    original = module.q_columns
    module.q_columns = lambda experience: seen.append((experience, original(experience))) or seen[-1][1]
    before = [p.detach().clone() for p in module.critic.parameters()]
    fit(module, [])
    experience, columns = seen[0]
    rollout = experience.rollout
    after = torch.as_tensor(rollout.observations[1:]).flatten(0, 1).clone()
    for i, (t, e) in enumerate(zip(*rollout.ends, strict=True)):
        after[t * rollout.dones.shape[1] + e] = torch.as_tensor(rollout.final_observations[i])
    for p, value in zip(module.critic.parameters(), before, strict=True):
        p.data.copy_(value)
    with torch.no_grad():
        v = module.critic(after.clamp(-10, 10))  # the statistics of a fresh run change nothing but this
    rewards = torch.as_tensor(experience.rewards, dtype=torch.float32).flatten()
    alive = 1.0 - torch.as_tensor(rollout.terminations, dtype=torch.float32).flatten()
    torch.testing.assert_close(columns["q_targets"], rewards + module.hp.gamma * v * alive, rtol=1e-4, atol=1e-4)


def test_a_terminal_state_is_worth_nothing_to_q(stepped: PPODAP) -> None:
    experience = made_up_experience(stepped, 20)  # without rewards
    assert stepped.q_columns(experience)["q_targets"].abs().min() > 0
    experience.rollout.terminations[5] = True
    targets = stepped.q_columns(experience)["q_targets"]
    assert (targets == 0).nonzero().flatten().tolist() == [5]


def test_proposals_carry_no_graph(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = [], PPODAP.prepare

    def prepare(self: PPODAP, experience: Experience, estimate: Estimate) -> PreparedDAP:
        seen.append(original(self, experience, estimate))
        return seen[-1]

    monkeypatch.setattr(PPODAP, "prepare", prepare)
    fit(make(), [])
    assert seen[0].columns["has_proposals"].sum() == 100  # half of the rollout's 200 states
    assert not any(column.requires_grad for prepared in seen for column in prepared.columns.values())


def test_proposals_lie_in_their_own_rows(stepped: PPODAP) -> None:
    columns = proposal_columns(stepped, made_up_experience(stepped, 50))
    has_proposals = columns["has_proposals"].bool()
    assert has_proposals.sum() == 25
    for name in ("kept", "proxy_mean", "proxy_log_std"):
        filled = columns[name].flatten(1).abs().sum(-1) > 0
        assert torch.equal(filled, has_proposals), name


@pytest.mark.parametrize(
    ("decay", "expected"),
    [("0.5", {0: (25, 1.0), 100: (25, 0.5), 200: (0, 0.0)}), ("null", {0: (25, 1.0), 399: (25, 1.0)})],
)
def test_proposals_are_drawn_while_the_schedule_leaves_them_a_weight(make: Make, decay: str, expected: dict) -> None:
    module = make(f"method.terms_decay={decay}", "method.imitation_weight=1.0", "profile.schedule_epochs=2")
    fit(module, [])
    experience = made_up_experience(module, 50)
    seen = {}
    for env_steps in expected:
        module.carried.env_steps = env_steps
        prepared = module.prepare(experience, Estimate(torch.randn(50), torch.randn(50)))
        count = int(prepared.columns["has_proposals"].sum()) if prepared.columns else 0
        seen[env_steps] = (count, float(module.annealed_imitation_weight))
        assert float(module.annealed_kl_weight) == pytest.approx(module.hp.kl_weight * seen[env_steps][1])
    assert seen == expected


def test_when_the_terms_end_it_is_ppo(make: Make) -> None:
    """Q and the prior stay as they are, and the losses are PPO's own to the last bit."""
    module = make("method.terms_decay=1e-6")
    module.carried.iteration, module.carried.env_steps = 1, 200
    curve = Curve()
    fit(module, [curve])
    experience, estimate = made_up_experience(module, 50), Estimate(torch.randn(50), torch.randn(50))
    batch = experience.columns() | estimate.columns() | module.prepare(experience, estimate).columns
    ours, theirs = module.loss(batch), PPO.loss(module, batch)
    assert ours[0] == theirs[0]
    assert ours[1].keys() == theirs[1].keys()
    fresh = make("method.terms_decay=1e-6")
    assert torch.equal(flat(module.critic.action_value), flat(fresh.critic.action_value))
    assert not torch.equal(flat(module.critic.value), flat(fresh.critic.value))
    assert all(row["prior_drift"] == 0.0 and "q_loss" not in row for row in curve.rows)


def test_imitation_moves_the_actor_alone(stepped: PPODAP, monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic's gradient is the same with and without them."""
    batch = loss_batch(stepped)
    stepped.annealed_imitation_weight.fill_(1.0)
    ours = torch.autograd.grad(stepped.loss(batch)[0], list(stepped.critic.parameters()))
    ppo = torch.autograd.grad(ppo_loss(stepped, batch, monkeypatch), list(stepped.critic.parameters()))
    for a, b in zip(ours, ppo, strict=True):
        torch.testing.assert_close(a, b)


def test_pg_share_by_hand(stepped: PPODAP, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = loss_batch(stepped)
    stepped.annealed_imitation_weight.fill_(1.0)
    actor = list(stepped.actor.parameters())

    def norm(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, actor)]).norm()

    expected = norm(ppo_loss(stepped, batch, monkeypatch)) / norm(stepped.loss(batch)[0])
    assert stepped.pg_share(batch) == pytest.approx(expected.item(), rel=1e-4)
    assert expected < 0.9


def test_without_its_terms_the_loss_is_ppos(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make("method.imitation_weight=0", "method.kl_weight=0")
    fit(module, [])
    batch = loss_batch(module)
    torch.testing.assert_close(module.loss(batch)[0], ppo_loss(module, batch, monkeypatch))


def test_tuning_moves_the_adapters_and_not_the_backbone(make: Make) -> None:
    module = make()
    before = {name: p.detach().clone() for name, p in module.prior.named_parameters()}
    pretrained = torch.load(Path(module.config["prior_dir"]) / "prior.ckpt", weights_only=True)["state_dict"]
    curve = Curve()
    fit(module, [curve])
    for name, p in module.prior.named_parameters():
        if "lora_" in name:
            assert not torch.equal(p, before[name]), f"{name} did not move"
        else:
            assert torch.equal(p, pretrained[name.replace(".base_layer", "")]), f"{name} moved"
    assert all(row["prior_drift"] > 0 for row in curve.rows)


@pytest.mark.parametrize(("tuning", "moves"), [("frozen", False), ("full", True)])
def test_other_kinds_of_tuning(make: Make, tuning: str, moves: bool) -> None:
    module = make(f"method.tuning={tuning}")
    pretrained = torch.load(Path(module.config["prior_dir"]) / "prior.ckpt", weights_only=True)["state_dict"]
    fit(module, [])
    assert moves != torch.equal(module.prior.network.out.weight, pretrained["network.out.weight"])


def test_energy_keeps_the_best_when_beta_is_large(make: Make) -> None:
    module = make("method.guidance_scale=0")
    torch.manual_seed(0)
    states, noise, uniform = torch.randn(30, 10), torch.randn(30, 8, 2), torch.rand(30, 2)
    with torch.no_grad():
        raw = module.prior.sample(states, noise)
        q = module.q_of(module.critic.trunk(states), raw)
        module.annealed_beta.fill_(1e6)
        out = module.propose(states, states, noise, uniform)
        torch.testing.assert_close(out.kept, raw[torch.arange(30), q.argmax(-1)].unsqueeze(1).expand(-1, 2, -1))
        torch.testing.assert_close(out.q_gain, q.max(-1).values - q.mean(-1))
        torch.testing.assert_close(out.proxy_mean, raw.mean(1))
        torch.testing.assert_close(out.proxy_log_std, raw.var(1, correction=0).sqrt().clamp(min=0.05).log())
        # β = 0: the draws are the uniform ones, ⌊8u⌋, with replacement.
        module.annealed_beta.fill_(0.0)
        uniformly = module.propose(states, states, noise, uniform)
        index = (8 * uniform).long()
        torch.testing.assert_close(uniformly.kept, raw.gather(1, index.unsqueeze(-1).expand(-1, -1, 2)))


def test_the_proxy_is_of_the_raw_proposals_and_guidance_of_the_critic_on_entry(stepped: PPODAP) -> None:
    torch.manual_seed(0)
    states, noise, uniform = torch.randn(30, 10), torch.randn(30, 8, 2), torch.rand(30, 2)
    with torch.no_grad():
        out = stepped.propose(states, states, noise, uniform)
        torch.testing.assert_close(out.proxy_mean, stepped.prior.sample(states, noise).mean(1))
        features = stepped.critic.trunk(states)
        guided = stepped.prior.sample(states, noise, Guidance(stepped.q_gradient, features, 10.0))
        assert (
            stepped.q_of(features, guided).mean() > stepped.q_of(features, stepped.prior.sample(states, noise)).mean()
        )
    actions = torch.rand(30, 8, 2, requires_grad=True)
    by_hand = torch.autograd.grad(stepped.q_of(features, actions).sum(), actions)[0]
    torch.testing.assert_close(stepped.q_gradient(features, actions.detach()), by_hand)


def test_q_is_watched_on_rollouts_that_it_has_not_seen(make: Make) -> None:
    module = make("method.terms_decay=null")
    curve = Curve()
    fit(module, [curve])
    for row in curve.rows:
        assert -1 <= row["q_td_rank"] <= 1
        assert -1 <= row["q_advantage_rank"] <= 1
        assert row["td_mae"] > 0
        assert 0 < row["pg_share"] < 10


def test_the_warm_start_fits_policy_and_value_and_not_q(config_of: Callable[..., dict[str, Any]]) -> None:
    module = build(config_of("ppo_dap_warm", "reacher"))
    q = [p.detach().clone() for p in module.critic.action_value.parameters()]
    actor, value = flat(module.actor), flat(module.critic.value)
    module.configure_optimizers()
    module.on_fit_start()
    assert module.observation_stats.count == 180
    assert not torch.equal(flat(module.actor), actor)
    assert not torch.equal(flat(module.critic.value), value)
    assert all(torch.equal(a, b) for a, b in zip(q, module.critic.action_value.parameters(), strict=True))
    module.collector.envs.close()


def test_curve_has_the_dual_proximal_terms(stepped: PPODAP) -> None:
    experience = made_up_experience(stepped, 200)
    prepared = stepped.prepare(experience, Estimate(torch.randn(200), torch.randn(200)))
    terms = stepped.bound_terms(experience, prepared, 0.5)
    assert set(terms) == {"policy_kl", "bound_surrogate", "bound_policy_shift", "bound_imitation", "bound_prior_drift"}
    assert terms["bound_policy_shift"] >= 0
    assert terms["bound_prior_drift"] == 0.5


@pytest.mark.slow
def test_compiled_equals_eager(make: Make) -> None:
    """The sampler and the update as compiled graphs, over a few iterations from the same start and past the terms."""
    settings = "profile.epochs=3", "profile.schedule_epochs=4", "method.terms_decay=0.5"
    eager, compiled = (make(*settings, f"compile={c}") for c in (False, True))
    curves = Curve(), Curve()
    for module, curve in zip((eager, compiled), curves, strict=True):
        fit(module, [curve])
    for name in ("policy", "prior"):
        ours, theirs = compiled.updates[name].flat, eager.updates[name].flat
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    theirs, ours = (curve.rows[1]["q_gain"] for curve in curves)
    assert "q_gain" not in curves[0].rows[2]
    assert ours == pytest.approx(theirs, abs=1e-3)


BAD = {
    "method.num_proposals=1": "method.num_proposals=1 is not a whole number from 2",
    "method.state_share=0.001": "method.state_share=0.001 is not a number from 0.005 to 1",
    "method.state_share=2": "method.state_share=2 is not a number from 0 to 1",
    "method.terms_decay=0": "method.terms_decay=0 is not null or a number from 1e-06",
    "method.terms_decay=soon": "method.terms_decay=soon is not null or a number",
    "method.tuning=qlora": "method.tuning=qlora is not one of lora, full, frozen",
    "method.tuning_every=0": "method.tuning_every=0",
    "method.tuning_steps=50": "tuning_batch_size=2000 is more than the rollout's steps (200)",
    "+method.imitation_wieght=1": "is not a setting of DAPSettings; did you mean imitation_weight?",
    "method.beta=hot": "method.beta=hot is not a number",
}


@pytest.mark.parametrize(("override", "message"), BAD.items())
def test_bad_settings_are_one_line(make: Make, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        make(override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
