"""Runs the trials of trials.yaml that results.csv lacks: python docs/tuning/tune.py METHOD[/TRIAL] ... [--help]

A trial is `dapbench train` with the settings of trials.yaml, on each tuning task and seed, with the schedules of
the whole protocol; nothing is evaluated along the way. Logs and priors come from the results of the profile that
--profile names. A row is added as soon as its run has ended, and a run that was stopped is made again. A run of more
epochs has been through the fewer ones, so that its row stands for theirs too.
"""

import argparse
import csv
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import yaml

from dapbench.files import write_text
from dapbench.pipeline.local import Local

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
MEASURED = ["alc40", "final_return", "eval_return"]
IDENTITY = ["method", "trial", "task", "seed", "epochs"]
lock = Lock()


def read_results() -> list[dict[str, str]]:
    """The rows so far."""
    return list(csv.DictReader(RESULTS.open(encoding="utf-8"))) if RESULTS.exists() else []


def add(row: dict[str, str]) -> None:
    """Adds a row to results.csv, which stays sorted and whole."""
    with lock:
        rows = sorted([*read_results(), row], key=lambda r: [r[name] for name in IDENTITY])
        lines = [",".join([*IDENTITY, *MEASURED]), *(",".join(r[n] for n in [*IDENTITY, *MEASURED]) for r in rows)]
        write_text(RESULTS, "\n".join(lines) + "\n")


def main() -> int:
    """Runs what is missing; the exit status says whether every run ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="+", metavar="METHOD[/TRIAL]", help="all its trials unless one is named")
    parser.add_argument("--epochs", type=int, default=40, help="of 200; 40 are the 200k steps of ALC@40")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--profile", default="paper", help="whose logs and priors the runs start from")
    options = parser.parse_args()
    plan = yaml.safe_load((HERE / "trials.yaml").read_text(encoding="utf-8"))
    done: dict[tuple[str, ...], int] = {}
    for row in read_results():
        *which, epochs = (row[name] for name in IDENTITY)
        done[tuple(which)] = max(int(epochs), done.get(tuple(which), 0))
    engine, failed = Local(), []

    def run(method: str, trial: str, task: str, seed: int) -> None:
        identity = [method, trial, task, str(seed), str(options.epochs)]
        if done.get(tuple(identity[:-1]), 0) >= options.epochs:
            return
        with tempfile.TemporaryDirectory() as folder:
            out, log = Path(folder, "run"), Path(folder, "log.txt")
            settings = [f"task={task}", f"method={method}", f"seed={seed}", f"profile={options.profile}"]
            settings += [
                f"profile.epochs={options.epochs}",
                "profile.eval_episodes=20",
                "profile.eval_curve_episodes=0",
            ]
            settings += ["checkpoint_epochs=0", "tracking=false", f"out={out}", *plan["methods"][method][trial]]
            if engine.run(["dapbench", "train", *settings], log) != 0:
                failed.append(identity)
                print(*identity, "failed:", log.read_text(encoding="utf-8").strip()[-400:], file=sys.stderr)
                return
            summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        measured = {name: f"{summary[name]:.6g}" for name in MEASURED}
        add(dict(zip(IDENTITY, identity, strict=True)) | measured)
        print(*identity, *measured.values(), flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        for seed in plan["seeds"]:
            for wanted in options.wanted:
                method, _, trial = wanted.partition("/")
                for name in [trial] if trial else [name for name in plan["methods"][method] if name != "base"]:
                    for task in plan["tasks"]:
                        pool.submit(run, method, name, task, seed)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
