"""Made-up runs of dapbench, written by its own writers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dapbench.curves import is_evaluated
from dapbench.runs.run_directory import curve_row, summarize, write_curve, write_timing

FILES = Path(__file__).with_name("files")  # records that CleanRL 1 and Tianshou 2.0.1 wrote, other tags left out
PROFILE = {
    "name": "mini",
    "tasks": ["hopper"],
    "methods": ["ppo", "ppo_dap"],
    "seeds": [0, 1],
    "log_draws": 2,
    "epochs": 42,
    "epoch_steps": 5000,
    "schedule_epochs": 200,
    "eval_episodes": 20,
    "eval_curve_episodes": 10,
}
LOGS = {"quality": "medium", "behaviour_seed": 1000, "transitions": 50_000, "env_steps": 400_000, "return_mean": 900.0}


def write_run(
    folder: Path, task: str = "hopper", method: str = "ppo", seed: int = 0, epochs: int = 42, steps: int = 5000
) -> dict[str, Any]:
    """A run directory of dapbench with made-up returns: no episode in epoch 1, then 3 to 7; returns its summary."""
    generator = np.random.default_rng([seed, len(method)])
    rows, returns = [], []
    for epoch in range(1, epochs + 1):
        ended = [(20.0 * epoch + 10 * generator.normal(), 250) for _ in range(0 if epoch == 1 else 3 + epoch % 5)]
        returns += [value for value, _ in ended]
        rows.append(curve_row(epoch, epoch * steps, ended, 25.0 * epoch if is_evaluated(epoch) else None, {"kl": 0.01}))
    dap = method == "ppo_dap"
    config = {
        "task": {"name": task, "title": task.title(), "env_id": {"hopper": "Hopper-v5", "ant": "Ant-v5"}[task]},
        "method": {"name": method, "title": "PPO-DAP" if dap else "PPO", "starts_from": "prior" if dap else "nothing"},
        "profile": PROFILE,
        "seed": seed,
    }
    summary = summarize(config, rows, returns, 15.0, [1000.0 + seed] * 20, LOGS | {"draw": seed % 2} if dap else None)
    folder.mkdir(parents=True)
    write_curve(folder / "curve.csv", rows)
    (folder / "summary.json").write_text(json.dumps(summary))
    write_timing(folder / "timing.json", {"rollout": 1.0}, 2.0, 1000.0, "abc")
    return summary
