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
from dapbench.prior.base import build_prior
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
    sizes = ("method.state_share=0.5", "method.tuning_batch_size=40", "method.q_minibatch_size=50")
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
    return Experience(rollout, rewards, raw, actions, (mean, log_std.clone()), torch.randn(steps), torch.randn(steps))


def proposal_columns(module: PPODAP, experience: Experience, share: float) -> Batch:
    with torch.no_grad():
        rows, proposals = module.propose_at_some(experience, share)
    return proposals.columns(rows, len(experience.actions))


def loss_batch(module: PPODAP) -> Batch:
    """A minibatch of 20 states, of which half have proposals."""
    experience = made_up_experience(module, 20)
    estimate = Estimate(torch.randn(20), torch.randn(20))
    columns = proposal_columns(module, experience, 0.5) | module.score_draws(experience)
    return experience.columns() | estimate.columns() | columns


def ppo_loss(module: PPODAP, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(PPODAP, "actor_terms", PPO.actor_terms)
        return module.loss(batch)[0]


@pytest.mark.parametrize("kl_form", ["moments", "score"])
def test_the_actors_loss_reaches_neither_the_prior_nor_q(make: Make, kl_form: str) -> None:
    module = make(f"method.kl_form={kl_form}", "method.tuning=full", "method.kl_weight=1.0")
    fit(module, [])
    module.annealed_imitation_weight.fill_(1.0)
    module.zero_grad(set_to_none=True)
    module.loss(loss_batch(module))[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.actor.parameters())
    assert all(p.grad is None for p in module.q.parameters())
    assert all(p.grad is None for p in module.prior.parameters())


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
    columns = proposal_columns(stepped, made_up_experience(stepped, 50), 0.5)
    has_proposals = columns["has_proposals"].bool()
    assert has_proposals.sum() == 25
    for name in ("kept", "proxy_mean", "proxy_log_std"):
        filled = columns[name].flatten(1).abs().sum(-1) > 0
        assert torch.equal(filled, has_proposals), name


@pytest.mark.parametrize("imitation", ["0.0", "1.0"])
def test_the_schedule_and_not_the_weight_says_how_many_states_get_proposals(make: Make, imitation: str) -> None:
    module = make(f"method.imitation_weight={imitation}", "method.imitation_decay=0.5", "method.kl_state_share=0.1")
    fit(module, [])  # two epochs of two: the schedule is over
    experience = made_up_experience(module, 50)
    counts = {}
    for env_steps in (0, 399):
        module.carried.env_steps = env_steps
        prepared = module.prepare(experience, Estimate(torch.randn(50), torch.randn(50)))
        counts[env_steps] = int(prepared.columns["has_proposals"].sum())
    assert counts == {0: 25, 399: 5}


def test_imitation_moves_the_actor_alone(stepped: PPODAP, monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic's gradient is PPO's own, with or without PPO-DAP's terms."""
    batch = loss_batch(stepped)
    stepped.annealed_imitation_weight.fill_(1.0)
    ours = torch.autograd.grad(stepped.loss(batch)[0], list(stepped.critic.parameters()))
    ppo = torch.autograd.grad(ppo_loss(stepped, batch, monkeypatch), list(stepped.critic.parameters()))
    for a, b in zip(ours, ppo, strict=True):
        torch.testing.assert_close(a, b)


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


def test_q_learns_from_the_current_rollout_alone(make: Make) -> None:
    """Its targets are this rollout's λ-returns at the actions taken; proposals do not enter."""
    module = make()
    seen = []
    original = module.q_loss
    module.q_loss = lambda batch: (seen.append(batch), original(batch))[1]
    fit(module, [])
    assert {len(batch["returns"]) for batch in seen} == {50}
    assert all(set(batch) == {"policy_observations", "taken", "returns"} for batch in seen)


def test_energy_keeps_the_best_when_beta_is_large(stepped: PPODAP) -> None:
    stepped.annealed_beta.fill_(1e3)
    torch.manual_seed(0)
    states, noise, uniform = torch.randn(30, 10), torch.randn(30, 8, 2), torch.rand(30, 8)
    with torch.no_grad():
        out = stepped.propose(states, states, noise, uniform)
    assert (out.q_gain > -1e-6).all()  # equal proposals at the bounds tie
    assert out.q_gain.mean() > 0.01
    stepped.annealed_beta.fill_(0.0)
    with torch.no_grad():
        uniformly = stepped.propose(states, states, noise, uniform)
    assert uniformly.q_gain.mean() < out.q_gain.mean()


def test_curve_has_the_dual_proximal_terms(stepped: PPODAP) -> None:
    experience = made_up_experience(stepped, 200)
    prepared = stepped.prepare(experience, Estimate(torch.randn(200), torch.randn(200)))
    terms = stepped.bound_terms(experience, prepared, 0.5)
    assert set(terms) == {"policy_kl", "bound_surrogate", "bound_policy_shift", "bound_imitation", "bound_prior_drift"}
    assert terms["bound_policy_shift"] >= 0
    assert terms["bound_prior_drift"] == 0.5


@pytest.mark.slow
def test_compiled_equals_eager(make: Make) -> None:
    """The sampler, Q's fit and the policy's update as compiled graphs, over a few iterations from the same start."""
    eager, compiled = make("profile.epochs=3"), make("profile.epochs=3", "compile=true")
    curves = Curve(), Curve()
    for module, curve in zip((eager, compiled), curves, strict=True):
        fit(module, [curve])
    for name in ("policy", "q", "prior"):
        ours, theirs = compiled.updates[name].flat, eager.updates[name].flat
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    theirs, ours = (curve.rows[-1]["q_gain"] for curve in curves)
    assert ours == pytest.approx(theirs, abs=1e-3)


BAD = {
    "method.num_proposals=1": "method.num_proposals=1 is not a whole number from 2",
    "method.num_kept=9": "method.num_kept=9 is more than num_proposals (8)",
    "method.state_share=0.001": "method.state_share=0.001 is not a number from 0.005 to 1",
    "method.state_share=2": "method.state_share=2 is not a number from 0 to 1",
    "method.imitation_decay=0": "method.imitation_decay=0",
    "method.kl_form=exact": "method.kl_form=exact is not one of moments, score",
    "method.tuning=qlora": "method.tuning=qlora is not one of lora, full, frozen",
    "method.tuning_every=0": "method.tuning_every=0",
    "method.q_minibatch_size=1000": "method.q_minibatch_size=1000 does not divide the rollout's steps (200)",
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
