"""Numbers of a report, recomputed from the raw files of the runs alone, without the report's own code."""

import csv
import json

import made_up_results as made_up
import numpy as np
import pytest

from dapbench.report import study_tables, tables
from dapbench.report.build import build_report

RUNS = [("ppo", 10.0, 11.0), ("ppo_dap", 12.0, 12.1)]  # wall-clock seconds of two interleaved repeats


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A profile's results and its report; one task has timings in pairs."""
    root, profile = tmp_path_factory.mktemp("results"), made_up.profile(methods=["ppo", "ppo_dap"])
    made_up.fabricate(root, profile)
    runs = [
        {"task": "hopper", "method": method, "repeat": i, "wall_seconds": wall, "peak_memory_bytes": 2**20}
        for method, *walls in RUNS
        for i, wall in enumerate(walls)
    ]
    (root / "made_up/overhead/hopper/ppo_dap").mkdir(parents=True)
    (root / "made_up/overhead/hopper/ppo_dap/overhead.json").write_text(json.dumps({"task": "hopper", "runs": runs}))
    made = [tables.difference, tables.alc40, tables.eval_return, study_tables.overhead]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dapbench.report.build.SECTIONS", {"Tables": made})  # figures take most of the time
        build_report(root, profile, notebooks=False)
    return root / "made_up"


def rows(root, table):
    with (root / "report/tables" / f"{table}.csv").open() as lines:
        return list(csv.DictReader(lines))


def alc40(root, method):
    """ALC@40 of each seed on Hopper, from curve.csv: the last value stands for an epoch in which no episode ended."""
    areas = []
    for seed in range(3):
        with (root / f"runs/hopper/{method}/{seed}/curve.csv").open() as lines:
            cells = [row["return_mean"] for row in csv.DictReader(lines)]
        curve = [float(cell) if cell else None for cell in cells]
        known = next(value for value in curve if value is not None)
        for epoch, value in enumerate(curve):
            known = curve[epoch] = known if value is None else value
        areas.append(sum(curve[:40]) / 40)
    return np.array(areas)


def cell(root, table, metric, method):
    """The row of a table of returns on Hopper."""
    (row,) = (r for r in rows(root, table) if (r["task"], r["metric"], r["method"]) == ("hopper", metric, method))
    return row


def test_a_mean_alc40_from_the_curves(root):
    row = cell(root, "alc40", "alc40", "ppo_dap")
    assert float(row["estimate"]) == pytest.approx(alc40(root, "ppo_dap").mean(), abs=1e-9)


def test_the_evaluations_mean_alc40_from_the_curves_and_the_starts(root):
    areas = []
    for seed in range(3):
        run = root / f"runs/hopper/ppo_dap/{seed}"
        with (run / "curve.csv").open() as lines:
            evaluated = [float(row["eval_return"]) for row in csv.DictReader(lines) if row["eval_return"]]
        points = [json.loads((run / "summary.json").read_text())["eval_return_start"], *evaluated[:8]]
        areas.append(np.trapezoid(points, dx=5) / 40)
    row = cell(root, "alc40", "alc40_eval", "ppo_dap")
    assert float(row["estimate"]) == pytest.approx(np.mean(areas), abs=1e-9)


def test_an_interval_from_the_curves_with_the_documented_seed_and_repetitions(root):
    row = cell(root, "alc40", "alc40", "ppo")
    draws = alc40(root, "ppo")[np.random.default_rng(0).integers(3, size=(10_000, 3))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (float(row["low"]), float(row["high"])) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_the_wall_clock_ratio_from_the_paired_timings(root):
    own = [row for row in rows(root, "overhead") if row["ratio"] == "Wall-clock × PPO"]
    assert [row["task"] for row in own] == ["hopper", "mean over tasks"]
    for row in own:
        assert float(row["estimate"]) == pytest.approx((12.0 / 10.0 + 12.1 / 11.0) / 2, abs=1e-12)


def test_a_difference_and_an_evaluation_from_the_summaries(root):
    summaries = {
        m: [json.loads((root / f"runs/hopper/{m}/{s}/summary.json").read_text()) for s in range(3)]
        for m in ("ppo", "ppo_dap")
    }
    means = {m: np.mean([summary["alc40"] for summary in own]) for m, own in summaries.items()}
    (row,) = (row for row in rows(root, "difference") if (row["task"], row["metric"]) == ("hopper", "alc40"))
    assert float(row["estimate"]) == pytest.approx(means["ppo_dap"] - means["ppo"], abs=1e-9)
    row = cell(root, "eval_return", "eval_return", "ppo")
    assert float(row["estimate"]) == pytest.approx(np.mean([s["eval_return"] for s in summaries["ppo"]]), abs=1e-9)
