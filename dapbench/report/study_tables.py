"""Tables around the returns: speed, overhead, ablations, log qualities, logs and priors."""

from typing import Any

import numpy as np
import pandas as pd

from dapbench.report import statistics
from dapbench.report.items import Absent, table
from dapbench.report.results import BASELINE, METRICS, SUBJECT, TIMING_KEYS, Results, read_json
from dapbench.report.settings_tables import changes
from dapbench.report.style import INTERVAL, counted, digits, listed, logs_text, number, provenance, spread
from dapbench.report.tables import metric_text, needs, normalized_strata, numbers, verdict

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
    sentence = f"{results.titles[methods[0]]} makes {shown[0][results.titles[results.tasks[0]]]} steps"
    sentence += f" per second on {results.titles[results.tasks[0]]}."
    if (SUBJECT, "Time per step × PPO") in ratios:
        sentence = f"{results.titles[SUBJECT]} takes {ratios[SUBJECT, 'Time per step × PPO']} times PPO's time per"
        sentence += f" environment step and {ratios[SUBJECT, 'Memory × PPO']} times its peak memory."
    note = (
        "Under each task: environment steps per second of training, after compilation, as measured in the runs"
        " themselves, which may have shared the machine with others; pretraining and logs are not in it. Ratios: mean"
        f" over tasks [{INTERVAL}]. {SHARED_LIBRARIES}"
    )
    return sentence, pd.DataFrame(shown), pd.DataFrame(values), note


@table("overhead", "Overhead relative to PPO, paired")
def overhead(results: Results) -> tuple:
    """Wall-clock and peak memory relative to PPO in runs that were paired and interleaved on one machine."""
    frame = results.overhead
    if frame.empty:
        raise Absent("There are no paired, interleaved timings (dapbench overhead makes them).")
    if BASELINE not in set(frame.method):
        raise Absent(f"The paired timings have none of {results.titles[BASELINE]}, to which they would be relative.")
    index = ["device", "task", "repeat"]
    wide = frame.pivot_table(index=index, columns="method", values=["wall_seconds", "peak_memory_bytes"])
    shown, values = [], []
    columns = {"Wall-clock × PPO": "wall_seconds", "Memory × PPO": "peak_memory_bytes"}
    methods = [m for m in results.profile["methods"] if m in set(frame.method) and m != BASELINE]
    for device, method in [(d, m) for d in frame.device.unique() for m in methods]:
        row = {"Method": results.titles[method] + ("" if device == "cpu" else f", {device}")}
        for title, column in columns.items():
            own = wide[column].loc[device]
            ratio = (own[method] / own[BASELINE]).dropna()
            if ratio.empty:
                break
            estimate = statistics.interval(statistics.mean, [part.to_numpy() for _, part in ratio.groupby("task")])
            row[title] = spread(estimate, 3)
            values.append(
                {"method": method, "device": device, "ratio": title, **numbers(estimate), "pairs": len(ratio)}
            )
        else:
            shown.append(row)
    if not shown:
        raise Absent(f"There are no timings of another method that are paired with {results.titles[BASELINE]}'s.")
    if set(frame.device) == {"cpu"}:
        shown += [{"Method": f"{results.titles[m]}, GPU"} | dict.fromkeys(columns, "not measured") for m in methods]
    measured = [row for row in shown if "not measured" not in row.values()]
    sentence = f"Paired with {results.titles[BASELINE]}'s, the wall-clock ratios are "
    sentence += listed(f"{row['Wall-clock × PPO']} ({row['Method']})" for row in measured) + "."
    note = f"Mean of the ratios of pairs over tasks [{INTERVAL}]; {counted(len(wide), 'pair')} of runs."
    return sentence, pd.DataFrame(shown), pd.DataFrame(values), note


def primary(results: Results) -> str:
    """ALC@40, or the final return where fewer epochs were run."""
    return "final_return" if results.summaries["alc40"].isna().all() else "alc40"


def variants(results: Results, quality: bool) -> list[str]:
    """Methods of the profile's further groups: those that name their own log quality, or the others (ablations)."""
    extra = dict.fromkeys(results.summaries.loc[results.summaries.group != "main", "method"])
    return [m for m in extra if bool(results.method_config(m).get("log_quality")) == quality]


