"""Run directories as MLflow will show them: names, parameters, curves, tags and colours."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from colorsys import hls_to_rgb
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dapbench.errors import UserError

CURVE = ("return_mean", "return_std", "eval_return")  # columns that are shown first
OF_A_FAILURE = ("epoch", "quantity", "message")
# The names of all tags that a record can have, MLflow's own aside.
OWN_TAGS = ("task", "method", "seed", "draw", "title", "profile", "logs", "directory", "fingerprint", *OF_A_FAILURE)


@dataclass(frozen=True)
class Record:
    """What MLflow shows of one run directory.

    Attributes:
        directory: the path of the run; a record of the same path is replaced.
        fingerprint: a hash of the content; a record with the same one is left as it is.
        status: FINISHED or FAILED.
        start, end: in ms since 1970.
        metrics: name, value, time in ms, environment steps.
        artifacts: files and folders.
    """

    directory: str
    fingerprint: str
    experiment: str
    name: str
    status: str
    start: int
    end: int
    params: dict[str, str]
    metrics: list[tuple[str, float, int, int]]
    tags: dict[str, str]
    artifacts: list[Path]


def read_run(run_dir: Path) -> Record:
    """Reads a run directory.

    Raises:
        UserError: it is incomplete or malformed.
    """
    failed = not (run_dir / "summary.json").exists()
    ending = run_dir / ("failure.json" if failed else "summary.json")
    try:
        result = json.loads(ending.read_text(encoding="utf-8"))
        curve, times = run_dir / "curve.csv", run_dir / "timing.json"
        rows = list(csv.DictReader(curve.read_text(encoding="utf-8").splitlines())) if curve.exists() else []
        timing = json.loads(times.read_text(encoding="utf-8")) if times.exists() else {}
        end = int(ending.stat().st_mtime * 1000)
        start = max(0, end - int(1000 * timing.get("wall_seconds", 0.0)))  # a clock may be wrong; MLflow takes no less
        metrics = []
        for row in rows:
            # Epochs take about equally long; MLflow's time axis needs no more.
            when, steps = start + (end - start) * int(row.pop("epoch")) // len(rows), int(row.pop("env_steps"))
            # The UI shows sections by their names' prefix, in alphabetical order: the learning curve comes first.
            named = {f"{'curve' if name in CURVE else 'training'}/{name}": cell for name, cell in row.items()}
            metrics += [(name, float(cell), when, steps) for name, cell in named.items() if cell != ""]
        numbers = {f"summary/{name}": value for name, value in result.items() if name != "seed"}
        numbers |= {f"timing/{name}": value for name, value in timing.items()}
        numbers |= {f"timing/{phase}_seconds": value for phase, value in timing.get("seconds", {}).items()}
        # Numbers at step 0 are shown as bars.
        metrics += [(name, float(value), end, 0) for name, value in numbers.items() if isinstance(value, int | float)]

        logs = result.get("logs") or {}
        tags = {name: result[name] for name in ("task", "method", "seed")}
        # To group by: MLflow picks a group's colour by its name, and gives `ppo` and `ppo_dap` the same one.
        title = result.get("config", {}).get("method", {}).get("title", result["method"])
        tags |= {"title": title, "profile": result.get("profile", "unknown"), "logs": logs.get("quality") or "none"}
        tags |= {"draw": logs["draw"]} if logs.get("draw") is not None else {}
        tags |= {name: result[name] for name in OF_A_FAILURE if failed and name in result}
        return Record(
            directory=_name(run_dir),
            # Of the times only one: the run adds how long recording it took when it has been recorded.
            fingerprint=_digest(
                [
                    ending.read_text(encoding="utf-8"),
                    curve.read_text(encoding="utf-8") if rows else "",
                    str(timing.get("steps_per_second")),
                ]
            ),
            experiment=f"dapbench/{tags['profile']}/{tags['task']}",
            name=f"{tags['method']}-{tags['seed']}",
            status="FAILED" if failed else "FINISHED",
            start=start,
            end=end,
            params=dict(_flat(result.get("config", {}))),
            metrics=metrics,
            tags={name: str(value) for name, value in tags.items()} | {"mlflow.runColor": _colour(tags["method"])},
            artifacts=[file for file in (ending, curve, times) if file.exists()],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run_dir} is not a sound run directory ({type(error).__name__}: {line(error)})") from error


def read_report(report_dir: Path, profile: str) -> Record:
    """Reads a report, which is kept whole as one artifact.

    Raises:
        UserError: there is none.
    """
    files = sorted(file for file in report_dir.rglob("*") if file.is_file())
    if not files:
        raise UserError(f"no report in {report_dir}")
    written = int(max(file.stat().st_mtime for file in files) * 1000)
    return Record(
        directory=_name(report_dir),
        fingerprint=_digest(hashlib.sha256(file.read_bytes()).hexdigest() for file in files),
        experiment=f"dapbench/{profile}/report",
        name="report",
        status="FINISHED",
        start=written,
        end=written,
        params={},
        metrics=[],
        tags={"profile": profile},
        artifacts=[report_dir],
    )


def line(error: Exception) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _name(folder: Path) -> str:
    """A folder's path from here, the same for ``runs/a`` and ``./runs/a``."""
    folder = folder.resolve()
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _colour(method: str) -> str:
    """One colour for all seeds of a method, from its name."""
    hue, lightness = (int(hashlib.md5(method.encode()).hexdigest()[i : i + 4], 16) / 0x10000 for i in (0, 4))
    return "#" + "".join(f"{round(255 * part):02x}" for part in hls_to_rgb(hue, 0.35 + 0.25 * lightness, 0.75))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested configuration as MLflow's parameters: ``method.clip`` and so on."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
