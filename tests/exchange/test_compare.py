"""`dapbench compare`: other programs' curves beside ours."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from some_runs import FILES, write_run

from dapbench import cli
from dapbench.errors import UserError
from dapbench.exchange.compare import compare
from dapbench.report.statistics import interval, mean

MONITOR = '#{"t_start": 10.0, "env_id": "%s"}\nr,l,t\n'


def write_monitor(folder: Path, env_id: str = "Hopper-v5", level: float = 1.0, episodes: int = 810) -> Path:
    """A monitor.csv of episodes of 250 steps, whose returns rise."""
    folder.mkdir(parents=True)
    rows = [f"{level * i},250,{i}.0" for i in range(episodes)]
    (folder / "monitor.csv").write_text(MONITOR % env_id + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table() -> pd.DataFrame:
    return pd.read_csv("comparison/tables/comparison.csv").set_index(["label", "metric"])


def test_theirs_and_ours_stand_in_one_figure_and_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    summaries = [write_run(Path(f"ours/{seed}"), seed=seed) for seed in range(2)]
    for seed in range(2):
        write_monitor(Path(f"logs/{seed}"), level=1.0 + seed)
    assert compare(["SB3=logs", "ours"]) == 0
    out, err = capsys.readouterr()
    assert out == (
        "Hopper: SB3 (2 runs, 202,500 steps), PPO (2 runs, 210,000 steps); "
        "figures, tables and curves.csv are in comparison\n"
    )
    assert err == ""
    files = sorted(path.as_posix() for path in Path("comparison").rglob("*.*"))
    figures = [f"comparison/figures/comparison.{form}" for form in ("pdf", "png", "svg")]
    tables = [f"comparison/tables/comparison.{form}" for form in ("csv", "md", "tex")]
    assert files == ["comparison/curves.csv", *figures, *tables]
    found = table()
    for metric in ("alc40", "alc40_eval", "final_return"):
        estimate = interval(mean, [np.array([summary[metric] for summary in summaries])])
        np.testing.assert_allclose(found.loc[("PPO", metric), ["estimate", "low", "high"]].astype(float), estimate)
    # Of epoch e the 20 episodes 20 (e − 1), ..., 20 e − 1 of the first run end, and twice their returns of the second.
    assert found.loc[("SB3", "alc40"), "estimate"] == pytest.approx(1.5 * np.arange(800).mean())
    assert found.loc[("SB3", "final_return"), "estimate"] == pytest.approx(1.5 * np.arange(710, 810).mean())
    assert found.loc[("SB3", "alc40_eval"), "missing"] == "no evaluations"
    shown = Path("comparison/tables/comparison.md").read_text()
    assert "missing: no evaluations" in shown
    assert "| SB3    | Stable-Baselines3 | Hopper-v5 | 2    | 202,500 |" in shown
    curves = pd.read_csv("comparison/curves.csv")
    assert set(curves.run) == {"logs/0", "logs/1", "ours/0", "ours/1"}
    first = {path.name: path.read_bytes() for path in Path("comparison").rglob("*.*")}
    compare(["SB3=logs", "ours", "--out", "again"])
    assert {path.name: path.read_bytes() for path in Path("again").rglob("*.*")} == first


def test_real_files_of_cleanrl_tianshou_and_sb3(
    sb3: Callable[[str], SimpleNamespace], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    assert compare([f"CleanRL={FILES / 'cleanrl'}", f"Tianshou={FILES / 'tianshou'}"]) == 0
    assert "CleanRL (2 runs, 98,091 steps), Tianshou (1 run, 20,000 steps)" in capsys.readouterr().out
    found = table()
    assert found.loc[("CleanRL", "alc40"), "missing"] == "20 of 40 epochs"
    assert found.loc[("CleanRL", "final_return"), "runs"] == 2
    shown = Path("comparison/tables/comparison.md").read_text()
    assert "| 692 [653, 730] |" in shown  # after 100k steps and not 20k, so without a mark
    assert compare([f"{sb3('Monitor').folder}"]) == 0
    assert "InvertedDoublePendulum: run (1 run, 400 steps)" in capsys.readouterr().out


def test_versions_of_a_task_are_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    write_monitor(Path("theirs"), "Hopper-v4")
    write_run(Path("ours/0"))
    assert compare(["theirs", "ours"]) == 0
    said = "Versions of the task differ: Hopper-v4 (theirs) and Hopper-v5 (PPO)"
    assert capsys.readouterr().err.startswith(f"dapbench: {said}")
    assert said in Path("comparison/tables/comparison.md").read_text()


def test_different_tasks_are_refused_unless_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_monitor(Path("theirs/hopper"), "Hopper-v4")
    write_monitor(Path("theirs/ant"), "Ant-v4")
    with pytest.raises(
        UserError, match=r"on different tasks: Ant-v4 \(theirs/ant\), Hopper-v4 \(theirs/hopper\); say --t"
    ):
        compare(["theirs"])
    assert compare(["theirs", "--task", "hopper"]) == 0
    assert capsys.readouterr().out.startswith("Hopper: theirs (1 run")
    with pytest.raises(UserError, match="theirs holds no run on Reacher-v5, but on Ant-v4, Hopper-v4"):
        compare(["theirs", "--task", "reacher"])


def test_a_profile_of_ours_is_put_beside(profile_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_monitor(Path("theirs"))
    shutil.copytree(profile_results / "mini", "results/quick")
    assert compare(["theirs", "--task", "hopper", "--profile", "quick"]) == 0
    assert "theirs (1 run, 202,500 steps), PPO (2 runs, 210,000 steps), PPO-DAP (2 runs" in capsys.readouterr().out
    shown = Path("comparison/tables/comparison.md").read_text()
    assert (
        "Started from logs, whose environment steps (at most, a draw) are not among those shown: PPO-DAP (400,000)."
        in shown
    )
    assert (
        compare(["theirs", "--task", "hopper", "--profile", "quick", "--results", str(Path("results").resolve())]) == 0
    )


def test_failed_runs_of_ours_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("ours/0"))
    Path("ours/1").mkdir()
    Path("ours/1/failure.json").write_text('{"task": "hopper"}')
    told = "dapbench: Failed runs of ours that are left out: 1.\n"
    assert compare(["ours"]) == 0
    assert capsys.readouterr().err == told
    Path("ours/2").mkdir()
    Path("ours/2/failure.json").write_text('{"task": "ant"}')
    assert compare(["ours", "--task", "hopper"]) == 0
    assert capsys.readouterr().err == told


def test_runs_without_any_return() -> None:
    write_run(Path("ours/0"), epochs=1)
    path = Path("ours/0/summary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eval_return_start": None}))
    with pytest.raises(UserError, match="no run of PPO holds a return: no episode ended, and none was evaluated"):
        compare(["ours"])


def test_a_folder_of_evaluations_monitors_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    write_monitor(Path("theirs/train"))
    write_monitor(Path("theirs/eval"))
    Path("theirs/eval/monitor.csv").rename("theirs/eval/eval.monitor.csv")  # is of evaluations, and so of no run
    assert compare(["theirs"]) == 0
    assert "theirs (1 run," in capsys.readouterr().out


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    write_monitor(Path("a/ppo"))
    write_monitor(Path("b/ppo"))
    write_monitor(Path("task=hopper,seed=1"))  # as Hydra's sweeps name folders
    for method in ("ppo", "ppo_dap"):
        write_run(Path(f"ours/{method}/0"), method=method)
    compare(["both=a", "both=b", "task=hopper,seed=1", r"$\x^$=ours/ppo"])
    assert capsys.readouterr().out.startswith("Hopper: both (2 runs, 202,500 steps), task=hopper,seed=1 (1 run")
    for argv, said in {
        ("a/ppo", "b/ppo"): "a/ppo and b/ppo would both be called 'ppo'; name them, NAME=DIR",
        ("x=a", "y=a"): "a/ppo is named twice; name it once",
        ("mine=ours",): "gives one name to several methods (PPO, PPO-DAP); name their folders singly",
        ("_x=a",): "'_x' cannot stand in a legend",
        ("task=hopper",): "there is no file or folder hopper; name one, or NAME=DIR (options begin with --)",
        ("a", "--task", "pong"): "unknown task 'pong'; choose one of ant,",
        ("a", "--profile", "quick"): "--profile needs --task",
        ("a", "--profile", "quick", "--task", "hopper"): "there is no run in results/quick/runs/hopper; dapbench repro",
        ("a", "--profile", "x", "--task", "hopper"): "unknown profile 'x'; choose one of",
        ("a", "--out", "a/ppo/monitor.csv"): "is a file; choose another folder",
        (): "the following arguments are required: [NAME=]DIR",
    }.items():
        with pytest.raises(UserError) as error:
            compare(list(argv))
        assert said in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["compare", "export"])
def test_help_explains(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> None:
    monkeypatch.setattr("sys.argv", ["dapbench", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    options = {"compare": ["--task", "--profile", "--column", "--tag", "--out"], "export": ["profile=NAME", "out=DIR"]}
    for word in (*options[name], "parquet" if name == "export" else "monitor.csv"):
        assert word in shown
