"""Figures around the returns: where the time goes, memory, ablations, log qualities, the dual-proximal diagnostics."""

import itertools

import numpy as np
import pandas as pd
import seaborn as sns
from scipy import stats

from dapbench.report import statistics
from dapbench.report.items import Absent, figure
from dapbench.report.results import BASELINE, METRICS, SUBJECT, Results
from dapbench.report.statistics import Estimate
from dapbench.report.study_tables import (
    MIB,
    SHARED_LIBRARIES,
    primary,
    quality_frame,
    timed_methods,
    timing_strata,
)
from dapbench.report.style import (
    counted,
    digits,
    dots,
    legend_below,
    listed,
    number,
    palette,
    panels,
    seeds_text,
    spread,
)
from dapbench.report.tables import difference_of, metric_text, needs

BOUND_TERMS = {
    "bound_surrogate": "surrogate advantage",
    "bound_policy_shift": "policy-shift penalty",
    "bound_imitation": "imitation gain",
    "bound_prior_drift": "prior drift",
}


@figure("time_parts", "Where the time goes")
def time_parts(results: Results) -> tuple:
    """Seconds of each part of a run per 100,000 environment steps, mean over tasks and seeds."""
    seconds = results.seconds[results.seconds.group == "main"]
    if seconds.empty:
        raise Absent("No run says where its time went.")
    runs = results.summaries.set_index(["task", "method", "seed"])["env_steps"]
    per = seconds.assign(steps=runs.reindex(pd.MultiIndex.from_frame(seconds[["task", "method", "seed"]])).to_numpy())
    per["cost"] = per.seconds * 100_000 / per.steps
    # A part that some runs lack took no time there, so means are over all runs of a method.
    counts = per.groupby("method")[["task", "seed"]].apply(lambda own: len(own.drop_duplicates()))
    table = per.pivot_table(index="method", columns="part", values="cost", aggfunc="sum").div(counts, axis=0).fillna(0)
    methods = [m for m in results.methods if m in table.index]
    if not table.to_numpy().any():
        raise Absent("No run took a time that can be told.")
    table = table.loc[methods, table.sum().sort_values(ascending=False).index]
    small = table.columns[table.max() < 0.01 * table.sum(axis=1).max()]
    if len(small) > 1:
        table = table.drop(columns=small).assign(other=table[small].sum(axis=1))
    drawing, (axis,) = panels(1, 6.5, 1.6 + 0.34 * len(methods))
    left = np.zeros(len(methods))
    for part, colour in zip(table, sns.color_palette("Set2", len(table.columns)), strict=True):
        axis.barh(range(len(methods)), table[part], left=left, label=str(part), color=colour, height=0.65)
        left += table[part].to_numpy()
    axis.set_yticks(range(len(methods)), [results.titles[m] for m in methods])
    axis.invert_yaxis()
    axis.set_xlabel("Seconds per 100,000 environment steps")
    drawing.legend(loc="outside lower center", ncols=5, frameon=False)
    parts = []
    for method in methods:
        costs = dict(zip(map(str, table), table.loc[method].to_numpy(float), strict=True))
        largest = max(costs, key=lambda part: costs[part])
        share = 100 * costs[largest] / (sum(costs.values()) or np.nan)
        parts.append(f"{largest} for {results.titles[method]} ({number(share, 0)} %)")
    return f"The largest part is {listed(parts)}.", drawing


@figure("memory", "Peak memory")
def memory(results: Results) -> tuple:
    """Peak memory of a run's process (of the GPU where one was used), mean over tasks and seeds."""
    rows = []
    for method in timed_methods(results):
        strata = [s / MIB for s in timing_strata(results, "peak_memory_bytes", method, results.tasks) if len(s)]
        rows.append((results.titles[method], statistics.interval(statistics.mean, strata), palette(results)[method]))
    drawing, (axis,) = panels(1, 5.2, 1.1 + 0.3 * len(rows))
    dots(axis, rows)
    axis.set_xlabel("Peak memory, MiB")
    axis.set_xlim(0, 1.1 * max(float(np.nanmax(estimate)) for _, estimate, _ in rows))
    means = listed(f"{spread(e, 0)} MiB for {title}" for title, e, _ in rows)
    return f"Mean peak memory: {means}. {SHARED_LIBRARIES}", drawing


