"""What guidance does to PPO-DAP's proposals: a table, maps of them, and the action's marginals."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dapbench.report.items import Absent, figure, table
from dapbench.report.policies import lacking
from dapbench.report.results import Results
from dapbench.report.style import PAGE_WIDTH, counted, listed, number
from dapbench.showcase.proposals import (
    LOGGED,
    STATES,
    WHOSE,
    Guided,
    distance,
    embedding,
    guided_proposals,
    marginals,
)

Drawn = TypeVar("Drawn")
RANK = "Rank: the share of a state's unguided proposals whose Q a guided one exceeds (0.5: guidance changes nothing)."
NOTE = (
    f"One run of each task: its first seed, at its end. Q and rank: {STATES} states that the policy visits. {RANK}"
    " Q is the critic that guides, so it shows that guidance does its work and not that the actions are better."
    f" Logs to: Wasserstein-1 distance of the marginals at {LOGGED:,} logged states, mean over action dimensions."
)
MAP_KEY = (
    f"Dots: the proposals at {STATES} states that the first seed's policy visits, from the same noise before and after;"
    " one map for both panels of a task: t-SNE of the actions alone (two dimensions are their own map, one stands"
    " against the state); grey: the other panel's. Colour: Q less its mean over the state's unguided proposals, in"
    f" their standard deviations. {RANK}"
)
MARGINALS_KEY = (
    f"All four at the same {LOGGED:,} states of the logs, one action at each; a panel for each dimension, scaled to"
    " [-1, 1], heights on a square-root scale. Prior (as the run tuned it), guidance and policy are those of the first"
    " seed's run at its end."
)
WORDS = {"prior": "prior", "guided": "guided proposals", "policy": "policy"}
COLOURS = dict(zip(WHOSE, ("0.55", *sns.color_palette("colorblind")[:3]), strict=True))
# Of middling lightness throughout, since the page inverts it in the dark; blue and orange, for the colour-blind.
LOW_TO_HIGH = sns.blend_palette([sns.color_palette("colorblind")[0], "0.7", "#d55e00"], as_cmap=True)
BINS = np.linspace(-1.0, 1.0, 26)


def per_task(results: Results, compute: Callable[[Results, str], Drawn]) -> tuple[dict[str, Drawn], list[str]]:
    """What ``compute`` gives for each task, and why it gives nothing for the others.

    Raises:
        Absent: it gives nothing for any.
    """
    found: dict[str, Drawn] = {}
    reasons: list[str] = []
    for task in results.tasks:
        try:
            found[task] = compute(results, task)
        except Absent as reason:
            reasons.append(str(reason))
    if not found:
        raise Absent(" ".join(dict.fromkeys(reasons)) or "No run ended.")
    return found, reasons


@table("proposals", "What guidance does to the proposals")
def proposals(results: Results) -> tuple:
    """Mean Q before and after guidance, the guided proposals' rank, and distances of the marginals to the logs'."""
    found, reasons = per_task(results, guided_proposals)
    shown, values = [], []
    for task, drawn in found.items():
        before, after = (float(q) for q in drawn.q.mean((1, 2)))
        row = {"Task": results.titles[task], "Mean Q before": number(before, 3), "Mean Q after": number(after, 3)}
        row["Rank after"] = number(drawn.rank(), 3)
        value: dict[str, object] = {"task": task, "mean_q_before": before, "mean_q_after": after, "rank": drawn.rank()}
        try:
            own = marginals(results, task)
            distances = {whose: distance(own[whose], own["logs"]) for whose in WHOSE[1:]}
        except Absent:
            distances = dict.fromkeys(WHOSE[1:], np.nan)
        row |= {f"Logs to {whose}": number(d, 3) for whose, d in distances.items()}
        shown.append(row)
        values.append(value | {f"distance_{whose}": d for whose, d in distances.items()})
    return f"{gains(found)}{lacking(reasons)}", pd.DataFrame(shown), pd.DataFrame(values), NOTE


def gains(found: dict[str, Guided]) -> str:
    """On how many tasks guidance raises mean Q, and the range of the ranks."""
    raised = sum(bool(np.diff(drawn.q.mean((1, 2))) > 0) for drawn in found.values())
    ranks = sorted(drawn.rank() for drawn in found.values())
    span = number(ranks[0], 2) if len(ranks) == 1 else f"{number(ranks[0], 2)} to {number(ranks[-1], 2)}"
    return f"Guidance raises the proposals' mean Q on {raised} of {counted(len(found), 'task')}; mean rank {span}."


@figure("proposal_map", "Proposals before and after guidance")
def proposal_map(results: Results) -> tuple:
    """t-SNE of each task's proposals, unguided and guided, coloured by Q, with mean Q and rank beside it."""
    found, reasons = per_task(results, guided_proposals)
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    drawing = Figure(figsize=(PAGE_WIDTH * columns / 2, 2.6 * rows + 0.3), layout="constrained")
    grid = drawing.subplots(rows, 2 * columns, squeeze=False)
    for axis in grid.flatten()[2 * len(found) :]:
        axis.remove()
    for place, (task, drawn) in enumerate(found.items()):
        placed = embedding(drawn.actions)
        for stage, when in enumerate(("before", "after")):
            axis = grid[place // columns, 2 * (place % columns) + stage]
            axis.scatter(*placed[1 - stage].reshape(-1, 2).T, s=5, color="0.88", linewidth=0, rasterized=True)
            dots = axis.scatter(
                *placed[stage].reshape(-1, 2).T,
                c=drawn.standardised_q()[stage].ravel(),
                s=9,
                cmap=LOW_TO_HIGH,
                vmin=-2,
                vmax=2,
                linewidth=0,
                rasterized=True,
            )
            text = f"{results.titles[task]}, {when}\nmean Q {number(float(drawn.q[stage].mean()), 3)}"
            axis.set_title(text + (f", rank {number(drawn.rank(), 2)}" if stage else ""), fontsize="medium")
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(visible=True, color="0.8")
    bar = drawing.colorbar(dots, ax=grid, shrink=1 / rows, pad=0.01, aspect=25, extend="both")
    bar.set_label("Q in the state, standardised")
    return f"{gains(found)} {MAP_KEY}{lacking(reasons)}", drawing


@figure("marginals", "Actions of the prior, the guided proposals, the policy and the logs")
def action_marginals(results: Results) -> tuple:
    """The marginal distribution of each action dimension at the logs' states, a row of panels for each task."""
    found, reasons = per_task(results, marginals)
    sizes = {task: own["logs"].shape[1] for task, own in found.items()}
    columns = min(9, max(sizes.values()))
    rows = [(task, range(i, min(i + columns, size))) for task, size in sizes.items() for i in range(0, size, columns)]
    drawing = Figure(figsize=(PAGE_WIDTH * max(columns, 5) / 9, 1.35 * len(rows) + 0.5), layout="constrained")
    grid = drawing.subplots(len(rows), columns, squeeze=False)
    for axes, (task, dimensions) in zip(grid, rows, strict=True):
        for axis in axes[len(dimensions) :]:
            axis.remove()
        for axis, dimension in zip(axes, dimensions, strict=False):
            for whose, actions in found[task].items():
                counts, _ = np.histogram(actions[:, dimension], BINS)
                share = counts / len(actions)
                if whose == "logs":
                    axis.stairs(share, BINS, fill=True, color=COLOURS[whose], alpha=0.5, label=whose)
                else:
                    axis.stairs(share, BINS, color=COLOURS[whose], linewidth=1.2, label=whose)
            axis.set_yscale("function", functions=(np.sqrt, np.square))  # the ends, where actions are clipped, tower
            axis.set(yticks=[], xlim=(-1, 1), xticks=[-1, 0, 1])
            axis.tick_params(labelsize="small", length=2)
            text = str(dimension + 1) if dimension else f"{results.titles[task]}: 1"
            axis.set_title(text, fontsize="small", pad=2, loc="left")
            sns.despine(ax=axis, left=True)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    means = {whose: np.mean([distance(own[whose], own["logs"]) for own in found.values()]) for whose in WHOSE[1:]}
    parts = listed(f"{number(float(mean), 3)} for the {WORDS[whose]}" for whose, mean in means.items())
    sentence = f"Mean Wasserstein-1 distance to the logged actions, over dimensions and tasks: {parts}. {MARGINALS_KEY}"
    return f"{sentence}{lacking(reasons)}", drawing
