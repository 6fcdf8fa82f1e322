"""Files of training runs, dapbench's and other programs', as `Run`s.

Stable-Baselines3 (and its zoo) leaves monitor.csv and evaluations.npz; CleanRL and Tianshou write TensorBoard's event
files; any other program's CSV is read by the name of a column.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dapbench.errors import UserError
from dapbench.exchange.curves import EVALUATION_COLUMNS, FINAL_EPISODES, TRAINING_COLUMNS, Run
from dapbench.files import withheld
from dapbench.report.results import SUMMARY_KEYS, read_curve, read_json

KINDS = (
    "dapbench's run directories, Stable-Baselines3's monitor.csv and evaluations.npz, TensorBoard's event files, and "
    "CSV with --column"
)
STEPS = ("env_steps", "global_step", "timesteps", "total_timesteps", "time/total_timesteps", "step", "steps")


@dataclass(frozen=True)
class Tags:
    """What a program calls its returns in TensorBoard: of training, their number of episodes, and of evaluation."""

    program: str
    training: str
    episodes: str | None = None
    evaluation: str | None = None


TAGS = (
    Tags("CleanRL", "charts/episodic_return"),
    Tags("Tianshou", "training/returns_stat/mean", "training/n_collected_episodes", "test/returns_stat/mean"),  # 2
    Tags("Tianshou", "train/returns_stat/mean", "train/n_collected_episodes", "test/returns_stat/mean"),  # 1
    Tags("Tianshou", "train/reward", "train/episode", "test/reward"),  # 0.5
)


@dataclass(frozen=True)
class Choices:
    """What a user says of files that do not speak for themselves: the columns of a CSV, and TensorBoard's tag."""

    column: str | None = None
    steps: str | None = None
    tag: str | None = None


def read_runs(place: Path, choices: Choices) -> list[Run]:
    """Every run in a file, or in a folder and those below it.

    A folder with files of a run is one run, and nothing below it is read. Where no folder has any, each CSV is a run.

    Raises:
        UserError: nothing there can be read, or a file is malformed.
    """
    if place.is_file():
        return [_file(place, choices)]
    if not place.is_dir():
        raise UserError(f"there is no file or folder {place}; name one, or NAME=DIR (options begin with --)")
    runs = list(_folders(place, choices))
    tables = [] if runs else sorted(place.rglob("*.csv"))
    if tables and choices.column is None:
        raise UserError(
            f"{place} holds CSV files ({tables[0].relative_to(place)}); say --column NAME, one of {_names(tables[0])}"
        )
    runs += [read_csv(table, choices) for table in tables]
    if not runs:
        empty = next(place.iterdir(), None) is None
        raise UserError(f"{place} {'is empty' if empty else 'holds no run that is known'}; what is known: {KINDS}")
    return runs


def failed_runs(place: Path, task: str | None) -> int:
    """How many of dapbench's runs in a folder and those below it diverged; on one task alone if it is given."""
    files = [file for file in place.rglob("failure.json") if not file.with_name("summary.json").exists()]
    return sum(task is None or read_json(file, ["task"])["task"] == task for file in files)


def is_evaluation(name: str) -> bool:
    """Whether a file, column or tag is of an evaluation, by a word in its name that begins with eval or test."""
    return re.search(r"(?<![a-z])(eval|test)", name.lower()) is not None


def _is_training_monitor(name: str) -> bool:
    return name.endswith("monitor.csv") and not is_evaluation(name)


def _folders(place: Path, choices: Choices) -> Iterator[Run]:
    for name, below, files in os.walk(place):
        folder = Path(name)
        run = None
        if {"summary.json", "curve.csv"} <= set(files):
            run = read_ours(folder)
        elif any(_is_training_monitor(file) or file == "evaluations.npz" for file in files):
            run = read_sb3(folder)
        elif any("tfevents" in file for file in files):
            run = read_tensorboard(folder, choices.tag)
        if run is not None:
            yield run
        below[:] = [] if run is not None else sorted(each for each in below if not each.startswith("."))


def _file(path: Path, choices: Choices) -> Run:
    if "tfevents" in path.name:
        return read_tensorboard(path, choices.tag)
    if path.name.endswith("monitor.csv"):
        training, env_id = _monitors([path])
        return Run(path, "Stable-Baselines3", training, _none(EVALUATION_COLUMNS), env_id)
    if path.suffix == ".npz":
        return Run(path, "Stable-Baselines3", _none(TRAINING_COLUMNS), _evaluations(path))
    if path.suffix == ".csv":
        return read_csv(path, choices)
    raise UserError(f"{path} is of no kind that is known; what is known: {KINDS}")


