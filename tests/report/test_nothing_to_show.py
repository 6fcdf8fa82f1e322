"""Nothing to show: runs without an episode, tasks without a reference, empty columns, one of each, none of some."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up_results as made_up
import numpy as np
import pandas as pd
import pytest

from dapbench.report import statistics
from dapbench.report.build import SECTIONS, build_report, headline
from dapbench.report.items import Figure, Skipped, Table
from dapbench.report.page import page
from dapbench.report.results import load_results

MAKERS = [make for makers in SECTIONS.values() for make in makers]


def change_run(run: Path, **changes: Any) -> None:
    file = run / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def without_episodes(run: Path) -> None:
    """As `dapbench train` leaves a run in which no training episode ended."""
    change_run(run, alc40=None, final_return=None)
    curve = pd.read_csv(run / "curve.csv")
    curve[["return_mean", "return_std", "length_mean"]] = np.nan
    curve["episodes"] = 0
    curve.to_csv(run / "curve.csv", index=False)


def falling(run: Path) -> None:
    """No later return is above the first, so that nothing can be normalized by these results."""
    change_run(run, final_return=-1e6)


def failed(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    shutil.rmtree(run)
    run.mkdir()
    failure = {key: summary[key] for key in ("task", "method", "seed", "profile")}
    (run / "failure.json").write_text(json.dumps(failure | {"message": "policy_loss: no longer finite"}))


def gone(run: Path) -> None:
    shutil.rmtree(run)


def without_evaluation(run: Path) -> None:
    change_run(run, eval_return=None)


def one_epoch(run: Path) -> None:
    curve = pd.read_csv(run / "curve.csv").head(1)
    curve["return_mean"] = 5.0
    curve.to_csv(run / "curve.csv", index=False)
    change_run(run, alc40=None, epochs=1)


def no_epoch(run: Path) -> None:
    pd.read_csv(run / "curve.csv").head(0).to_csv(run / "curve.csv", index=False)


def empty_columns(run: Path) -> None:
    curve = pd.read_csv(run / "curve.csv")
    curve[[name for name in curve if name not in ("epoch", "env_steps", "episodes")]] = np.nan
    curve.to_csv(run / "curve.csv", index=False)


def without_times(run: Path) -> None:
    (run / "timing.json").unlink()


def stood_still(run: Path) -> None:
    """Runs so short that no time was told."""
    file = run / "timing.json"
    times = {"steps_per_second": 0.0, "wall_seconds": 0.0, "seconds": {"rollout": 0.0}}
    file.write_text(json.dumps(json.loads(file.read_text()) | times))


EVERYTHING, ONE_TASK, ONE_SEED, PPO, OURS = "*/*/*", "hopper/*/*", "hopper/*/0", "*/ppo/*", "*/ppo_dap/*"
CASES: dict[str, tuple[dict[str, Any], list[tuple[Callable[[Path], None], str]]]] = {
    "no episode ended on one task": ({}, [(without_episodes, ONE_TASK)]),
    "no episode ended anywhere": ({}, [(without_episodes, EVERYTHING)]),
    "no episode of PPO ended": ({}, [(without_episodes, PPO)]),
    "no episode of PPO-DAP ended": ({}, [(without_episodes, OURS)]),
    "no episode ended, smoke, one task": (
        {"epochs": 2, "seeds": [0], "tasks": ["hopper"]},
        [(without_episodes, "*/*/*")],
    ),
    "no reference": ({"tasks": ["half_cheetah", "reacher"]}, [(falling, "reacher/*/*")]),
    "no reference at all": ({"tasks": ["reacher"]}, [(falling, EVERYTHING)]),
    "one method, seed and task": ({"methods": ["ppg"], "seeds": [0], "tasks": ["hopper"]}, []),
    "one seed of one method": ({}, [(gone, "*/ppo/1"), (gone, "*/ppo/2")]),
    "every run of PPO failed": ({}, [(failed, PPO)]),
    "every run of PPO-DAP failed": ({}, [(failed, OURS)]),
    "every run of a task failed": ({}, [(failed, ONE_TASK)]),
    "PPO and PPO-DAP on different tasks": ({}, [(failed, "hopper/ppo/*"), (failed, "half_cheetah/ppo_dap/*")]),
    "all but one run failed": (
        {},
        [(failed, "half_cheetah/*/*"), (failed, "hopper/pp[og]/*"), (failed, "hopper/ppo_dap/[12]")],
    ),
    "no evaluation of PPO": ({}, [(without_evaluation, PPO)]),
    "one epoch": ({}, [(one_epoch, EVERYTHING)]),
    "no epoch of one run": ({}, [(no_epoch, "hopper/ppo/0")]),
    "empty columns": ({}, [(empty_columns, EVERYTHING)]),
    "empty columns of PPO-DAP": ({}, [(empty_columns, OURS)]),
    "no times of PPO": ({}, [(without_times, PPO)]),
    "no time passed": ({}, [(stood_still, EVERYTHING)]),
    "every run of the controls failed": (made_up.CONTROLS, [(failed, "*/ppo_gap/*")]),
    "all but the controls failed on their task": (
        made_up.CONTROLS,
        [(failed, f"hopper/{method}/*") for method in ("ppo", "ppg", "ppo_dap")],
    ),
    "every run but those of the controls failed": (
        made_up.CONTROLS,
        [(failed, f"*/{method}/*") for method in ("ppo", "ppg", "ppo_dap")],
    ),
    "no episode of the ablations": (made_up.ABLATIONS, [(without_episodes, "*/ppo_dap_*/*")]),
    "one log quality": (made_up.QUALITIES, [(failed, "*/ppo_dap_expert/*")]),
    "no episode with expert logs": (made_up.QUALITIES, [(without_episodes, "*/ppo_dap_expert/*")]),
}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not looked at here, and take most of the time."""
    resample = statistics.resample
    monkeypatch.setattr(statistics, "resample", lambda strata, count, draw: resample(strata, min(count, 20), draw))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_every_item_says_what_there_is(tmp_path: Path, case: str) -> None:
    changes, alterations = CASES[case]
    profile = made_up.profile(**changes)
    root = made_up.fabricate(tmp_path, profile)
    for alter, pattern in alterations:
        runs = sorted((root / "made_up/runs").glob(pattern))
        assert runs
        for run in runs:
            alter(run)
    results = load_results(root, profile)
    shown = {heading: makers for heading, makers in SECTIONS.items() if heading not in ("Films", "Proposals")}
    sections = {heading: [make(results) for make in makers] for heading, makers in shown.items()}
    for item in (item for items in sections.values() for item in items):
        words = item.sentence.replace(",", " ").replace(".", " ").split()
        assert not {"nan", "None", "inf"} & set(words), item.sentence
        assert item.sentence.endswith(".")
        if isinstance(item, Table):
            cells = " ".join(cell for row in item.rows for cell in row).split()
            assert not {"nan", "None", "inf", "[nan,"} & set(cells), item.name
        elif isinstance(item, Figure) and item.name == "diagnostics":  # whose axes its numbers scale
            item.figure.draw_without_rendering()
    quick = {heading: [i for i in items if not isinstance(i, Figure)] for heading, items in sections.items()}
    assert page(results, quick, []).count("<section") == len(shown) + 3
    assert headline(root, profile).strip()


