"""Tables of returns: each metric, PPO-DAP minus PPO, wins and losses, and aggregates over tasks."""

import itertools
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dapbench.curves import ALC_EPOCHS
from dapbench.report import statistics
from dapbench.report.items import Absent, table
from dapbench.report.results import BASELINE, METRICS, SUBJECT, Results
from dapbench.report.statistics import Estimate
from dapbench.report.style import INTERVAL, counted, digits, listed, number, provenance, seeds_text, spread

NOTE = f"Mean [{INTERVAL}] over seeds; bold: best mean; †: not distinguishable from it (the {INTERVAL} of the"
NOTE += " difference contains zero); ‡: compared with it by the mean alone, as an interval needs two runs of each."
PAIRED = "Methods that start from the same logs are compared by pairs of runs of one seed, and so of one draw of them."
ONE_SEED = "Bold: best mean. With one seed there are no intervals (‡)."
PUBLISHED_STEPS = 1_000_000
AGGREGATES = {
    "IQM": statistics.iqm,
    "Median": statistics.median,
    "Mean": statistics.mean,
    "Optimality gap": statistics.optimality_gap,
}


# The two readings of ALC@40, by the curve that each is of.
READINGS = {"alc40": "training", "alc40_eval": "evaluation"}
READINGS_NOTE = (
    "Training: the mean of the training curve over epochs 1 to 40. Evaluation: the area under the curve of the"
    " deterministic evaluation at epochs 0, 5, ..., 40, divided by 40."
)


@table("alc40", "ALC@40: mean return over the first 40 epochs, in training and in evaluation")
def alc40(results: Results) -> tuple:
    """Both readings of ALC@40 per task and method."""
    return returns(results, *READINGS)


@table("final_return", "Final return: mean of the last 100 training episodes")
def final_return(results: Results) -> tuple:
    """Final return per task and method, beside what is published of PPO at the same budget."""
    sentence, shown, tidy, note = returns(results, "final_return")
    steps = results.summaries.loc[results.summaries.group == "main", "env_steps"]
    if BASELINE in results.methods and (steps == PUBLISHED_STEPS).all():
        sources = [source["scores"] for source in published_ppo()]
        ranges = [_range([scores[task][0] for scores in sources if task in scores]) for task in results.tasks]
        title = results.titles[BASELINE]
        shown.insert(shown.columns.get_loc(title) + 1, f"Published {title}", ranges)
        note = f"Published {title}: lowest to highest of the sources that the table of published numbers names. {note}"
    return sentence, shown, tidy, note


def published_ppo() -> list[dict[str, Any]]:
    """The committed published numbers of PPO, a dict a source."""
    return json.loads(Path(__file__).with_name("published_ppo.json").read_text(encoding="utf-8"))


def _range(scores: list[float]) -> str:
    decimals = digits(scores)
    ends = dict.fromkeys(number(score, decimals) for score in (min(scores), max(scores))) if scores else ["–"]
    return " to ".join(ends)


@table("eval_return", "Evaluation return: mean action, frozen statistics, own seeds")
def eval_return(results: Results) -> tuple:
    """Return of the deterministic evaluation per task and method."""
    return returns(results, "eval_return")


