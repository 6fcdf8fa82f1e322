"""Tables around the returns: speed, overhead, ablations, controls, log qualities, logs and priors."""

import itertools
from typing import Any

import numpy as np
import pandas as pd

from dapbench.profiles import runs
from dapbench.report import statistics
from dapbench.report.items import Absent, table
from dapbench.report.results import BASELINE, METRICS, SUBJECT, TIMING_KEYS, Results, read_json
from dapbench.report.settings_tables import changes
from dapbench.report.style import INTERVAL, counted, digits, listed, logs_text, number, provenance, spread
from dapbench.report.tables import PAIRED, READINGS, difference_of, metric_text, needs, numbers, returns, verdict

MIB = 2**20
# Said wherever the memory of the runs themselves stands.
SHARED_LIBRARIES = (
    "Runs that one dapbench repro forks all count the libraries that they share, whether they use them or not; in the"
    " paired overhead each run is a process of its own."
)


def ratio_of_means(first: statistics.Strata, second: statistics.Strata) -> np.ndarray:
    """Mean over tasks of the ratio of two means."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a run of one iteration has no speed
        ratios = [a.mean(-1) / b.mean(-1) for a, b in zip(first, second, strict=True)]
        return np.mean(np.stack(ratios, axis=-1), axis=-1)


def timing_strata(results: Results, column: str, method: str, tasks: list[str]) -> list[np.ndarray]:
    """A column of the timings of a method's runs, by task."""
    frame = results.timings[results.timings.method == method]
    return [frame.loc[frame.task == task, column].to_numpy(float) for task in tasks]


def timed_methods(results: Results) -> list[str]:
    """The profile's methods whose runs left a timing.json.

    Raises:
        Absent: none did.
    """
    timed = set(results.timings.loc[results.timings.group == "main", "method"])
    if not timed:
        raise Absent("No run left a timing.json, so nothing is said about speed and memory.")
    return [method for method in results.methods if method in timed]


@table("speed", "Speed and memory of the runs")
def speed(results: Results) -> tuple:
    """Environment steps per second and peak memory per method, and both relative to PPO."""
    methods, timed = timed_methods(results), results.timings[results.timings.group == "main"]
    tasks = [t for t in results.tasks if all(((timed.task == t) & (timed.method == m)).any() for m in methods)]
    shown, values, ratios = [], [], {}
    for method in methods:
        row = {"Method": results.titles[method]}
        for task in results.tasks:
            own = timed[(timed.task == task) & (timed.method == method)]
            row[results.titles[task]] = number(own.steps_per_second.mean(), 0)
            if len(own):
                means = {column: float(own[column].mean()) for column in TIMING_KEYS}
                values.append({"task": task, "method": method, "runs": len(own), **means})
        if tasks and BASELINE in methods:
            # Time per step is the inverse of speed: PPO's speed over this method's.
            pairs = [("steps_per_second", BASELINE, method), ("peak_memory_bytes", method, BASELINE)]
            for title, (column, above, below) in zip(("Time per step × PPO", "Memory × PPO"), pairs, strict=True):
                sides = [timing_strata(results, column, m, tasks) for m in (above, below)]
                estimate = statistics.interval(ratio_of_means, *sides)
                row[title] = "1" if method == BASELINE else spread(estimate, 2)
                ratios[method, title] = row[title]
                values.append({"task": "mean over tasks", "method": method, "ratio": title, **numbers(estimate)})
        memory = timed.loc[timed.method == method, "peak_memory_bytes"]
        row["Peak memory, MiB"] = number(memory.mean() / MIB, 0)
        shown.append(row)
    task = next(results.titles[t] for t in results.tasks if ((timed.task == t) & (timed.method == methods[0])).any())
    sentence = f"{results.titles[methods[0]]} makes {shown[0][task]} steps per second on {task}."
    if (SUBJECT, "Time per step × PPO") in ratios:
        sentence = f"{results.titles[SUBJECT]} takes {ratios[SUBJECT, 'Time per step × PPO']} times PPO's time per"
        sentence += f" environment step and {ratios[SUBJECT, 'Memory × PPO']} times its peak memory."
    note = (
        "Under each task: environment steps per second of training, after compilation, as measured in the runs"
        " themselves, which may have shared the machine with others; pretraining and logs are not in it. Ratios: mean"
        f" over tasks [{INTERVAL}]. {SHARED_LIBRARIES}"
    )
    return sentence, pd.DataFrame(shown), pd.DataFrame(values), note


