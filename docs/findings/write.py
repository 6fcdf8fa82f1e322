"""Writes the tables of docs/findings.md from result files: python docs/findings/write.py [--help]

They are the files in docs/ and the runs of the study in results/paper. A table stands between the lines
`<!-- NAME ARGUMENT ... -->` and `<!-- end -->`, NAME being a function below.
"""

import argparse
import functools
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from dapbench.config import compose_profile
from dapbench.files import write_text
from dapbench.report.results import Results, load_results

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "findings.md"
BLOCK = re.compile(r"(<!-- (?P<call>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
TASKS = {"half_cheetah": "HalfCheetah", "hopper": "Hopper"}
IDENTITY = ["method", "trial", "task", "seed"]
MEASURES = {"alc40": "ALC@40", "final_return": "final return"}
QUALITIES = ("simple", "mixed", "medium", "expert")
BOTH_TASKS = "runs, both tasks"
OF_EACH_TASK = [f"{task} {measure}" for measure in MEASURES.values() for task in TASKS.values()]


@functools.cache
def paper() -> Results:
    """The study."""
    return load_results(DOCS.parent / "results", compose_profile("paper"))


@functools.cache
def all_runs() -> pd.DataFrame:
    """A row a run: those of the trials, and the study's as a trial named ``study``.

    A run of the whole budget also counts as one of 40 epochs, whose ALC@40 is its own.
    """
    trials = pd.read_csv(DOCS / "tuning/results.csv")
    longest = trials.groupby(IDENTITY).epochs.transform("max")
    study = paper().summaries.assign(trial="study")
    study = study.loc[study.task.isin(list(TASKS)), study.columns.intersection([*trials.columns, "logs_return_mean"])]
    return pd.concat([trials[trials.epochs == longest], study]).set_index(IDENTITY).sort_index()


def interval(values: pd.Series, decimals: int = 0) -> str:
    """The mean and half the width of its 95 % Student-t interval; of one value that alone."""
    values = values.dropna()
    if len(values) < 2:
        return f"{values.mean():.{decimals}f}" if len(values) else ""
    half = stats.t.ppf(0.975, len(values) - 1) * values.sem()
    return f"{values.mean():.{decimals}f} ± {half:.{decimals}f}"


def scores(runs: pd.DataFrame, method: str) -> pd.Series:
    """What trials are ordered by: the mean over the tasks of log(ALC@40 / the default's), seeds averaged before."""
    means = runs.loc[method].alc40.groupby(["trial", "task"]).mean().unstack()
    return np.log(means / means.loc["default"]).mean(axis=1).sort_values(ascending=False)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def tuning(method: str) -> str:
    """Every trial of a method, best first by ALC@40."""
    runs, plan = (
        all_runs().drop("study", level="trial"),
        yaml.safe_load((DOCS / "tuning/trials.yaml").read_text(encoding="utf-8")),
    )
    header = ["trial", "settings", *(f"{name} ALC@40" for name in TASKS.values())]
    header += [*(f"{name} at 1M" for name in TASKS.values()), BOTH_TASKS]
    rows = []
    for trial in scores(runs, method).index:
        of_trial = runs.loc[method, trial]
        settings = ", ".join(s.removeprefix("method.") for s in plan["methods"][method][trial])
        row = [trial, settings, *(interval(of_trial.loc[task].alc40) for task in TASKS)]
        whole = of_trial[of_trial.epochs == 200].final_return
        row += [interval(whole[whole.index.get_level_values("task") == task]) for task in TASKS]
        rows.append([*row, str(len(of_trial))])
    return markdown(header, rows)


def differences(pair: str) -> dict[tuple[str, str], pd.Series]:
    """By measure and task, METHOD/TRIAL:METHOD/TRIAL paired by seed; empty where a side has no run."""
    runs = all_runs().reset_index()
    found = {}
    for measure, task in itertools.product(MEASURES, TASKS):
        sides = []
        for method, trial in (side.split("/") for side in pair.split(":")):
            own = runs[(runs.method == method) & (runs.trial == trial) & (runs.task == task)]
            own = own[own.epochs == 200] if measure == "final_return" else own
            sides.append(own.set_index("seed")[measure])
        found[measure, task] = (sides[0] - sides[1]).dropna()
    return found


def against(*pairs: str) -> str:
    """Differences METHOD/TRIAL:METHOD/TRIAL: the mean and its 95 % interval; with a + between, those of both pairs."""
    rows = []
    for pair in pairs:
        parts = [differences(part) for part in pair.split("+")]
        sides = [side.split("/") for side in pair.split("+")[-1].split(":")]
        label = " − ".join(method if trial == "study" else f"{method} {trial}" for method, trial in sides)
        cells = [pd.concat([part[key] for part in parts]) for key in parts[0]]
        counts = sorted({len(cell) for cell in cells} - {0})
        if not counts:
            rows.append([label, "not run yet", "", "", "", "0"])
            continue
        rows.append([label, *map(interval, cells), "–".join(str(n) for n in counts)])
    return markdown(["", *OF_EACH_TASK, "pairs"], rows)


def study(*methods: str) -> str:
    """What the study's runs of each method came to."""
    runs = all_runs().xs("study", level="trial")
    rows = []
    for method in methods:
        own = runs[runs.index.get_level_values("method") == method]
        cells = [interval(own[m][own.index.get_level_values("task") == task]) for m in MEASURES for task in TASKS]
        rows.append([method, *cells, str(len(own))])
    return markdown(["", *OF_EACH_TASK, BOTH_TASKS], rows)


def qualities(*methods: str) -> str:
    """ALC@40 of the study's runs of each method by the quality of its logs, beside PPO's and the logs' own return."""
    runs = all_runs().xs("study", level="trial").reset_index()
    rows = []
    for task, quality in itertools.product(TASKS, QUALITIES):
        own = runs[runs.task == task].set_index("method").alc40
        names = ["ppo", *(method if quality == "medium" else f"{method}_on_{quality}" for method in methods)]
        logged = runs[(runs.task == task) & (runs.method == names[1])].logs_return_mean
        cells = [interval(own.loc[[name]]) if name in own.index else "not run yet" for name in names]
        rows.append([TASKS[task], quality, interval(logged), *cells])
    return markdown(["task", "logs", "return in the logs", "ppo", *methods], rows)


def entropy(*methods: str) -> str:
    """The entropy of the policy in nats along the study's runs of each method."""
    epochs = (10, 40)
    curves = paper().curves.set_index(["method", "task", "epoch"]).entropy
    rows = []
    for method in methods:
        cells = [interval(curves.loc[[(method, task, epoch)]], 1) for task in TASKS for epoch in epochs]
        rows.append([method, *cells])
    return markdown(["", *(f"{name}, epoch {epoch}" for name in TASKS.values() for epoch in epochs)], rows)


def guidance(*columns: str) -> str:
    """guidance_gain.csv: the mean over runs and its 95 % interval, by method, logs, task and epochs."""
    runs = pd.read_csv(DOCS / "findings/guidance_gain.csv")
    rows = []
    for key, group in runs.groupby(["method", "quality", "task", "epochs"]):
        cells = [interval(group[column], 4) for column in columns]
        method, quality, task, epochs = key
        rows.append([method, quality, TASKS[task], str(epochs), *cells, str(len(group))])
    return markdown(["method", "logs", "task", "epochs", *columns, "runs"], rows)


TABLES = {function.__name__: function for function in (tuning, against, study, qualities, entropy, guidance)}


def written(text: str) -> str:
    """The page with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        name, *arguments = match["call"].split()
        return f"{match[1]}{TABLES[name](*arguments)}{match[3]}"

    return BLOCK.sub(fill, text)


def main() -> int:
    """Writes the page; with --check only says whether it is as it would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    options = parser.parse_args()
    before = PAGE.read_text(encoding="utf-8")
    after = written(before)
    if not options.check:
        write_text(PAGE, after)
    return int(options.check and after != before)


if __name__ == "__main__":
    sys.exit(main())