def returns(results: Results, *metrics: str, methods: list[str] | None = None, tasks: list[str] | None = None) -> tuple:
    """A table of metrics per task and method.

    Args:
        metrics: the first is what the item needs; the others stand beside it where runs have them.
        methods, tasks: the profile's main ones unless given.
    """
    needs(results, metrics[0])
    methods = results.methods if methods is None else methods
    tasks = results.tasks if tasks is None else tasks
    metrics = tuple(metric for metric in metrics if results.summaries[metric].notna().any())
    shown, values = [], []
    for task, metric in itertools.product(tasks, metrics):
        scores = {m: s for m in methods if len(s := results.scores(metric, task, m))}
        lacking = "missing" if results.has_episodes(task) or metric == "eval_return" else "no episode ended"
        estimates = {m: statistics.interval(statistics.mean, [s]) for m, s in scores.items()}
        decimals = digits(float(s.mean()) for s in scores.values())
        row = {"Task": results.titles[task]}
        if len(metrics) > 1 or metric in READINGS:
            row |= {"Curve": READINGS[metric]} if set(metrics) <= set(READINGS) else {"Metric": METRICS[metric]}
        for method in methods:
            title = results.titles[method]
            if method not in scores:
                row[title] = lacking
                continue
            mark = against_best(method, scores, partial(difference_of, results, metric, tasks=[task]))
            text = spread(estimates[method], decimals)
            text += "" if len(scores[method]) == len(results.profile["seeds"]) else f" (n={len(scores[method])})"
            row[title] = marked(text, mark)
            values.append({"task": task, "method": method, "metric": metric} | numbers(estimates[method]))
            values[-1] |= {"seeds": len(scores[method]), "mark": mark}
        shown.append(row)
    tidy = pd.DataFrame(values)
    sentences = []
    for metric in metrics:
        leaders = tidy[(tidy.mark == "best") & (tidy.metric == metric)].method.value_counts()
        leads = [f"{results.titles[m]} leads on {leaders[m]}" for m in methods if m in leaders]
        sentences.append(f"By mean {metric_text(metric)}, {listed(leads)} of {counted(len(tasks), 'task')}.")
    notes = [READINGS_NOTE] if metrics[0] in READINGS else []
    notes += [f"{NOTE} {PAIRED}" if tidy.seeds.max() > 1 else ONE_SEED, provenance(results, methods)]
    return " ".join(sentences), pd.DataFrame(shown), tidy, " ".join(notes)


def against_best(method: str, scores: Mapping[str, np.ndarray], difference: Callable[[str, str], Estimate]) -> str:
    """How a method's scores stand to those of the highest mean: best, below, not distinguishable, or no interval.

    Args:
        difference: of the first method's mean from the second's.
    """
    best = max(scores, key=lambda m: scores[m].mean())
    if method == best:
        return "best"
    estimate = difference(best, method)
    if np.isnan(estimate.low):
        return "no interval"
    return "below" if estimate.excludes_zero else "not distinguishable"


def difference_of(
    results: Results, metric: str, first: str, second: str, tasks: list[str], normal: bool = False
) -> Estimate:
    """The mean over tasks of a method's mean minus another's; paired by seed where they share draws of the logs.

    Args:
        tasks: those of them that have no run of both (where they share draws: of one seed) do not count.
        normal: whether scores are normalized; then each task needs a reference.
    """
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    for task in tasks:
        pair = results.both_scores(metric, task, first, second)
        if all(map(len, pair)):
            a, b = (statistics.normalized(s, results.references[task]) for s in pair) if normal else pair
            ours.append(a)
            theirs.append(b)
    if not ours:
        return Estimate(*[np.array(np.nan)] * 3)
    return statistics.difference(ours, theirs, paired=results.share_draws(first, second))


def marked(text: str, mark: str) -> str:
    """A cell of a table with the mark that `against_best` gives it."""
    return {"best": f"**{text}**", "not distinguishable": f"{text} †", "no interval": f"{text} ‡"}.get(mark, text)


def metric_text(metric: str) -> str:
    """A metric's title within a sentence."""
    return METRICS[metric] if metric in READINGS else METRICS[metric].lower()


def verdict(difference: Estimate) -> str:
    """above, below or not distinguishable, by the interval; n/a without one."""
    if np.isnan(difference.low):
        return "n/a"
    return ("above" if difference.low > 0 else "below") if difference.excludes_zero else "not distinguishable"


def numbers(estimate: Estimate) -> dict[str, float]:
    """An estimate and its bounds as columns of a table."""
    return {"estimate": float(estimate.point), "low": float(estimate.low), "high": float(estimate.high)}


def needs(results: Results, metric: str, *methods: str) -> None:
    """Raises Absent unless there are runs with ``metric`` of each of ``methods``."""
    if results.summaries.loc[results.summaries.group == "main", metric].isna().all():
        raise Absent(without(results, metric))
    for method in methods:
        if method not in results.methods:
            raise Absent(f"There are no runs of {results.titles.get(method, method)}.")
        if results.summaries.loc[results.summaries.method == method, metric].isna().all():
            raise Absent(f"No run of {results.titles[method]} has a number for {metric_text(metric)}.")


def without(results: Results, metric: str) -> str:
    """Why no run has a metric."""
    if not results.methods:
        return "No run of the profile's main methods ended."
    if metric == "alc40" and not (results.summaries.epochs >= ALC_EPOCHS).any():
        return f"Fewer than {ALC_EPOCHS} epochs were run, so there is no ALC@40."
    if metric == "eval_return":
        return "No evaluation gave a finite return."
    return f"No training episode ended in any run, so there is no {metric_text(metric)}."


