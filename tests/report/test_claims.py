"""The claims on trial: every number and verdict recomputed from the raw files by other code, and the rules by hand."""

import csv
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import made_up_results as made_up
import numpy as np
import pandas as pd
import pytest

from dapbench.config import compose_profile
from dapbench.report import claims
from dapbench.report.claims import FAILS, HOLDS, UNCLEAR, UNMEASURED, Claim, Finding
from dapbench.report.items import Skipped, Table
from dapbench.report.results import load_results
from dapbench.report.statistics import Estimate

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "results/paper"
STUDY = made_up.profile(
    tasks=["half_cheetah", "hopper", "walker2d"],
    methods=["ppo", "ppg", "ppo_rnd", "ppo_bc", "ppo_dap", "ppo_dap_warm"],
    epochs=40,
    controls={"methods": ["ppo_gap"], "tasks": ["half_cheetah", "hopper"]},
    ablations={"methods": ["ppo_dap_frozen", "ppo_dap_unguided"], "tasks": ["hopper"]},
    log_qualities={
        "methods": [
            f"{m}_on_{q}" for m in ("ppo_bc", "ppo_gap", "ppo_dap", "ppo_dap_warm") for q in ("simple", "expert")
        ],
        "tasks": ["hopper"],
    },
)
SECONDS = {"ppo": [10.0, 10.2, 9.9], "ppo_dap": [11.9, 12.2, 12.0], "ppo_dap_warm": [14.0, 14.1, 14.2]}


