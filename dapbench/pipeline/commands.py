"""`dapbench repro`: the whole pipeline."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dapbench.arguments import Parser
from dapbench.errors import UserError
from dapbench.files import require_writable
from dapbench.pipeline.alone import alone
from dapbench.pipeline.cores import cores
from dapbench.pipeline.engines import PACKAGES, Choice, Engine, open_engine

MOST_JOBS = 10_000


def repro(argv: list[str]) -> int:
    """`dapbench repro`: runs what is stale; returns 1 if a cell failed."""
    parser = Parser("dapbench repro", description="Run every stale cell of the pipeline, several at a time.")
    add_arguments(parser)
    options = parser.parse_intermixed_args(argv)
    choice = choice_of(options)
    with at_work() as root:
        return _repro(root, options.overrides, choice)


def add_arguments(parser: Parser) -> None:
    """The arguments of the commands that run cells."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="profile=NAME (default: quick) and any other override of params.yaml, in Hydra's syntax",
    )
    parser.add_argument("--jobs", type=positive, default=cores(), metavar="N", help="cells at once (default: cores)")
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


def choice_of(options: argparse.Namespace) -> Choice:
    """The engine that the arguments say.

    Raises:
        UserError: they do not go together.
    """
    choice = Choice(options.engine, options.jobs, options.address, tuple(options.slurm))
    choice.check()
    return choice


@contextmanager
def at_work() -> Iterator[Path]:
    """Holds the project in the current folder for this driver; SIGTERM ends it in order, as Ctrl-C does.

    Raises:
        UserError: there is no project, or another driver holds it.
    """
    root = Path.cwd()
    if not (root / "dvc.yaml").is_file():
        raise UserError(f"{root} has no dvc.yaml: run this in the project's folder")
    at_sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with alone(root):
            yield root
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
                    return run_cell(bookkeeping.begin, bookkeeping.end, engine, cell, log_of(logs, cell))

                rules = _is_report, _is_timed if choice.engine == "local" else lambda _: False
                outcome = run_plan(plan, run, engine.stop, choice.jobs, *rules)
                while bookkeeping.left and not outcome.failed:  # some proved stale whose inputs were not in the plan
                    outcome = run_plan(bookkeeping.plan(), run, engine.stop, choice.jobs, *rules)
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
    for note in bookkeeping.notes:
        print(f"note: {note}", file=sys.stderr)
    if outcome.failed:
        left_out = len(outcome.left_out)
        print(f"\n{len(outcome.failed)} cells failed, {left_out} that need them were left out:", file=sys.stderr)
        tell_failures(outcome.failed, logs)
        if bookkeeping.left:
            print(f"{len(bookkeeping.left)} more need what is missing: the same command makes it", file=sys.stderr)
    return 1 if outcome.failed else 0


def run_cell(
    begin: Callable[[str], list[str] | None], end: Callable[[str], None], engine: Engine, cell: str, log: Path
) -> bool:
    """Runs the command that ``begin`` gives for a cell, if any, then ``end``; tells whether the cell is done."""
    try:
        argv = begin(cell)
        if argv is not None:
            status = engine.run(argv, log)
            if status < 0:
                raise UserError(f"ended by {signal.Signals(-status).name}")
            if status > 0:
                return False
            end(cell)
    except UserError as error:
        with log.open("a", encoding="utf-8") as output:
            print(f"dapbench: {error}", file=output)
        return False
    return True


def tell_failures(cells: list[str], logs: Path) -> None:
    """A line for each failed cell, with the reason that its command gave."""
    for cell in cells:
        print(f"  {cell}: {_reason(log_of(logs, cell))}see {log_of(logs, cell)}", file=sys.stderr)


def _is_report(cell: str) -> bool:
    return cell.startswith("report@")


def _is_timed(cell: str) -> bool:
    return cell.startswith("overhead")


def log_of(logs: Path, cell: str) -> Path:
    """The file with the output of a cell's command."""
    return logs / f"{cell}.txt"


def _reason(log: Path) -> str:
    """The last line that a command of ours left in the log of its cell, if any."""
    said = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("dapbench: ")
    ]
    return f"{said[-1].removeprefix('dapbench: ')}; " if said else ""


def positive(text: str) -> int:
    """Reads a number from 1 on of an argument."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST_JOBS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 to {MOST_JOBS}")
    return int(text)
