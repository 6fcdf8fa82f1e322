"""Figures of returns: learning curves, aggregate efficiency, profiles, probability of improvement, intervals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from dapbench.curves import ALC_EPOCHS
from dapbench.report import statistics
from dapbench.report.items import Absent, figure
from dapbench.report.results import METRICS, SUBJECT, Results
from dapbench.report.statistics import Estimate
from dapbench.report.style import (
    INTERVAL,
    counted,
    dots,
    legend_below,
    lines,
    listed,
    number,
    palette,
    panels,
    seeds_text,
    spread,
)
from dapbench.report.tables import complete_tasks, metric_text, needs, normalized_strata

NO_ESTIMATE = Estimate(np.array(np.nan), np.array(np.nan), np.array(np.nan))
THOUSANDS = FuncFormatter(
    lambda steps, _: f"{steps / 1e6:g}M" if steps >= 1e6 else f"{steps / 1e3:g}k" if steps else "0"
)


@figure("learning_curves", "Learning curves")
def learning_curves(results: Results) -> tuple:
    """Mean training return by environment steps, with bootstrap bands and the first 40 epochs shaded."""
    needs(results, "final_return")
    tasks = [task for task in results.tasks if results.has_episodes(task)]
    if not tasks:
        raise Absent("No training episode ended in any run, so there is no learning curve.")
    sentence, drawing = _curves(results, tasks, results.curve_array, "return_mean", "Training return")
    rising = [results.titles[m] for m in results.methods if is_rising(results, m, tasks)]
    sentence += f" Still rising on every task over the last tenth of its budget: {listed(rising)}."
    silent = [results.titles[task] for task in results.tasks if task not in tasks]
    return sentence + (f" Left out, as no training episode ended on {listed(silent)}." if silent else ""), drawing


@figure("evaluation_curves", "Evaluation curves")
def evaluation_curves(results: Results) -> tuple:
    """Mean return of the deterministic evaluation by environment steps, from before the first iteration on."""
    if results.evaluations.empty:
        raise Absent("No run was evaluated on its way (profile.eval_curve_episodes).")
    if results.evaluations.epoch.max() == 0:
        raise Absent("No run was long enough to be evaluated after its start.")
    tasks = [t for t in results.tasks if any(results.evaluation_array(t, m).size for m in results.methods)]
    if not tasks:
        raise Absent("No run of the profile's main methods was evaluated on its way.")
    sentence, drawing = _curves(results, tasks, results.evaluation_array, "eval_return", "Evaluation return")
    episodes = results.profile["eval_curve_episodes"]
    return f"{sentence} Each point: mean action, frozen statistics, {episodes} episodes of its own seeds.", drawing


def _curves(
    results: Results, tasks: list[str], array: Callable[[str, str, str], np.ndarray], column: str, label: str
) -> tuple:
    """What curves over environment steps have in common: a panel a task, and the first sentence."""
    drawing, axes = panels(len(tasks))
    shaded, first = False, ALC_EPOCHS * results.profile["epoch_steps"]
    for axis, task in zip(axes, tasks, strict=True):
        for method in results.methods:
            if (returns := array(task, method, column)).size:
                steps = array(task, method, "env_steps")[:, 0]
                shaded |= bool(steps[-1] > first)
                draw(axis, steps, statistics.sample_efficiency([returns], statistics.mean), results, method)
        axis.set(title=results.titles[task])
        over_steps(axis)
    if shaded:
        shade(axes, first)
    axes[0].set_ylabel(label)
    legend_below(drawing, axes)
    sentence = f"Mean over {seeds_text(results)}"
    sentence += f" with its {INTERVAL}" if results.summaries.seed.nunique() > 1 else ""
    sentence += "; the first 40 epochs are shaded." if shaded else "; no run goes beyond the first 40 epochs."
    return sentence, drawing


def is_rising(results: Results, method: str, tasks: list[str]) -> bool:
    """Whether a method's mean return of its last tenth is above that of the tenth before, on every one of ``tasks``."""
    for task in tasks:
        curve = results.curve_array(task, method)
        tenth = max(len(curve) // 10, 1)
        if len(curve) < 2 or curve[-tenth:].mean() <= curve[-2 * tenth : -tenth].mean():
            return False
    return True


def draw(axis: Axes, x: np.ndarray, estimate: Estimate, results: Results, method: str) -> None:
    """A method's line and band."""
    look = {"color": palette(results)[method], "linestyle": lines(results)[method]}
    band(axis, x, estimate, results.titles[method], linewidth=2 if method == SUBJECT else 1.4, **look)


def band(axis: Axes, x: np.ndarray, estimate: Estimate, label: str, color: Any, **look: Any) -> None:
    """A line and its band under a label of the legend."""
    axis.plot(x, estimate.point, label=label, color=color, **look)
    axis.fill_between(x, estimate.low, estimate.high, color=color, alpha=0.18, linewidth=0)


def over_steps(axis: Axes) -> None:
    """Makes the x axis one of environment steps."""
    axis.set_xlabel("Environment steps")
    axis.xaxis.set_major_formatter(THOUSANDS)
    axis.margins(x=0)


def shade(axes: list[Axes], steps: float) -> None:
    """Puts the first ``steps`` of each panel on grey."""
    for axis in axes:
        axis.axvspan(0, steps, color="0.5", alpha=0.12, linewidth=0)


@figure("sample_efficiency", "Aggregate sample efficiency")
def sample_efficiency(results: Results) -> tuple:
    """IQM of the normalized training return over tasks and seeds, by environment steps."""
    tasks = [
        task
        for task in complete_tasks(results, "final_return")
        if all(results.curve_array(task, method).size for method in results.methods)
    ]
    if len(tasks) < 2:
        raise Absent("An aggregate over tasks needs at least two tasks with runs of every method.")
    drawing, (axis,) = panels(1, 5.2, 3.4)
    halfway = {}
    for method in results.methods:
        curves = [results.curve_array(task, method) for task in tasks]
        epochs = min(map(len, curves))
        normal = [statistics.normalized(c[:epochs], results.references[t]) for c, t in zip(curves, tasks, strict=True)]
        steps = results.curve_array(tasks[0], method, "env_steps")[:epochs, 0]
        estimate = statistics.sample_efficiency(normal)
        draw(axis, steps, estimate, results, method)
        halfway[method] = (float(estimate.point[epochs // 2 - 1]), steps[epochs // 2 - 1])
    axis.set_ylabel("IQM of the normalized return")
    over_steps(axis)
    legend_below(drawing, [axis], 3)
    best = max(halfway, key=lambda m: halfway[m][0])
    sentence = f"At {halfway[best][1]:,.0f} steps the highest IQM is that of {results.titles[best]},"
    return f"{sentence} {halfway[best][0]:.3f}, over {counted(len(tasks), 'task')}.", drawing


@figure("performance_profile", "Performance profiles")
def performance_profile(results: Results) -> tuple:
    """Share of runs that score above each threshold, by ALC@40 and by final return."""
    metrics = [metric for metric in ("alc40", "final_return") if complete_tasks(results, metric)]
    if not metrics:
        raise Absent("No task has runs of every method, so there is no profile to compare.")
    drawing, axes = panels(len(metrics), 4.2, 3.2)
    for axis, metric in zip(axes, metrics, strict=True):
        tasks = complete_tasks(results, metric)
        strata = {m: normalized_strata(results, metric, m, tasks) for m in results.methods}
        pooled = np.concatenate([scores for own in strata.values() for scores in own])
        thresholds = np.linspace(min(0.0, float(pooled.min())), float(pooled.max()) * 1.02, 101)
        for method, own in strata.items():
            profile = partial(statistics.performance_profile, thresholds=thresholds)
            estimate = statistics.interval(profile, own, repetitions=statistics.CURVE_REPETITIONS)
            draw(axis, thresholds, estimate, results, method)
        axis.set(title=METRICS[metric], xlabel="Normalized score τ", ylim=(-0.02, 1.02))
        axis.margins(x=0)
    axes[0].set_ylabel("Share of runs above τ")
    legend_below(drawing, axes)
    best = max(strata, key=lambda m: float(np.median(np.concatenate(strata[m]))))
    median = float(np.median(np.concatenate(strata[best])))
    sentence = f"By {metric_text(metrics[-1])}, half of {results.titles[best]}'s runs score above {median:.3f}, the"
    return f"{sentence} highest such score of {counted(len(strata), 'method')}.", drawing


@figure("improvement", "Probability of improvement")
def improvement(results: Results) -> tuple:
    """P(a run of PPO-DAP beats one of each other method), averaged over tasks."""
    needs(results, "final_return", SUBJECT)
    others = [method for method in results.methods if method != SUBJECT]
    metrics = [metric for metric in ("alc40", "final_return") if complete_tasks(results, metric)]
    if not others or not metrics:
        raise Absent(f"There is no task with runs of {results.titles[SUBJECT]} and of every other method.")
    drawing, axes = panels(len(metrics), 3.8, 1.1 + 0.32 * len(others))
    parts = []
    for axis, metric in zip(axes, metrics, strict=True):
        tasks = complete_tasks(results, metric)
        ours = [results.scores(metric, task, SUBJECT) for task in tasks]
        rows = []
        for method in others:
            theirs = [results.scores(metric, task, method) for task in tasks]
            estimate = statistics.interval(statistics.probability_of_improvement, ours, theirs)
            rows.append((results.titles[method], estimate, palette(results)[method]))
            if metric == metrics[0]:
                parts.append(f"{spread(estimate, 2)} against {results.titles[method]}")
        dots(axis, rows, reference=0.5)
        axis.set(title=METRICS[metric], xlabel=f"P({results.titles[SUBJECT]} > other)", xlim=(-0.03, 1.03))
    for axis in axes[1:]:
        axis.set_yticklabels([])
    sentence = f"By {metric_text(metrics[0])}, a run of {results.titles[SUBJECT]} beats one of another method with"
    return f"{sentence} probability {listed(parts)}.", drawing


@figure("alc40_intervals", "ALC@40 by task")
def alc40_intervals(results: Results) -> tuple:
    """Mean ALC@40 and its interval, per task and method."""
    return _intervals(results, "alc40")


@figure("final_return_intervals", "Final return by task")
def final_return_intervals(results: Results) -> tuple:
    """Mean final return and its interval, per task and method."""
    return _intervals(results, "final_return")


def _intervals(results: Results, metric: str) -> tuple:
    needs(results, metric)
    drawing, axes = panels(len(results.tasks), 3.4, 0.9 + 0.28 * len(results.methods))
    widest: tuple[float, str] = (-1.0, "")
    for axis, task in zip(axes, results.tasks, strict=True):
        rows = []
        for place, method in enumerate(results.methods):
            scores = results.scores(metric, task, method)
            estimate = NO_ESTIMATE
            if len(scores):
                estimate = statistics.interval(statistics.mean, [scores])
                axis.plot(scores, np.full(len(scores), place), "|", color="0.3", markersize=7, zorder=3)
                relative = float((estimate.high - estimate.low) / max(abs(estimate.point), 1e-9))
                widest = max(widest, (relative, f"{results.titles[method]} on {results.titles[task]}"))
            rows.append((results.titles[method], estimate, palette(results)[method]))
        dots(axis, rows)
        axis.set(title=results.titles[task], xlabel=METRICS[metric])
        if (place_in_grid := axis.get_subplotspec()) and not place_in_grid.is_first_col():
            axis.set_yticklabels([])
    sentence = f"Dot: mean; bar: {INTERVAL}; ticks: single runs."
    if widest[0] >= 0:
        sentence += f" The interval widest for its mean is that of {widest[1]}, {number(100 * widest[0], 0)} % of it."
    return sentence, drawing