def fabricate_overhead(root: Path, tasks: list[str]) -> None:
    for task in tasks:
        runs = [
            {"task": task, "method": m, "repeat": i, "wall_seconds": s, "peak_memory_bytes": 10**8 + i}
            for m, own in SECONDS.items()
            for i, s in enumerate(own)
        ]
        for method in ("ppo_dap", "ppo_dap_warm"):
            paired = [run for run in runs if run["method"] in ("ppo", method)]
            (root / f"overhead/{task}/{method}").mkdir(parents=True)
            (root / f"overhead/{task}/{method}/overhead.json").write_text(json.dumps({"task": task, "runs": paired}))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Results of a small study with all that a claim is judged by; one run has no number, one has failed."""
    root = tmp_path_factory.mktemp("results")
    made_up.fabricate(root, STUDY)
    fabricate_overhead(root / "made_up", ["hopper", "half_cheetah"])
    runs = root / "made_up/runs"
    summary = json.loads((runs / "hopper/ppo_dap/0/summary.json").read_text())
    nothing = {"alc40": None, "final_return": None}
    (runs / "hopper/ppo_dap/0/summary.json").write_text(json.dumps(summary | nothing))
    (runs / "walker2d/ppg/1/summary.json").unlink()
    return root


@pytest.fixture(scope="module")
def study(root):
    """The small study, loaded."""
    return load_results(root, STUDY)


# ------------------------------------------------------------------------ by other code, from the raw files alone

Row = tuple[float, float, float, str]
NAN = float("nan")
REFERENCES = json.loads((ROOT / "dapbench/report/reference_scores.json").read_text())
REPETITIONS = 10_000
BASES = ("ppo_bc", "ppo_gap", "ppo_dap", "ppo_dap_warm")


class Recomputed:
    """The claims' numbers from a folder of runs, as docs/statistics.md says how."""

    def __init__(self, folder: Path, profile: dict) -> None:
        self.folder, self.profile = folder, profile

    def asked(self, method: str) -> list[str]:
        groups = [self.profile, *(v for v in self.profile.values() if isinstance(v, dict) and "methods" in v)]
        tasks = [task for g in groups if method in g["methods"] for task in g.get("tasks", self.profile["tasks"])]
        return [task for task in self.profile["tasks"] if task in tasks]

    def by_seed(self, metric: str, task: str, method: str) -> dict[int, float]:
        found = {}
        for seed in self.profile["seeds"]:
            path = self.folder / "runs" / task / method / str(seed) / "summary.json"
            value = json.loads(path.read_text())[metric] if path.exists() else None
            found |= {} if value is None else {seed: value}
        return found

    def scores(self, metric: str, task: str, method: str) -> list[float]:
        return list(self.by_seed(metric, task, method).values())

    def has_runs(self, method: str) -> bool:
        return any((self.folder / "runs").glob(f"*/{method}/*/summary.json"))

    def variants(self, base: str) -> dict[str, str]:
        """By quality, the variants of a method that have runs as it has itself; here names say which they are."""
        named = [m for m in self.profile["log_qualities"]["methods"] if m.rsplit("_on_")[0] == base]
        return {m.rsplit("_on_")[1]: m for m in named if self.has_runs(m) and self.has_runs(base)}

    def rivals(self, against: str) -> list[str]:
        named = [m for m in ("ppo", "ppg", "ppo_rnd") if m in self.profile["methods"]]
        return named if against == "strongest" else [against]

    def second(self, metric: str, task: str, against: str) -> list[float]:
        """The scores of a task's rival; none if a candidate has no run."""
        candidates = [self.scores(metric, task, m) for m in self.rivals(against)]
        return max(candidates, key=np.mean) if all(candidates) else []

    def count(self, metric: str, against: str, share: float, fits: Callable) -> Row:
        asked = [t for t in self.asked("ppo_dap") if all(t in self.asked(m) for m in self.rivals(against))]
        pairs = [(self.scores(metric, t, "ppo_dap"), self.second(metric, t, against)) for t in asked]
        found = [pair for pair in pairs if all(pair)]
        if not found:
            return NAN, NAN, NAN, "not measured"
        several = [pair for pair in found if len(pair[0]) > 1 and len(pair[1]) > 1]
        point = sum(bool(fits(np.mean(a) - np.mean(b))) for a, b in found)
        low, high, verdict = NAN, NAN, "not distinguishable"
        needed = math.ceil(share * len(asked))
        if several:
            sides = [[np.array(side) for side in sides] for sides in zip(*several, strict=True)]
            ours, theirs = drawn(*sides)
            counts = sum(fits(a - b).astype(int) for a, b in zip(ours, theirs, strict=True))
            low, high = np.quantile(counts, [0.025, 0.975])
            high += len(asked) - len(several)
            verdict = "holds" if low >= needed else "does not hold" if high < needed else verdict
        if verdict == "not distinguishable" and len(found) < len(asked):
            verdict = "not measured"
        return point, low, high, verdict

    def difference(self, metric: str, first: str, second: str, tasks: list[str] | None = None) -> Row:
        """Of methods that both start from the same logs, as all have that the claims compare: by pairs of a seed."""
        strata = []
        for task in self.asked(first):
            ours, theirs = (self.by_seed(metric, task, m) for m in (first, second))
            both = [seed for seed in ours if seed in theirs]
            if task in self.asked(second) and both and (tasks is None or task in tasks):
                span = REFERENCES[task]["expert"] - REFERENCES[task]["random"]
                strata.append(np.array([(ours[seed] - theirs[seed]) / span for seed in both]))
        if not strata:
            return NAN, NAN, NAN, "not measured"
        point = np.mean([s.mean() for s in strata])
        if any(len(s) < 2 for s in strata):
            return point, NAN, NAN, "not distinguishable"
        return by_zero(point, np.mean(drawn(strata)[0], axis=0))

    def cost(self, column: str, limit: float) -> Row:
        strata = []
        for path in sorted(self.folder.glob("overhead/*/ppo_dap/overhead.json")):
            cells = {(r["method"], r["repeat"]): r[column] for r in json.loads(path.read_text())["runs"]}
            repeats = sorted(i for m, i in cells if m == "ppo_dap" and ("ppo", i) in cells)
            strata += [np.array([cells["ppo_dap", i] / cells["ppo", i] for i in repeats])] if repeats else []
        if not strata:
            return NAN, NAN, NAN, "not measured"
        point = np.mean([s.mean() for s in strata])
        if any(len(s) < 2 for s in strata):
            return point, NAN, NAN, "not distinguishable"
        low, high = np.quantile(np.mean(drawn(strata)[0], axis=0), [0.025, 0.975])
        return point, low, high, "holds" if high <= limit else "does not hold" if low > limit else "not distinguishable"

    def monitor(self, column: str) -> Row:
        strata = []
        for task in self.asked("ppo_dap"):
            means = []
            for seed in self.profile["seeds"]:
                run = self.folder / "runs" / task / "ppo_dap" / str(seed)
                if (run / "summary.json").exists():
                    with (run / "curve.csv").open() as lines:
                        cells = [float(row[column]) for row in csv.DictReader(lines) if row.get(column)]
                    means += [np.mean(cells)] if cells else []
            strata += [np.array(means)] if means else []
        if not strata:
            return NAN, NAN, NAN, "not measured"
        point = np.mean([s.mean() for s in strata])
        if any(len(s) < 2 for s in strata):
            return point, NAN, NAN, "not distinguishable"
        return by_zero(point, np.mean(drawn(strata)[0], axis=0))

    def all(self) -> dict[tuple[str, str, str], Row]:
        """By claim, label and metric."""
        readings, every = ("alc40", "alc40_eval"), ("alc40", "alc40_eval", "final_return")
        found = {}
        for metric in readings:
            for name, against, share in (
                ("1a", "ppo", 1.0),
                ("1b", "strongest", 1.0),
                ("1c", "ppo", 0.75),
                ("1d", "strongest", 0.75),
            ):
                found[name, "", metric] = self.count(metric, against, share, lambda d: d > 0)
        found["2", "", "final_return"] = self.count("final_return", "strongest", 0.75, lambda d: d >= 0)
        found["3", "", "wall_seconds"] = self.cost("wall_seconds", 1.22)
        found["4", "", "peak_memory_bytes"] = self.cost("peak_memory_bytes", 1.07)
        for name, second in (("5", "ppo_dap_frozen"), ("6", "ppo_dap_unguided")):
            found |= {(name, "", metric): self.difference(metric, "ppo_dap", second) for metric in readings}
        found["7a", "", "q_gain"] = self.monitor("q_gain")
        found["7b", "with the advantage", "q_advantage_rank"] = self.monitor("q_advantage_rank")
        found["7b", "with the TD error", "q_td_rank"] = self.monitor("q_td_rank")
        found["8", "", "pg_share"] = (*self.monitor("pg_share")[:3], "holds")
        pairs = {"9": ("ppo_dap", "ppo_gap"), "10a": ("ppo_dap", "ppo_bc"), "10b": ("ppo_dap_warm", "ppo_bc")}
        for name, pair in pairs.items():
            found |= {(name, "", metric): self.difference(metric, *pair) for metric in every}
        for letter, pair in zip("abc", pairs.values(), strict=True):
            lines = {m: self.variants(m) for m in pair}
            for quality in {"medium"}.union(*lines.values()):
                names = [own.get(quality, "absent") if quality != "medium" else m for m, own in lines.items()]
                tasks = {task for base in BASES for m in self.variants(base).values() for task in self.asked(m)}
                for metric in readings:
                    row = self.difference(metric, *names, tasks=list(tasks))
                    found[f"11{letter}", quality, metric] = row
        return found


