"""`dapbench accept`: results outlive a change of code that changes none of them.

Some of the cells that the change made stale run again, in the scratch folder. If all of them give what dvc.lock has, to
the byte, the others are recorded as done under the new code without a run.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dapbench.arguments import Parser
from dapbench.errors import UserError
from dapbench.files import write_text
from dapbench.pipeline import scratch
from dapbench.pipeline.commands import add_arguments, at_work, choice_of, log_of, positive, run_cell, tell_failures
from dapbench.pipeline.engines import Choice, open_engine

if TYPE_CHECKING:
    from dapbench.pipeline.bookkeeping import Bookkeeping
    from dapbench.pipeline.catalogue import Cell

LOGS = scratch.FOLDER / "cell_logs"
# The stages whose results are functions of code, settings and seed alone.
COMPARED = ("behaviour", "collect", "pretrain", "online")
# Times differ from run to run, and the form of a checkpoint is no result: what starts from it would show a difference.
NOT_COMPARED = ("timing.json", "model.ckpt", "prior.ckpt")


class _Refused(Exception):
    """A cell failed, or gave another result."""


def accept(argv: list[str]) -> int:
    """`dapbench accept`: returns 1 if a cell that was run failed or gave another result; nothing is recorded then."""
    parser = Parser(
        "dapbench accept",
        description="After a change of code that is to change no result: run some of the cells that it made stale "
        "beside the results, compare what they give with dvc.lock, and if all is the same to the byte, record the "
        "other cells as done under the new code. One difference, and nothing is recorded.",
        epilog="Compared are behaviour policies, logs, quality.json, curve.csv and summary.json. A showcase or an "
        "overhead, which cannot be compared, is taken on trust if the cells that were run import all of its code that "
        "changed; times stay those of the code under which they were measured. Cells that are stale for other reasons, "
        "and those that need them, are left to dapbench repro.",
    )
    add_arguments(parser)
    parser.add_argument(
        "--sample",
        type=positive,
        default=1,
        metavar="N",
        help="how many cells to run; in any case one of each method, prior and log quality, on the quickest task",
    )
    options = parser.parse_intermixed_args(argv)
    choice = choice_of(options)
    with at_work() as root:
        params = root / "params.yaml"
        before = params.read_text(encoding="utf-8") if params.exists() else None
        accepted = False
        try:
            accepted = _accept(root, options.overrides, options.sample, choice)
        finally:
            if not accepted and before is not None:
                write_text(params, before)
    return 0 if accepted else 1


def _accept(root: Path, overrides: list[str], size: int, choice: Choice) -> bool:
    from dapbench.pipeline.bookkeeping import Bookkeeping
    from dapbench.pipeline.params import compose

    params = compose(root, overrides)
    cells = {f"{stage}@{key}": cell for stage, group in params["cells"].items() for key, cell in group.items()}
    bookkeeping, refused = Bookkeeping(), False
    try:
        stale = bookkeeping.stale_by_code()
        sample = chosen_cells(stale, cells, size)
        tried = set().union(*(stale[cell] for cell in sample))
        taken = [cell for cell in stale if stale[cell] <= tried and _stage(cell) != "report"]
        print(f"profile {params['profile']['name']}: {len(taken)} cells to accept, {len(sample)} of them to be run")
        if taken:
            _try(bookkeeping, sample, root, choice)
            if bookkeeping.stale_by_code() != stale:
                raise UserError("the code was changed while cells ran: nothing is recorded; say it again")
            bookkeeping.accept(taken)
    except _Refused as refusal:
        refused = True
        print(f"nothing is recorded; what was made anew is in {scratch.FOLDER}:", file=sys.stderr)
        tell_failures([str(refusal)], LOGS)
    except KeyboardInterrupt:
        print("stopped: nothing is recorded", file=sys.stderr)
        raise
    finally:
        bookkeeping.close(keep_scratch=refused)
    if refused:
        return False
    kinds = defaultdict(list)
    for cell in taken:
        kinds[_kind(cell, cells[cell])].append(cell)
    for kind, members in sorted(kinds.items()):
        ran = [cell for cell in members if cell in sample]
        print(f"  {kind}: {', '.join(ran) or 'none'} gave the same; {len(members) - len(ran)} taken on trust")
    if rest := sorted(stale.keys() - set(taken)):
        print(f"left to dapbench repro: {', '.join(rest)}")
    return True


def _try(bookkeeping: "Bookkeeping", sample: list[str], root: Path, choice: Choice) -> None:
    """Runs cells in the scratch folder, and first what they need that is missing; raises _Refused at a difference."""
    from dapbench.pipeline.schedule import run_plan

    scratch.lay_out()
    LOGS.mkdir()
    with open_engine(choice, root) as engine:

        def compare(cell: str) -> None:
            if differing := bookkeeping.differences(cell, NOT_COMPARED):
                raise UserError(f"{', '.join(differing)} is not as in dvc.lock")

        def run(cell: str) -> bool:
            if not run_cell(bookkeeping.begin_in_scratch, compare, engine, cell, log_of(LOGS, cell)):
                raise _Refused(cell)
            return True

        run_plan(bookkeeping.plan_in_scratch(sample), run, engine.stop, choice.jobs, lambda _: False)


def chosen_cells(stale: Mapping[str, set[str]], cells: Mapping[str, "Cell"], size: int) -> list[str]:
    """One cell of each kind and change of code that can be compared, then more up to ``size``; quick tasks first."""
    seconds = defaultdict(list)
    for cell in cells.values():
        timing = Path(cell["out"], "timing.json")
        if timing.is_file():
            seconds[cell["task"]].append(_wall_seconds(timing))
    means = {task: sum(times) / len(times) for task, times in seconds.items()}
    comparable = [name for name in stale if _stage(name) in COMPARED]
    order = sorted(comparable, key=lambda name: (means.get(cells[name]["task"], math.inf), name))
    first: dict[tuple[str, frozenset[str]], str] = {}
    for name in order:
        first.setdefault((_kind(name, cells[name]), frozenset(stale[name])), name)
    chosen = list(first.values())
    return [*chosen, *(name for name in order if name not in chosen)][: max(size, len(chosen))]


def _wall_seconds(timing: Path) -> float:
    """How long a run took."""
    try:
        return float(json.loads(timing.read_text(encoding="utf-8")).get("wall_seconds", math.inf))
    except ValueError as error:
        raise UserError(f"{timing} is malformed ({error}); restore it (git checkout)") from error


def _kind(name: str, cell: "Cell") -> str:
    """A cell's stage, and its method, prior or log quality."""
    return f"{_stage(name)} {cell.get('method') or cell.get('prior') or cell.get('quality', '')}".rstrip()


def _stage(cell: str) -> str:
    return cell.partition("@")[0].removesuffix("_in_git")