PAIR = ["task", "paired_for", "repeat"]  # one run of PPO, and one of each method that took its turn with it
OVERHEAD = {"Wall-clock × PPO": "wall_seconds", "Memory × PPO": "peak_memory_bytes"}


def overhead_ratios(results: Results, method: str, column: str, device: str = "cpu") -> dict[str, np.ndarray]:
    """A column of the paired timings of a method relative to PPO's: by task, the ratio of each pair."""
    frame = results.overhead
    if frame.empty or not {method, BASELINE} <= set(frame.method):
        return {}
    wide = frame[frame.device == device].pivot_table(index=PAIR, columns="method", values=column)
    ratios = (wide[method] / wide[BASELINE]).dropna() if {method, BASELINE} <= set(wide) else pd.Series(dtype=float)
    return {str(task): own.to_numpy() for task, own in ratios.groupby("task")} if len(ratios) else {}


@table("overhead", "Overhead relative to PPO, paired")
def overhead(results: Results) -> tuple:
    """Wall-clock and peak memory relative to PPO in runs that were paired and interleaved on one machine."""
    frame = results.overhead
    if frame.empty:
        raise Absent("There are no paired, interleaved timings (dapbench overhead makes them).")
    if BASELINE not in set(frame.method):
        raise Absent(f"The paired timings have none of {results.titles[BASELINE]}, to which they would be relative.")
    shown, values = [], []
    asked = dict.fromkeys(run.method for run in runs(results.profile))
    methods = [m for m in asked if m in set(frame.method) and m != BASELINE]
    tasks = list(dict.fromkeys(frame.task))
    for device, method in [(d, m) for d in frame.device.unique() for m in methods]:
        row = {"Method": results.titles[method] + ("" if device == "cpu" else f", {device}")}
        row |= dict.fromkeys([results.titles.get(task, task) for task in tasks], "")
        for title, column in OVERHEAD.items():
            ratios = overhead_ratios(results, method, column, device)
            if not ratios:
                break
            cell = {"method": method, "device": device, "ratio": title}
            for task, own in ratios.items():
                values.append({"task": task, **cell, "estimate": own.mean(), "tasks": 1, "pairs": len(own)})
                if column == "wall_seconds":
                    row[results.titles.get(task, task)] = number(own.mean(), 2)
            estimate = statistics.interval(statistics.mean, list(ratios.values()))
            row[title] = spread(estimate, 3)
            counts = {"tasks": len(ratios), "pairs": sum(map(len, ratios.values()))}
            values.append({"task": "mean over tasks", **cell, **numbers(estimate), **counts})
        else:
            shown.append(row)
    if not shown:
        raise Absent(
            f"There are no timings of another method of the profile that are paired with {results.titles[BASELINE]}'s."
        )
    if set(frame.device) == {"cpu"}:
        unmeasured = dict.fromkeys(shown[0], "") | dict.fromkeys(OVERHEAD, "not measured")
        shown.append(unmeasured | {"Method": f"{results.titles[SUBJECT]}, GPU"})
    ours = next((row for row in shown if row["Method"] == results.titles[SUBJECT]), shown[0])
    sentence = f"Paired with {results.titles[BASELINE]}'s, the wall-clock of {ours['Method']} is"
    sentence += f" {ours['Wall-clock × PPO']} × and its peak memory {ours['Memory × PPO']} ×."
    pairs = counted(len(frame[["device", *PAIR]].drop_duplicates()), "pair")
    note = f"Under each task: wall-clock × PPO, the mean of its pairs' ratios. Then: mean over tasks [{INTERVAL}]."
    note += f" {pairs} of runs."
    return sentence, pd.DataFrame(shown), pd.DataFrame(values), note


def primary(results: Results) -> str:
    """ALC@40, or the final return where fewer epochs were run."""
    return "final_return" if results.summaries["alc40"].isna().all() else "alc40"


