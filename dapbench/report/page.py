"""report/index.html: one page that needs nothing beside it."""

from collections.abc import Hashable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from dapbench.report.items import Films, Item, Skipped, Table, table_html
from dapbench.report.results import SUBJECT, Results
from dapbench.report.style import counted, listed, logs_text, seeds_text

QUESTION = """Does a diffusion prior over actions, pretrained on logs and kept close while the policy learns, make PPO
more sample-efficient in the first 40 epochs without a loss at the end of the budget, and at what cost in time and
memory?"""


def page(results: Results, sections: Mapping[str, Sequence[Item]], notebooks: Sequence[Path]) -> str:
    """The report as HTML.

    Args:
        sections: headings and their items; the item named ``difference`` is also the headline.
        notebooks: exported notebooks beside the page, in notebooks/.
    """
    profile = escape(results.profile["name"])
    items = {item.name: item for group in sections.values() for item in group}
    contents = {
        "Protocol": protocol(results),
        **{heading: "\n".join(map(_item, group)) for heading, group in sections.items()},
        "Failed and missing runs": unfinished(results),
        "What this was made with": made_with(results, notebooks),
    }
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>dapbench: {profile}</title>",
        f"<style>{Path(__file__).with_name('page.css').read_text(encoding='utf-8')}</style>",
        f"<h1>{escape(results.titles[SUBJECT])} against on-policy baselines: profile {profile}</h1>",
        f"<p>{QUESTION}</p>",
        headline_block(results, items["difference"]),
        "<nav>" + " ".join(f'<a href="#{_anchor(heading)}">{heading}</a>' for heading in contents) + "</nav>",
    ]
    for heading, content in contents.items():
        lines.append(f'<section id="{_anchor(heading)}">\n<h2>{heading}</h2>\n{content}\n</section>')
    return "\n".join(lines) + "\n"


def headline_block(results: Results, difference: Item) -> str:
    """The answer in a few lines: the difference on each task with its interval, seeds, logs and what is lacking."""
    lines = [f"<strong>{escape(difference.sentence)}</strong>"]
    if isinstance(difference, Table):
        for row in difference.shown.to_dict("records"):
            lines.append(escape(f"{row['Task']}: {row['Difference']} ({row['Verdict']})"))
    lines.append(escape(logs_text(results)))
    lacking = len(results.failures) + len(results.missing)
    if lacking:
        lines.append(f"{counted(lacking, 'run')} of the profile failed or are missing; see below.")
    return f'<div class="headline">{"".join(f"<p>{line}</p>" for line in lines)}</div>'


def protocol(results: Results) -> str:
    """How the runs were made, from the profile."""
    profile = results.profile
    epochs, epoch_steps = profile["epochs"], profile["epoch_steps"]
    rows = {
        "Tasks": listed(results.titles[task] for task in profile["tasks"]) + " (Gymnasium)",
        "Methods": listed(results.titles[method] for method in profile["methods"]),
        "Seeds": f"{listed(map(str, profile['seeds']))}; here: {seeds_text(results)}",
        "Online budget": f"{epochs * epoch_steps:,} environment steps = {epochs} epochs × {epoch_steps:,}",
        "Learning curve": "per epoch the mean return of the training episodes that ended in it",
        "ALC@40": "mean of the curve over epochs 1 to 40",
        "Final return": "mean of the last 100 training episodes; never a maximum over the curve",
        "Evaluation": f"mean action, frozen statistics, seeds of its own, {profile['eval_episodes']} episodes",
        "Logs": f"{logs_text(results)} Logs cost environment steps outside the online budget: a result with logs rests"
        " on more experience than one without.",
        "Intervals": "95 % percentile bootstrap over seeds, stratified by task, seeded generator",
    }
    return _list(rows)


def unfinished(results: Results) -> str:
    """Failed and missing cells."""
    if results.failures.empty and results.missing.empty:
        return "<p>None: every run of the profile is in this report.</p>"
    rows = []
    for run in results.failures.to_dict("records"):
        epoch = f"epoch {run['epoch']:.0f}: " if pd.notna(run["epoch"]) else ""
        rows.append([*_names(results, run), "failed", f"{epoch}{run['message']}"])
    rows += [[*_names(results, run), "missing", "no summary.json"] for run in results.missing.to_dict("records")]
    frame = pd.DataFrame(rows, columns=["Task", "Method", "Seed", "State", "Why"])
    sentence = f"{counted(len(results.failures), 'run')} failed and {len(results.missing)} missing."
    return f"<p>{sentence}</p>{table_html(frame)}"


def made_with(results: Results, notebooks: Sequence[Path]) -> str:
    """Versions, machines, and how to recompute the page."""
    profile = results.profile["name"]
    rows = {"Recompute": f"dapbench report profile={profile} makes every number here again from results/{profile}"}
    for title, part in (("Machine", "machine"), ("Versions", "versions")):
        texts = [", ".join(f"{name} {value}" for name, value in made[part].items()) for made in results.machines]
        rows[title] = "; ".join(dict.fromkeys(texts)) or "no timing.json says"
    links = ", ".join(
        f'<a href="notebooks/{name}.html">{name}</a> (<a href="notebooks/{name}.ipynb">ipynb</a>)'
        for name in (path.stem for path in notebooks)
    )
    return f"{_list(rows)}<p>Notebooks: {links or 'not run'}.</p>"


def _names(results: Results, run: Mapping[Hashable, Any]) -> list[str]:
    return [results.titles[run["task"]], results.titles[run["method"]], str(run["seed"])]


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _item(item: Item) -> str:
    if isinstance(item, Skipped):
        return f'<div><h3>{escape(item.title)}</h3><p class="skipped">Not shown. {escape(item.sentence)}</p></div>'
    shown = f"<div><h3>{escape(item.title)}</h3>\n<p>{escape(item.sentence)}</p>\n{item.body()}"
    if isinstance(item, Films):
        return f"{shown}</div>"
    links = " · ".join(f'<a href="{place}">{form}</a>' for form, place in item.files().items())
    return f'{shown}\n<p class="files">{links}</p></div>'


def _list(rows: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{title}</dt><dd>{escape(text)}</dd>' for title, text in rows.items())}</dl>"