# ---------------------------------------------------------------------------------------------------------- dapbench


def read_ours(folder: Path) -> Run:
    """A run directory of dapbench: its curve's epochs as records of their episodes."""
    summary = read_json(folder / "summary.json", [*SUMMARY_KEYS, "final_episodes"])
    curve = read_curve(folder / "curve.csv")
    training = curve.rename(columns={"return_mean": "return"})[TRAINING_COLUMNS]
    evaluation = curve.rename(columns={"eval_return": "return"})[EVALUATION_COLUMNS]
    start = pd.DataFrame({"env_steps": [0], "return": [summary["eval_return_start"]]}, dtype=float)
    config, logs = summary["config"], summary.get("logs")
    return Run(
        folder,
        "dapbench",
        training,
        pd.concat([start, evaluation], ignore_index=True).dropna(),
        config["task"]["env_id"],
        config["method"].get("title", summary["method"]),
        logs and logs.get("env_steps"),
        summary["final_return"] if summary["final_episodes"] >= FINAL_EPISODES else None,
    )


# ------------------------------------------------------------------------------------------------- Stable-Baselines3


def read_sb3(folder: Path) -> Run:
    """A folder of Stable-Baselines3 or its zoo: *monitor.csv, one for each environment, and evaluations.npz."""
    monitors = [path for path in sorted(folder.glob("*monitor.csv")) if _is_training_monitor(path.name)]
    training, env_id = _monitors(monitors) if monitors else (_none(TRAINING_COLUMNS), None)
    evaluations = folder / "evaluations.npz"
    evaluation = _evaluations(evaluations) if evaluations.exists() else _none(EVALUATION_COLUMNS)
    return Run(folder, "Stable-Baselines3", training, evaluation, env_id)


def _monitors(paths: Sequence[Path]) -> tuple[pd.DataFrame, str | None]:
    """The training episodes of a run's monitor.csv files, and its task.

    Stable-Baselines3's environments take their steps together, so that an episode that ends after s steps of its own
    environment ends after s times as many as there are files.
    """
    frames, spans, env_id = [], [], None
    for path in paths:
        header, table = _monitor(path)
        env_id = env_id or header.get("env_id")
        if (np.diff(table.t) < 0).any():
            raise UserError(f"{path} goes back in time: several runs were written into it; give each a file of its own")
        if len(table):
            spans.append((header["t_start"], header["t_start"] + table.t.max(), path))
        frames.append(pd.DataFrame({"env_steps": table.l.cumsum() * len(paths), "return": table.r, "episodes": 1}))
    for (_, end, first), (start, _, second) in zip(sorted(spans), sorted(spans)[1:], strict=False):
        if start > end:
            raise UserError(
                f"{second} begins after {first.name} has ended, so they are several runs; give each a folder of its own"
            )
    training = pd.concat(frames).sort_values("env_steps", kind="stable", ignore_index=True)
    if training.empty:
        raise UserError(f"{paths[0]} holds no episode that ended; leave this run out")
    return _sound(training, paths[0]), None if env_id in (None, "None") else str(env_id)