def drawn(*sides: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Means of resampled runs: for each side a list of [repetitions], one a task; one seeded generator for all."""
    generator = np.random.default_rng(0)
    return [[s[generator.integers(len(s), size=(REPETITIONS, len(s)))].mean(1) for s in side] for side in sides]


def by_zero(point: float, draws: np.ndarray) -> Row:
    low, high = np.quantile(draws, [0.025, 0.975])
    return point, low, high, "holds" if low > 0 else "does not hold" if high < 0 else "not distinguishable"


def assert_same(values: pd.DataFrame, expected: dict[tuple[str, str, str], Row]) -> None:
    rows = values.fillna({"label": ""}).to_dict("records")
    found = {(str(r["claim"]), r["label"], r["metric"]): r for r in rows}
    assert found.keys() == expected.keys()
    for key, (point, low, high, verdict) in expected.items():
        numbers = [found[key][name] for name in ("estimate", "low", "high")]
        np.testing.assert_allclose(numbers, [point, low, high], rtol=1e-9, atol=1e-9, err_msg=str(key))
        assert found[key]["verdict"] == verdict, key


def test_every_number_and_verdict_from_the_raw_files(study, root):
    expected = Recomputed(root / "made_up", STUDY).all()
    assert_same(claims.claims(study).values, expected)
    assert {row[3] for row in expected.values()} >= {HOLDS, UNCLEAR}  # so that the comparison says something


@pytest.mark.parametrize(
    "lacking",
    [
        ["*/ppo_gap/*"],
        ["*/ppo_dap_on_*/*", "*/ppo_bc_on_simple/*"],
        ["*/*_on_*/*"],
        ["walker2d/*/*", "hopper/ppo_rnd/*"],
        ["*/*/[12]"],
        ["hopper/*/[12]"],
    ],
    ids=["Gaussian prior", "PPO-DAP on other logs", "all on other logs", "a task", "all seeds but one", "of one task"],
)
def test_a_part_of_the_runs_gives_the_numbers_of_that_part(root, tmp_path, lacking):
    shutil.copytree(root / "made_up", tmp_path / "made_up")
    for pattern in lacking:
        for run in (tmp_path / "made_up/runs").glob(pattern):
            shutil.rmtree(run)
    assert_same(claims.claims(load_results(tmp_path, STUDY)).values, Recomputed(tmp_path / "made_up", STUDY).all())


def test_the_papers_claims_from_its_raw_files():
    """Those in git, where the report is; its table is that of the runs beside it, to the byte."""
    if (PAPER / "report").is_dir():
        profile = compose_profile("paper")
        item = claims.claims(load_results(PAPER.parent, profile))
        assert_same(item.values, Recomputed(PAPER, profile).all())
        assert [(PAPER / "report" / place).read_bytes() for place in item.files().values()] == item.contents()
    else:
        assert "not in git yet" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_each_cell_of_the_table_is_one_of_its_numbers(study):
    item = claims.claims(study)
    cells = " ".join(item.shown["Measured here"]).replace("−", "-")
    known = {f"{value:.3f}" for name in ("estimate", "low", "high") for value in item.values[name].dropna()}
    shown = set(re.findall(r"-?\d+\.\d{3}", cells))
    assert shown
    assert shown <= known


# ------------------------------------------------------------------------------------------------- the rules by hand


def with_scores(results, metric: str, scores: dict[tuple[str, str], list[float]]):
    """The results with other values of a metric; a run beyond a list's end is gone."""
    summaries = results.summaries.copy()
    for (task, method), values in scores.items():
        own = (summaries.task == task) & (summaries.method == method)
        summaries = summaries[~(own & (summaries.seed >= len(values)))]
        for seed, value in enumerate(values):
            summaries.loc[own & (summaries.seed == seed), metric] = value
    return dataclasses.replace(results, summaries=summaries)


HIGH, LOW, WIDE = [9.0, 9.1, 9.2], [1.0, 1.1, 1.2], [0.0, 5.0, 9.0]


def counted(results, ours: list[list[float]], share: float = 1.0, strictly: bool = True) -> Finding:
    """The count of tasks on which ``ours`` is above PPO's 5, 5.1, 5.2, a list a task."""
    scores = {(task, "ppo"): [5.0, 5.1, 5.2] for task in STUDY["tasks"]}
    scores |= {(task, "ppo_dap"): own for task, own in zip(STUDY["tasks"], ours, strict=True)}
    return claims.count(with_scores(results, "alc40", scores), "alc40", "ppo_dap", "ppo", share, strictly)


@pytest.mark.parametrize(
    ("ours", "share", "bounds", "verdict"),
    [
        ([HIGH, HIGH, HIGH], 1.0, (3, 3, 3), HOLDS),
        ([HIGH, HIGH, LOW], 1.0, (2, 2, 2), FAILS),
        ([HIGH, HIGH, LOW], 0.6, (2, 2, 2), HOLDS),
        ([HIGH, LOW, LOW], 0.6, (1, 1, 1), FAILS),
        ([HIGH, HIGH, WIDE], 1.0, (2, 2, 3), UNCLEAR),
        ([HIGH, HIGH, WIDE], 0.6, (2, 2, 3), HOLDS),
        ([HIGH, HIGH, [9.0]], 1.0, (3, 2, 3), UNCLEAR),  # of one run, which may be luck
        ([HIGH, HIGH, []], 1.0, (2, 2, 3), UNMEASURED),
        ([HIGH, HIGH, []], 0.6, (2, 2, 3), HOLDS),  # whatever the missing task is
        ([LOW, HIGH, []], 1.0, (1, 1, 2), FAILS),
        ([[9.0], [9.0], [9.0]], 1.0, (3, NAN, NAN), UNCLEAR),
        ([[], [], []], 1.0, (NAN, NAN, NAN), UNMEASURED),
        ([[NAN, *HIGH[1:]], HIGH, HIGH], 1.0, (3, 3, 3), HOLDS),
        ([[NAN, NAN, NAN], HIGH, HIGH], 1.0, (2, 2, 3), UNMEASURED),
    ],
)
def test_counts_of_tasks(study, ours, share, bounds, verdict):
    finding = counted(study, ours, share)
    np.testing.assert_array_equal([float(x) for x in finding.estimate], bounds)
    assert finding.verdict == verdict


def test_a_tie_is_at_and_not_above(study):
    ties = [[5.0, 5.0, 5.0]] * 3
    scores = {
        (task, method): own for task, own in zip(STUDY["tasks"], ties, strict=True) for method in ("ppo", "ppo_dap")
    }
    equal = with_scores(study, "alc40", scores)
    above = claims.count(equal, "alc40", "ppo_dap", "ppo", 1.0, strictly=True)
    at = claims.count(equal, "alc40", "ppo_dap", "ppo", 1.0, strictly=False)
    assert (above.verdict, at.verdict) == (FAILS, HOLDS)
    assert "clearly above on 0, clearly below on 0" in at.text
    assert claims.difference(equal, "alc40", "ppo_dap", "ppo").verdict == UNCLEAR
    final = {(task, method): [5.0, 5.0, 5.0] for task in STUDY["tasks"] for method in (*claims.ON_POLICY, "ppo_dap")}
    verdicts = {c.number: c.verdict for c in claims.paper_claims(with_scores(equal, "final_return", final), "ppo_dap")}
    assert verdicts["2"] == HOLDS
    assert verdicts["1a"] == "holds (ALC@40 (evaluation)); does not hold (ALC@40 (training))"


def test_the_strongest_is_named_by_its_mean_and_unknown_where_one_is_missing(study):
    scores = {("hopper", "ppo"): [3.0] * 3, ("hopper", "ppg"): [4.0] * 3, ("hopper", "ppo_rnd"): [2.0] * 3}
    assert claims.rival(with_scores(study, "alc40", scores), "alc40", "hopper", claims.STRONGEST) == "ppg"
    scores["hopper", "ppo_rnd"] = []
    assert claims.rival(with_scores(study, "alc40", scores), "alc40", "hopper", claims.STRONGEST) is None


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(HIGH, HOLDS), (LOW, FAILS), (WIDE, UNCLEAR), ([9.0], UNCLEAR), ([], UNMEASURED), ([NAN] * 3, UNMEASURED)],
)
def test_differences(study, ours, verdict):
    scores = {("hopper", "ppo_dap"): ours, ("hopper", "ppo_dap_frozen"): [5.0, 5.1, 5.2]}
    finding = claims.difference(with_scores(study, "alc40", scores), "alc40", "ppo_dap", "ppo_dap_frozen")
    assert finding.verdict == verdict
    assert ("over 1 task" in finding.text) == (verdict != UNMEASURED)


