"""A stopped run goes on to the bytes of one never stopped; other code, settings or inputs start over."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from dapbench.config import choices
from dapbench.ppo import PPO
from dapbench.rl.environments import make_env
from dapbench.rl.snapshots import NotPlain, environment_state, pack, restore_environment, unpack
from dapbench.runs.resuming import fingerprint
from dapbench.runs.training import build, train

Small = Callable[..., dict[str, Any]]
RESULTS = ("curve.csv", "summary.json", "model.ckpt")


class Stopped(Exception):
    """Stands for whatever ends a run in the middle."""


def train_until(config: dict[str, Any], iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains, and ends the run within its n-th iteration from now."""
    whole_step, seen = PPO.training_step, []

    def step(self: PPO, batch: Any, batch_idx: int) -> dict[str, Any]:
        seen.append(self.carried.iteration)
        if len(seen) == iteration:
            raise Stopped
        return whole_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "training_step", step)
        with pytest.raises(Stopped):
            train(config)


@pytest.mark.parametrize("method", choices("method"))
def test_a_stopped_run_goes_on_to_the_same_bytes(
    config_of: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every method, twice stopped: what one carries over and does not declare in its ``Carried`` fails here."""
    overrides = ["profile.epochs=7", "profile.schedule_epochs=9", "checkpoint_epochs=2"]
    overrides += ["method.policy_phases=3"] if method == "ppg" else []
    overrides += ["method.tuning_every=2"] if method in ("ppo_dap", "ppo_gap") else []
    config = config_of(method, "hopper", *overrides)
    train(config | {"out": str(tmp_path / "whole")})
    config |= {"out": str(tmp_path / "stopped")}
    train_until(config, 4, monkeypatch)  # within epoch 4
    assert "going on" not in capsys.readouterr().err
    train_until(config, 5, monkeypatch)  # within epoch 7
    assert "going on from epoch 2" in capsys.readouterr().err
    train(config)
    assert "going on from epoch 6" in capsys.readouterr().err
    for name in RESULTS:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == sorted([*RESULTS, "timing.json"])


def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        sizes = ["profile=smoke", "profile.epochs=40", "profile.epoch_steps=500", "method.rollout_steps=50"]
        given = ["task=ant", "method=ppo_rnd", *sizes, "checkpoint_epochs=1", "tracking=false", f"out={tmp_path / out}"]
        return [sys.executable, "-m", "dapbench", "train", *given]

    saved = tmp_path / "killed" / "resume.ckpt"
    process = subprocess.Popen(command("killed"), stderr=subprocess.PIPE)
    while not saved.exists():
        assert process.poll() is None, process.stderr
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "summary.json").exists()
    again = subprocess.run(command("killed"), capture_output=True, text=True, check=True)
    assert "going on from epoch" in again.stderr
    subprocess.run(command("whole"), capture_output=True, check=True)
    for name in RESULTS:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


@pytest.mark.parametrize("change", ["setting", "code", "inputs", "damage"])
def test_what_does_not_fit_starts_over(
    config_of: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    overrides = ["profile.epochs=3", "checkpoint_epochs=1", f"out={tmp_path / 'run'}"]
    config = config_of("ppo_dap", "reacher", *overrides)
    train_until(config, 3, monkeypatch)
    saved = tmp_path / "run" / "resume.ckpt"
    if change == "setting":
        config["method"]["gamma"] = 0.98
    elif change == "code":
        monkeypatch.setattr("dapbench.runs.resuming._code", lambda module: [Path(__file__)])
    elif change == "inputs":
        prior = Path(config["prior_dir"]) / "prior.ckpt"
        content = torch.load(prior, weights_only=True)
        content["state_dict"]["state_mean"] += 1.0
        torch.save(content, prior)
    else:
        saved.write_bytes(saved.read_bytes()[:1000])
    train(config)
    said = capsys.readouterr().err
    assert ("is not a readable saved run" if change == "damage" else "the run starts over") in said
    assert "going on" not in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 3


def test_what_editors_leave_beside_the_inputs_is_not_part_of_its_fingerprint(config_of: Small, tmp_path: Path) -> None:
    run = build(config_of("ppo_bc", "reacher"))
    before = fingerprint(run)
    for name in (".DS_Store", ".nfs0001", ".metadata.json.swp", "metadata.json~"):
        (tmp_path / "logs" / "data" / name).write_text("left")
    assert fingerprint(run) == before
    (tmp_path / "logs" / "data" / "metadata.json").write_text("{}")
    assert fingerprint(run) != before


def test_where_a_run_lies_is_not_part_of_its_fingerprint(small: Small, tmp_path: Path) -> None:
    one, other = small("seed=1", f"out={tmp_path}/a", "profile.epochs=3"), small("seed=1", "profile.epochs=3")
    assert fingerprint(build(one)) == fingerprint(build(other))
    assert fingerprint(build(one)) != fingerprint(build(small("seed=2", "profile.epochs=3")))


@pytest.mark.parametrize("task", choices("task"))
def test_environments_go_on_bitwise(compose: Callable[..., dict[str, Any]], task: str) -> None:
    config = compose("train", f"task={task}")["task"]
    env, fresh = make_env(config), make_env(config)
    env.reset(seed=1)
    actions = np.random.default_rng(0).uniform(
        env.action_space.low, env.action_space.high, (1500, *env.action_space.shape)
    )

    def step(env: gym.Env, action: np.ndarray) -> tuple[Any, ...]:
        observation, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation = env.reset()[0]
        return (*observation, reward, terminated, truncated)

    for action in actions[:150]:
        step(env, action)
    fresh.reset(seed=2)
    restore_environment(fresh, environment_state(env))
    assert all(step(env, action) == step(fresh, action) for action in actions[150:])


def test_an_environment_of_unknown_state_is_not_resumed(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opaque(task: Any) -> gym.Env:
        env = make_env(task)
        env.unwrapped.engine = object()
        return env

    monkeypatch.setattr("dapbench.rl.environments.make_env", opaque)
    sizes = ["profile.epochs=3", "checkpoint_epochs=1"]
    train(small("task=reacher", "task.env_id=Pendulum-v1", *sizes, f"out={tmp_path / 'run'}"))
    assert "it cannot be saved" in capsys.readouterr().err
    assert not (tmp_path / "run" / "resume.ckpt").exists()


def test_snapshots_keep_values_and_types() -> None:
    generator = np.random.default_rng(3)
    value = {"a": np.arange(3, dtype=np.int32), "b": [(1.5, 2)], "c": np.float32(0.1), "d": None, "e": torch.ones(2)}
    again = unpack(pack(value))
    assert again["a"].dtype == np.int32
    np.testing.assert_array_equal(again["a"], value["a"])
    assert again["b"] == [(1.5, 2)]
    assert type(again["c"]) is np.float32
    assert again["d"] is None
    torch.testing.assert_close(again["e"], value["e"])
    packed, expected = pack(generator), generator.normal(size=3)
    np.testing.assert_array_equal(unpack(packed, generator).normal(size=3), expected)
    with pytest.raises(NotPlain, match="object"):
        pack([object()])
