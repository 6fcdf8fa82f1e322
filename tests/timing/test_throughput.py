"""Throughput: ratios by hand, the turns, what the peers are given, and one real measurement."""

import json
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest
import torch

from dapbench import ppo
from dapbench.config import run_command
from dapbench.errors import UserError
from dapbench.rl import environments
from dapbench.rl.environments import Environments, gymnasium_envs, make_envs
from dapbench.rl.mujoco_tasks import MujocoTasks
from dapbench.timing import throughput as module
from dapbench.timing.peers import Turns, peer, run_bare, run_dapbench, run_physics
from dapbench.timing.throughput import checked, is_simulated, ratios, started, summary, table, throughput

Compose = Callable[..., dict[str, Any]]
SMALL = (
    "task=reacher",
    "profile=smoke",
    "num_envs=2",
    "method.rollout_steps=25",
    "method.update_epochs=1",
    "method.minibatch_size=25",
    "pairs=2",
    "seconds=0.02",
)
SPEEDS = {"dapbench": [2.0, 6.0, 8.0], "bare": [4.0, 8.0, 10.0], "sb3": [1.0, 1.0, 4.0]}


def test_what_repeats_our_actions_comes_last() -> None:
    speeds = {name: [1.0] for name in ("dapbench", "bare", "physics", "sb3", "sbx")}
    assert list(summary("hopper", speeds)["ratio"]) == ["sb3", "sbx", "bare", "physics"]


def test_ratios_are_of_the_same_repeat() -> None:
    assert ratios(SPEEDS) == {"bare": [0.5, 0.75, 0.8], "sb3": [2.0, 6.0, 2.0]}


def test_medians_by_hand() -> None:
    assert summary("hopper", SPEEDS) == {
        "task": "hopper",
        "steps_per_second": {"dapbench": 6.0, "bare": 8.0, "sb3": 1.0},
        "ratio": {"sb3": 2.0, "bare": 0.75},
    }


def test_the_table_shows_median_and_range(compose: Compose) -> None:
    speeds = {name: [1000.0 * value for value in values] for name, values in SPEEDS.items()}
    head, _, _, ours, bare, sb3 = table(compose("throughput", *SMALL, "peers=[sb3]", "peer_envs=1"), speeds).split("\n")
    assert head == "reacher, 2 environments, peers 1; median (min–max) of 2 turns each on one core"
    assert ours.split() == ["dapbench", "6,000", "(2,000–8,000)", "1"]
    assert bare.split() == ["bare", "8,000", "(4,000–10,000)", "0.75", "(0.50–0.80)"]
    assert sb3.split() == ["sb3", "1,000", "(1,000–4,000)", "2.00", "(2.00–6.00)"]


def test_a_turn_counts_from_the_go_to_the_end_of_an_iteration() -> None:
    ours, theirs = Pipe()
    now = 0.0
    turns = Turns(theirs, seconds=2.0, warm_up=20, clock=lambda: now)
    assert turns(10) == []
    assert not ours.poll()
    ours.send(["for the first turn"])
    now = 5.0
    assert turns(20) == ["for the first turn"]  # warm: it says so, and takes the waiting go
    assert ours.recv() == (0.0, [])
    now = 6.0
    turns.left.append("for the next program")
    assert turns(30) == []
    assert not ours.poll()
    ours.send([])
    now = 9.0
    turns(60)
    assert ours.recv() == (10.0, ["for the next program"])  # 40 steps in 4 s
    assert turns.left == []
    ours.close()
    now = 12.0
    with pytest.raises((EOFError, ConnectionError)):
        turns(70)


class FewTurns(Turns):
    """Gives the program what the one before it left, and lets it go on ``laps`` times."""

    def __init__(self, laps: int, given: list[Any]) -> None:
        self.laps, self.given, self.left = laps, given, []

    def __call__(self, steps: int) -> list[Any]:
        self.laps -= 1
        if self.laps < 0:
            raise EOFError
        return self.given


