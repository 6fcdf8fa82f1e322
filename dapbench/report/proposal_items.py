"""What guidance does to PPO-DAP's proposals: a table, maps of them, and the actions' marginals, from showcases."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance

from dapbench.report.items import Absent, figure, table
from dapbench.report.results import AUTHORS, SUBJECT, Results, malformed
from dapbench.report.showcases import Showcase, gather, read_showcase
from dapbench.report.style import PAGE_WIDTH, counted, listed, number

WHOSE = {"logs": "logs", "prior": "prior", "guided": "guided proposals", "policy": "policy"}
COLOURS = dict(zip(WHOSE, ("0.55", *sns.color_palette("colorblind")[:3]), strict=True))
# Of middling lightness throughout, since the page inverts it in the dark; blue and orange, for the colour-blind.
LOW_TO_HIGH = sns.blend_palette([sns.color_palette("colorblind")[0], "0.7", "#d55e00"], as_cmap=True)
BINS = np.linspace(-1.0, 1.0, 26)
RANK = "Rank: the share of a state's unguided proposals whose Q a guided one exceeds (0.5: guidance changes nothing)."
TABLE_NOTE = (
    f"{{methods}}: one run of each task, at its end. Q and rank: {{states}} states that the policy visits. {RANK} Q is"
    " the critic that guides, so it shows that guidance does its work and not that the actions are better."
)
DISTANCE_NOTE = (
    " Logs to: Wasserstein-1 distance of the marginals at {logged:,} logged states, mean over action dimensions."
)
MAP_KEY = (
    "{methods}. Dots: the proposals at {states} states that the run's policy visits, from the same noise before and"
    " after; one map for both panels of a task: t-SNE of the actions alone (two dimensions are their own map, one"
    " stands against the state); grey: the other panel's. Colour: Q less its mean over the state's unguided proposals,"
    f" in their standard deviations. {RANK}"
)
MARGINALS_KEY = (
    "All four at the same {logged:,} states of the logs, one action at each; a panel for each dimension, scaled to"
    " [-1, 1], heights on a square-root scale. Prior (as the run tuned it), guidance and policy are those of one run"
    " ({methods}) of each task at its end."
)


@dataclass(frozen=True)
class Guided:
    """K proposals at each of M states, unguided (0) and guided (1), from the same noise.

    Attributes:
        method: whose.
        actions: [2, M, K, A], in [-1, 1].
        q: [2, M, K], their Q, in scaled reward.
        embedding: [2, M, K, 2], their places in the plane.
    """

    method: str
    actions: np.ndarray
    q: np.ndarray
    embedding: np.ndarray

    def standardized_q(self) -> np.ndarray:
        """Q less the mean of the state's unguided proposals, in their standard deviations [2, M, K]."""
        unguided = self.q[:1]
        return (self.q - unguided.mean(-1, keepdims=True)) / (unguided.std(-1, keepdims=True) + 1e-8)

    def rank(self) -> float:
        """The share of a state's unguided proposals whose Q a guided one exceeds, ties counting half; mean over all.

        0.5 where guidance changes nothing, 1 where each guided proposal is above every unguided one of its state.
        """
        unguided, guided = self.q
        return float(np.mean(np.sign(guided[:, :, None] - unguided[:, None, :]) / 2 + 0.5))


def read_guided(results: Results, task: str) -> Guided:
    """The proposals of PPO-DAP's showcase on a task.

    Raises:
        Absent: there are none.
        UserError: proposals.npz is malformed.
    """
    showcase, arrays = read_shown(results, task, "proposals", {"actions": 4, "q": 3, "embedding": 4})
    actions, q, embedding = arrays.values()
    if len(q) != 2 or actions.shape[:3] != q.shape or embedding.shape != (*q.shape, 2):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise malformed(showcase.folder / "proposals.npz", f"holds arrays that do not fit each other ({shapes})")
    return Guided(showcase.method, actions, q.astype(float), embedding)


def read_marginals(results: Results, task: str) -> tuple[str, dict[str, np.ndarray]]:
    """One action [N, A] in [-1, 1] of each of ``WHOSE`` at the same N states of the logs, and the method shown.

    Raises:
        Absent: there are none.
        UserError: marginals.npz is malformed.
    """
    showcase, arrays = read_shown(results, task, "marginals", dict.fromkeys(WHOSE, 2))
    if len({array.shape for array in arrays.values()}) > 1:
        raise malformed(showcase.folder / "marginals.npz", "holds arrays of different shapes")
    return showcase.method, arrays


def read_shown(results: Results, task: str, what: str, axes: dict[str, int]) -> tuple[Showcase, dict[str, np.ndarray]]:
    """The arrays of PPO-DAP's showcase, or of that with the authors' constants where PPO-DAP's terms have ended.

    Raises:
        Absent: neither has them.
        UserError: they are malformed.
    """

    def read(method: str) -> tuple[Showcase, dict[str, np.ndarray]]:
        showcase = read_showcase(results, task, method)
        return showcase, showcase.arrays(f"{what}.npz", what, axes)

    found, _ = gather([SUBJECT] + [AUTHORS] * (AUTHORS in results.methods), read)
    return next(iter(found.values()))


