"""What the first seed's policies do: their checkpoints, and films of them."""

from pathlib import Path
from typing import TYPE_CHECKING

from dapbench.errors import UserError
from dapbench.report.items import Absent, films
from dapbench.report.results import BASELINE, SUBJECT, Results, once
from dapbench.report.style import digits, listed, number

if TYPE_CHECKING:
    from dapbench.ppo import PPO

SECONDS, FPS, SIZE = 4.0, 10, (240, 180)


def first_run(results: Results, task: str, method: str) -> Path:
    """The run directory of a method's first seed, which holds its checkpoint.

    Raises:
        Absent: there is no run or no checkpoint.
    """
    run, where = results.first_run(task, method), f"{results.titles[method]} on {results.titles[task]}"
    if run is None:
        raise Absent(f"There are no runs of {where}.")
    if not (run / "model.ckpt").is_file():
        raise Absent(f"The first run of {where} has no model.ckpt (dvc pull brings it, a new run makes it).")
    return run


@once
def first_policy(results: Results, task: str, method: str) -> "PPO":
    """The module of a method's first seed, with its weights and statistics.

    Raises:
        Absent: there is no checkpoint, or it is not of this version.
    """
    run = first_run(results, task, method)
    import torch

    from dapbench.runs.evaluation import load_run

    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    try:
        return load_run(run)
    except UserError as error:
        raise Absent(f"{error}.") from error


def lacking(reasons: list[str]) -> str:
    """The end of a sentence about what an item is without, the reason of each once."""
    return f" Without: {' '.join(dict.fromkeys(reasons))}" if reasons else ""


@films("films", "What the policies do")
def policy_films(results: Results) -> tuple:
    """A film of PPO and one of PPO-DAP on each task."""
    shown: dict[tuple[str, str], bytes] = {}
    reasons: list[str] = []
    for task in results.tasks:
        for method in (m for m in (BASELINE, SUBJECT) if m in results.methods):
            try:
                run = first_run(results, task, method)
                # Only now: a report without checkpoints needs none of this, and the backend comes before MuJoCo.
                from dapbench import render

                render.choose_backend()
                frames = render.film(first_policy(results, task, method), SECONDS, FPS, *SIZE, seed=0)
            except Absent as reason:
                reasons.append(str(reason))
                continue
            except UserError as error:
                raise Absent(f"There are no films: {error}.") from error
            own = results.summaries[(results.summaries.task == task) & (results.summaries.method == method)]
            (score,) = own.loc[own.seed == int(run.name), "eval_return"]
            caption = f"{results.titles[task]}, {results.titles[method]}: {number(score, digits([score]))}"
            shown[f"{task}_{method}", caption] = render.gif(frames, FPS)
    if not shown:
        raise Absent(" ".join(dict.fromkeys(reasons)) or f"There are no runs of {listed([BASELINE, SUBJECT])}.")
    sentence = f"The mean action of the first seed's policy at the end of its budget, in the first {SECONDS:g} s of the"
    sentence += " task's own time from a start of its own; an episode that ends is followed by the next. Numbers: the"
    return f"{sentence} evaluation return of the run shown.{lacking(reasons)}", shown
