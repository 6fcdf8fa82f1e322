"""The command line: help, Hydra's syntax, and bad input in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dapbench.cli import main
from dapbench.config import choices
from dapbench.errors import UserError


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr("sys.argv", ["dapbench", *argv])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_help_lists_commands_tasks_and_methods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["dapbench", "--help"])
    main()
    shown = capsys.readouterr().out
    for name in (*choices("task"), *choices("method"), "collect", "pretrain", "train", "evaluate", "report", "repro"):
        assert name in shown


def test_train_help_lists_tasks_and_methods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", "--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*choices("task"), *choices("method")))


def test_cfg_job_shows_the_configuration(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "train", "task=ant", "--cfg", "job") == 0
    assert "env_id: Ant-v5" in capsys.readouterr().out


BAD = [
    (["fly"], "unknown command 'fly'; choose one of collect, pretrain, train"),
    (["train", "task=pong"], "unknown task 'pong'; choose one of ant, half_cheetah"),
    (["train", "method=sac"], "unknown method 'sac'; choose one of "),
    (["train", "profile=huge"], "unknown profile 'huge'; choose one of paper, quick, smoke"),
    (["train", "sed=1"], "Could not override 'sed'"),
    (["train", "method.gama=1"], "Could not override 'method.gama'"),
    (["train", "seed="], "seed= is not a whole number"),
    (["train", "params=nowhere.yaml"], "cannot read params=nowhere.yaml"),
    (["train", "method=ppo_dap", "prior_dir=nowhere"], "no prior at nowhere/prior.ckpt"),
    (["evaluate"], "run is not set; say run=VALUE"),
    (["evaluate", "run=nowhere"], "no checkpoint at nowhere/model.ckpt"),
    (["collect", "logs=perfect"], "unknown logs 'perfect'; choose one of expert, medium, mixed, simple"),
    (["collect", "logs.mixture={0.5:0.3}"], "logs.mixture={0.5: 0.3} is no mixture"),
    (["collect", "profile.log_transitions=0"], "profile.log_transitions=0 is not a whole number"),
    (["pretrain", "logs_dir=nowhere"], "no logs at nowhere"),
    (["pretrain", "prior=flow"], "unknown prior 'flow'; choose one of diffusion, gaussian"),
    (["pretrain", "prior.solver_steps=0"], "prior.solver_steps=0 is not a whole number"),
    (["pretrain", "prior.width=-3"], "prior.width=-3"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *argv) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert said.startswith("dapbench: ")
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []


def test_params_come_before_what_is_derived_from_them(tmp_path: Path, compose: Callable[..., dict[str, Any]]) -> None:
    content = {
        "profile": {"name": "smoke", "compile": True, "log_quality": "expert"},
        "task": {"ant": {"name": "ant", "env_id": "Ant-v5", "env_kwargs": {}}},
        "method": {"ppo": {"name": "ppo", "gamma": 0.5}},
    }
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    config = compose("train", f"params={path}", "task=ant", "profile=smoke")
    assert config["compile"] is True
    assert config["method"] == {"name": "ppo", "gamma": 0.5}
    assert config["logs_dir"] == "results/smoke/logs/ant/expert"
    with pytest.raises(UserError, match="is of profile smoke; compose it anew for profile=quick"):
        compose("train", f"params={path}", "task=ant")
    with pytest.raises(UserError, match="lacks what this command needs"):
        compose("train", f"params={path}", "task=hopper", "profile=smoke")