def differences(results: Results, metric: str) -> dict[str, Estimate]:
    """PPO-DAP minus PPO on each task that has runs of both."""
    there = [t for t in results.tasks if all(map(len, results.both_scores(metric, t, SUBJECT, BASELINE)))]
    return {task: difference_of(results, metric, SUBJECT, BASELINE, [task]) for task in there}


def verdict_text(verdicts: list[str], than: str) -> str:
    """How often each verdict was reached."""
    told = [kind for kind in verdicts if kind != "n/a"]
    if not told:
        return f"compared with {than} by the mean alone, as an interval needs two seeds of each"
    kinds = {"above": f"above {than}", "not distinguishable": "not distinguishable", "below": "below"}
    parts = [f"{text} on {told.count(kind)}" for kind, text in kinds.items()]
    alone = f"; {counted(len(verdicts) - len(told), 'task')} without an interval" if len(told) < len(verdicts) else ""
    return f"{listed(parts)} of {counted(len(told), 'task')}, by the {INTERVAL} of the difference{alone}"


@table("difference", "PPO-DAP minus PPO: ALC@40")
def difference(results: Results) -> tuple:
    """The study's question: the difference of ALC@40 on each task and over tasks, with its interval."""
    needs(results, "alc40", SUBJECT, BASELINE)
    subject, baseline = results.titles[SUBJECT], results.titles[BASELINE]
    shown: list[dict[str, str]] = []
    values: list[dict[str, object]] = []
    found = {metric: differences(results, metric) for metric in READINGS}
    for task, metric in [(task, metric) for task in results.tasks for metric in READINGS if task in found[metric]]:
        estimate = found[metric][task]
        means = {m: results.scores(metric, task, m) for m in (BASELINE, SUBJECT)}
        decimals = digits(float(s.mean()) for s in means.values())
        row = {"Task": results.titles[task], "Curve": READINGS[metric]}
        row |= {
            results.titles[m]: spread(statistics.interval(statistics.mean, [s]), decimals) for m, s in means.items()
        }
        row |= {"Difference": spread(estimate, decimals), "Verdict": verdict(estimate)}
        shown.append(row)
        counts = {f"seeds_{m}": len(s) for m, s in means.items()}
        values.append({"task": task, "metric": metric, **numbers(estimate), **counts, "verdict": verdict(estimate)})
    if not shown:
        raise Absent(f"No task has runs of both {subject} and {baseline}.")
    for metric, per_task in found.items():
        tasks = [task for task in per_task if task in results.references]
        if len(tasks) > 1:
            pair = [normalized_strata(results, metric, m, tasks) for m in (SUBJECT, BASELINE)]
            overall = difference_of(results, metric, SUBJECT, BASELINE, tasks, normal=True)
            ends = [spread(statistics.interval(statistics.mean, s)) for s in (pair[1], pair[0])]
            cells = ["Normalized mean", READINGS[metric], *ends, spread(overall), verdict(overall)]
            shown.append(dict(zip(shown[0], cells, strict=True)))
            values.append(
                {"task": "normalized mean", "metric": metric, **numbers(overall), "verdict": verdict(overall)}
            )
    told = {m: verdict_text([verdict(e) for e in own.values()], f"{baseline}'s") for m, own in found.items() if own}
    sentence = f"{subject}'s ALC@40 is {told['alc40']} (training, {seeds_text(results, [SUBJECT, BASELINE])})."
    sentence += f" By the evaluation it is {told['alc40_eval']}." if "alc40_eval" in told else ""
    note = f"{READINGS_NOTE} {provenance(results, [SUBJECT, BASELINE])}"
    return sentence, pd.DataFrame(shown), pd.DataFrame(values), note


