"""A run of whichever program: its returns over environment steps, and the study's statistics of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dapbench.curves import ALC_EPOCHS, alc, alc_eval, filled, is_evaluated

EPOCH_STEPS = 5_000
FINAL_EPISODES = 100
SLACK = 0.1  # of an epoch: programs evaluate after a whole rollout, a few steps past the round number
TRAINING_COLUMNS = ["env_steps", "return", "episodes"]
EVALUATION_COLUMNS = ["env_steps", "return"]


class Missing(Exception):
    """A run is too short for a number, or its files do not hold what that takes; the message is the reason."""


@dataclass(frozen=True)
class Run:
    """One run, as its files tell it.

    Attributes:
        place: the folder or file that it was read from.
        program: whose files they are.
        training: TRAINING_COLUMNS, a row for each record of training episodes, in order: the steps so far, the mean
            return of the episodes that ended, and how many they were (1 where a program writes each episode).
        evaluation: EVALUATION_COLUMNS, a row for each evaluation, in order: the steps so far and its mean return.
        env_id: the task as the files name it, such as Hopper-v4; None where they do not.
        method: title of a dapbench run's method.
        log_steps: the environment steps behind the logs that a dapbench run started from; None without logs.
        stated_final: the final return that a dapbench run states, whose curve no longer holds the single episodes.
    """

    place: Path
    program: str
    training: pd.DataFrame
    evaluation: pd.DataFrame
    env_id: str | None = None
    method: str | None = None
    log_steps: int | None = None
    stated_final: float | None = None

    @property
    def task(self) -> str | None:
        """The task without its version."""
        return None if self.env_id is None else task_of(self.env_id)

    @property
    def env_steps(self) -> int:
        """The steps at the run's last record."""
        return int(max(frame.env_steps.max() for frame in (self.training, self.evaluation) if len(frame)))

    def curve(self) -> np.ndarray:
        """The training curve, shape (epochs,): mean return of the episodes that ended in each, NaN where none did."""
        if self.training.empty:
            return np.empty(0)
        epoch = np.ceil(self.training.env_steps.to_numpy(float) / EPOCH_STEPS).clip(1).astype(int)
        ended = self.training["return"].notna().to_numpy()
        episodes = np.where(ended, self.training.episodes, 0)
        total = np.bincount(epoch, np.where(ended, self.training["return"] * episodes, 0))[1:]
        counts = np.bincount(epoch, episodes)[1:]
        return np.divide(total, counts, out=np.full(len(total), np.nan), where=counts > 0)

    def alc40(self) -> float:
        """ALC@40 of the training curve.

        Raises:
            Missing: the curve is shorter.
        """
        curve = self.curve()
        if len(curve) < ALC_EPOCHS or np.isnan(curve[:ALC_EPOCHS]).all():
            raise Missing(f"{len(curve)} of {ALC_EPOCHS} epochs" if len(curve) else "no training curve")
        return alc(curve)

    def alc40_eval(self) -> float:
        """ALC@40 of the evaluation curve.

        Raises:
            Missing: an evaluation that it takes is lacking.
        """
        if self.evaluation.empty:
            raise Missing("no evaluations")
        epochs = self.evaluation.env_steps.to_numpy(float) / EPOCH_STEPS
        near = np.abs(epochs - epochs.round()) <= SLACK
        returns = dict(zip(epochs.round().astype(int)[near].tolist(), self.evaluation["return"][near], strict=True))
        value = alc_eval(returns)
        if np.isnan(value):
            lacking = next(epoch for epoch in range(ALC_EPOCHS + 1) if is_evaluated(epoch) and epoch not in returns)
            raise Missing(f"no evaluation at step {lacking * EPOCH_STEPS:,}")
        return value

    def final_return(self) -> float:
        """The mean return of the last 100 training episodes; where records hold several, of the last that have so many.

        Raises:
            Missing: fewer episodes ended.
        """
        if self.stated_final is not None:
            return self.stated_final
        if self.training.empty:
            raise Missing("no training curve")
        last = self.training[self.training.episodes > 0].iloc[::-1]
        before = last.episodes.cumsum() - last.episodes
        if last.episodes.sum() < FINAL_EPISODES:
            raise Missing(f"{last.episodes.sum():.0f} of {FINAL_EPISODES} episodes")
        chosen = last[before < FINAL_EPISODES]
        return float(np.average(chosen["return"], weights=chosen.episodes))


METRICS = {"alc40": Run.alc40, "alc40_eval": Run.alc40_eval, "final_return": Run.final_return}


def task_of(env_id: str) -> str:
    """An environment's id without its version: Hopper for Hopper-v4."""
    name, dash, version = env_id.rpartition("-v")
    return name if dash and version.isdecimal() else env_id


def stacked(runs: Sequence[Run], reading: str) -> tuple[np.ndarray, np.ndarray]:
    """The curves of a group's runs that have one: steps of shape (rows,), returns of shape (rows, runs).

    Training curves go up to the shortest. Evaluations are taken at the steps of the first run, on the straight lines
    between another's where it was evaluated at others, as far as all reach.

    Args:
        reading: training or evaluation.
    """
    if reading == "training":
        curves = [filled(curve) for run in runs if not np.isnan(curve := run.curve()).all()]
        epochs = min(map(len, curves), default=0)
        steps = EPOCH_STEPS * np.arange(1, epochs + 1)
        return steps, np.stack([curve[:epochs] for curve in curves], axis=-1) if curves else np.empty((0, 0))
    frames = [run.evaluation for run in runs if len(run.evaluation)]
    if not frames:
        return np.empty(0), np.empty((0, 0))
    steps = frames[0].env_steps.to_numpy(float)
    first, last = max(frame.env_steps.min() for frame in frames), min(frame.env_steps.max() for frame in frames)
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.stack([np.interp(steps, frame.env_steps, frame["return"]) for frame in frames], axis=-1)


def tidy(groups: dict[str, list[Run]]) -> pd.DataFrame:
    """Every curve as it is drawn: label, run (its place), curve (training or evaluation), env_steps, return."""
    frames = []
    for label, runs in groups.items():
        for run in runs:
            named = {"label": label, "run": run.place.as_posix()}
            curve = run.curve()
            steps = EPOCH_STEPS * np.arange(1, len(curve) + 1)
            training = pd.DataFrame({"curve": "training", "env_steps": steps, "return": curve}).dropna()
            evaluation = run.evaluation.assign(curve="evaluation")
            frames += [frame.assign(**named) for frame in (training, evaluation) if len(frame)]
    return pd.concat(frames, ignore_index=True)[["label", "run", "curve", "env_steps", "return"]]