@pytest.mark.parametrize(
    ("ratios", "verdict", "words"),
    [
        ([1.05, 1.10], HOLDS, ", below theirs"),
        ([1.15, 1.17], HOLDS, "over 1 task"),
        ([1.15, 1.21], HOLDS, "over 1 task"),
        ([1.20, 1.24], UNCLEAR, "over 1 task"),
        ([1.23, 1.30], FAILS, "over 1 task"),
        ([1.10], UNCLEAR, "over 1 task"),
        ([], UNMEASURED, ""),
    ],
)
def test_costs_are_held_against_the_papers_upper_end(study, ratios, verdict, words):
    rows = [
        {
            "device": "cpu",
            "paired_for": "ppo_dap",
            "task": "hopper",
            "method": method,
            "repeat": i,
            "wall_seconds": 10.0 * ratio,
        }
        for i, own in enumerate(ratios)
        for method, ratio in (("ppo", 1.0), ("ppo_dap", own))
    ]
    finding = claims.cost(dataclasses.replace(study, overhead=pd.DataFrame(rows)), "wall_seconds", "ppo_dap")
    assert finding.verdict == verdict
    assert finding.text.endswith(words)
    assert finding.threshold == pytest.approx(1.22)


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.1, 0.2, HOLDS), (-0.2, -0.1, FAILS), (-0.1, 0.1, UNCLEAR)])
def test_monitors(study, low, high, verdict):
    curves = study.curves.assign(q_gain=np.where(study.curves.seed == 0, low, high))
    assert claims.monitor(dataclasses.replace(study, curves=curves), "q_gain", "ppo_dap").verdict == verdict
    without = dataclasses.replace(study, curves=study.curves.drop(columns="q_gain"))
    assert claims.monitor(without, "q_gain", "ppo_dap").verdict == UNMEASURED


