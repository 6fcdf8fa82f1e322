"""report/index.html: one page that needs nothing beside it; page.html.j2 is its template."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dapbench.profiles import groups_of
from dapbench.report.items import Item
from dapbench.report.results import SUBJECT, Results
from dapbench.report.style import listed, logs_text, seeds_text
from dapbench.report.templates import render


def page(results: Results, sections: Mapping[str, Sequence[Item]], notebooks: Sequence[Path]) -> str:
    """The report as HTML.

    Args:
        sections: headings and their items; the sentence of the very first one is also the headline.
        notebooks: exported notebooks beside the page, in notebooks/.
    """
    return render(
        "page.html.j2",
        profile=results.profile["name"],
        subject=results.titles[SUBJECT],
        headline=next(iter(sections.values()))[0].sentence,
        logs=logs_text(results),
        protocol=protocol(results),
        sections=sections,
        failed=len(results.failures),
        unfinished=unfinished(results),
        made_with=made_with(results),
        notebooks=[path.stem for path in notebooks],
    )


def protocol(results: Results) -> dict[str, str]:
    """How the runs were made, from the profile."""
    profile = results.profile
    epochs, epoch_steps = profile["epochs"], profile["epoch_steps"]
    budget = [f"{epochs * epoch_steps:,} environment steps = {epochs} epochs × {epoch_steps:,}"]
    for name, group in groups_of(profile).items():
        if group["epochs"] != epochs:
            budget.append(f"the first {group['epochs']} epochs for {name.replace('_', ' ')}")
    return {
        "Tasks": listed(results.titles[task] for task in profile["tasks"]) + " (Gymnasium)",
        "Methods": listed(results.titles[method] for method in profile["methods"]),
        "Seeds": f"{listed(map(str, profile['seeds']))}; here: {seeds_text(results)}",
        "Online budget": "; ".join(budget),
        "Learning curve": "per epoch the mean return of the training episodes that ended in it",
        "ALC@40": "training: mean of the learning curve over epochs 1 to 40; evaluation: area under the evaluation"
        " curve over epochs 0 to 40, divided by 40",
        "Evaluation curve": f"mean action, frozen statistics, seeds of its own, {profile['eval_curve_episodes']}"
        " episodes at epochs 0, 5, ..., 40 and then every 20",
        "Final return": "mean of the last 100 training episodes; never a maximum over the curve",
        "Evaluation": f"mean action, frozen statistics, seeds of its own, {profile['eval_episodes']} episodes",
        "Logs": f"a run of seed s starts from draw s mod {profile['log_draws']}, each of a behaviour policy of its own."
        f" {logs_text(results)} Logs cost environment steps outside the online budget: a result with logs rests"
        " on more experience than one without.",
        "Intervals": "95 % percentile bootstrap over seeds, and so over draws, stratified by task, seeded generator",
    }


def unfinished(results: Results) -> list[list[str]]:
    """Task, method, seed, state and reason of each run that failed or is missing, the failed ones first."""
    rows = []
    for run in results.failures.to_dict("records"):
        epoch = f"epoch {run['epoch']:.0f}: " if pd.notna(run["epoch"]) else ""
        rows.append([run["task"], run["method"], run["seed"], "failed", f"{epoch}{run['message']}"])
    for run in results.missing.to_dict("records"):
        rows.append([run["task"], run["method"], run["seed"], "missing", "no summary.json"])
    return [[results.titles[task], results.titles[method], str(seed), *why] for task, method, seed, *why in rows]


def made_with(results: Results) -> dict[str, str]:
    """How to recompute the page, and the runs' machines and versions."""
    profile = results.profile["name"]
    rows = {"Recompute": f"dapbench report profile={profile} makes every number here again from results/{profile}"}
    for title, part in (("Machine", "machine"), ("Versions", "versions")):
        texts = [", ".join(f"{name} {value}" for name, value in made[part].items()) for made in results.machines]
        rows[title] = "; ".join(dict.fromkeys(texts)) or "no timing.json says"
    return rows
