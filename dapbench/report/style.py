"""How the report looks and speaks: colours, panels, rounded numbers and the sentences that many items share."""

from collections.abc import Collection, Iterable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dapbench.profiles import runs
from dapbench.report.results import SUBJECT, Results
from dapbench.report.statistics import Estimate

matplotlib.rcdefaults()  # a user's matplotlibrc may ask for LaTeX, or for other sizes
sns.set_theme(context="paper", style="ticks", palette="colorblind", rc={"axes.spines.top": False})
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)), (0, (8, 2)))
PAGE_WIDTH = 10.8  # inches
INTERVAL = "95 % bootstrap interval"


def palette(results: Results) -> dict[str, tuple[float, float, float]]:
    """A colour-blind-safe colour for each method by its place in the profile, whose groups come last."""
    return colours(dict.fromkeys(run.method for run in runs(results.profile)))


def lines(results: Results) -> dict[str, Any]:
    """A dash pattern for each method, so that curves tell apart without colour; PPO-DAP's is solid."""
    return dashes(sorted(results.profile["methods"], key=lambda method: method != SUBJECT))


def colours(names: Collection[str]) -> dict[str, tuple[float, float, float]]:
    """A colour-blind-safe colour for each name, by its place."""
    return dict(zip(names, sns.color_palette("colorblind", max(10, len(names))), strict=False))


def dashes(names: Iterable[str]) -> dict[str, Any]:
    """A dash pattern for each name, by its place; the first one's is solid."""
    return {name: LINES[i % len(LINES)] for i, name in enumerate(names)}


def panels(count: int, width: float = 3.6, height: float = 2.8, columns: int = 4) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels of ``width`` x ``height`` inches in at most ``columns`` columns."""
    columns = min(columns, count) if count != 5 else 3
    rows = -(-count // columns)
    width = min(width, PAGE_WIDTH / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        sns.despine(ax=axis)
    return figure, axes[:count]


def legend_below(figure: Figure, axes: Iterable[Axes], columns: int = 6) -> None:
    """One legend for all panels, under them, in as many of the ``columns`` as the figure's width has room for."""
    named: dict[str, Artist] = {}
    for axis in axes:  # what one panel lacks another may show
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    handles, labels = [*named.values()], [*named]
    for ncols in range(min(columns, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def dots(axis: Axes, rows: list[tuple[str, Estimate, Any]], reference: float | None = None) -> None:
    """Horizontal intervals, the first row on top: label, estimate and colour of each."""
    for place, (_, estimate, colour) in enumerate(rows):
        axis.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=4, alpha=0.4)
        axis.plot([estimate.point], [place], "o", color=colour, markersize=5)
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    if reference is not None:
        axis.axvline(reference, color="0.6", linewidth=0.8, zorder=0)


def digits(values: Iterable[float]) -> int:
    """Decimals that suit numbers of this size: none from 100 on, one from 10 on, else two."""
    largest = max((abs(value) for value in values if np.isfinite(value)), default=0.0)
    return 0 if largest >= 100 else 1 if largest >= 10 else 2


def number(value: float, decimals: int) -> str:
    """A rounded number with a true minus sign; n/a when there is none."""
    if not np.isfinite(value):
        return "n/a"
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def spread(estimate: Estimate, decimals: int | None = None) -> str:
    """An estimate as ``point [low, high]``, or the point alone where there is no interval."""
    decimals = digits(estimate) if decimals is None else decimals  # type: ignore[arg-type]
    point = number(float(estimate.point), decimals)
    if np.isnan(estimate.low):
        return point
    return f"{point} [{number(float(estimate.low), decimals)}, {number(float(estimate.high), decimals)}]"


def listed(words: Iterable[str]) -> str:
    """Words as they stand in a sentence: "a, b and c"."""
    *first, last = list(words) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def counted(count: int, thing: str) -> str:
    """A number of things as it stands in a sentence: "1 run", "2 runs"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def seeds_text(
    results: Results,
    methods: Iterable[str] | None = None,
    tasks: Iterable[str] | None = None,
    metric: str | None = None,
) -> str:
    """How many seeds, on how many draws of logs, stand behind each mean.

    Args:
        methods: those that are counted; None: the profile's.
        tasks: those that are counted; None: all.
        metric: runs without it are not counted; None: all are.
    """
    chosen = results.summaries.method.isin(results.methods if methods is None else list(methods))
    chosen &= True if tasks is None else results.summaries.task.isin(list(tasks))
    chosen &= True if metric is None else results.summaries[metric].notna()
    runs = results.summaries[chosen].groupby(["task", "method"])
    counts, draws = runs.size(), runs.logs_draw.nunique()
    if counts.empty:
        return "no runs"
    draws = draws[draws > 0]  # the methods that start from logs
    text = _range(counts, "seed") + (f" on {_range(draws, 'draw')} of logs" if len(draws) else "")
    return f"{text}, so there are no intervals" if counts.max() == 1 else text


def _range(counts: pd.Series, thing: str) -> str:
    """Numbers of things as they stand in a sentence: "3 seeds", "2 to 3 seeds"."""
    most = counted(counts.max(), thing)
    return most if counts.min() == counts.max() else f"{counts.min()} to {most}"


def logs_text(results: Results, methods: Iterable[str] | None = None) -> str:
    """Which logs the runs of the profile's methods, or of ``methods``, started from and what those cost."""
    chosen = results.methods if methods is None else list(methods)
    with_logs = results.summaries[results.summaries.method.isin(chosen)].dropna(subset="logs_quality")
    if with_logs.empty:
        return "No run used logs."
    named = [results.titles[m] for m in chosen if m in set(with_logs.method)]
    names = listed(named) if len(named) <= 10 else counted(len(named), "method")
    kinds = listed(sorted(set(with_logs.logs_quality)))
    steps = with_logs.get("logs_env_steps")
    if steps is None or steps.isna().all():
        cost = "an unstated number of environment steps"
    elif steps.min() == steps.max():
        cost = f"{steps.max():,.0f} environment steps a draw"
    elif steps.max() < 1.01 * steps.min():
        cost = f"about {float(f'{steps.mean():.3g}'):,.0f} environment steps a draw"
    else:
        cost = f"{steps.min():,.0f} to {steps.max():,.0f} environment steps a draw"
    return f"{names} started from {kinds} logs, which cost {cost} outside the online budget."


def provenance(results: Results, methods: Iterable[str] | None = None) -> str:
    """What every table of returns says below it: how many seeds, and what the logs cost."""
    methods = None if methods is None else list(methods)
    return f"Runs per cell: {seeds_text(results, methods)}. {logs_text(results, methods)}"
