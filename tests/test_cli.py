"""The command line: help, Hydra's syntax, and bad input in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dapbench.cli import listed, main
from dapbench.config import choices
from dapbench.config import compose as composed
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
    for name in (
        *choices("task"),
        *choices("method"),
        "behaviour",
        "collect",
        "pretrain",
        "train",
        "evaluate",
        "report",
        "repro",
    ):
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


def test_a_command_runs_in_the_folder_that_is_said_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # and back afterwards
    (tmp_path / "below").mkdir()
    assert run(monkeypatch, "-C", "below", "repro", "profile=smoke") == 2
    assert f"{tmp_path / 'below'} has no dvc.yaml" in capsys.readouterr().err


def test_a_folder_of_any_name_adds_to_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tmp_path / "it's [one], {a=b} \\ $x" / "conf" / "task"
    task.mkdir(parents=True)
    (task / "pendulum.yaml").write_text("{name: pendulum, title: Pendulum, env_id: Pendulum-v1, env_kwargs: {}}")
    monkeypatch.chdir(task.parents[1])
    assert {"pendulum", "reacher"} < set(choices("task"))
    assert composed("train", "task=pendulum")["task"]["env_id"] == "Pendulum-v1"


def test_an_unknown_choice_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    valid = ", ".join(choices("task"))
    for name, argv in {"pong": ["task=pong"], "gym": ["-m", "task=ant,gym"], "_x": ["task=_x", "--cfg", "job"]}.items():
        assert run(monkeypatch, "train", *argv) == 2
        assert capsys.readouterr().err == f"dapbench: unknown task '{name}'; choose one of {valid}\n"


def test_commas_make_a_list_but_for_sweeps_and_choices() -> None:
    given = ["peers=sb3,sbx", "task=ant,hopper", "method.hidden=[64,64]", "out=a", "--json"]
    assert listed(given) == ["peers=[sb3,sbx]", *given[1:]]
    assert listed(["-m", "seed=0,1"]) == ["-m", "seed=0,1"]


def test_params_come_before_what_is_derived_from_them(tmp_path: Path, compose: Callable[..., dict[str, Any]]) -> None:
    content = {
        "profile": {"name": "smoke", "compile": True, "log_quality": "expert", "log_draws": 2}
        | {"tasks": ["ant"], "methods": ["ppo"], "seeds": [3], "epochs": 2},
        "task": {"ant": {"name": "ant", "env_id": "Ant-v5", "env_kwargs": {}}},
        "method": {"ppo": {"name": "ppo", "gamma": 0.5}},
    }
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    config = compose("train", f"params={path}", "task=ant", "profile=smoke", "seed=3")
    assert config["compile"] is True
    assert config["method"] == {"name": "ppo", "gamma": 0.5}
    assert config["logs_dir"] == "results/smoke/logs/ant/expert/1"
    with pytest.raises(UserError, match="is of profile smoke; compose it anew for profile=quick"):
        compose("train", f"params={path}", "task=ant")
    with pytest.raises(UserError, match="lacks what this command needs"):
        compose("train", f"params={path}", "task=hopper", "profile=smoke")
