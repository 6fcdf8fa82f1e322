"""`dapbench train`: compose → check → build → fit → evaluate → write the run directory."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from dapbench import fitting
from dapbench.curves import is_evaluated
from dapbench.errors import UserError
from dapbench.files import require_writable, whole, write_json
from dapbench.ppo import PPO, Divergence
from dapbench.runs.evaluation import CURVE_STREAM, evaluate, module_class
from dapbench.runs.progress import Progress
from dapbench.runs.resuming import PlainCheckpoints, Resume
from dapbench.runs.run_directory import RESULTS, curve_row, summarize, write_curve, write_timing
from dapbench.settings import check_choice, check_number


class Curve(pl.Callback):
    """Gathers the curve, one row an epoch, and times the run after its first iteration (which compiles).

    Args:
        eval_episodes: episodes of each evaluation along the way; 0: there is none.
    """

    def __init__(self, eval_episodes: int = 0) -> None:
        self.eval_episodes = eval_episodes
        self.rows: list[dict[str, Any]] = []
        self.start_return: float | None = None  # the evaluation before the first iteration
        self.returns: list[float] = []  # every training episode's, in the order in which they ended
        self.epoch: list[dict[str, Any]] = []  # what the iterations of the epoch at work gave
        self.first_iteration_end: tuple[float, int] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: PPO) -> None:
        """Evaluates a fresh run before its first iteration."""
        if not self.rows:
            self.start_return = self.evaluation(module, 0)

    def on_train_batch_end(self, trainer: pl.Trainer, module: PPO, outputs: dict[str, Any], *_: Any) -> None:
        """Takes what an iteration gave; the end of the first one, which compiles, starts the clock."""
        self.epoch.append(outputs)
        if self.first_iteration_end is None:
            self.first_iteration_end = (self.training_time(module), module.carried.env_steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: PPO) -> None:
        """Adds the epoch's row."""
        metrics, returns, lengths = ([part[name] for part in self.epoch] for name in ("metrics", "returns", "lengths"))
        names = dict.fromkeys(name for iteration in metrics for name in iteration)
        means = {n: float(np.mean([m[n] for m in metrics if n in m])) for n in names}
        ended = list(zip(chain(*returns), chain(*lengths), strict=True))
        epoch = trainer.current_epoch + 1
        self.rows.append(curve_row(epoch, module.carried.env_steps, ended, self.evaluation(module, epoch), means))
        self.returns += chain(*returns)
        self.epoch.clear()

    def evaluation(self, module: PPO, epoch: int) -> float | None:
        """The mean return after an epoch that is evaluated; no random number of the training's is drawn for it."""
        if not (self.eval_episodes and is_evaluated(epoch)):
            return None
        with module.clock("evaluation"):
            returns = evaluate(module, self.eval_episodes, module.config["seed"], CURVE_STREAM)
        return float(np.mean(returns))

    def state_dict(self) -> dict[str, Any]:
        """The curve so far, for a checkpoint."""
        return {"rows": self.rows, "returns": self.returns, "start_return": self.start_return}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the curve of a stopped run."""
        self.rows, self.returns = state_dict["rows"], state_dict["returns"]
        self.start_return = state_dict["start_return"]

    def steps_per_second(self, module: PPO) -> float:
        """Environment steps per second of training, without the first iteration's compilation and evaluations."""
        start, steps = self.first_iteration_end or (0.0, 0)
        return (module.carried.env_steps - steps) / (self.training_time(module) - start)

    def training_time(self, module: PPO) -> float:
        """A clock in seconds that stands still while the run is evaluated."""
        return time.perf_counter() - module.clock.seconds.get("evaluation", 0.0)


def check_run(config: Mapping[str, Any]) -> None:
    """Refuses a configuration of ``dapbench train`` or ``collect`` that cannot run, its method's settings aside.

    Raises:
        UserError: names the first bad value and the valid ones.
    """
    check_number("seed", config["seed"], 0, 2**31 - 1, integer=True)
    for key in ("epochs", "epoch_steps", "schedule_epochs", "eval_episodes"):
        check_number(f"profile.{key}", config["profile"][key], 1, 10**9, integer=True)
    check_number("profile.eval_curve_episodes", config["profile"]["eval_curve_episodes"], 0, 10**9, integer=True)
    check_choice("device", config.get("device", "cpu"), ("cpu", "cuda"))
    if config.get("device") == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU; use device=cpu")


