"""Running a plan's cells, several at a time, each as soon as what it needs has ended."""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from tqdm import tqdm

from dapbench.pipeline.bookkeeping import Plan, dependents


class Outcome(NamedTuple):
    """The cells that failed, and those that were left out because one that they need failed."""

    failed: list[str]
    left_out: list[str]


def run_plan(
    plan: Plan,
    run: Callable[[str], bool],
    stop: Callable[[], None],
    jobs: int,
    runs_regardless: Callable[[str], bool],
    runs_alone: Callable[[str], bool] = lambda _: False,
) -> Outcome:
    """Runs every cell of ``plan``, at most ``jobs`` at once; those with the most dependents go first.

    Args:
        plan: what is to run, and after what.
        run: runs a cell and tells whether it succeeded; called from several threads.
        stop: makes every ``run`` return; called if this one is interrupted.
        jobs: the limit.
        runs_regardless: tells of a cell whether it runs whatever failed before it.
        runs_alone: tells of a cell whether no other may run beside it, since a neighbour would falsify what it times.
    """
    waiting = {cell: set(upstreams) for cell, upstreams in plan.items()}
    needed_by = {cell: dependents(plan, cell) for cell in plan}
    order = sorted(plan, key=lambda cell: (len(needed_by[cell]), cell), reverse=True)
    running: dict[Future[bool], tuple[str, float]] = {}
    outcome = Outcome([], [])
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(plan), unit="cell", disable=None, smoothing=0) as bar:
        try:
            while waiting or running:
                ready = [cell for cell in order if cell in waiting and not waiting[cell]]
                for cell in ready:
                    if len(running) == jobs or any(runs_alone(other) for other, _ in running.values()):
                        break
                    if running and runs_alone(cell):
                        continue
                    del waiting[cell]
                    running[pool.submit(run, cell)] = (cell, time.monotonic())
                ended, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in ended:
                    cell, start = running.pop(future)
                    gone = {cell}
                    if not future.result():
                        outcome.failed.append(cell)
                        lost = {name for name in needed_by[cell] & waiting.keys() if not runs_regardless(name)}
                        outcome.left_out.extend(sorted(lost))
                        gone |= lost
                    waiting = {name: upstreams - gone for name, upstreams in waiting.items() if name not in gone}
                    bar.update(len(gone))
                    done = len(plan) - len(waiting) - len(running)
                    bar.write(f"[{done}/{len(plan)}] {cell}  {_clock(start)}{'  FAILED' * (cell in outcome.failed)}")
                bar.refresh()
        except BaseException:
            stop()
            raise
    return outcome


def _clock(start: float) -> str:
    """The time since ``start``, such as 2m05s."""
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    return f"{minutes}m{seconds:02d}s"