def finding(metric: str, verdict: str, text: str, label: str = "") -> Finding:
    return Finding(label, metric, Estimate(*map(np.array, (1.0, 0.0, 2.0))), 0.0, verdict, text, "3 seeds")


def test_both_readings_stand_side_by_side_where_they_disagree():
    agreeing = Claim("1", "x", "ours", (finding("alc40", HOLDS, "1 [0, 2]"), finding("alc40_eval", HOLDS, "2 [1, 3]")))
    assert (agreeing.measured, agreeing.verdict) == ("1 [0, 2]", HOLDS)
    split = Claim("1", "x", "ours", (finding("alc40", HOLDS, "1 [0, 2]"), finding("alc40_eval", FAILS, "2 [1, 3]")))
    assert split.measured == "ALC@40 (training): 1 [0, 2]; ALC@40 (evaluation): 2 [1, 3]"
    assert split.verdict == "holds (ALC@40 (training)); does not hold (ALC@40 (evaluation))"


def test_numbers_that_agree_have_one_verdict_and_others_each_its_own():
    both = (finding("alc40", HOLDS, "1"), finding("alc40_eval", HOLDS, "2"), finding("final_return", HOLDS, "3"))
    assert Claim("9", "x", "ours", both).verdict == HOLDS
    assert Claim("9", "x", "ours", both).measured == "ALC@40: 1; final return: 3"
    mixed = (*both[:2], finding("final_return", UNCLEAR, "3"))
    assert Claim("9", "x", "ours", mixed).verdict == "holds (ALC@40); not distinguishable (final return)"