@table("ablations", "Ablations of PPO-DAP")
def ablations(results: Results) -> tuple:
    """Each variant's primary metric beside PPO-DAP's, and its normalized difference from it."""
    metric, names = primary(results), results.group("ablations")
    needs(results, metric, SUBJECT)
    if not names:
        raise Absent("There are no runs of ablations in this profile.")
    tasks = [t for t in results.tasks if all(len(results.scores(metric, t, m)) for m in [SUBJECT, *names])]
    if not tasks:
        raise Absent("No task has runs of PPO-DAP and of every ablation.")
    shown, values, verdicts = [], [], []
    scaled = [task for task in tasks if task in results.references]
    for method in [SUBJECT, *names]:
        row = {"Variant": results.titles[method]}
        row["Changed"] = changes(results.method_config(method), results.method_config(SUBJECT))
        for task in tasks:
            estimate = statistics.interval(statistics.mean, [results.scores(metric, task, method)])
            row[results.titles[task]] = spread(estimate)
            values.append({"task": task, "method": method, "metric": metric, **numbers(estimate)})
        if scaled:
            change = difference_of(results, metric, method, SUBJECT, scaled, normal=True)
            row["Normalized difference"] = "0" if method == SUBJECT else spread(change, 3)
            values.append({"task": "normalized difference", "method": method, "metric": metric, **numbers(change)})
            verdicts += [] if method == SUBJECT else [verdict(change)]
        shown.append(row)
    kinds = {kind: kind for kind in ("below", "above", "not distinguishable")} | {"n/a": "without an interval"}
    told = [f"{n} {text}" for kind, text in kinds.items() if (n := verdicts.count(kind)) or kind != "n/a"]
    sentence = f"Of {counted(len(names), 'variant')}, by {metric_text(metric)} over {counted(len(scaled), 'task')},"
    sentence += f" beside the full {results.titles[SUBJECT]}: {listed(told)}."
    if not scaled:
        sentence = "No task has a reference to normalize by, so the variants are compared by each task's means alone."
    return (
        sentence,
        pd.DataFrame(shown),
        pd.DataFrame(values),
        f"{METRICS[metric]}. {PAIRED} {provenance(results, [SUBJECT, *names])}",
    )


@table("controls", "Further controls, on their tasks")
def controls(results: Results) -> tuple:
    """The methods of the profile's group of controls beside the main ones, on the tasks of that group."""
    names = results.group("controls")
    if not names:
        raise Absent("There are no runs of further controls in this profile.")
    there = set(results.summaries.loc[results.summaries.group == "controls", "task"])
    tasks = [task for task in results.asked() if task in there]
    return returns(results, *READINGS, "final_return", methods=[*results.methods, *names], tasks=tasks)


def quality_frame(results: Results) -> pd.DataFrame:
    """The runs of methods that have run on logs of several qualities, a row a run; ``base`` is the method.

    Raises:
        Absent: there are runs on fewer than two qualities.
    """
    bases = {m: base for base, methods in results.by_quality().items() for m in methods.values()}
    frame = results.summaries.assign(base=results.summaries.method.map(bases))
    frame = frame.dropna(subset=["base", "logs_quality", primary(results)])
    several = frame.groupby(["task", "base"]).logs_quality.transform("nunique") > 1
    if not several.any():
        kinds = sorted(results.summaries.logs_quality.dropna().unique())
        raise Absent(f"Log qualities in these results: {listed(kinds)}; there is nothing to compare.")
    return frame[several]


@table("log_qualities", "Returns by the quality of the logs")
def log_qualities(results: Results) -> tuple:
    """The primary metric of each method that starts from logs, by their quality, beside the logs' return and PPO's."""
    frame, metric = quality_frame(results), primary(results)
    bases = [base for base in results.by_quality() if base in set(frame.base)]
    tasks = [task for task in results.asked() if task in set(frame.task)]
    shown, values = [], []
    for task, quality in itertools.product(tasks, order_of_qualities(results, frame)):
        own = frame[(frame.task == task) & (frame.logs_quality == quality)]
        if own.empty:
            continue
        ppo = results.scores(metric, task, BASELINE)
        logged = own["logs_return_mean"].mean() if "logs_return_mean" in own else np.nan
        row = {"Task": results.titles[task], "Logs": quality, "Return in the logs": number(logged, digits([logged]))}
        row[results.titles[BASELINE]] = spread(statistics.interval(statistics.mean, [ppo])) if len(ppo) else "missing"
        for base in bases:
            ours = own.loc[own.base == base, metric].to_numpy(float)
            if not len(ours):
                variant = results.by_quality()[base].get(quality, "absent")
                row[results.titles[base]] = "missing" if task in results.asked(variant) else "–"
                continue
            estimate = statistics.interval(statistics.mean, [ours])
            value = {"task": task, "quality": quality, "method": base, "logs_return": logged, "seeds": len(ours)}
            value |= numbers(estimate)
            kind = "n/a"
            if len(ppo):
                difference = statistics.difference([ours], [ppo])
                value |= {f"minus_ppo_{name}": bound for name, bound in numbers(difference).items()}
                kind = verdict(difference)
            row[results.titles[base]] = spread(estimate) + {"above": " ▲", "below": " ▼"}.get(kind, "")
            values.append(value)
        shown.append(row)
    tidy = pd.DataFrame(values)
    best = tidy.loc[tidy.groupby(["task", "method"]).estimate.idxmax()]
    parts = []
    for base in bases:
        counts = best[best.method == base].quality.value_counts()
        told = [f"{quality} on {counted(int(n), 'task')}" for quality, n in counts.items()]
        parts.append(f"{listed(told)} for {results.titles[base]}")
    note = f"{METRICS[metric]}. ▲, ▼: above or below {results.titles[BASELINE]} by the {INTERVAL} of the difference."
    methods = [m for own in results.by_quality().values() for m in own.values()]
    return (
        f"The best logs by mean {metric_text(metric)}: {'; '.join(parts)}.",
        pd.DataFrame(shown),
        tidy,
        f"{note} {provenance(results, methods)}",
    )


