"""Made-up runs and showcases, as `dapbench train` and `showcase` leave them; no number in them was measured."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd

from dapbench.curves import alc_eval, is_evaluated
from dapbench.profiles import draw_of, runs

LEVEL = {"half_cheetah": 3000.0, "hopper": 2000.0, "reacher": -5.0, "swimmer": 60.0, "walker2d": 2500.0}
GAIN = {"ppo": 1.0, "ppg": 0.9, "ppo_rnd": 0.95, "ppo_bc": 1.3, "ppo_gap": 1.2, "ppo_dap": 1.4, "ppo_dap_warm": 1.5}
GAIN |= {
    "ppo_dap_expert": 1.6,
    "ppo_dap_no_kl": 1.3,
    "ppo_dap_frozen": 1.35,
    "ppo_dap_unguided": 1.38,
    "ppo_dap_v6": 1.2,
}
TITLE = {"ppo": "PPO", "ppg": "PPG", "ppo_rnd": "PPO+RND", "ppo_bc": "PPO+BC", "ppo_gap": "PPO-GAP"}
TITLE |= {
    "ppo_dap": "PPO-DAP",
    "ppo_dap_v6": "PPO-DAP v6",
    "ppo_dap_warm": "PPO-DAP, warm start",
    "ppo_dap_no_kl": "PPO-DAP without KL",
}
QUALITY = {"simple": 0.5, "mixed": 0.8, "expert": 1.5}  # return of such logs, by that of the medium ones
STARTS = {"ppo": "nothing", "ppg": "nothing", "ppo_rnd": "nothing", "ppo_bc": "logs", "ppo_dap_warm": "both"}
FILM = b"GIF89a\x01\x00\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x01\x00;"  # of one pixel
BOUND = ["bound_surrogate", "bound_policy_shift", "bound_imitation", "bound_prior_drift"]


def profile(**changes) -> dict:
    """A small profile."""
    base = {
        "name": "made_up",
        "tasks": ["half_cheetah", "hopper"],
        "methods": ["ppo", "ppg", "ppo_dap"],
        "seeds": [0, 1, 2],
        "epochs": 45,
        "epoch_steps": 5000,
        "eval_episodes": 20,
        "eval_curve_episodes": 10,
        "log_quality": "medium",
        "log_draws": 3,
    }
    return base | changes


ABLATIONS = {"ablations": {"methods": ["ppo_dap_no_kl", "ppo_dap_frozen"], "tasks": ["hopper"]}}
CONTROLS = {"controls": {"methods": ["ppo_gap"], "tasks": ["hopper"]}}
QUALITIES = {"log_qualities": {"methods": ["ppo_dap_expert"], "tasks": ["hopper"]}}


def fabricate(root: Path, profile: dict, timing: bool = True) -> Path:
    """Writes a run directory for each of the profile's runs under ``root``, and the first seed's showcases."""
    for run in runs(profile):
        folder = root / profile["name"] / "runs" / run.task / run.method / str(run.seed)
        fabricate_run(folder, profile, run.task, run.method, run.seed, timing)
        if run.method in ("ppo", "ppo_dap") and run.seed == profile["seeds"][0]:
            folder = root / profile["name"] / "showcase" / run.task / run.method
            fabricate_showcase(folder, run.task, run.method, run.seed)
    return root


def fabricate_showcase(folder: Path, task: str, method: str, seed: int) -> None:
    """Writes a film, and of PPO-DAP proposals that guidance moves up and action marginals."""
    folder.mkdir(parents=True)
    files = {"film.gif": FILM}
    if method != "ppo":
        rng = np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (2, 6, 4, 3)).astype(np.float32)
        q = rng.normal(size=(2, 6, 4)).astype(np.float32)
        q[1] += 1.0
        drawn = {"actions": actions, "q": q, "embedding": actions[..., :2]}
        files["proposals.npz"] = npz(drawn)
        whose = ("logs", "prior", "guided", "policy")
        files["marginals.npz"] = npz({w: rng.uniform(-1, 1, (50, 3)).astype(np.float32) for w in whose})
    for name, content in files.items():
        (folder / name).write_bytes(content)
    described = {"task": task, "method": method, "seed": seed, "film_seconds": 4.0, "made": sorted(files)}
    absent = {name: "ppo is a PPO" for name in ("proposals.npz", "marginals.npz") if name not in files}
    (folder / "showcase.json").write_text(json.dumps(described | {"absent": absent}))


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """The content of an .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def fabricate_run(run: Path, profile: dict, task: str, method: str, seed: int, timing: bool) -> None:
    """Writes one run directory: a saturating curve with noise whose level depends on task, method and seed."""
    run.mkdir(parents=True)
    generator = np.random.default_rng([seed, *map(ord, task + method)])
    quality = next((q for q in QUALITY if method.endswith(q)), None)
    base = method.removesuffix(f"_on_{quality}")
    epochs, dap, starts_from = profile["epochs"], base.startswith(("ppo_dap", "ppo_gap")), STARTS.get(base, "prior")
    epoch = np.arange(1, epochs + 1)
    level, gain = LEVEL[task], GAIN[base] * generator.normal(1, 0.08)
    shape = 1 - np.exp(-epoch / 20 * gain)
    returns = level * (gain * shape if level > 0 else 8 - 7 * shape) + abs(level) * generator.normal(0, 0.02, epochs)
    curve = pd.DataFrame({"epoch": epoch, "env_steps": epoch * profile["epoch_steps"], "return_mean": returns})
    curve["return_std"], curve["episodes"], curve["length_mean"] = abs(returns) / 10, 5, 1000.0
    curve.loc[0, ["return_mean", "return_std", "length_mean"]] = np.nan
    curve.loc[0, "episodes"] = 0
    curve["approx_kl"] = generator.uniform(0.005, 0.015, epochs)
    if dap:
        curve["prior_drift"] = generator.uniform(0, 0.002, epochs)
        for name, sign in zip(BOUND, [1, -1, 1, -1], strict=True):
            curve[name] = sign * generator.uniform(0.01, 0.05, epochs)
        monitors = np.random.default_rng([seed, 1])
        curve["q_gain"] = monitors.uniform(0.01, 0.02, epochs)
        curve["q_advantage_rank"] = monitors.uniform(-0.1, 0.1, epochs)
        curve["q_td_rank"] = monitors.uniform(0.1, 0.2, epochs)
        curve["pg_share"] = monitors.uniform(0.8, 0.9, epochs)
        curve.loc[epochs // 2 :, ["q_gain", "pg_share"]] = np.nan  # the terms have faded
    filled = curve.return_mean.bfill()
    evaluated = {0: float(filled[0]) * 0.9} | {
        e: float(filled[e - 1]) * 1.05 for e in epoch.tolist() if is_evaluated(e)
    }
    evaluated = evaluated if profile["eval_curve_episodes"] else {}
    curve["eval_return"] = curve.epoch.map(evaluated)
    curve.to_csv(run / "curve.csv", index=False)
    draw = draw_of(seed, profile["log_draws"])
    logged = level * QUALITY.get(quality, 1.0) * (1.0 + 0.1 * draw)
    logs = {
        "quality": quality or profile["log_quality"],
        "draw": draw,
        "behaviour_seed": 1000 + draw,
        "transitions": 50000,
        "env_steps": 400000,
        "return_mean": logged,
        "source": "collect",
    }
    logs["policies"] = [{"epoch": 80, "share": 1.0}]
    config = {
        "task": {"name": task, "title": task.replace("_", " ").title().replace(" ", ""), "env_id": "MadeUp-v0"},
        "method": {"name": method, "title": TITLE.get(method, method), "starts_from": starts_from},
        "profile": profile,
        "seed": seed,
    }
    config["method"] |= {"gamma": 0.99, "hidden": [64, 64]} | ({"imitation_weight": 1.0} if dap else {})
    config["method"] |= {"log_quality": quality} if quality else {}
    config["method"] |= {"kl_weight": 0.0 if "no_kl" in method else 0.005} if dap else {}
    config["method"] |= {"tuning": "frozen" if "frozen" in method else "lora"} if dap else {}
    config["method"] |= {"beta": 0.0 if "unguided" in method else 1.0} if dap else {}
    config["method"] |= {"prior": "gaussian" if "gap" in method else "diffusion"} if dap else {}
    summary = {
        "task": task,
        "method": method,
        "seed": seed,
        "profile": profile["name"],
        "env_steps": epochs * profile["epoch_steps"],
        "epochs": epochs,
        "alc40": float(filled[:40].mean()) if epochs >= 40 else None,
        "alc40_eval": alc_eval(evaluated) if 40 in evaluated else None,
        "eval_return_start": evaluated.get(0),
        "final_return": float(filled.iloc[-5:].mean()),
        "eval_return": float(filled.iloc[-1] * 1.05),
        "eval_std": float(abs(level) / 10),
        "eval_episodes": profile["eval_episodes"],
        "logs": None if starts_from == "nothing" else logs,
        "config": config,
    }
    (run / "summary.json").write_text(json.dumps(summary))
    if timing:
        slow = 1.2 if dap else 1.0
        wall = epochs * 2.0 * slow * generator.normal(1, 0.02)
        record = {
            "steps_per_second": epochs * profile["epoch_steps"] / wall,
            "wall_seconds": wall,
            "peak_memory_bytes": int(6e8 * slow),
            "seconds": {"rollout": 0.5 * wall / slow, "update": 0.4 * wall / slow, "startup": 0.05 * wall}
            | ({"proposals": 0.15 * wall} if dap else {}),
            "versions": {"python": "3.11.0", "torch": "2.10.0"},
            "machine": {"platform": "made-up", "processor": "made-up", "device": "cpu"},
        }
        (run / "timing.json").write_text(json.dumps(record))


def full_profile() -> dict:
    """Main cells, controls, ablations and log qualities."""
    return profile(**CONTROLS, **ABLATIONS, **QUALITIES)
