"""Tables of what was run: hyper-parameters as run, and our PPO beside published PPO."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dapbench.report import statistics
from dapbench.report.items import Absent, table
from dapbench.report.results import BASELINE, Results
from dapbench.report.style import digits, listed, number, spread
from dapbench.report.tables import PUBLISHED_STEPS, metric_text, needs, numbers, published_ppo


@table("published", "PPO beside published PPO")
def published(results: Results) -> tuple:
    """Our PPO's final and evaluation return beside published numbers at 1M steps, each with its own statistic."""
    needs(results, "final_return", BASELINE)
    sources = published_ppo()
    tasks = [t for t in results.tasks if len(results.scores("final_return", t, BASELINE))]
    steps = int(results.summaries.loc[results.summaries.method == BASELINE, "env_steps"].max())
    shown, values = [], []
    for task in tasks:
        row = {"Task": results.titles[task]}
        for metric in ("final_return", "eval_return"):
            scores = results.scores(metric, task, BASELINE)
            if not len(scores):
                row[f"Here: {metric_text(metric)}"] = "n/a"
                continue
            estimate = statistics.interval(statistics.mean, [scores])
            row[f"Here: {metric_text(metric)}"] = spread(estimate)
            values.append({"task": task, "source": f"here, {metric}", **numbers(estimate)})
        for source in sources:
            score = source["scores"].get(task)
            decimals = digits(score[:1]) if score else 0
            row[source["source"]] = " ± ".join(number(v, max(decimals, v % 1 > 0)) for v in score) if score else "–"
            if score:
                values.append({"task": task, "source": source["source"], "estimate": score[0]})
        shown.append(row)
    same = steps == PUBLISHED_STEPS
    sentence = f"PPO ran here for {steps:,} steps; the published runs had {PUBLISHED_STEPS:,}"
    sentence += "." if same else ", so the two do not compare."
    note = "Versions and statistics differ. " + "; ".join(
        f"{s['source']}: {s['statistic']} ({s['link']})" for s in sources
    )
    return sentence, pd.DataFrame(shown), pd.DataFrame(values), note + "."


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


@table("hyper_parameters", "Hyper-parameters as run")
def hyper_parameters(results: Results) -> tuple:
    """Every setting of every method, from the configurations in the run directories."""
    if not results.methods:
        raise Absent("No run ended.")
    columns, varying = {}, set()
    for method in results.methods:
        configs = [flattened(config["method"]) for (_, name), config in results.configs.items() if name == method]
        columns[results.titles[method]] = configs[0]
        varying |= {key for config in configs for key in config | configs[0] if config.get(key) != configs[0].get(key)}
    keys = [k for k in dict.fromkeys(k for c in columns.values() for k in c) if k not in ("name", "title", "_target_")]
    rows = [{"Setting": k} | {title: str(c.get(k, "–")).lower() for title, c in columns.items()} for k in keys]
    sentence = (
        "One configuration per method for all tasks." if not varying else f"Differs by task: {listed(sorted(varying))}."
    )
    return sentence, pd.DataFrame(rows), pd.DataFrame(rows), "–: the method has no such setting."


def changes(config: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """The settings in which a configuration differs from another."""
    ours, theirs = flattened(config), flattened(base)
    keys = [k for k in ours | theirs if ours.get(k) != theirs.get(k) and k not in ("name", "title", "_target_")]
    return ", ".join(f"{key}: {ours.get(key, 'absent')}" for key in keys) or "nothing"