@figure("ablation_bars", "Ablations: change from PPO-DAP")
def ablation_bars(results: Results) -> tuple:
    """Each variant's normalized difference from PPO-DAP, averaged over the tasks that it ran on."""
    metric, names = primary(results), results.group("ablations")
    needs(results, metric, SUBJECT)
    rows: list[tuple[str, Estimate, object]] = []
    for method in names:
        pairs = [SUBJECT, method]
        tasks = [t for t in results.references if all(len(results.scores(metric, t, m)) for m in pairs)]
        if tasks:
            change = difference_of(results, metric, method, SUBJECT, tasks, normal=True)
            rows.append((f"{results.titles[method]} ({counted(len(tasks), 'task')})", change, "0.35"))
    if not rows:
        raise Absent("There are no runs of ablations in this profile.")
    drawing, (axis,) = panels(1, 6.0, 1.1 + 0.3 * len(rows))
    for place, (_, change, colour) in enumerate(rows):
        axis.barh(place, change.point, color=colour, alpha=0.35, height=0.6)
    dots(axis, rows, reference=0.0)
    axis.set_xlabel(f"Difference of normalized {metric_text(metric)} from {results.titles[SUBJECT]}")
    worst = min(rows, key=lambda row: float(row[1].point))
    return f"The lowest is {worst[0]}: {spread(worst[1], 3)}.", drawing


@figure("log_quality_curve", "Return against the quality of the logs")
def log_quality_curve(results: Results) -> tuple:
    """The primary metric of each method against the mean return of the logs that it started from; PPO's as a line."""
    frame, metric = quality_frame(results), primary(results)
    if "logs_return_mean" not in frame or frame.logs_return_mean.isna().all():
        raise Absent("The runs do not say what their logs returned.")
    tasks = [task for task in results.asked() if task in set(frame.task)]
    bases = [base for base in results.by_quality() if base in set(frame.base)]
    drawing, axes = panels(len(tasks), 5.2, 3.4)
    changes = []
    for axis, task in zip(axes, tasks, strict=True):
        of_task = frame[frame.task == task]
        span = of_task.logs_return_mean.max() - of_task.logs_return_mean.min()
        for place, base in enumerate(bases):
            points = []
            for _, runs in of_task[of_task.base == base].groupby("logs_quality"):
                estimate = statistics.interval(statistics.mean, [runs[metric].to_numpy(float)])
                points.append((float(runs.logs_return_mean.mean()), *map(float, estimate)))
            if not points:
                continue
            logged, mean, low, high = np.array(sorted(points)).T
            aside = logged + 0.012 * span * (place - (len(bases) - 1) / 2)  # so that intervals stand side by side
            colour = palette(results)[base]
            axis.vlines(aside, low, high, color=colour, linewidth=3, alpha=0.4)
            axis.plot(aside, mean, "o-", color=colour, markersize=4, linewidth=1, label=results.titles[base])
            change = mean[-1] - mean[0]
            changes.append(f"{number(change, digits([change]))} for {results.titles[base]} on {results.titles[task]}")
        for quality, logged in of_task.groupby("logs_quality").logs_return_mean.mean().items():
            axis.axvline(logged, color="0.85", linewidth=0.8, zorder=0)
            axis.annotate(
                str(quality),
                (logged, 1.0),
                xycoords=("data", "axes fraction"),
                rotation=30,
                fontsize="small",
                xytext=(0, 2),
                textcoords="offset points",
            )
        if len(ppo := results.scores(metric, task, BASELINE)):
            title = f"{results.titles[BASELINE]}, mean"
            axis.axhline(ppo.mean(), color=palette(results)[BASELINE], linestyle="--", label=title)
        axis.set(xlabel="Mean return in the logs", ylabel=METRICS[metric])
        axis.set_title(results.titles[task], pad=28)
        axis.margins(0.12)
    legend_below(drawing, axes)
    sentence = f"From the logs of the lowest return to those of the highest, mean {metric_text(metric)} changes by"
    return f"{sentence} {listed(changes)}.", drawing


@figure("log_draws", "Return against the return of the draw of logs")
def log_draws(results: Results) -> tuple:
    """Each run's primary metric against the mean return of the logs that it started from; PPO's mean as a line."""
    metric = primary(results)
    frame = results.summaries[results.summaries.method.isin(results.methods)]
    if "logs_return_mean" not in frame or (frame := frame.dropna(subset=["logs_return_mean", metric])).empty:
        raise Absent("No run says what its logs returned.")
    tasks = [task for task in results.tasks if task in set(frame.task)]
    methods = [method for method in results.methods if method in set(frame.method)]
    drawing, axes = panels(len(tasks), 3.6, 3.0)
    for axis, task in zip(axes, tasks, strict=True):
        for method, marker in zip(methods, itertools.cycle("osD^v"), strict=False):
            own = frame[(frame.task == task) & (frame.method == method)]
            colour, label = palette(results)[method], results.titles[method]
            axis.plot(own.logs_return_mean, own[metric], marker, color=colour, label=label, markersize=4, alpha=0.8)
        if len(ppo := results.scores(metric, task, BASELINE)):
            title = f"{results.titles[BASELINE]}, mean"
            axis.axhline(ppo.mean(), color=palette(results)[BASELINE], linestyle="--", label=title)
        axis.set(title=results.titles[task], xlabel="Mean return in the logs", ylabel=METRICS[metric])
        axis.margins(0.15)
    legend_below(drawing, axes)
    sentence = f"A point a run: {metric_text(metric)}, {seeds_text(results, methods)}."
    spans = frame.groupby("task").logs_return_mean.agg(["min", "max"])
    parts = [
        f"{number(low, digits([low]))} to {number(high, digits([high]))} on {results.titles[str(task)]}"
        for task, low, high in spans.loc[tasks].itertuples()
    ]
    return f"{sentence} The draws' logs return {listed(parts)}.", drawing