@table("ablations", "Ablations of PPO-DAP")
def ablations(results: Results) -> tuple:
    """Each variant's primary metric beside PPO-DAP's, and its normalized difference from it."""
    metric, names = primary(results), variants(results, quality=False)
    needs(results, metric, SUBJECT)
    if not names:
        raise Absent("There are no runs of ablations in this profile.")
    tasks = [t for t in results.tasks if all(len(results.scores(metric, t, m)) for m in [SUBJECT, *names])]
    if not tasks:
        raise Absent("No task has runs of PPO-DAP and of every ablation.")
    shown, values, verdicts = [], [], []
    normal = {
        m: normalized_strata(results, metric, m, [t for t in tasks if t in results.references])
        for m in [SUBJECT, *names]
    }
    for method in [SUBJECT, *names]:
        row = {"Variant": results.titles[method]}
        row["Changed"] = changes(results.method_config(method), results.method_config(SUBJECT))
        for task in tasks:
            estimate = statistics.interval(statistics.mean, [results.scores(metric, task, method)])
            row[results.titles[task]] = spread(estimate)
            values.append({"task": task, "method": method, "metric": metric, **numbers(estimate)})
        if normal[SUBJECT]:
            change = statistics.interval(statistics.difference_of_means, normal[method], normal[SUBJECT])
            row["Normalized difference"] = "0" if method == SUBJECT else spread(change, 3)
            values.append({"task": "normalized difference", "method": method, "metric": metric, **numbers(change)})
            verdicts += [] if method == SUBJECT else [verdict(change)]
        shown.append(row)
    parts = [f"{verdicts.count(kind)} {kind}" for kind in ("below", "above", "not distinguishable")]
    sentence = f"Of {counted(len(names), 'variant')}, by {metric_text(metric)} over {counted(len(tasks), 'task')}:"
    sentence += (
        f" {listed(parts)} from the full {results.titles[SUBJECT]}." if set(verdicts) - {"n/a"} else " one seed."
    )
    return sentence, pd.DataFrame(shown), pd.DataFrame(values), f"{METRICS[metric]}. {provenance(results)}"


def quality_frame(results: Results) -> pd.DataFrame:
    """PPO-DAP's runs by the quality of the logs that they started from, a row a run.

    Raises:
        Absent: there are runs on fewer than two qualities.
    """
    frame = results.summaries[results.summaries.method.isin([SUBJECT, *variants(results, quality=True)])]
    frame = frame.dropna(subset=["logs_quality", primary(results)])
    per_task = frame.groupby("task").logs_quality.nunique()
    frame = frame[frame.task.isin(per_task[per_task > 1].index)]
    if frame.empty:
        kinds = sorted(results.summaries.logs_quality.dropna().unique())
        raise Absent(f"Log qualities in these results: {listed(kinds)}; there is nothing to compare.")
    return frame


@table("log_qualities", "PPO-DAP by the quality of its logs")
def log_qualities(results: Results) -> tuple:
    """The primary metric by log quality, beside the return of the logs themselves and PPO's."""
    frame, metric = quality_frame(results), primary(results)
    shown, values = [], []
    for (task, quality), runs in frame.groupby(["task", "logs_quality"]):
        ours, ppo = runs[metric].to_numpy(float), results.scores(metric, str(task), BASELINE)
        estimate = statistics.interval(statistics.mean, [ours])
        logged = runs["logs_return_mean"].mean() if "logs_return_mean" in runs else np.nan
        row = {
            "Task": results.titles[str(task)],
            "Logs": str(quality),
            "Return in the logs": number(logged, digits([logged])),
        }
        row |= {METRICS[metric]: spread(estimate), "Minus PPO": "n/a"}
        if len(ppo):
            row["Minus PPO"] = spread(statistics.unpaired_difference(ours, ppo))
        shown.append(row)
        values.append(
            {"task": task, "quality": quality, "logs_return": logged, "seeds": len(ours), **numbers(estimate)}
        )
    tidy = pd.DataFrame(values)
    best = tidy.loc[tidy.groupby("task").estimate.idxmax()]
    parts = [f"{q} on {counted(int(n), 'task')}" for q, n in best.quality.value_counts().items()]
    return (
        f"The best logs by mean {metric_text(metric)}: {listed(parts)}.",
        pd.DataFrame(shown),
        tidy,
        provenance(results),
    )


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