def order_of_qualities(results: Results, frame: pd.DataFrame) -> list[str]:
    """The qualities of a frame's logs, those of the lowest mean return first."""
    if "logs_return_mean" not in frame:
        return sorted(frame.logs_quality.unique())
    scaled = frame.logs_return_mean / frame.groupby("task").logs_return_mean.transform(lambda r: r.abs().max())
    return [str(quality) for quality in scaled.groupby(frame.logs_quality).mean().sort_values().index]


LOG_COLUMNS = {
    "logs_quality": "Quality",
    "logs_draw": "Draw",
    "logs_behaviour_seed": "Behaviour seed",
    "logs_transitions": "Transitions",
    "logs_env_steps": "Environment steps",
    "logs_return_mean": "Mean return",
    "logs_source": "Source",
    "logs_dataset_id": "Data set",
}


def _cell(value: float | str | None) -> str:
    """A number or word of a set of logs as text; "unknown" where the makers of a dataset do not say."""
    if value is None or pd.isna(value):
        return "unknown"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 1e4 else f"{value:.0f}"  # a seed is no count


@table("logs", "The logs that runs started from")
def logs(results: Results) -> tuple:
    """Every set of logs in use: what it holds and what it cost outside the online budget."""
    columns = [name for name in LOG_COLUMNS if name in results.summaries]
    used = results.summaries.dropna(subset=["logs_quality"])[["task", *columns]].drop_duplicates()
    used = used.sort_values(["task", "logs_quality", "logs_draw"])
    if used.empty:
        raise Absent("No run used logs.")
    shown = pd.DataFrame({"Task": used.task.map(results.titles)})
    for name in columns:
        shown[LOG_COLUMNS[name]] = used[name].map(_cell)
    sentence = f"{counted(len(used), 'set')} of logs. {logs_text(results)}"
    return sentence, shown, used, "Environment steps: spent on making the logs, outside the online budget."


@table("priors", "The priors on held-out states")
def priors(results: Results) -> tuple:
    """Each prior's proposals against the logged actions of episodes that it did not see, beside a Gaussian's."""
    shown, values = [], []
    for path in sorted((results.folder / "priors").glob("*/*/*/*/quality.json")):
        task, quality, draw, kind = path.parts[-5:-1]
        measured = read_json(path, ["prior", "gaussian"])
        row: dict[str, Any] = {"Task": results.titles.get(task, task), "Logs": quality, "Draw": draw, "Prior": kind}
        for key, label in (("energy_score", "Energy score"), ("energy_distance", "Energy distance")):
            for of, whose in (("prior", ""), ("gaussian", ", Gaussian")):
                row[label + whose] = f"{measured[of][key]:.4f}"
        shown.append(row)
        values.append(
            {"task": task, "quality": quality, "draw": draw, "prior": kind}
            | {f"{of}_{k}": v for of in ("prior", "gaussian") for k, v in measured[of].items()}
        )
    if not shown:
        raise Absent("No prior was pretrained.")
    diffusions = [value for value in values if value["prior"] == "diffusion"]
    better = sum(value["prior_energy_score"] < value["gaussian_energy_score"] for value in diffusions)
    sentence = (
        f"The diffusion prior's energy score is below that of a Gaussian fitted to the same logs on {better} of "
        f"{len(diffusions)} sets of logs."
    )
    note = "Lower is better. Score: of the proposals at each state; distance: of all proposals pooled over states."
    return sentence, pd.DataFrame(shown), pd.DataFrame(values), note