def build(config: dict[str, Any]) -> PPO:
    """The method's module for a checked configuration."""
    check_run(config)
    method = module_class(config)
    method.read_settings(config)  # before the method's inputs are looked for
    return method(method.complete(config))


def fit(module: PPO, callbacks: list[pl.Callback], resume_from: Path | None = None) -> pl.Trainer:
    """Trains ``module`` for its budget on one core (and one GPU if ``device`` says so), from its start or a saved run.

    Raises:
        Divergence: a loss, a parameter or an observation is no longer finite.
    """
    profile = module.config["profile"]
    iterations = profile["epoch_steps"] // module.hp.rollout_size
    trainer = fitting.make_trainer(
        accelerator="gpu" if module.config.get("device") == "cuda" else "cpu",
        max_epochs=profile["epochs"],
        enable_progress_bar=False,
        plugins=[PlainCheckpoints()],
        callbacks=callbacks,
    )
    fitting.fit(trainer, module, list(range(iterations)), resume_from)
    return trainer


def train(config: dict[str, Any], record: Callable[[Path], Any] | None = None) -> None:
    """Runs one cell and writes its run directory: curve.csv, timing.json, model.ckpt and, last of them, summary.json.

    Whatever ends the process, the same command goes on from there: what a stopped run goes on from is removed last, and
    a run that has ended is recorded and nothing else.

    Args:
        config: as composed.
        record: is given the run directory once all is there, or ``failure.json`` is.

    Raises:
        UserError: bad input, an occupied run directory, or divergence (``failure.json`` then says where).
    """
    start = time.perf_counter()
    out = Path(config["out"])
    ended = ended_run(out)
    require_writable(out)
    check_number("draw", config["draw"], 0, 10**9, integer=True)
    check_number("checkpoint_epochs", config["checkpoint_epochs"], 0, 10**9, integer=True)
    module, curve = build(config), Curve(config["profile"]["eval_curve_episodes"])
    resume = Resume(module, config["checkpoint_epochs"])
    if ended not in (None, resume.fingerprint):
        raise occupied(out)
    if ended and all((out / name).is_file() for name in RESULTS):
        print(f"out={out} holds this very run already", file=sys.stderr)
        if record is not None:
            record(out)
        resume.remove()
        return
    (out / "failure.json").unlink(missing_ok=True)  # an earlier try may have left it
    module.clock.seconds["startup"] = time.perf_counter() - start
    identity = {"task": config["task"]["name"], "method": config["method"]["name"], "seed": config["seed"]}
    identity |= {"profile": config["profile"]["name"]}
    try:
        trainer = fit(module, [curve, Progress(), resume], resume.found())
    except Divergence as error:
        epoch = len(curve.rows) + 1
        failure = identity | {"epoch": epoch, "quantity": error.quantity, "message": str(error)}
        write_json(out / "failure.json", failure | {"last_good_checkpoint": resume.last_good()})
        if record is not None:
            record(out)
        run = f"{identity['task']} {identity['method']} seed {identity['seed']}"
        left = resume.last_good() or f"none, the first is saved after epoch {resume.every}"
        raise UserError(f"{run} stopped in epoch {epoch}: {error} (last good checkpoint: {left})") from error
    speed = curve.steps_per_second(module)

    def time_it() -> None:
        wall = time.perf_counter() - start
        write_timing(out / "timing.json", module.clock.seconds, wall, speed, resume.fingerprint)

    with module.clock("evaluation"):
        evaluation = evaluate(module, config["profile"]["eval_episodes"], config["seed"])
    with module.clock("checkpoint"), whole(out / "model.ckpt") as temporary:
        trainer.save_checkpoint(temporary)
    write_curve(out / "curve.csv", curve.rows)
    time_it()
    logs = module.logs_description()
    summary = summarize(module.config, curve.rows, curve.returns, curve.start_return, evaluation, logs)
    write_json(out / "summary.json", summary)
    if record is not None:
        with module.clock("tracking"):
            record(out)
        time_it()
    resume.remove()


def ended_run(out: Path) -> str | None:
    """The fingerprint of the run that has ended in ``out``; None where none has.

    Raises:
        UserError: there is one that does not say what it is.
    """
    if not (out / "summary.json").exists():
        return None
    try:
        return str(json.loads((out / "timing.json").read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise occupied(out) from error


def occupied(out: Path) -> UserError:
    """The error for a run directory of another run."""
    return UserError(f"out={out} already holds a finished run; choose another folder or remove it")
