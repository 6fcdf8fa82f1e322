"""`dapbench repro` and `dapbench report`: the whole pipeline, and its last stage alone."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml

from dapbench.errors import UserError
from dapbench.pipeline.alone import alone, keep_copy
from dapbench.pipeline.engines import PACKAGES, Choice, open_engine


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help explains it)")


def repro(argv: list[str]) -> int:
    """`dapbench repro`: runs what is stale; returns 1 if a cell failed."""
    parser = _Parser("dapbench repro", description="Run every stale cell of the pipeline, several at a time.")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="profile=NAME (default: quick) and any other override of params.yaml, in Hydra's syntax",
    )
    parser.add_argument("--jobs", type=_positive, default=_cores(), metavar="N", help="cells at once (default: cores)")
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
    with alone(root) as lock, _terminated_as_interrupted():
        return _repro(root, options.overrides, choice, lock)


def _repro(root: Path, overrides: list[str], choice: Choice, lock: int) -> int:
    from dapbench.pipeline.params import compose
    from dapbench.pipeline.plan import make_plan
    from dapbench.pipeline.schedule import Cells, run_plan

    params = compose(root, overrides)
    profile = params["profile"]
    results = Path("results") / profile["name"]
    for folder in ("runs", "priors", "overhead"):  # of the report, which is built whatever fails before it
        Path(params["cells"]["report"][profile["name"]][folder]).mkdir(parents=True, exist_ok=True)
    plan = make_plan()
    keep_copy(root)
    cells = Cells(
        command=lambda cell: [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", cell],
        log=lambda cell: results / "cell_logs" / f"{cell}.txt",
        runs_regardless=lambda cell: cell.startswith("report@"),
    )
    if any(not cells.runs_regardless(cell) for cell in plan):
        from dapbench.tracking.recording import prepare

        prepare()  # runs that start together would all create the same database
    print(f"profile {profile['name']}: {len(plan)} cells to run" if plan else f"profile {profile['name']}: up to date")
    failed: list[str] = []
    left_out: list[str] = []
    try:
        if plan:
            with open_engine(choice, root, lock) as engine:
                failed, left_out = run_plan(plan, cells, engine, choice.jobs)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    if (results / "report/index.html").is_file():
        from dapbench.report import headline

        print(f"\n{headline(results.parent, profile)}\n\nreport: {results}/report/index.html")
    if failed:
        print(f"\n{len(failed)} cells failed, {len(left_out)} that need them were left out:", file=sys.stderr)
        for cell in failed:
            print(f"  {cell}: {_reason(cells.log(cell))}see {cells.log(cell)}", file=sys.stderr)
    return 1 if failed else 0


def _reason(log: Path) -> str:
    """The last line that a command of ours left in the log of its cell, if any."""
    said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("dapbench: ")]
    return f"{said[-1].removeprefix('dapbench: ')}; " if said else ""


def report(argv: list[str]) -> int:
    """`dapbench report`: builds the report over whatever results there are."""
    parser = _Parser("dapbench report", description="Build tables, figures and the report page from results.")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="key=value",
        help="profile=NAME (default: quick), results=DIR (default: results), params=FILE (take the profile "
        "from there in place of conf/)",
    )
    given = {}
    for argument in parser.parse_args(argv).arguments:
        key, equals, given[key] = argument.partition("=")
        if not equals or key not in ("profile", "results", "params"):
            raise UserError(f"'{argument}' is not one of profile=NAME, results=DIR, params=FILE")
    profile = _profile(given.get("profile", "quick"), given.get("params"))
    results = Path(given.get("results", "results"))
    if not (results / profile["name"]).is_dir():
        raise UserError(f"there is no {results / profile['name']}; dapbench repro profile={profile['name']} fills it")
    from dapbench.report import build_report, headline
    from dapbench.tracking.recording import track_report

    page = build_report(results, profile)
    track_report(page.parent, profile["name"])
    print(f"{headline(results, profile)}\n\nreport: {page}")
    return 0


def _profile(name: str, params: str | None) -> dict[str, Any]:
    """The profile ``name``, from the file ``params`` or from conf/."""
    if params is not None:
        try:
            profile = yaml.safe_load(Path(params).read_text(encoding="utf-8"))["profile"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise UserError(f"params={params} holds no profile ({error}); dapbench repro composes it") from error
        if profile["name"] != name:
            raise UserError(f"params={params} is of profile {profile['name']}; compose it anew for profile={name}")
        return profile
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from dapbench.config import CONF, choices

    if name not in choices("profile"):
        raise UserError(f"unknown profile '{name}'; choose one of {', '.join(choices('profile'))}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose(overrides=[f"+profile={name}"]), resolve=True)
    assert isinstance(composed, dict)
    return composed["profile"]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1")
    return int(text)


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM end the block as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
