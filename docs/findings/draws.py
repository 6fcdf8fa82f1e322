"""Draws docs/log_draws.png, ALC@40 against the return of the logs, from the result files: python docs/findings/draws.py

log_returns.csv has the mean return of each draw of the paper profile's medium logs; the runs are those of the tuning.
"""

from pathlib import Path

import pandas as pd

from dapbench.report.style import colours, legend_below, panels

DOCS = Path(__file__).parents[1]
TASKS = {"half_cheetah": "HalfCheetah", "hopper": "Hopper"}
SHOWN = {"ppo_bc": ("PPO+BC", "default", "s"), "ppo_dap": ("PPO-DAP, as first tried", "default", "o")}


def main() -> None:
    """Writes the picture."""
    runs = pd.read_csv(DOCS / "tuning/results.csv")
    logs = pd.read_csv(DOCS / "findings/log_returns.csv").rename(columns={"draw": "seed"})  # seed s starts from draw s
    figure, axes = panels(len(TASKS), 3.8, 3.0)
    palette = colours([*SHOWN, "ppo"])
    for axis, (task, title) in zip(axes, TASKS.items(), strict=True):
        for method, (label, trial, marker) in SHOWN.items():
            own = runs[(runs.method == method) & (runs.trial == trial) & (runs.task == task)].merge(logs)
            axis.plot(own.return_mean, own.alc40, marker, color=palette[method], label=label, markersize=5)
        ppo = runs[(runs.method == "ppo") & (runs.trial == "default") & (runs.task == task)].alc40
        axis.axhline(ppo.mean(), color=palette["ppo"], linestyle="--", label=f"PPO, mean of {len(ppo)} seeds")
        axis.set(title=title, xlabel="Mean return in the logs", ylabel="ALC@40", ylim=(0, None))
        axis.margins(0.1)
    legend_below(figure, axes[0])
    figure.savefig(DOCS / "log_draws.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
