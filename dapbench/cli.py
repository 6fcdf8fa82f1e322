"""The `dapbench` command: each sub-command imports only what it needs."""

import importlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dapbench.config import CONF, choices, run_command
from dapbench.errors import UserError
from dapbench.files import withheld
from dapbench.surroundings import settle

# Sub-command: what it does, and its function (module:name). Where conf/ has a file of the command's name, Hydra
# composes the function's configuration from it; the others read their arguments themselves.
COMMANDS = {
    "behaviour": ("train the policies behind logs", "dapbench.behaviour:behaviour"),
    "collect": ("log a behaviour policy's actions as a Minari dataset", "dapbench.datasets.collecting:collect"),
    "pretrain": ("fit an action prior on logged actions", "dapbench.prior.pretraining:pretrain"),
    "train": ("train one method on one task", "dapbench.tracking.recording:train"),
    "evaluate": ("evaluate a trained policy deterministically", "dapbench.runs.evaluation:evaluate_run"),
    "render": ("film a trained policy", "dapbench.showcase.film:render"),
    "showcase": ("small files that show a trained policy and its prior", "dapbench.showcase.showcase:showcase"),
    "overhead": ("time and memory of methods relative to PPO", "dapbench.timing.overhead:overhead"),
    "throughput": (
        "steps per second beside the bare environments, SB3 and SBX",
        "dapbench.timing.throughput:throughput",
    ),
    "reference": ("measure what counts as 0 and as 1 on a task", "dapbench.datasets.reference:reference"),
    "report": ("build tables, figures and the report page from results", "dapbench.report.command:report"),
    "compare": ("other programs' learning curves beside ours", "dapbench.exchange.compare:compare"),
    "export": ("the runs' curves as parquet and csv, with a data card", "dapbench.exchange.export:export"),
    "repro": ("run whatever is stale of the whole pipeline, in parallel", "dapbench.pipeline.commands:repro"),
    "accept": (
        "keep results under changed code, once some cells run anew have given the same",
        "dapbench.pipeline.accepting:accept",
    ),
    "track": ("record finished run directories in MLflow", "dapbench.tracking.recording:track_command"),
}


def usage() -> str:
    """The help of `dapbench` itself, with the tasks and methods there are."""
    lines = ["usage: dapbench COMMAND [key=value ...]", "", "commands:"]
    lines += [f"  {name:<10} {text}" for name, (text, _) in COMMANDS.items()]
    lines += ["", *(f"{group}s: {' '.join(choices(group))}" for group in ("task", "method", "profile"))]
    lines += ["", "dapbench COMMAND --help explains a command; for example:"]
    return "\n".join([*lines, "  dapbench train task=hopper method=ppo seed=0 profile=quick out=runs/first"])


def run(name: str, argv: list[str]) -> int:
    """Runs a sub-command; what it needs is imported only once its arguments stand, so that --help is quick."""
    module, function = COMMANDS[name][1].split(":")

    def command(argument: Any) -> Any:
        try:
            return getattr(importlib.import_module(module), function)(argument)
        except OSError as error:  # a file system that does not answer, wherever it was asked
            kept = withheld(Path(error.filename), error) if isinstance(error.filename, str) else None
            if kept is None:
                raise
            raise kept from error

    if not (CONF / f"{name}.yaml").is_file():
        return command(argv)
    return run_command(name, command, listed("json=true" if argument == "--json" else argument for argument in argv))


def listed(argv: Iterable[str]) -> list[str]:
    """``key=a,b`` as Hydra's list ``key=[a,b]``, unless it is a sweep's, or a choice of which there is one."""
    argv = list(argv)
    if {"-m", "--multirun"} & set(argv):
        return argv
    parts = [re.fullmatch(r"([\w.]+)=([\w.]+(?:,[\w.]+)+)", argument) for argument in argv]
    return [
        f"{part[1]}=[{part[2]}]" if part and not (CONF / part[1]).is_dir() else argument
        for part, argument in zip(parts, argv, strict=True)
    ]


def main() -> None:
    """Runs a sub-command; bad input ends in one line on stderr and exit status 2."""
    settle()
    name, *argv = sys.argv[1:] or ["--help"]
    if name == "-C" and len(argv) > 1:  # as of git: how the pipeline runs a command in another folder
        folder, name, *argv = argv
        os.chdir(folder)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a user's own modules are found and hide nobody else's
    if name in ("-h", "--help"):
        print(usage())
        return
    try:
        if name not in COMMANDS:
            raise UserError(f"unknown command '{name}'; choose one of {', '.join(COMMANDS)}")
        status = run(name, argv)
    except UserError as error:
        print(f"dapbench: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("dapbench: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