@table("wins", "PPO-DAP against the strongest on-policy baseline")
def wins(results: Results) -> tuple:
    """Wins, ties and losses against the baseline with the highest mean on each task, of those that use no logs."""
    needs(results, "final_return", SUBJECT)
    if not results.baselines:
        raise Absent("There are no runs of a method that starts from nothing.")
    values = []
    for metric in METRICS:
        for task in results.tasks:
            ours = results.scores(metric, task, SUBJECT)
            theirs = {m: results.scores(metric, task, m) for m in results.baselines}
            if len(ours) and all(map(len, theirs.values())):
                rival = max(theirs, key=lambda m: theirs[m].mean())
                estimate = difference_of(results, metric, SUBJECT, rival, [task])
                result = {"above": "win", "below": "loss", "not distinguishable": "tie"}.get(verdict(estimate), "n/a")
                values.append(
                    {"metric": metric, "task": task, "strongest": rival, **numbers(estimate), "result": result}
                )
    if not values:
        raise Absent(f"No task has runs of {results.titles[SUBJECT]} and of every baseline.")
    tidy = pd.DataFrame(values)
    shown = []
    for name, rows in tidy.groupby("metric", sort=False):
        row: dict[str, object] = {"Metric": METRICS[str(name)], "Tasks": len(rows)}
        row |= {title: int((rows.result == kind).sum()) for title, kind in RESULTS.items()}
        shown.append(row | {"Mean at or above": f"{(rows.estimate >= 0).sum()} of {len(rows)}"})
    final = tidy[tidy.metric == "final_return"]
    sentence = f"{results.titles[SUBJECT]}'s mean final return is at or above the strongest baseline's on"
    sentence += f" {(final.estimate >= 0).sum()} of {counted(len(final), 'task')}."
    names = listed(results.titles[m] for m in results.baselines)
    note = f"Baselines: {names}, on the tasks that have runs of all of them. A win or loss is one by the {INTERVAL} of"
    note += f" the difference. {provenance(results)}"
    return sentence, pd.DataFrame(shown), tidy, note


RESULTS = {"Wins": "win", "Ties": "tie", "Losses": "loss"}


def normalized_strata(results: Results, metric: str, method: str, tasks: list[str]) -> list[np.ndarray]:
    """A method's normalized scores by task."""
    return [statistics.normalized(results.scores(metric, task, method), results.references[task]) for task in tasks]


def complete_tasks(results: Results, metric: str) -> list[str]:
    """The tasks with a reference on which every method has a run, so that aggregates compare like with like.

    Raises:
        Absent: fewer than two methods have runs.
    """
    if len(results.methods) < 2:
        raise Absent("Fewer than two methods have runs, so there is nothing to compare over tasks.")
    return [
        task
        for task in results.tasks
        if task in results.references and all(len(results.scores(metric, task, m)) for m in results.methods)
    ]


def reference_text(results: Results, tasks: list[str]) -> str:
    """Whose returns count as 0 and 1."""
    sources = {task: results.references[task].source for task in tasks}
    parts = [
        f"{s} on {listed(results.titles[t] for t in tasks if sources[t] == s)}" for s in sorted({*sources.values()})
    ]
    return f"Normalized by the references of {listed(parts)}."


@table("aggregates", "Aggregate normalized scores")
def aggregates(results: Results) -> tuple:
    """IQM, median, mean and optimality gap over tasks and seeds, per method."""
    needs(results, "final_return")
    shown, values, used = [], [], []
    for metric, title in METRICS.items():
        tasks = complete_tasks(results, metric)
        used += [task for task in tasks if task not in used]
        for method in results.methods if tasks else []:
            strata = normalized_strata(results, metric, method, tasks)
            estimates = {name: statistics.interval(how, strata) for name, how in AGGREGATES.items()}
            shown.append({"Metric": title, "Method": results.titles[method]})
            shown[-1] |= {name: spread(estimate, 3) for name, estimate in estimates.items()}
            for name, estimate in estimates.items():
                row = {"metric": metric, "method": method, "statistic": name, **numbers(estimate)}
                values.append(row | {"tasks": len(tasks), "runs": sum(map(len, strata))})
    if not shown:
        raise Absent("No task has runs of every method, so nothing can be aggregated.")
    tidy = pd.DataFrame(values)
    leading = tidy[(tidy.metric == tidy.metric.iloc[0]) & (tidy.statistic == "IQM")]
    best = leading.loc[leading.estimate.idxmax()]
    sentence = f"The highest IQM of {metric_text(best.metric)} is that of {results.titles[best.method]}, "
    sentence += f"{spread(Estimate(best.estimate, best.low, best.high), 3)}, over {counted(int(best.tasks), 'task')}."
    note = f"{reference_text(results, used)} The optimality gap is the shortfall from 1; lower is better there."
    return sentence, pd.DataFrame(shown), tidy, f"{note} {provenance(results)}"
