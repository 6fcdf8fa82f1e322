"""`dapbench compare`: other programs' learning curves beside ours, on the same axes and with the same statistics."""

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from dapbench.arguments import Parser
from dapbench.config import choices, compose, compose_profile, unknown
from dapbench.curves import ALC_EPOCHS
from dapbench.errors import UserError
from dapbench.exchange.curves import EPOCH_STEPS, METRICS, Missing, Run, stacked, task_of, tidy
from dapbench.exchange.readers import KINDS, Choices, failed_runs, read_runs
from dapbench.files import require_writable, write_text
from dapbench.report import figures, results, statistics, style, tables
from dapbench.report.items import Figure, Table

Groups = dict[str, list[Run]]  # by the label that stands in the legend
NAME = "comparison"
READINGS = ("training", "evaluation")
DESCRIPTION = f"""\
Put learning curves side by side: one figure, one table and the curves themselves.

Each DIR is one method; the runs (seeds) in it and below are its sample. What is read: {KINDS}.
Training episodes are binned to epochs of 5,000 steps, as in our own curves; evaluations stand apart from them.
NAME=DIR names a method in the legend; the same NAME given twice puts two folders together."""
EPILOG = """\
examples:
  dapbench compare CleanRL=runs/hopper results/quick/runs/hopper/ppo
  dapbench compare mine=logs/ppo --task hopper --profile paper
  dapbench compare progress.csv --column rollout/ep_rew_mean"""


