"""Run directories as tidy frames: one row a run, or a run's epoch, or a run's part of the time."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dapbench.config import CONF, choices, compose, compose_profile
from dapbench.curves import filled
from dapbench.errors import UserError
from dapbench.files import withheld
from dapbench.profiles import Run, runs
from dapbench.report.statistics import Reference, reference_scores

KEY = ["task", "method", "seed"]
BASELINE, SUBJECT = "ppo", "ppo_dap"  # the two methods that the study compares
AUTHORS = "ppo_dap_v6"  # the second with its authors' constants
METRICS = {
    "alc40": "ALC@40 (training)",
    "alc40_eval": "ALC@40 (evaluation)",
    "final_return": "Final return",
    "eval_return": "Evaluation return",
}
AT_THE_END = ("final_return", "eval_return", "eval_std")  # a group of fewer epochs than the profile has none
CURVE_COLUMNS = ["epoch", "env_steps", "return_mean", "return_std", "episodes", "eval_return"]
EVALUATION_COLUMNS = ["epoch", "env_steps", "eval_return"]
SUMMARY_KEYS = [*KEY, "env_steps", "epochs", *METRICS, "eval_return_start", "config"]
TIMING_KEYS = ["steps_per_second", "wall_seconds", "peak_memory_bytes"]


@dataclass(frozen=True)
class Results:
    """Everything that a profile's runs left, and what is missing.

    Attributes:
        curves: a row for each run and epoch: KEY, then curve.csv's columns.
        evaluations: a row for each run and evaluation along the way: KEY, EVALUATION_COLUMNS; epoch 0 is the start.
        summaries: a row for each run: KEY, group, METRICS, env_steps, epochs, eval_std, eval_episodes, logs_*.
        timings: a row for each run with a timing.json: KEY, group and TIMING_KEYS.
        seconds: a row for each run and part of its time: KEY, part, seconds.
        failures: a row for each failed run: KEY, group, epoch, quantity, message, last_good_checkpoint.
        missing: a row for each run that has left neither a summary nor a failure: KEY, group.
        configs: the resolved configuration of one run of each (task, method).
        machines: the distinct machines and versions that runs were made with, as timing.json has them.
        overhead: the rows of every overhead.json: paired_for (its folder), task, method, repeat and what was measured.
    """

    profile: Mapping[str, Any]
    folder: Path
    curves: pd.DataFrame
    evaluations: pd.DataFrame
    summaries: pd.DataFrame
    timings: pd.DataFrame
    seconds: pd.DataFrame
    failures: pd.DataFrame
    missing: pd.DataFrame
    configs: dict[tuple[str, str], dict[str, Any]]
    machines: list[dict[str, Any]]
    overhead: pd.DataFrame

    @property
    def tasks(self) -> list[str]:
        """The profile's tasks that have runs, in the profile's order."""
        return _present(self.profile["tasks"], self.summaries.loc[self.summaries.group == "main", "task"])

    @property
    def methods(self) -> list[str]:
        """The profile's methods that have runs, in the profile's order."""
        return _present(self.profile["methods"], self.summaries.loc[self.summaries.group == "main", "method"])

    @cached_property
    def titles(self) -> dict[str, str]:
        """What tasks and methods are called in text: from the runs' configurations, without a run from conf/."""
        named: dict[str, str] = {}
        for config in self.configs.values():
            for part in (config["task"], config["method"]):
                named[part["name"]] = part.get("title", part["name"])
        asked = [(run.task, run.method) for run in runs(self.profile)]
        names = {"task": [task for task, _ in asked], "method": [BASELINE, SUBJECT, *(method for _, method in asked)]}
        for group, members in names.items():
            named |= {name: _conf_title(group, name) for name in members if name not in named}
        return named

    def method_config(self, method: str) -> dict[str, Any]:
        """A method's resolved configuration; empty where it has no run."""
        return next((config["method"] for (_, name), config in self.configs.items() if name == method), {})

    def group(self, name: str) -> list[str]:
        """The methods that have runs in one of the profile's groups, in its order."""
        asked = dict.fromkeys(run.method for run in runs(self.profile) if run.group == name)
        return _present(asked, self.summaries.loc[self.summaries.group == name, "method"])

    def asked(self, *methods: str) -> list[str]:
        """The tasks on which the profile asks for runs of each of ``methods``."""
        tasks: dict[str, set[str]] = defaultdict(set)
        for run in runs(self.profile):
            tasks[run.task].add(run.method)
        return [task for task, found in tasks.items() if found >= set(methods)]

    def by_quality(self) -> dict[str, dict[str, str]]:
        """Methods asked for on logs of several qualities: for each such method itself and its variants by quality.

        A method's variant names a log quality, and differs from it in nothing else but name and title.
        """
        asked = dict.fromkeys(run.method for run in runs(self.profile))
        configs = {name: config for name in asked if (config := self.method_config(name) or _conf_method(name))}
        plain = [name for name, config in configs.items() if not config.get("log_quality")]
        found: dict[str, dict[str, str]] = {}
        for variant in (name for name in configs if name not in plain):
            base = next((name for name in plain if _same(configs[name], configs[variant])), None)
            if base:
                own = found.setdefault(base, {self.profile["log_quality"]: base})
                own[configs[variant]["log_quality"]] = variant
        return {name: found[name] for name in plain if name in found}

    @property
    def baselines(self) -> list[str]:
        """The methods that start from nothing, so that the online budget is all that they cost."""
        return [m for m in self.methods if self.method_config(m).get("starts_from", "nothing") == "nothing"]

    def scores(self, metric: str, task: str, method: str) -> np.ndarray:
        """A metric's values by seed, shape (runs,), without the runs that have none."""
        own = self._cells.get((task, method))
        return np.empty(0) if own is None else own[metric].dropna().to_numpy(float)

    def share_draws(self, first: str, second: str) -> bool:
        """Whether two methods start from the same logs, so that their runs of one seed start from one draw of them."""
        first_config, second_config = map(self.method_config, (first, second))
        starts = [config.get("starts_from", "nothing") for config in (first_config, second_config)]
        return "nothing" not in starts and first_config.get("log_quality") == second_config.get("log_quality")

    def both_scores(self, metric: str, task: str, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
        """A metric's values of two methods by seed; where they share draws, of the seeds alone that both have."""
        if not self.share_draws(first, second):
            return self.scores(metric, task, first), self.scores(metric, task, second)
        cells = [self._cells.get((task, method)) for method in (first, second)]
        if any(own is None for own in cells):
            return np.empty(0), np.empty(0)
        columns = [own.set_index("seed")[metric].rename(str(i)) for i, own in enumerate(cells) if own is not None]
        together = pd.concat(columns, axis=1, join="inner").dropna().to_numpy(float)
        return together[:, 0], together[:, 1]

    @cached_property
    def _cells(self) -> dict[tuple[str, str], pd.DataFrame]:
        """The summaries of each task and method, by seed; tables ask for them hundreds of times."""
        cells = self.summaries.sort_values("seed").groupby(["task", "method"])
        return {(str(task), str(method)): own for (task, method), own in cells}

    def has_episodes(self, task: str) -> bool:
        """Whether any training episode ended on a task."""
        return bool(self.curves.loc[self.curves.task == task, "return_mean"].notna().any())

    def curve_array(self, task: str, method: str, column: str = "return_mean") -> np.ndarray:
        """A column of the filled curves, shape (epochs, runs), up to the shortest run in which an episode ended."""
        return _stacked(self.curves, task, method, column, "return_mean")

    def evaluation_array(self, task: str, method: str, column: str = "eval_return") -> np.ndarray:
        """A column of the evaluations along the way, shape (evaluations, runs), up to the shortest run."""
        return _stacked(self.evaluations, task, method, column, "eval_return")

    @cached_property
    def references(self) -> dict[str, Reference]:
        """What counts as 0 and 1 on each task.

        Where no reference is committed: the lowest method's mean return of the first epoch and the highest method's
        mean final return, both of these results.
        """
        chosen = {task: reference for task, reference in reference_scores().items() if task in self.tasks}
        for task in set(self.tasks) - set(chosen):
            finals = {m: final for m in self.methods if len(final := self.scores("final_return", task, m))}
            if not finals:
                continue
            first = min(float(self.curve_array(task, m)[0].mean()) for m in finals)
            last = max(float(final.mean()) for final in finals.values())
            if last > first:
                chosen[task] = Reference(first, last, "these results")
        return chosen


def open_results() -> Results:
    """The results that a notebook is of: profile DAPBENCH_PROFILE (quick) under DAPBENCH_RESULTS (results/).

    The profile is a name, or a JSON file that holds a whole one.
    """
    root = os.environ.get("DAPBENCH_RESULTS", CONF.parent / "results")
    name = os.environ.get("DAPBENCH_PROFILE", "quick")
    profile = read_json(Path(name), ["name"]) if name.endswith(".json") else compose_profile(name)
    return load_results(Path(root), profile)


def load_results(results_dir: Path, profile: Mapping[str, Any]) -> Results:
    """Reads ``results_dir/<profile>``; runs that are not there are listed as missing.

    Args:
        results_dir: the root that holds a folder for each profile.
        profile: conf/profile/<name>.yaml, composed.

    Raises:
        UserError: a file is malformed; it is named.
    """
    folder = Path(results_dir) / profile["name"]
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    curves: list[pd.DataFrame] = []
    evaluations: list[pd.DataFrame] = []
    configs: dict[tuple[str, str], dict[str, Any]] = {}
    machines: list[dict[str, Any]] = []
    for cell in runs(profile):
        run = folder / "runs" / cell.task / cell.method / str(cell.seed)
        key: dict[str, Any] = {"task": cell.task, "method": cell.method, "seed": cell.seed, "group": cell.group}
        if not (run / "summary.json").exists():
            if (run / "failure.json").exists():
                rows["failures"].append({**read_json(run / "failure.json", [*KEY, "message"]), **key})
            else:
                rows["missing"].append(key)
        else:
            summary = read_json(run / "summary.json", SUMMARY_KEYS)
            _same_run(run / "summary.json", summary, cell)
            curve = read_curve(run / "curve.csv")
            config = configs.setdefault((cell.task, cell.method), summary["config"])
            if summary["config"]["method"] != config["method"]:
                raise malformed(run / "summary.json", "has other settings of its method than seeds before it")
            at_the_end = {} if cell.epochs == profile["epochs"] else dict.fromkeys(AT_THE_END, np.nan)
            rows["summaries"].append({**_flat(summary), **at_the_end, **key})
            curves.append(curve.assign(**{name: key[name] for name in KEY}))
            evaluations.append(_evaluations(curves[-1], summary["eval_return_start"]))
            if (run / "timing.json").exists():
                timing = read_json(run / "timing.json", TIMING_KEYS)
                rows["timings"].append({**{name: timing[name] for name in TIMING_KEYS}, **key})
                rows["seconds"] += [
                    {**key, "part": part, "seconds": s} for part, s in timing.get("seconds", {}).items()
                ]
                made_with = {name: timing.get(name, {}) for name in ("machine", "versions")}
                machines += [made_with] if made_with not in machines else []
    overhead = [
        {"device": "cpu", "paired_for": path.parent.name} | row
        for path in sorted(folder.glob("overhead/*/*/overhead.json"))
        for row in read_json(path, ["task", "runs"])["runs"]
    ]
    return Results(
        profile,
        folder,
        pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=[*KEY, *CURVE_COLUMNS]),
        pd.concat(evaluations, ignore_index=True) if evaluations else pd.DataFrame(columns=[*KEY, *EVALUATION_COLUMNS]),
        _frame(rows["summaries"], [*KEY, "group", *METRICS, "env_steps", "epochs", "logs_quality", "logs_draw"]),
        _frame(rows["timings"], [*KEY, "group", *TIMING_KEYS]),
        _frame(rows["seconds"], [*KEY, "group", "part", "seconds"]),
        _frame(rows["failures"], [*KEY, "group", "epoch", "quantity", "message", "last_good_checkpoint"]),
        _frame(rows["missing"], [*KEY, "group"]),
        configs,
        machines,
        pd.DataFrame(overhead),
    )