def shown_titles(results: Results, methods: Iterable[str]) -> str:
    """The titles of the methods that an item shows."""
    return listed(dict.fromkeys(results.titles[method] for method in methods))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples [N, A], mean over the action's dimensions; 2 spans the action space."""
    return float(np.mean([wasserstein_distance(x, y) for x, y in zip(first.T, second.T, strict=True)]))


def distances(actions: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The distance of each other's actions to the logged ones."""
    return {whose: distance(actions[whose], actions["logs"]) for whose in WHOSE if whose != "logs"}


@table("proposals", "What guidance does to the proposals")
def proposals(results: Results) -> tuple:
    """Mean Q before and after guidance, the guided proposals' rank, and distances of the marginals to the logs'."""
    found, lacking = gather(results.tasks, lambda task: read_guided(results, task))
    shown, values, logged = [], [], 0
    for task, drawn in found.items():
        before, after = (float(q) for q in drawn.q.mean((1, 2)))
        row = {"Task": results.titles[task], "Mean Q before": number(before, 3), "Mean Q after": number(after, 3)}
        row["Rank after"] = number(drawn.rank(), 3)
        value: dict[str, object] = {"task": task, "mean_q_before": before, "mean_q_after": after, "rank": drawn.rank()}
        try:
            _, marginals = read_marginals(results, task)
            to_logs, logged = distances(marginals), max(logged, len(marginals["logs"]))
        except Absent:
            to_logs = {whose: np.nan for whose in WHOSE if whose != "logs"}
        row |= {f"Logs to {whose}": number(d, 3) for whose, d in to_logs.items()}
        shown.append(row)
        values.append(value | {f"distance_{whose}": d for whose, d in to_logs.items()})
    methods = shown_titles(results, (drawn.method for drawn in found.values()))
    note = TABLE_NOTE.format(methods=methods, states=states(found))
    note += DISTANCE_NOTE.format(logged=logged) if logged else ""
    return f"{gains(found)}{lacking}", pd.DataFrame(shown), pd.DataFrame(values), note


def gains(found: Mapping[str, Guided]) -> str:
    """On how many tasks guidance raises mean Q, and the range of the ranks."""
    raised = sum(bool(np.diff(drawn.q.mean((1, 2))) > 0) for drawn in found.values())
    ranks = sorted(drawn.rank() for drawn in found.values())
    span = number(ranks[0], 2) if len(ranks) == 1 else f"{number(ranks[0], 2)} to {number(ranks[-1], 2)}"
    return f"Guidance raises the proposals' mean Q on {raised} of {counted(len(found), 'task')}; mean rank {span}."


def states(found: Mapping[str, Guided]) -> int:
    """At how many states there are proposals, on the task that has most."""
    return max(drawn.q.shape[1] for drawn in found.values())


@figure("proposal_map", "Proposals before and after guidance")
def proposal_map(results: Results) -> tuple:
    """t-SNE of each task's proposals, unguided and guided, coloured by Q, with mean Q and rank beside it."""
    found, lacking = gather(results.tasks, lambda task: read_guided(results, task))
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    drawing = Figure(figsize=(PAGE_WIDTH * columns / 2, 2.6 * rows + 0.3), layout="constrained")
    grid = drawing.subplots(rows, 2 * columns, squeeze=False)
    used, spare = np.split(grid.flatten(), [2 * len(found)])
    for axis in spare:
        axis.remove()
    for place, (task, drawn) in enumerate(found.items()):
        for stage, when in enumerate(("before", "after")):
            axis = grid[place // columns, 2 * (place % columns) + stage]
            axis.scatter(*drawn.embedding[1 - stage].reshape(-1, 2).T, s=5, color="0.88", linewidth=0, rasterized=True)
            dots = axis.scatter(
                *drawn.embedding[stage].reshape(-1, 2).T,
                c=drawn.standardized_q()[stage].ravel(),
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
    bar = drawing.colorbar(dots, ax=list(used), shrink=1 / rows, pad=0.01, aspect=25, extend="both")
    bar.set_label("Q in the state, standardized")
    methods = shown_titles(results, (drawn.method for drawn in found.values()))
    return f"{gains(found)} {MAP_KEY.format(methods=methods, states=states(found))}{lacking}", drawing


@figure("marginals", "Actions of the prior, the guided proposals, the policy and the logs")
def action_marginals(results: Results) -> tuple:
    """The marginal distribution of each action dimension at the logs' states, a row of panels for each task."""
    read, lacking = gather(results.tasks, lambda task: read_marginals(results, task))
    found = {task: actions for task, (_, actions) in read.items()}
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
    means = pd.DataFrame([distances(own) for own in found.values()]).mean()
    parts = listed(f"{number(mean, 3)} for the {WHOSE[str(whose)]}" for whose, mean in means.items())
    logged = max(len(own["logs"]) for own in found.values())
    sentence = f"Mean Wasserstein-1 distance to the logged actions, over dimensions and tasks: {parts}."
    methods = shown_titles(results, (method for method, _ in read.values()))
    return f"{sentence} {MARGINALS_KEY.format(methods=methods, logged=logged)}{lacking}", drawing
