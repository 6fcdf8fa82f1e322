"""The tables of docs/findings.md are those of the result files, and every trial is one that can be run."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from dapbench.runs.evaluation import module_class

DOCS = Path(__file__).resolve().parents[1] / "docs"
PLAN = yaml.safe_load((DOCS / "tuning/trials.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def write() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write", DOCS / "findings/write.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(write: ModuleType) -> None:
    page = (DOCS / "findings.md").read_text(encoding="utf-8")
    assert page == write.written(page), "run: python docs/findings/write.py"


def test_differences_are_paired_by_seed(write: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = ["method", "trial", "task", "seed"]
    rows = [
        ("a", "default", "hopper", 0, 200, 3.0, 30.0),
        ("a", "default", "hopper", 1, 200, 5.0, 50.0),
        ("a", "default", "hopper", 2, 40, 9.0, 90.0),
        ("b", "x", "hopper", 1, 200, 1.0, 20.0),
        ("b", "x", "hopper", 0, 200, 1.0, 10.0),
        ("b", "x", "hopper", 2, 40, 2.0, 70.0),
    ]
    runs = pd.DataFrame(rows, columns=[*identity, "epochs", "alc40", "final_return"]).set_index(identity).sort_index()
    monkeypatch.setattr(write, "all_runs", lambda: runs)
    cells = write.against("a/default:b/x").splitlines()[-1].split(" | ")
    differences = np.array([2.0, 4.0, 7.0])
    low, high = stats.t.interval(0.95, 2, differences.mean(), differences.std(ddof=1) / np.sqrt(3))
    assert cells[2] == f"{differences.mean():.0f} ± {(high - low) / 2:.0f}"
    low, high = stats.t.interval(0.95, 1, 25.0, 5.0)  # 20 and 30; the run of 40 epochs has no final return
    assert cells[4] == f"25 ± {(high - low) / 2:.0f}"
    assert cells[0] == "| a default − b x"
    assert (
        write.against("a/default:b/x+b/x:a/default").splitlines()[-1]
        == "| b x − a default |  | 0 ± 6 |  | 0 ± 47 | 4–6 |"
    )
    assert write.against("a/default:c/x").splitlines()[-1] == "| a default − c x | not run yet |  |  |  | 0 |"


def test_the_studys_runs_stand_beside_the_trials(write: ModuleType) -> None:
    runs = write.all_runs()
    summary = json.loads((DOCS.parent / "results/paper/runs/hopper/ppo/0/summary.json").read_text(encoding="utf-8"))
    row = runs.loc["ppo", "study", "hopper", 0]
    assert (row.alc40, row.final_return, row.epochs) == (summary["alc40"], summary["final_return"], 200)
    assert row.alc40 == pytest.approx(runs.loc["ppo", "default", "hopper", 0].alc40, rel=1e-5)  # the same run
    seeds = runs.loc["ppo", "study", "hopper"].final_return
    cells = write.study("ppo").splitlines()[-1].split(" | ")
    assert cells[4] == write.interval(seeds)
    assert cells[0] == "| ppo"


def test_methods_on_logs_of_a_quality_stand_beside_ppo(write: ModuleType) -> None:
    runs = write.all_runs().xs("study", level="trial")
    row = next(
        line for line in write.qualities("ppo_bc", "ppo_dap").splitlines() if line.startswith("| Hopper | mixed")
    )
    scores = [
        runs.xs((method, "hopper"), level=("method", "task"))
        for method in ("ppo", "ppo_bc_on_mixed", "ppo_dap_on_mixed")
    ]
    logged = write.interval(scores[1].logs_return_mean)
    assert row.strip("| ").split(" | ") == ["Hopper", "mixed", logged, *(write.interval(own.alc40) for own in scores)]
    assert "not run yet" in write.qualities("ppg")


@pytest.mark.parametrize("method", PLAN["methods"])
def test_every_trial_can_be_run(method: str, compose: Callable[..., dict[str, Any]]) -> None:
    trials = dict(PLAN["methods"][method])
    base = trials.pop("base", [])
    for settings in trials.values():
        config = compose("train", f"method={method}", *base, *settings)
        module_class(config).read_settings(config)
