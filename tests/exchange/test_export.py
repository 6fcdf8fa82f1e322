"""`dapbench export`: tables that others can read, the same bytes each time, and a card that describes them."""

import re
import shutil
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
import yaml
from some_runs import PROFILE, write_run

from dapbench.config import CONF
from dapbench.errors import UserError
from dapbench.exchange.export import CURVES, EXAMPLE, SUMMARIES, export, write_export
from dapbench.report.results import load_results


@pytest.fixture
def exported(profile_results: Path, tmp_path: Path) -> Path:
    write_export(load_results(profile_results, PROFILE), tmp_path / "export")
    return tmp_path / "export"


def test_curves_hold_every_run_and_epoch(exported: Path, profile_results: Path) -> None:
    frame = pd.read_parquet(exported / "curves.parquet")
    assert list(frame) == list(CURVES)
    assert len(frame) == 4 * 43
    run = frame[(frame.method == "ppo_dap") & (frame.seed == 1)]
    assert set(run.draw) == {1}
    assert set(run.log_quality) == {"medium"}
    assert run.epoch.tolist() == list(range(43))
    source = pd.read_csv(profile_results / "mini/runs/hopper/ppo_dap/1/curve.csv")
    shared = [name for name in source if name in CURVES]
    pd.testing.assert_frame_equal(
        run.iloc[1:][shared].reset_index(drop=True), source[shared], check_dtype=False, check_exact=True
    )
    assert run.eval_return.iloc[0] == 15.0  # before training
    assert pd.isna(run.return_mean.iloc[0])
    assert frame[frame.method == "ppo"][["draw", "log_quality"]].isna().all(axis=None)


def test_csv_and_parquet_hold_the_same(exported: Path) -> None:
    for name in ("curves", "summaries"):
        parquet = pd.read_parquet(exported / f"{name}.parquet")
        csv = pd.read_csv(exported / f"{name}.csv", dtype=parquet.dtypes.to_dict())
        pd.testing.assert_frame_equal(csv, parquet, check_exact=True)


def test_summaries_hold_what_each_run_says(exported: Path, profile_results: Path) -> None:
    frame = pd.read_parquet(exported / "summaries.parquet").set_index(["method", "seed"])
    assert frame.reset_index().columns.drop("task").tolist()[:2] == ["method", "seed"]
    assert set(frame.reset_index()) == set(SUMMARIES)
    summary = load_results(profile_results, PROFILE).summaries.set_index(["method", "seed"])
    for name in ("alc40", "alc40_eval", "final_return", "eval_return", "eval_return_start", "eval_std"):
        assert frame[name].tolist() == summary[name].tolist()
    assert frame.log_env_steps.dropna().tolist() == [400_000, 400_000]


def test_a_rerun_gives_the_same_bytes(exported: Path, profile_results: Path, tmp_path: Path) -> None:
    write_export(load_results(profile_results, PROFILE), tmp_path / "again")
    first = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == first
    assert sorted(first) == ["README.md", "curves.csv", "curves.parquet", "summaries.csv", "summaries.parquet"]


def test_the_card_has_a_hubs_header_and_describes_every_column(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    told = yaml.safe_load(header)
    assert told["license"] == "mit"
    assert told["configs"] == [{"config_name": n, "data_files": f"{n}.parquet"} for n in ("curves", "summaries")]
    for place in told["configs"]:
        assert (exported / place["data_files"]).is_file()
    for name in (*CURVES, *SUMMARIES):
        assert re.search(rf"^\| `{name}` +\|", body, re.MULTILINE)
    for said in (
        "2 seeds on 2 draws of logs",
        "PPO-DAP started from medium logs, which cost 400,000 environment steps a draw",
        "| hopper | Hopper | Hopper-v5   |",
        "torch ",
        "Every run of the profile is there.",
    ):
        assert said in body


def test_runs_that_failed_or_are_not_there_are_named(profile_results: Path, tmp_path: Path) -> None:
    shutil.copytree(profile_results, tmp_path / "results")
    failed = tmp_path / "results/mini/runs/hopper/ppo/1"
    shutil.rmtree(failed)
    failed.mkdir()
    key = '"task": "hopper", "method": "ppo", "seed": 1'
    (failed / "failure.json").write_text(f'{{{key}, "message": "the policy\'s loss is not finite"}}')
    shutil.rmtree(tmp_path / "results/mini/runs/hopper/ppo_dap/0")
    write_export(load_results(tmp_path / "results", PROFILE), tmp_path / "out")
    told = "1 run failed: hopper ppo 1. 1 run not there: hopper ppo_dap 0."
    assert told in (tmp_path / "out/README.md").read_text()


def test_the_lines_that_draw_a_curve(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of docs/comparing.md and of the card are the same, and give a line a method."""
    matplotlib.use("Agg")
    (lines,) = re.findall(r"```python\n(.*?)```", (CONF.parent / "docs/comparing.md").read_text(), re.DOTALL)
    assert lines == EXAMPLE.format(task="hopper")
    (of_card,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert of_card == lines.replace("export/", "")
    for folder, code in ((exported.parent, lines), (exported, of_card)):
        monkeypatch.chdir(folder)
        *before, last = code.splitlines()
        scope: dict[str, object] = {}
        exec("\n".join(before), scope)
        axes = eval(last, scope)
        assert [line.get_label() for line in axes.get_lines()] == ["ppo", "ppo_dap"]
        assert axes.get_lines()[0].get_xdata().max() == 210_000


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "results/quick/runs/hopper/ppo/0")
    assert export(["profile=quick", "out=there"]) == 0
    files = "README.md, curves.csv, curves.parquet, summaries.csv, summaries.parquet"
    assert capsys.readouterr().out == f"1 run, 43 rows of curves; {files} are in there\n"
    for argv, said in {
        ("profile=paper",): "no finished run in results/paper/runs; dapbench repro makes them",
        ("profile=no",): "unknown profile 'no'; choose one of",
        ("format=csv",): "'format=csv' is not one of profile=NAME, results=DIR, out=DIR",
        ("out=there/curves.csv",): "is a file; choose another folder",
    }.items():
        with pytest.raises(UserError) as error:
            export(list(argv))
        assert said in str(error.value)