def test_without_the_runs_of_a_claim_it_is_not_measured(small):
    found = small(tasks=["hopper"], methods=["ppo", "ppo_dap"], seeds=[0, 1])
    item = claims.claims(found)
    verdicts = item.shown.set_index("").Verdict.str.strip("*").to_dict()
    assert {n for n, verdict in verdicts.items() if verdict == UNMEASURED} >= {"3", "4", "5", "6", "9", "10a", "11a"}
    assert verdicts["8"] == HOLDS
    assert isinstance(claims.claims_of_variants(found), Skipped)


def test_a_baseline_alone_leaves_every_count_unmeasured(small):
    verdicts = claims.claims(small(methods=["ppo"])).shown.set_index("").Verdict
    assert set(verdicts.drop("8")) == {f"**{UNMEASURED}**"}


def test_one_seed_never_tells(small):
    item = claims.claims(small(methods=["ppo", "ppg", "ppo_bc", "ppo_dap", "ppo_dap_warm"], seeds=[0]))
    assert set(item.values[item.values.claim != "8"].verdict) == {UNCLEAR, UNMEASURED}
    assert "so there are no intervals" in item.shown.Runs[0]


def test_the_configurations_of_ppo_dap_stand_side_by_side(study):
    item = claims.claims_of_variants(study)
    assert item.shown.columns.tolist() == ["", "Claim", "PPO-DAP", "PPO-DAP, warm start"]
    wall = item.shown.set_index("").loc["3"]
    assert wall["PPO-DAP"].endswith("**holds**")
    assert wall["PPO-DAP, warm start"].endswith("**does not hold**")  # 1.4 × PPO's time


def test_the_differences_task_by_task(study):
    item = claims.claims_by_task(study)
    assert isinstance(item, Table)
    own = item.values[(item.values.claim == "9") & (item.values.metric == "final_return")].set_index("task")
    assert own.index.tolist() == ["half_cheetah", "hopper"]
    pairs = [
        [study.scores("final_return", task, method)[-count:] for method in ("ppo_dap", "ppo_gap")]
        for task, count in (("half_cheetah", 3), ("hopper", 2))  # hopper's first run has no number
    ]
    np.testing.assert_allclose(own.estimate, [ours.mean() - theirs.mean() for ours, theirs in pairs])
    assert own.runs_first.tolist() == own.runs_second.tolist() == [3, 2]
    shown = item.shown[item.shown[""] == "11"]
    assert set(shown.HalfCheetah) == {"–"}
    assert len(shown) == 3 * 3 * 2  # pairs, qualities, readings


def test_what_holds_claim_8_is_among_the_tests():
    text = (ROOT / "tests/test_ppo_dap.py").read_text()
    for name in claims.ON_POLICY_TESTS:
        assert f"def {name}(" in text
