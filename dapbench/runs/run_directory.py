"""A run directory: what a run leaves behind. Results depend on configuration and seed alone; times lie apart."""

import csv
import io
import math
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dapbench.curves import alc, alc_eval
from dapbench.files import write_json, write_text

FINAL_EPISODES = 100
RESULTS = ("curve.csv", "summary.json", "timing.json", "model.ckpt")  # what a finished run leaves
PROFILE_KEYS = ("name", "epochs", "epoch_steps", "schedule_epochs", "eval_episodes", "eval_curve_episodes")
LOGS_KEYS = ("quality", "draw", "behaviour_seed", "transitions", "env_steps", "return_mean", "source")
# Keys of a configuration that say where and how, not what.
WHERE = ("out", "params", "draw", "logs_dir", "prior_dir", "tracking", "checkpoint_epochs")
PACKAGES = ("dapbench", "torch", "lightning", "gymnasium", "mujoco", "numpy", "peft", "minari", "hydra-core")


def curve_row(
    epoch: int,
    env_steps: int,
    episodes: Sequence[tuple[float, int]],
    eval_return: float | None,
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """One epoch of the curve.

    Args:
        epoch: from 1.
        env_steps: so far.
        episodes: return and length of each training episode that ended in the epoch; without any, the cells are empty.
        eval_return: mean return of the evaluation after the epoch; the cell is empty where there was none.
        metrics: the epoch's mean of each further column.
    """
    returns = np.array([episode_return for episode_return, _ in episodes])
    lengths = np.array([length for _, length in episodes])
    row: dict[str, Any] = {"epoch": epoch, "env_steps": env_steps}
    row["return_mean"] = float(returns.mean()) if len(returns) else ""
    row["return_std"] = float(returns.std()) if len(returns) else ""
    row["episodes"] = len(returns)
    row["length_mean"] = float(lengths.mean()) if len(lengths) else ""
    row["eval_return"] = "" if eval_return is None else eval_return
    return row | dict(metrics)


def write_curve(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes curve.csv, floats in their shortest exact form."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def summarize(
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    episode_returns: Sequence[float],
    start_return: float | None,
    evaluation: Sequence[float],
    logs: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        config: the run's resolved configuration.
        rows: the curve.
        episode_returns: of every training episode, in the order in which they ended.
        start_return: mean return of the evaluation before the first iteration, if there was one.
        evaluation: returns of the deterministic evaluation at the end.
        logs: description of the logs that the method started from, or None.
    """
    area = alc(np.array([math.nan if row["return_mean"] == "" else row["return_mean"] for row in rows]))
    points = {0: start_return} | {row["epoch"]: row["eval_return"] for row in rows}
    evaluated = alc_eval({epoch: value for epoch, value in points.items() if value not in ("", None)})
    last = episode_returns[-FINAL_EPISODES:]
    return {
        "task": config["task"]["name"],
        "method": config["method"]["name"],
        "profile": config["profile"]["name"],
        "seed": config["seed"],
        "env_steps": rows[-1]["env_steps"],
        "epochs": len(rows),
        "alc40": None if math.isnan(area) else area,
        "alc40_eval": None if math.isnan(evaluated) else evaluated,
        "eval_return_start": start_return,
        "final_return": float(np.mean(last)) if len(last) else None,
        "final_episodes": len(last),
        "eval_return": float(np.mean(evaluation)) if np.isfinite(evaluation).all() else None,
        "eval_std": float(np.std(evaluation)) if np.isfinite(evaluation).all() else None,
        "eval_episodes": len(evaluation),
        "logs": logs and {key: logs.get(key) for key in LOGS_KEYS},
        "config": stated(config),
    }


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of a run, without where it lies and what other runs there are."""
    settings = {name: value for name, value in config.items() if name not in WHERE}
    return settings | {"profile": {key: config["profile"][key] for key in PROFILE_KEYS}}


def write_timing(
    path: Path, seconds: Mapping[str, float], wall: float, steps_per_second: float, fingerprint: str
) -> None:
    """Writes timing.json: speed, memory, where the time went, versions, machine, and the run's ``fingerprint``."""
    on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
    kib_or_bytes = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kib_or_bytes
    record = {
        "steps_per_second": steps_per_second,
        "wall_seconds": wall,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "fingerprint": fingerprint,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else resident,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "machine": {
            "platform": platform.platform(),
            "processor": processor(),
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        },
    }
    write_json(path, record)


def processor() -> str:
    """The processor's name as the operating system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