def test_bare_and_physics_take_the_same_steps_as_ours(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def recorded(make: Callable[..., Any]) -> Callable[..., Any]:
        def made_and_kept(*args: Any) -> Any:
            made.append(make(*args))
            return made[-1]

        return made_and_kept

    monkeypatch.setattr(environments, "gymnasium_envs", recorded(gymnasium_envs))
    monkeypatch.setattr(ppo, "make_envs", recorded(make_envs))
    config = checked(compose("throughput", *SMALL, "task=hopper", "peers=[]", "compile=false"))
    ours = FewTurns(2, [])
    with pytest.raises(EOFError):
        run_dapbench(config, ours)
    for program in (run_bare, run_physics):
        with pytest.raises(EOFError):
            program(config, FewTurns(1, ours.left))
    assert sum(len(actions) for actions, _ in ours.left) == 3 * config["method"]["rollout_steps"]
    assert any(dones.any() for _, dones in ours.left)
    mine, *others = made
    assert [type(envs) for envs in made] == [MujocoTasks, Environments, Environments]
    for envs in others:
        for data, env in zip(mine.simulations, envs.envs, strict=True):
            np.testing.assert_array_equal(data.qpos, env.unwrapped.data.qpos)


def test_only_simulations_have_physics() -> None:
    assert is_simulated({"name": "pusher", "env_id": "Pusher-v5", "env_kwargs": {}})
    assert not is_simulated({"name": "pendulum", "env_id": "Pendulum-v1", "env_kwargs": {}})


def test_a_measurement(compose: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    throughput(compose("throughput", *SMALL, "peers=[sb3]", "peer_envs=1", "json=true"))
    printed = json.loads(capsys.readouterr().out)
    assert printed["task"] == "reacher"
    assert list(printed["steps_per_second"]) == ["dapbench", "bare", "physics", "sb3"]
    assert list(printed["ratio"]) == ["sb3", "bare", "physics"]
    assert all(value > 0 for part in ("steps_per_second", "ratio") for value in printed[part].values())


def test_sbx_runs(compose: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sbx")
    throughput(compose("throughput", *SMALL, "peers=[sbx]"))
    assert "\nsbx " in capsys.readouterr().out


def test_a_peer_gets_our_hyper_parameters(compose: Compose) -> None:
    from stable_baselines3 import PPO

    config = compose("throughput", *SMALL, "preset=sb3", "num_envs=3", "method.rollout_steps=50", "method.gamma=0.98")
    model = peer(PPO, torch.nn.Tanh, checked(config | {"peers": ["sb3"]}))
    assert (model.n_envs, model.n_steps, model.batch_size, model.n_epochs) == (3, 50, 25, 1)
    assert (model.learning_rate, model.gamma, model.gae_lambda, model.clip_range(1.0)) == (3e-4, 0.98, 0.95, 0.2)
    assert model.env.norm_obs
    assert model.env.norm_reward
    assert model.env.gamma == 0.98
    widths = [layer.out_features for layer in model.policy.mlp_extractor.policy_net if hasattr(layer, "out_features")]
    assert widths == [64, 64]


def test_the_sb3_preset_is_sb3s_defaults(compose: Compose) -> None:
    import inspect

    from stable_baselines3 import PPO

    defaults = {name: p.default for name, p in inspect.signature(PPO).parameters.items()}
    method = compose("throughput", "preset=sb3")["method"]
    theirs = ("n_steps", "n_epochs", "batch_size", "learning_rate", "gamma", "gae_lambda", "clip_range", "ent_coef")
    ours = ("rollout_steps", "update_epochs", "minibatch_size", "learning_rate", "gamma", "gae_lambda", "clip")
    ours = (*ours, "entropy_weight", "value_weight", "max_grad_norm")
    theirs = (*theirs, "vf_coef", "max_grad_norm")
    assert [method[name] for name in ours] == [defaults[name] for name in theirs]


def test_epochs_are_whole_iterations(compose: Compose) -> None:
    default = checked(compose("throughput", "peers=[]"))
    assert default["profile"]["epoch_steps"] == 5000
    assert checked(compose("throughput", "peers=[]", "num_envs=16"))["profile"]["epoch_steps"] == 6000
    sb3 = checked(compose("throughput", "peers=[]", "preset=sb3"))
    assert sb3["profile"]["epoch_steps"] == 8 * 2048
    assert sb3["method"]["num_envs"] == sb3["peer_envs"] == 8


def test_bad_input_is_one_line(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {
        "peers=[cleanrl]": "unknown peer 'cleanrl' in peers; choose from sb3, sbx",
        "peers=sb3": r"peers=sb3 is not a list; say 'peers=\[sb3,sbx\]'",
        "pairs=0": "pairs=0 is not a whole number from 1",
        "num_envs=none": "num_envs=none is not a whole number",
        "peer_envs=0": "peer_envs=0 is not a whole number",
        "seconds=-1": "seconds=-1 is not a number from 0",
        "clock=sun": "clock=sun is not one of wall, cpu",
    }
    for override, message in bad.items():
        with pytest.raises(UserError, match=message):
            throughput(compose("throughput", "peers=[]", override))
    for name, group in (("pong", "task"), ("cleanrl", "preset")):
        with pytest.raises(UserError, match=f"unknown {group} '{name}'; choose one of "):
            run_command("throughput", throughput, [f"{group}={name}"])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"peer sbx is not installed; run pip install 'dapbench\[peers\]'"):
        throughput(compose("throughput", "peers=[sbx]"))


def test_a_program_that_fails_is_one_line(compose: Compose) -> None:
    config = compose("throughput", *SMALL, "peers=[]")
    config["task"]["env_id"] = "Nowhere-v0"
    with pytest.raises(UserError, match="bare could not be timed: cannot make task reacher: "), started("bare", config):
        pass
