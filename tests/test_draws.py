"""Draws of logs: the rule, and the way of a draw from the behaviour policy to a run's summary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dapbench.datasets.collecting import collect
from dapbench.datasets.episodes import load_transitions
from dapbench.prior.pretraining import pretrain
from dapbench.profiles import draw_of
from dapbench.rl.environments import task_spaces
from dapbench.runs.training import train

Small = Callable[..., dict[str, Any]]
PROFILE = ("profile=smoke", "profile.log_draws=2", "profile.epoch_steps=200", "task=reacher")
BEHAVIOUR = ("profile.behaviour_epochs=1", "profile.log_transitions=200")
ROLLOUT = ("num_envs=4", "rollout_steps=50", "minibatch_size=50", "update_epochs=1")
SIZES = ("tuning_batch_size=20", "warm_start_minibatch_size=50")


def test_seeds_take_the_draws_in_turn(compose: Small) -> None:
    assert [draw_of(seed, 3) for seed in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert compose("train", "seed=7", "profile=quick")["logs_dir"] == "results/quick/logs/hopper/medium/1"
    config = compose("train", "seed=7", "profile=quick", "draw=2", "method=ppo_dap")
    assert config["prior_dir"] == "results/quick/priors/hopper/medium/2/diffusion"
    assert compose("train", "seed=7", "profile=paper")["draw"] == 2


def test_a_run_finds_its_draw_by_itself(compose: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for draw in (0, 1):
        behaviour = [f"behaviour.{size}" for size in ROLLOUT]
        collect(compose("collect", *PROFILE, *BEHAVIOUR, *behaviour, f"draw={draw}"))
        prior = ["prior.width=8", "profile.prior_batches=2"]
        pretrain(compose("pretrain", *PROFILE, *prior, f"draw={draw}"))

    def logs_of(method: str, *overrides: str) -> dict[str, Any]:
        known = compose("train", f"method={method}")["method"]
        sizes = [f"method.{size}" for size in (*ROLLOUT, *SIZES) if size.partition("=")[0] in known]
        out = f"runs/{method}-{len(overrides)}"
        train(compose("train", *PROFILE, f"method={method}", *sizes, "tracking=false", f"out={out}", *overrides))
        summary = json.loads(Path(out, "summary.json").read_text(encoding="utf-8"))
        assert "draw" not in summary["config"]
        return summary["logs"] and {key: summary["logs"][key] for key in ("draw", "behaviour_seed")}

    assert logs_of("ppo_bc", "seed=3") == {"draw": 1, "behaviour_seed": 1001}
    assert logs_of("ppo_dap", "seed=3") == {"draw": 1, "behaviour_seed": 1001}
    assert logs_of("ppo_bc", "seed=3", "draw=0") == {"draw": 0, "behaviour_seed": 1000}
    assert logs_of("ppo", "seed=3") is None

    spaces = task_spaces(compose("train", "task=reacher")["task"])
    first, second = (load_transitions(Path(f"results/smoke/logs/reacher/medium/{d}"), *spaces) for d in (0, 1))
    assert first.description["dataset_id"] != second.description["dataset_id"]
    assert (first.actions[:50] != second.actions[:50]).all()
