"""Running a plan's cells, several at a time, each as soon as what it needs has ended."""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from dapbench.pipeline.plan import Plan, dependents


class Engine(Protocol):
    """Where commands run."""

    def run(self, command: list[str], log: Path) -> int:
        """Runs a command to its end and returns its exit status; called from several threads."""

    def stop(self) -> None:
        """Ends all that runs, so that every ``run`` returns."""


@dataclass(frozen=True)
class Cells:
    """How cells are run: the command and the log of each, and those that run whatever fails before them."""

    command: Callable[[str], list[str]]
    log: Callable[[str], Path]
    runs_regardless: Callable[[str], bool]


def run_plan(plan: Plan, cells: Cells, engine: Engine, jobs: int) -> tuple[list[str], list[str]]:
    """Runs every cell of ``plan``, at most ``jobs`` at once; those with the most dependents go first.

    Returns: the cells that failed and those that were left out because one that they need failed.
    """
    waiting = {cell: set(upstreams) for cell, upstreams in plan.items()}
    needed_by = {cell: dependents(plan, cell) for cell in plan}
    # Backwards by name, since timing a task takes longer than a run and is not to be left for the end.
    order = sorted(plan, key=lambda cell: (len(needed_by[cell]), cell), reverse=True)
    running: dict[Future[int], tuple[str, float]] = {}
    failed: list[str] = []
    left_out: list[str] = []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(plan), unit="cell", disable=None, smoothing=0) as bar:
        try:
            while waiting or running:
                ready = [cell for cell in order if cell in waiting and not waiting[cell]]
                for cell in ready[: jobs - len(running)]:
                    del waiting[cell]
                    future = pool.submit(engine.run, cells.command(cell), cells.log(cell))
                    running[future] = (cell, time.monotonic())
                ended, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in ended:
                    cell, start = running.pop(future)
                    gone = {cell}
                    if future.result() != 0:
                        failed.append(cell)
                        lost = {name for name in needed_by[cell] & waiting.keys() if not cells.runs_regardless(name)}
                        left_out += sorted(lost)
                        gone |= lost
                    waiting = {name: upstreams - gone for name, upstreams in waiting.items() if name not in gone}
                    bar.update(len(gone))
                    outcome = "" if cell not in failed else "  FAILED"
                    bar.write(f"[{_done(plan, waiting, running)}/{len(plan)}] {cell}  {_clock(start)}{outcome}")
                bar.refresh()
        except BaseException:
            engine.stop()
            raise
    return failed, left_out


def _done(plan: Plan, waiting: Plan, running: dict[Future[int], tuple[str, float]]) -> int:
    return len(plan) - len(waiting) - len(running)


def _clock(start: float) -> str:
    """The time since ``start``, such as 2m05s."""
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    return f"{minutes}m{seconds:02d}s"