def _stacked(frame: pd.DataFrame, task: str, method: str, column: str, needed: str) -> np.ndarray:
    """A column of a method's curves on a task, filled, shape (rows, runs), up to the shortest run.

    A run whose column ``needed`` is empty has nothing to show, and would leave nothing of the others' mean.
    """
    chosen = frame[(frame.task == task) & (frame.method == method)]
    shown = chosen[chosen.groupby("seed")[needed].transform(lambda values: values.notna().any()).astype(bool)]
    runs = [filled(run.sort_values("epoch")[column].to_numpy(float)) for _, run in shown.groupby("seed")]
    rows = min((len(run) for run in runs), default=0)
    return np.stack([run[:rows] for run in runs], axis=-1) if runs else np.empty((0, 0))


def _conf_title(group: str, name: str) -> str:
    path = CONF / group / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")).get("title", name) if path.exists() else name


@cache
def _conf_method(name: str) -> dict[str, Any]:
    """A method's configuration in conf/, for one that has no run; empty where there is no such file."""
    return compose(None, f"+method={name}")["method"] if name in choices("method") else {}


def _same(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two methods are one but for the logs that they start from."""
    ours, theirs = ({k: v for k, v in c.items() if k not in ("name", "title", "log_quality")} for c in (config, other))
    return ours == theirs


def _present(wanted: Iterable[str], found: pd.Series) -> list[str]:
    there = set(found)
    return [name for name in wanted if name in there]


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[*columns, *(name for name in frame if name not in columns)])


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without its configuration, its logs' fields as columns, its empty cells as NaN."""
    row = {name: value for name, value in summary.items() if not isinstance(value, dict | list)}
    logs = (summary.get("logs") or {}).items()
    row |= {f"logs_{name}": value for name, value in logs if not isinstance(value, dict | list)}
    return row | {name: np.nan if row[name] is None else float(row[name]) for name in METRICS}


def read_json(path: Path, keys: list[str]) -> dict[str, Any]:
    """The object in a JSON file of a cell.

    Raises:
        UserError: it is unreadable or lacks one of ``keys``.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise withheld(path, error) or malformed(path, f"is not readable JSON ({error})") from error
    lacking = [key for key in keys if not isinstance(value, dict) or key not in value]
    if lacking:
        raise malformed(path, f"lacks {', '.join(lacking)}")
    return value


def read_curve(path: Path) -> pd.DataFrame:
    try:
        curve = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        text = f"is not a readable table ({error})".replace("\n", " ")
        raise withheld(path, error) or malformed(path, text) from error
    lacking = [name for name in CURVE_COLUMNS if name not in curve]
    if lacking:
        raise malformed(path, f"lacks the columns {', '.join(lacking)}")
    words = [str(name) for name in curve if len(curve) and not pd.api.types.is_numeric_dtype(curve[name])]
    if words:
        raise malformed(path, f"holds something that is not a number in {', '.join(words)}")
    return curve


def _evaluations(curve: pd.DataFrame, start_return: float | None) -> pd.DataFrame:
    """The rows of a run's curve at which it was evaluated, after one for its start as epoch 0."""
    columns = [*KEY, *EVALUATION_COLUMNS]
    start = (
        curve[columns]
        .head(1)
        .assign(epoch=0, env_steps=0, eval_return=np.nan if start_return is None else start_return)
    )
    return pd.concat([start, curve[columns]], ignore_index=True).dropna(subset="eval_return")


def _same_run(path: Path, summary: dict[str, Any], cell: Run) -> None:
    found = [summary[name] for name in KEY]
    if found != [cell.task, cell.method, cell.seed]:
        raise malformed(path, f"is of another run ({' '.join(map(str, found))})")
    wrong = [name for name in (*METRICS, "eval_return_start") if not isinstance(summary[name], int | float | None)]
    if wrong:
        raise malformed(path, f"holds something that is not a number in {', '.join(wrong)}")


def malformed(path: Path, what: str) -> UserError:
    """The error for a file that a cell left in a bad state; ``what`` is wrong with it."""
    return UserError(f"{path} {what}; restore it (git checkout), or run this cell again (dapbench repro)")