def _monitor(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline().removeprefix("#"))
            table = pd.read_csv(file)[["r", "l", "t"]].apply(pd.to_numeric)
        float(header["t_start"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"is not a monitor.csv of Stable-Baselines3 ({_line(error)})"
        raise withheld(path, error) or UserError(f"{path} {reason}; leave it out or name another file") from error
    return header, table


def _evaluations(path: Path) -> pd.DataFrame:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frame = pd.DataFrame({"env_steps": arrays["timesteps"], "return": arrays["results"].mean(axis=1)})
    except (OSError, ValueError, KeyError) as error:
        reason = f"is not an evaluations.npz of Stable-Baselines3 ({_line(error)})"
        raise withheld(path, error) or UserError(f"{path} {reason}; leave it out or name another file") from error
    return _sound(frame, path)


# ------------------------------------------------------------------------------------------------------- TensorBoard


def read_tensorboard(place: Path, tag: str | None) -> Run:
    """An event file, or a folder's event files as one run.

    Args:
        tag: the scalar to read, each record as that of one episode; None for what CleanRL and Tianshou write.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator
    except ImportError as error:
        raise UserError(f"{place} needs TensorBoard to be read; say pip install 'dapbench[tensorboard]'") from error
    # All records, where it would draw a sample; what a resumed run's purge_step takes back it leaves out by itself.
    events = EventAccumulator(str(place), size_guidance={SCALARS: 0, TENSORS: 0}).Reload()
    there = events.Tags()["scalars"]

    def scalar(name: str) -> pd.DataFrame:
        return pd.DataFrame([(event.step, event.value) for event in events.Scalars(name)], columns=EVALUATION_COLUMNS)

    if tag is not None:
        if tag not in there:
            raise UserError(f"{place} has no tag '{tag}'; there are {', '.join(there) or 'none'}")
        return _named(place, f"TensorBoard ({tag})", tag, scalar(tag), _cleanrl_task(events))
    known = next((t for t in TAGS if t.training in there and (t.episodes is None or t.episodes in there)), None)
    if known is None:
        found = ", ".join(there) or "which there are none"
        raise UserError(f"{place} has no returns of CleanRL or Tianshou; say --tag NAME, of {found}")
    training = scalar(known.training).assign(episodes=1)
    if known.episodes is not None:
        counts = scalar(known.episodes).set_index("env_steps")["return"]
        training["episodes"] = counts.reindex(training.env_steps).to_numpy()
    evaluated = known.evaluation is not None and known.evaluation in there
    evaluation = _sound(scalar(str(known.evaluation)), place) if evaluated else _none(EVALUATION_COLUMNS)
    return Run(place, known.program, _sound(training, place), evaluation, _cleanrl_task(events))


def _cleanrl_task(events: Any) -> str | None:
    """The task in the table of hyper-parameters that CleanRL writes as text."""
    name = "hyperparameters/text_summary"
    if name not in events.Tags()["tensors"]:
        return None
    text = events.Tensors(name)[0].tensor_proto.string_val[0].decode()
    found = re.search(r"^\|env_id\|(.+)\|$", text, re.MULTILINE)
    return found[1] if found else None


# --------------------------------------------------------------------------------------------------------------- CSV


def read_csv(path: Path, choices: Choices) -> Run:
    """A CSV whose column ``choices.column`` holds returns; rows in which the cell is empty are left out."""
    columns = _names(path)
    if choices.column is None:
        raise UserError(f"{path} is a CSV of no known program; say --column NAME, one of {columns}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)  # an empty cell is no value, and nan is a bad one
    except (OSError, ValueError) as error:
        raise withheld(path, error) or UserError(f"{path} is not a readable table ({_line(error)}); mend it") from error
    steps = choices.steps or next((name for name in table if str(name).lower() in STEPS), None)
    if steps is None:
        raise UserError(f"{path} has no column of steps that is known; say --steps NAME, one of {columns}")
    for column in (choices.column, steps):
        if column not in table:
            raise UserError(f"{path} has no column '{column}'; there are {columns}")
    frame = table.loc[table[choices.column] != "", [steps, choices.column]].apply(pd.to_numeric, errors="coerce")
    if frame.empty:
        raise UserError(f"{path} has nothing in its column '{choices.column}'; there are {columns}")
    frame.columns = EVALUATION_COLUMNS
    return _named(path, f"CSV ({choices.column})", choices.column, frame, None)


def _names(path: Path) -> str:
    try:
        return ", ".join(map(str, pd.read_csv(path, nrows=0)))
    except (OSError, ValueError) as error:
        raise withheld(path, error) or UserError(f"{path} is not a readable table ({_line(error)}); mend it") from error


# --------------------------------------------------------------------------------------------------- what all share


def _named(place: Path, program: str, name: str, records: pd.DataFrame, env_id: str | None) -> Run:
    """The run of a column or tag that a user named: an evaluation by its name, or else training episodes."""
    records = _sound(records, place)
    if is_evaluation(name):
        return Run(place, program, _none(TRAINING_COLUMNS), records, env_id)
    return Run(place, program, records.assign(episodes=1), _none(EVALUATION_COLUMNS), env_id)


def _sound(records: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The records as they are, if all are finite and their steps never go back."""
    bad = records[~np.isfinite(records.astype(float)).all(axis=1)]
    if len(bad):
        row = bad.iloc[0]
        raise UserError(
            f"{path} holds a return of {row['return']:g} at step {row.env_steps:g}; leave this run out or mend the file"
        )
    back = np.flatnonzero(np.diff(records.env_steps) < 0)
    if len(back):
        before, after = records.env_steps.iloc[[back[0], back[0] + 1]]
        raise UserError(
            f"the steps of {path} go back from {before:g} to {after:g}: several runs were written into one; "
            "give each a folder of its own"
        )
    return records.reset_index(drop=True)


def _none(columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=columns, dtype=float)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