def test_what_is_lacking_is_told_in_words(tmp_path: Path) -> None:
    profile = made_up.profile(tasks=["hopper", "reacher"])
    root = made_up.fabricate(tmp_path, profile)
    for run in (root / "made_up/runs/hopper").glob("*/*"):
        without_episodes(run)
    results = load_results(root, profile)
    items = {item.name: item for make in MAKERS if (item := make(results))}
    row = items["final_return"].shown.set_index("Task").loc["Hopper"]
    assert set(row) == {"no episode ended"}
    assert "no training episode ended on Hopper" in items["learning_curves"].sentence


@pytest.mark.parametrize(
    "measured",
    [
        [],
        [("ppo_dap", 1)],
        [("ppo", 1)],
        [("ppo", 1), ("ppo_dap", 2)],
        [("ppo", 1), ("unknown", 1)],
    ],
    ids=["nothing", "PPO-DAP alone", "PPO alone", "no pair", "another method"],
)
def test_overhead_without_pairs(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    profile = made_up.profile(tasks=["hopper"])
    root = made_up.fabricate(tmp_path, profile)
    folder = root / "made_up/overhead/hopper/ppo_dap"
    folder.mkdir(parents=True)
    runs = [
        {"task": "hopper", "method": method, "repeat": repeat, "wall_seconds": 1.0, "peak_memory_bytes": 1}
        for method, repeat in measured
    ]
    (folder / "overhead.json").write_text(json.dumps({"task": "hopper", "runs": runs}))
    results = load_results(root, profile)
    (item,) = (item for make in MAKERS if (item := make(results)).name == "overhead")
    assert isinstance(item, Skipped)
    assert item.sentence.endswith(".")


def test_a_report_without_episodes_is_written(tmp_path: Path) -> None:
    """The pages, tables and figures of smoke with one task whose episodes are longer than its runs."""
    profile = made_up.profile(epochs=2, seeds=[0], tasks=["hopper"], methods=["ppo", "ppo_dap"])
    root = made_up.fabricate(tmp_path, profile)
    for run in (root / "made_up/runs").glob(EVERYTHING):
        without_episodes(run)
    assert "No training episode ended" in build_report(root, profile, notebooks=False).read_text(encoding="utf-8")
    assert "Hopper" in headline(root, profile)


def test_an_evaluation_that_is_not_finite_is_an_empty_cell(tmp_path: Path) -> None:
    """JSON has no NaN: a run of hours would be lost at its last step."""
    from dapbench.files import write_json
    from dapbench.runs.run_directory import summarize

    config = {"task": {"name": "hopper"}, "method": {"name": "ppo"}, "seed": 0}
    config["profile"] = {"name": "p", "epochs": 1, "epoch_steps": 1, "schedule_epochs": 1, "eval_episodes": 2}
    config["profile"]["eval_curve_episodes"] = 0
    summary = summarize(
        config,
        [{"epoch": 1, "env_steps": 1, "return_mean": "", "eval_return": ""}],
        [],
        None,
        [1.0, float("nan")],
        None,
    )
    assert (summary["eval_return"], summary["eval_std"], summary["final_return"]) == (None, None, None)
    write_json(tmp_path / "summary.json", summary)


def test_mlflow_is_given_the_numbers_that_there_are(tmp_path: Path) -> None:
    from dapbench.tracking.records import read_run

    profile = made_up.profile(epochs=2, seeds=[0], tasks=["hopper"], methods=["ppo"])
    run = made_up.fabricate(tmp_path, profile) / "made_up/runs/hopper/ppo/0"
    without_episodes(run)
    names = {metric[0] for metric in read_run(run).metrics}
    assert "summary/eval_return" in names
    assert not {"summary/final_return", "summary/alc40", "curve/return_mean"} & names
    no_epoch(run)
    assert {name for name, *_ in read_run(run).metrics} >= {"summary/eval_return", "timing/wall_seconds"}