@figure("diagnostics", "Dual-proximal diagnostics of PPO-DAP")
def diagnostics(results: Results) -> tuple:
    """Policy KL, prior drift and the lower bound's terms by epoch, and the surrogate against realised improvement."""
    curves = results.curves[(results.curves.method == SUBJECT)]
    terms = [name for name in BOUND_TERMS if name in curves and curves[name].notna().any()]
    if curves.empty or "bound_surrogate" not in terms:
        raise Absent(f"No run of {results.titles[SUBJECT]} logged the terms of the lower bound.")
    drawing, axes = panels(4, 4.0, 2.9, columns=2)
    colours = dict(zip(results.tasks, sns.color_palette("Dark2", len(results.tasks)), strict=True))
    kl = "policy_kl" if "policy_kl" in curves else "approx_kl"
    for axis, column, label in ((axes[0], kl, "Policy KL per iteration"), (axes[1], "prior_drift", "Prior drift")):
        if column in curves:
            for task, own in curves.groupby("task"):
                mean = own.groupby("epoch")[column].mean()
                axis.plot(mean.index, mean, color=colours[str(task)], label=results.titles[str(task)])
        axis.set(xlabel="Epoch", ylabel=label)
        axis.margins(x=0)
    for name in terms:
        mean = curves.groupby("epoch")[name].mean().abs()
        mean = mean[mean > 0]  # the prior drifts only in the iterations that tune it
        axes[2].plot(mean.index, mean, label=BOUND_TERMS[name])
    axes[2].set(xlabel="Epoch", ylabel="|term|, mean over runs", yscale="log")
    axes[2].margins(x=0)
    axes[2].legend(frameon=False, fontsize="small", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    pairs = improvements(curves)
    for task, own in pairs.groupby("task"):
        axes[3].scatter(
            own.bound_surrogate, own.improvement, s=6, alpha=0.5, color=colours[str(task)], linewidth=0, rasterized=True
        )
    axes[3].axhline(0, color="0.6", linewidth=0.8, zorder=0)
    linear = (float(pairs.bound_surrogate.abs().quantile(0.9)) if len(pairs) else 0.0) or 1.0
    axes[3].set_xscale("symlog", linthresh=linear)  # the first epochs' surrogates are far larger than all later ones
    axes[3].set(xlabel="Surrogate advantage / (1 − γ)", ylabel="Change of return, in task std")
    handles, labels = axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    parts = []
    for name in terms:
        complete = pairs[[name, "improvement"]].dropna()
        if complete[name].nunique() > 1 and len(complete) > 2:
            rho = float(stats.spearmanr(complete[name], complete.improvement).statistic)
            parts.append(f"{number(rho, 2)} for the {BOUND_TERMS[name]}")
    text = f"Rank correlation with the change of return that followed: {listed(parts)}, over {len(pairs):,} changes."
    return text, drawing


def improvements(curves: pd.DataFrame) -> pd.DataFrame:
    """The change of return from each epoch in which an episode ended to the next such, and the terms' means until then.

    Returns:
        A row for each change, which is divided by the standard deviation of its task's changes.
    """
    ordered = curves.sort_values(["task", "seed", "epoch"])
    spans = ordered.groupby(["task", "seed"]).return_mean.transform(lambda returns: returns.notna().cumsum())
    terms = [name for name in BOUND_TERMS if name in ordered]
    grouped = ordered[spans > 0].groupby(["task", "seed", spans.rename("span")])
    found = grouped[terms].mean().assign(returned=grouped.return_mean.first()).reset_index()
    found["improvement"] = found.groupby(["task", "seed"]).returned.shift(-1) - found.returned
    found = found.dropna(subset=["improvement", "bound_surrogate"])
    return found.assign(improvement=found.improvement / found.groupby("task").improvement.transform("std"))