def compare(argv: list[str]) -> int:
    """`dapbench compare`: writes figures/, tables/ and curves.csv of all that was named into one folder."""
    parser = Parser(
        "dapbench compare",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("places", nargs="+", metavar="[NAME=]DIR", help="a folder of runs, or a file of one")
    parser.add_argument("--task", metavar="TASK", help="read the runs on this task of ours alone, such as hopper")
    parser.add_argument("--profile", metavar="PROFILE", help="put our methods' runs of it on --task beside the others")
    parser.add_argument("--results", default="results", metavar="DIR", help="where --profile lies (default: results)")
    parser.add_argument("--column", metavar="NAME", help="the column of a CSV that holds returns")
    parser.add_argument("--steps", metavar="NAME", help="the column of a CSV that holds steps (default: one so named)")
    parser.add_argument("--tag", metavar="NAME", help="the TensorBoard scalar that holds returns")
    parser.add_argument("--out", default=NAME, metavar="DIR", help=f"where to write (default: {NAME})")
    options = parser.parse_intermixed_args(argv)
    env_id = _env_id(options.task) if options.task else None
    out = Path(options.out)
    require_writable(out)

    ours: list[str] = []
    failed = 0
    if options.profile is not None:
        if options.task is None:
            raise UserError("--profile needs --task: our task to put beside, such as --task hopper")
        ours, failed = _places_of(options.profile, options.task, Path(options.results))
    chosen = Choices(options.column, options.steps, options.tag)
    groups, failed_there = _read([*options.places, *ours], chosen, options.task, env_id)
    failed += failed_there
    task = _one_task(groups)
    notes = [*_versions(groups), *([f"Failed runs of ours that are left out: {failed}."] if failed else [])]
    item = table(groups, task, notes)
    for made in (figure(groups, task), item):
        made.save(out)
    write_text(out / "curves.csv", tidy(groups).to_csv(index=False))
    for note in notes:
        print(f"dapbench: {note}", file=sys.stderr)
    shown = ", ".join(f"{label} ({_extent(runs)})" for label, runs in groups.items())
    print(f"{task}: {shown}; figures, tables and curves.csv are in {out}")
    return 0


# ------------------------------------------------------------------------------------------------------------- groups


def _read(places: list[str], chosen: Choices, only: str | None, env_id: str | None) -> tuple[Groups, int]:
    """The runs of all places by label, of the task ``only`` alone if it is given; and how many of ours failed."""
    groups: Groups = {}
    failed = 0
    for argument in places:
        name, equals, rest = argument.partition("=")
        named = bool(equals) and not Path(argument).exists()  # a folder's own name may hold an equals sign
        place = Path(rest if named else argument)
        runs = read_runs(place, chosen)
        if env_id is not None:
            others = sorted({run.env_id for run in runs if run.env_id and run.task != task_of(env_id)})
            runs = [run for run in runs if run.task in (None, task_of(env_id))]
            if not runs:
                raise UserError(f"{place} holds no run on {env_id}, but on {', '.join(others)}; say another --task")
        failed += failed_runs(place, only) if place.is_dir() else 0
        by_method: Groups = {}
        for run in runs:
            by_method.setdefault(run.method or place.resolve().name, []).append(run)
        if named and len(by_method) > 1:
            methods = ", ".join(by_method)
            raise UserError(f"{argument} gives one name to several methods ({methods}); name their folders singly")
        for label, members in by_method.items():
            _add(groups, name if named else label, members, named)
    return groups, failed


def _add(groups: Groups, label: str, runs: list[Run], named: bool) -> None:
    """Adds runs under a label; only a name that the user gave may be that of others before."""
    if not label or label.startswith("_"):
        raise UserError(f"'{label}' cannot stand in a legend; give a name that does not begin with _, NAME=DIR")
    known = {run.place.resolve() for members in groups.values() for run in members}
    twice = [run.place for run in runs if run.place.resolve() in known]
    if twice:
        raise UserError(f"{twice[0]} is named twice; name it once")
    if label in groups and not named:
        places = f"{groups[label][0].place} and {runs[0].place}"
        raise UserError(f"{places} would both be called '{label}'; name them, NAME=DIR (one NAME for both joins them)")
    groups.setdefault(label, []).extend(runs)


def _places_of(name: str, task: str, root: Path) -> tuple[list[str], int]:
    """The folders that hold runs of a profile's main methods on a task of ours; and how many runs failed elsewhere."""
    profile = compose_profile(name)
    folder = root / profile["name"] / "runs" / task
    there = [folder / method for method in profile["methods"] if any((folder / method).glob("*/summary.json"))]
    if not there:
        raise UserError(f"there is no run in {folder}; dapbench repro profile={name} makes them")
    rest = [folder / method for method in profile["methods"] if folder / method not in there]
    return [str(place) for place in there], sum(failed_runs(place, task) for place in rest)


def _env_id(task: str) -> str:
    if task not in choices("task"):
        raise unknown("task", task, choices("task"))
    return str(compose(None, f"+task={task}")["task"]["env_id"])


def _one_task(groups: Groups) -> str:
    """The task of all runs that state one.

    Raises:
        UserError: there are several.
    """
    stated = {run.task: run for runs in groups.values() for run in runs if run.task}
    if len(stated) > 1:
        found = ", ".join(f"{run.env_id} ({run.place})" for run in stated.values())
        raise UserError(f"these are runs on different tasks: {found}; say --task NAME, or name folders of one task")
    return next(iter(stated), "unstated task")


def _versions(groups: Groups) -> list[str]:
    """A notice where versions of the task differ."""
    by_version: dict[str, list[str]] = {}
    for label, runs in groups.items():
        for env_id in sorted({run.env_id for run in runs if run.env_id}):
            by_version.setdefault(env_id, []).append(label)
    if len(by_version) < 2:
        return []
    found = style.listed(f"{env_id} ({', '.join(labels)})" for env_id, labels in by_version.items())
    return [f"Versions of the task differ: {found}; rewards and endings may differ between them."]


def _extent(runs: list[Run]) -> str:
    return f"{style.counted(len(runs), 'run')}, {min(run.env_steps for run in runs):,} steps"


# ----------------------------------------------------------------------------------------------------- what is shown


def figure(groups: Groups, task: str) -> Figure:
    """Mean training return and, where there are evaluations, evaluation return by steps, with bootstrap bands."""
    curves = {reading: {label: stacked(runs, reading) for label, runs in groups.items()} for reading in READINGS}
    curves = {reading: own for reading, own in curves.items() if any(len(steps) for steps, _ in own.values())}
    if not curves:
        raise UserError(f"no run of {style.listed(groups)} holds a return: no episode ended, and none was evaluated")
    colours, dashes = style.colours(groups), style.dashes(groups)
    drawing, axes = style.panels(len(curves), 5.2, 3.4)
    longest = 0.0
    for axis, (reading, own) in zip(axes, curves.items(), strict=True):
        for label, (steps, returns) in own.items():
            look = {"color": colours[label], "linestyle": dashes[label]}
            shown = label.replace("$", r"\$")  # a dollar begins no formula
            if len(steps):
                estimate = statistics.sample_efficiency([returns], statistics.mean)
                figures.band(axis, steps, estimate, shown, marker="o" if len(steps) == 1 else None, **look)
                longest = max(longest, steps[-1])
        axis.set(title=task, ylabel=f"{reading.capitalize()} return")
        figures.over_steps(axis)
    for axis in axes:
        axis.set_xlim(0, longest)
    if longest > ALC_EPOCHS * EPOCH_STEPS:
        figures.shade(axes, ALC_EPOCHS * EPOCH_STEPS)
    style.legend_below(drawing, axes)
    return Figure(NAME, f"Learning curves on {task}", f"Mean over runs with its {style.INTERVAL}.", drawing)


def table(groups: Groups, task: str, notes: list[str]) -> Table:
    """Both readings of ALC@40 and the final return of each group, or why there is none."""
    scores: dict[str, dict[str, np.ndarray]] = {metric: {} for metric in METRICS}
    reasons: dict[tuple[str, str], str] = {}
    for metric, compute in METRICS.items():
        for label, runs in groups.items():
            found, reason = _scores(runs, compute)
            if len(found):
                scores[metric][label] = found
            else:
                reasons[metric, label] = reason
    lengths = {-(-min(run.env_steps for run in runs) // EPOCH_STEPS) for runs in groups.values()}
    shown: list[dict[str, str]] = []
    values: list[dict[str, object]] = []
    for label, runs in groups.items():
        programs = ", ".join(sorted({run.program for run in runs}))
        env_ids = ", ".join(sorted({run.env_id or "unstated" for run in runs}))
        row = {"Method": label, "Files of": programs, "Task": env_ids, "Runs": str(len(runs))}
        row["Steps"] = f"{min(run.env_steps for run in runs):,}"
        for metric, own in scores.items():
            value: dict[str, object] = {"label": label, "program": programs, "task": env_ids, "metric": metric}
            title = results.METRICS[metric]
            if label not in own:
                row[title] = f"missing: {reasons[metric, label]}"
                values.append(value | {"runs": 0, "missing": reasons[metric, label]})
                continue
            estimate = statistics.interval(statistics.mean, [own[label]])
            count = f" (n={len(own[label])})" if len(own[label]) < len(runs) else ""
            comparable = len(own) > 1 and (metric != "final_return" or len(lengths) == 1)
            mark = tables.against_best(label, own, partial(_difference, own)) if comparable else ""
            row[title] = tables.marked(f"{style.spread(estimate)}{count}", mark)
            values.append(value | tables.numbers(estimate) | {"runs": len(own[label])})
        shown.append(row)
    alone = "Each method's runs are resampled on their own, also where ours share draws of logs."
    note = [tables.READINGS_NOTE, tables.NOTE, alone, _logs(groups), *notes]
    return Table(
        NAME,
        f"Learning curves on {task} beside each other",
        "Training episodes are binned to epochs of 5,000 steps; final returns after different steps bear no mark.",
        pd.DataFrame(shown),
        pd.DataFrame(values).reindex(columns=[*value, "estimate", "low", "high", "runs", "missing"]),
        " ".join(filter(None, note)),
    )


def _difference(scores: Mapping[str, np.ndarray], first: str, second: str) -> statistics.Estimate:
    """The difference of two methods' means; runs from elsewhere share nothing that would pair them."""
    return statistics.difference([scores[first]], [scores[second]])


def _scores(runs: list[Run], compute: Callable[[Run], float]) -> tuple[np.ndarray, str]:
    """A metric of the runs that have it, shape (runs,), and why the first of the others does not."""
    found: list[float] = []
    reasons: list[str] = []
    for run in runs:
        try:
            found.append(compute(run))
        except Missing as reason:
            reasons.append(str(reason))
    return np.array(found), next(iter(reasons), "")


def _logs(groups: Groups) -> str:
    """Which methods started from logs and what those cost, as it is no part of the steps shown."""
    costs = {label: [run.log_steps for run in runs if run.log_steps] for label, runs in groups.items()}
    told = [f"{label} ({max(steps):,})" for label, steps in costs.items() if steps]
    if not told:
        return ""
    return (
        f"Started from logs, whose environment steps (at most, a draw) are not among those shown: {style.listed(told)}."
    )
