"""`dapbench overhead`: time and memory of methods relative to PPO, paired and interleaved on one core."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from tqdm import tqdm

from dapbench.config import choices
from dapbench.errors import UserError
from dapbench.files import require_writable_file, write_json, write_text
from dapbench.settings import check_choice, check_number

BASELINE = "ppo"


def ratios(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each method's ``wall`` and ``memory`` relative to PPO's: medians of the ratios within each repeat."""
    measured = {(run["repeat"], run["method"]): run for run in runs}
    repeats = sorted({run["repeat"] for run in runs})
    result = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        result[method] = {
            name: median(measured[r, method][column] / measured[r, BASELINE][column] for r in repeats)
            for name, column in (("wall", "wall_seconds"), ("memory", "peak_memory_bytes"))
        }
    return result


@contextmanager
def one_core() -> Iterator[None]:
    """Pins this process, and so the runs that it starts, to one core where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_arguments(config: dict[str, Any], folder: Path) -> list[str]:
    """Arguments of ``dapbench train`` for runs of ``overhead_epochs`` with one episode of evaluation at their end.

    Schedules are squeezed into them, so that each of a method's phases has its share of the time as in a whole run.
    """
    # The task as it is composed here, under a name that conf/ does not have: it may be changed on the command line.
    write_text(folder / "conf/task/timed_by_overhead.yaml", yaml.safe_dump(config["task"]))
    arguments = ["task=timed_by_overhead", f"device={config['device']}", f"--config-dir={folder / 'conf'}"]
    epochs = config["profile"]["overhead_epochs"]
    profile, budget = config["profile"], {"epochs": epochs, "schedule_epochs": epochs}
    budget |= {"eval_episodes": 1, "eval_curve_episodes": 0}
    budget |= {key: profile[key] for key in ("epoch_steps", "compile")}
    if config["params"] is None:
        return [*arguments, f"profile={profile['name']}", *(f"profile.{key}={value}" for key, value in budget.items())]
    # A params file would bring the profile's own numbers back, so the runs get a copy of it with these.
    params = yaml.safe_load(Path(config["params"]).read_text(encoding="utf-8"))
    params["profile"] |= budget
    params["task"][config["task"]["name"]] = config["task"]
    write_text(folder / "params.yaml", yaml.safe_dump(params))
    return [*arguments, f"profile={profile['name']}", f"params={folder / 'params.yaml'}"]


def train_once(arguments: list[str], method: str, out: Path) -> dict[str, Any]:
    """Trains a method in a process of its own; returns its timing.json.

    Raises:
        UserError: the run failed; the last line that it said.
    """
    command = [
        sys.executable,
        "-m",
        "dapbench",
        "train",
        *arguments,
        f"method={method}",
        "tracking=false",
        f"out={out}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{method} could not be timed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads((out / "timing.json").read_text(encoding="utf-8"))


def overhead(config: dict[str, Any]) -> None:
    """Writes overhead.json: every run, and each method's ratios to PPO.

    Wall-clock is the time of training after the first iteration, in which a run compiles. Every method is run once
    without being counted, so that compiled code comes from the cache.

    Raises:
        UserError: an unknown method, or one that cannot run.
    """
    profile, methods = config["profile"], config["methods"]
    for key in ("overhead_epochs", "overhead_pairs", "epoch_steps"):
        check_number(f"profile.{key}", profile[key], 1, 10**9 if key == "epoch_steps" else 10**4, integer=True)
    check_choice("device", config["device"], ("cpu", "cuda"))
    if not isinstance(methods, list):
        raise UserError(f"methods={methods} is not a list; say 'methods=[ppo,ppo_dap]'")
    for method in methods:
        if method not in choices("method"):
            raise UserError(f"unknown method '{method}' in methods; choose one of {', '.join(choices('method'))}")
    require_writable_file(Path(config["out"]) / "overhead.json")
    methods = list(dict.fromkeys([BASELINE, *methods]))
    runs: list[dict[str, Any]] = []
    bar = tqdm(total=(profile["overhead_pairs"] + 1) * len(methods), desc=f"overhead {config['task']['name']}")
    with tempfile.TemporaryDirectory() as name, one_core(), bar:
        folder = Path(name)
        arguments = run_arguments(config, folder)
        for repeat in range(profile["overhead_pairs"] + 1):
            for method in methods:
                timing = train_once(arguments, method, folder / str(repeat) / method)
                bar.update()
                if repeat:
                    steps = profile["overhead_epochs"] * profile["epoch_steps"]
                    wall = steps / timing["steps_per_second"]
                    kept = {"wall_seconds": wall, **{k: timing[k] for k in ("peak_memory_bytes", "seconds")}}
                    where = {"task": config["task"]["name"], "device": timing["machine"]["device"]}
                    runs.append({**where, "method": method, "repeat": repeat, **kept})
    summary = {"task": config["task"]["name"], **ratios(runs)}
    write_json(Path(config["out"]) / "overhead.json", {**summary, "runs": runs})
    if config["json"]:
        print(json.dumps(summary))
    else:
        for method in methods:
            ratio = summary[method]
            print(f"{method:<16} wall-clock {ratio['wall']:.3f} × PPO, memory {ratio['memory']:.3f} × PPO")
