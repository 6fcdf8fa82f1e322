"""A whole run: its files, their sameness, evaluation from the checkpoint, and bad input in one line."""

import csv
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dapbench.config import choices
from dapbench.errors import UserError
from dapbench.ppo import PPO
from dapbench.runs.evaluation import evaluate, load_run
from dapbench.runs.training import build, fit, train

Small = Callable[..., dict[str, Any]]


def run(small: Small, out: Path, *overrides: str) -> Path:
    train(small(f"out={out}", *overrides))
    return out


def test_a_run_leaves_its_files(small: Small, tmp_path: Path) -> None:
    out = run(small, tmp_path / "run", "task=reacher", "method=ppo")
    rows = list(csv.DictReader((out / "curve.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["env_steps"] for row in rows] == ["200", "400"]
    assert float(rows[0]["return_mean"]) < 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["task"] == "reacher"
    assert summary["alc40"] is None
    assert summary["env_steps"] == 400
    assert summary["final_return"] == pytest.approx(np.mean([float(row["return_mean"]) for row in rows]))
    assert summary["config"]["method"]["gamma"] == 0.99
    timing = json.loads((out / "timing.json").read_text())
    assert timing["steps_per_second"] > 0
    assert timing["seconds"].keys() >= {"rollout", "update", "evaluation", "startup"}
    assert timing["peak_memory_bytes"] > 1e8


def test_same_seed_same_bytes_and_another_seed_others(small: Small, tmp_path: Path) -> None:
    first = run(small, tmp_path / "a", "task=hopper", "seed=3")
    second = run(small, tmp_path / "b", "task=hopper", "seed=3")
    third = run(small, tmp_path / "c", "task=hopper", "seed=4")
    for name in ("curve.csv", "summary.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert (first / name).read_bytes() != (third / name).read_bytes()


@pytest.mark.parametrize("method", ["ppo", "ppo_dap"])
def test_training_does_not_move_by_its_evaluations(config_of: Small, tmp_path: Path, method: str) -> None:
    config = config_of(method, "hopper", "profile.epochs=6")
    curves, summaries = {}, {}
    for episodes in (0, 3):
        out = tmp_path / str(episodes)
        profile = config["profile"] | {"eval_curve_episodes": episodes}
        train(config | {"profile": profile, "out": str(out)})
        curves[episodes] = list(csv.DictReader((out / "curve.csv").open()))
        summaries[episodes] = json.loads((out / "summary.json").read_text())
    evaluated = {episodes: [row.pop("eval_return") for row in rows] for episodes, rows in curves.items()}
    assert curves[0] == curves[3]
    assert evaluated[0] == [""] * 6
    assert [epoch for epoch, cell in enumerate(evaluated[3], 1) if cell] == [5]
    assert (summaries[0]["eval_return_start"], summaries[3]["alc40_eval"]) == (None, None)
    assert summaries[3]["eval_return_start"] > 0
    assert summaries[0]["eval_return"] == summaries[3]["eval_return"]


def test_evaluations_are_outside_the_clock(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    took, real_time = [], time.perf_counter

    def slow(*_: Any) -> list[float]:
        took.append(1000.0)
        return [7.0]

    monkeypatch.setattr(time, "perf_counter", lambda: real_time() + sum(took))
    monkeypatch.setattr("dapbench.runs.training.evaluate", slow)
    monkeypatch.setattr("dapbench.runs.training.is_evaluated", lambda epoch: epoch in (0, 2))
    sizes = ["method.rollout_steps=25", "profile.eval_curve_episodes=1"]
    out = run(small, tmp_path / "run", "task=reacher", *sizes)
    timing = json.loads((out / "timing.json").read_text())
    assert timing["seconds"]["evaluation"] >= 3000.0  # before, after epoch 2 and at the end
    assert 300 / timing["steps_per_second"] < 500.0  # all but the first iteration
    assert [row["eval_return"] for row in csv.DictReader((out / "curve.csv").open())] == ["", "7.0"]


def test_evaluation_from_the_checkpoint_is_the_runs_own(small: Small, tmp_path: Path) -> None:
    """It would not be if the observation statistics were not in the checkpoint."""
    out = run(small, tmp_path / "run", "task=hopper", "seed=3")
    summary = json.loads((out / "summary.json").read_text())
    module = load_run(out)
    assert module.observation_stats.count == 400
    assert np.mean(evaluate(module, summary["eval_episodes"], 3)) == summary["eval_return"]
    module.observation_stats.mean.zero_()
    assert np.mean(evaluate(module, summary["eval_episodes"], 3)) != summary["eval_return"]


def test_advantages_use_the_true_last_state_at_time_limits(small: Small) -> None:
    """Reacher's episodes end by time limit every 50 steps, so each rollout's last row bootstraps from final_obs."""
    module = build(small("task=reacher", "profile.epochs=1"))
    seen = []
    original = module.estimate
    module.estimate = lambda experience: (seen.append(experience), original(experience))[1]
    fit(module, [])
    rollout = seen[0].rollout
    assert rollout.dones[-1].all()
    assert not rollout.terminations.any()
    experience = module.observe(rollout)
    _, next_values = module.values(experience, module.critic)
    states = module.observation_stats.normalize(torch.as_tensor(rollout.final_observations))
    np.testing.assert_allclose(next_values[-1], module.critic(states).detach().numpy(), rtol=1e-5)
    assert not np.allclose(rollout.final_observations, rollout.observations[-1])  # the reset's first state is another


def test_numpy_policy_is_the_networks(small: Small) -> None:
    module = build(small("task=half_cheetah"))
    module.observation_stats.update(np.random.default_rng(0).normal(3.0, 2.0, (50, 17)))
    raw = np.random.default_rng(1).normal(3.0, 2.0, (10, 17)).astype(np.float32)
    expected = module.actor(module.observation_stats.normalize(torch.as_tensor(raw)))[0].detach().numpy()
    np.testing.assert_allclose(module.mean_action()(raw), expected, rtol=1e-4, atol=1e-6)


BAD = {
    "method.gamma=-1": "method.gamma=-1 is not a number from 0 to 1",
    "method.gamma=abc": "method.gamma=abc",
    "method.learning_rate=1e9": "method.learning_rate=",
    "method.num_envs=0": "method.num_envs=0 is not a whole number",
    "method.num_envs=2.5": "method.num_envs=2.5",
    "method.rollout_steps=33": "does not divide profile.epoch_steps=200",
    "method.minibatch_size=1": "method.minibatch_size=1 is not a whole number from 2",
    "method.minibatch_size=500": "does not divide the rollout's steps (200); choose for instance 200",
    "method.hidden=64": "method.hidden=64 is not a list",
    "method.hidden=[0]": "method.hidden=[0] is not a list",
    "seed=-1": "seed=-1",
    "seed=1e99": "seed=",
    "device=tpu": "device=tpu is not one of cpu, cuda",
    "profile.epochs=0": "profile.epochs=0",
    "profile.eval_curve_episodes=-1": "profile.eval_curve_episodes=-1",
    "method._target_=os.system": "method._target_=os.system",
    "method._target_=baselines.nothing.X": "cannot be imported",
    "task.env_id=Nope-v0": "cannot make task hopper",
    "task.env_id=CartPole-v1": "has the action space",
}


@pytest.mark.parametrize(("override", "message"), BAD.items())
def test_bad_input_is_one_line(small: Small, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        train(small(f"out={tmp_path / 'run'}", override))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten(small: Small, tmp_path: Path) -> None:
    out = run(small, tmp_path / "run", "task=reacher")
    before = (out / "timing.json").read_bytes()
    with pytest.raises(UserError, match="already holds a finished run"):
        run(small, out, "task=reacher", "seed=1")
    run(small, out, "task=reacher")  # the very same is there already
    assert (out / "timing.json").read_bytes() == before


def test_divergence_names_epoch_and_quantity(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = PPO.loss

    def loss(self: PPO, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value, metrics = healthy(self, batch)
        return value * (float("nan") if self.carried.env_steps >= 200 else 1.0), metrics

    monkeypatch.setattr(PPO, "loss", loss)
    with pytest.raises(UserError, match="reacher ppo seed 0 stopped in epoch 2: parameters: no longer finite"):
        run(small, tmp_path / "run", "task=reacher")
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["epoch"] == 2
    assert failure["quantity"] == "parameters"
    assert not (tmp_path / "run" / "summary.json").exists()


def test_ctrl_c_ends_the_run_and_leaves_no_half_result(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PPO, "finish", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(small, tmp_path / "run", "task=reacher")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoints_are_refused(small: Small, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        load_run(tmp_path)
    out = run(small, tmp_path / "run", "task=reacher")
    content = (out / "model.ckpt").read_bytes()
    (out / "model.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a readable dapbench checkpoint"):
        load_run(out)
    torch.save({"evil": np.float64}, out / "model.ckpt")
    with pytest.raises(UserError, match="not a readable dapbench checkpoint"):
        load_run(out)


@pytest.mark.parametrize("task", choices("task"))
def test_every_task_runs(small: Small, tmp_path: Path, task: str) -> None:
    out = run(small, tmp_path / "run", f"task={task}", "profile.epochs=1")
    assert json.loads((out / "summary.json").read_text())["env_steps"] == 200
