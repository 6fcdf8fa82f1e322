"""`dapbench repro`: the whole pipeline."""

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dapbench.arguments import Parser
from dapbench.errors import UserError
from dapbench.files import require_writable
from dapbench.pipeline.alone import alone
from dapbench.pipeline.cores import cores
from dapbench.pipeline.engines import PACKAGES, Choice, Engine, open_engine

if TYPE_CHECKING:
    from dapbench.pipeline.bookkeeping import Bookkeeping

MOST_JOBS = 10_000


def repro(argv: list[str]) -> int:
    """`dapbench repro`: runs what is stale; returns 1 if a cell failed."""
    parser = Parser("dapbench repro", description="Run every stale cell of the pipeline, several at a time.")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="profile=NAME (default: quick) and any other override of params.yaml, in Hydra's syntax",
    )
    parser.add_argument("--jobs", type=_positive, default=cores(), metavar="N", help="cells at once (default: cores)")
    parser.add_argument("--engine", choices=[*PACKAGES], default="local", help="where cells run (default: local)")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a running Ray cluster (default: a local one)")
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="time=MINUTES of a job (default: 240), cluster=local, or an option of sbatch such as partition=NAME; "
        "may be given several times",
    )
    options = parser.parse_intermixed_args(argv)
    choice = Choice(options.engine, options.jobs, options.address, tuple(options.slurm))
    choice.check()
    root = Path.cwd()
    if not (root / "dvc.yaml").is_file():
        raise UserError(f"{root} has no dvc.yaml: run this in the project's folder")
    at_sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end it in order
    try:
        with alone(root):
            return _repro(root, options.overrides, choice)
    finally:
        signal.signal(signal.SIGTERM, at_sigterm)


def _repro(root: Path, overrides: list[str], choice: Choice) -> int:
    from dapbench.pipeline.bookkeeping import Bookkeeping
    from dapbench.pipeline.params import compose
    from dapbench.pipeline.schedule import Outcome, run_plan

    params = compose(root, overrides)
    profile = params["profile"]
    results = Path("results") / profile["name"]
    logs = results / "cell_logs"
    require_writable(logs)
    logs.mkdir(parents=True, exist_ok=True)
    for path in params["cells"]["report"][profile["name"]]["deps"]:
        if path.startswith(f"{results}/"):
            Path(path).mkdir(parents=True, exist_ok=True)  # the report is built whatever fails before it
    bookkeeping = Bookkeeping()
    plan = bookkeeping.plan()
    if any(not _is_report(cell) for cell in plan):
        from dapbench.tracking.recording import prepare

        prepare()  # runs that start together would all create the same database
    print(f"profile {profile['name']}: {len(plan)} cells to run" if plan else f"profile {profile['name']}: up to date")
    outcome = Outcome([], [])
    try:
        if plan:
            with open_engine(choice, root) as engine:

                def run(cell: str) -> bool:
                    return _run_cell(cell, bookkeeping, engine, _log(logs, cell))

                outcome = run_plan(plan, run, engine.stop, choice.jobs, _is_report)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        bookkeeping.close()
    if (results / "report/index.html").is_file():
        from dapbench.report.build import headline

        try:
            table = headline(results.parent, profile)
        except UserError as error:  # of a file that is malformed; the failed cells are told all the same
            table = f"no table: {error}"
        print(f"\n{table}\n\nreport: {results}/report/index.html")
    if outcome.failed:
        left_out = len(outcome.left_out)
        print(f"\n{len(outcome.failed)} cells failed, {left_out} that need them were left out:", file=sys.stderr)
        for cell in outcome.failed:
            print(f"  {cell}: {_reason(_log(logs, cell))}see {_log(logs, cell)}", file=sys.stderr)
    return 1 if outcome.failed else 0


def _run_cell(cell: str, bookkeeping: "Bookkeeping", engine: Engine, log: Path) -> bool:
    """Runs a cell's command, unless it is unchanged or in the run cache; tells whether it is done."""
    try:
        argv = bookkeeping.begin(cell)
        if argv is not None:
            status = engine.run(argv, log)
            if status < 0:
                raise UserError(f"ended by {signal.Signals(-status).name}")
            if status > 0:
                return False
            bookkeeping.end(cell)
    except UserError as error:
        with log.open("a", encoding="utf-8") as output:
            print(f"dapbench: {error}", file=output)
        return False
    return True


def _is_report(cell: str) -> bool:
    return cell.startswith("report@")


def _log(logs: Path, cell: str) -> Path:
    return logs / f"{cell}.txt"


def _reason(log: Path) -> str:
    """The last line that a command of ours left in the log of its cell, if any."""
    said = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("dapbench: ")
    ]
    return f"{said[-1].removeprefix('dapbench: ')}; " if said else ""


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_JOBS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 to {MOST_JOBS}")
    return int(text)
