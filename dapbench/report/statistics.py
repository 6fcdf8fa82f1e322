"""Point estimates and bootstrap intervals over runs and tasks, in numpy and scipy.

Throughout, *strata* are a sequence of arrays, one for each task, whose **last axis is the runs** (seeds) of one method
on that task; tasks may differ in their number of runs. Leading axes (bootstrap repetitions, epochs) pass through, so
that one call evaluates a statistic on every resample at once.

Sources: [A] Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
arXiv 2108.13264; [E] Efron & Tibshirani 1993, "An Introduction to the Bootstrap"; [D] Dolan & Moré 2002,
"Benchmarking optimization software with performance profiles"; [F] Fu et al. 2020, "D4RL", arXiv 2004.07219.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

Strata = Sequence[np.ndarray]
Statistic = Callable[..., np.ndarray]

REPETITIONS = 10_000
CURVE_REPETITIONS = 2_000  # a resample of a statistic with a value per epoch or threshold is that much larger
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A point estimate and its interval, of the statistic's shape; NaN bounds if a sample has no task with two runs."""

    point: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval (never when there is no interval)."""
        return bool(self.low > 0 or self.high < 0)


# ---------------------------------------------------------------------------------------------------- point estimates


def _task_means(strata: Strata) -> np.ndarray:
    return np.stack([np.mean(scores, axis=-1) for scores in strata], axis=-1)


def _pooled(strata: Strata) -> np.ndarray:
    """All runs of all tasks on one axis, each repeated so that a task with failed runs weighs as much as the others."""
    common = math.lcm(*(scores.shape[-1] for scores in strata))
    return np.concatenate([np.repeat(scores, common // scores.shape[-1], axis=-1) for scores in strata], axis=-1)


def mean(strata: Strata) -> np.ndarray:
    """Mean over tasks of the mean over runs ([A], section 4)."""
    return np.mean(_task_means(strata), axis=-1)


def median(strata: Strata) -> np.ndarray:
    """Median over tasks of the mean over runs ([A], section 4)."""
    return np.median(_task_means(strata), axis=-1)


def iqm(strata: Strata) -> np.ndarray:
    """Interquartile mean: the mean of the middle half of all runs of all tasks pooled ([A], section 4.3)."""
    return stats.trim_mean(_pooled(strata), 0.25, axis=-1)


def optimality_gap(strata: Strata, target: float = 1.0) -> np.ndarray:
    """How far runs fall short of ``target`` on average, scores above it counting as ``target`` ([A], section 4.3)."""
    return target - np.mean(np.minimum(_pooled(strata), target), axis=-1)


def probability_of_improvement(first: Strata, second: Strata) -> np.ndarray:
    """P(a run of ``first`` beats one of ``second``), ties counting half, averaged over tasks ([A], section 4.3).

    On each task it is the Mann-Whitney U statistic divided by the number of pairs.
    """
    wins = [
        np.mean(np.sign(x[..., :, None] - y[..., None, :]) / 2 + 0.5, axis=(-2, -1))
        for x, y in zip(first, second, strict=True)
    ]
    return np.mean(np.stack(wins, axis=-1), axis=-1)


def performance_profile(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """Share of all runs of all tasks that score above each threshold ([A], section 4.2, after [D]).

    Returns:
        An array of shape (..., thresholds).
    """
    return np.mean(_pooled(strata)[..., None, :] > thresholds[:, None], axis=-1)


def difference_of_means(first: Strata, second: Strata) -> np.ndarray:
    """Mean of ``first`` minus mean of ``second``."""
    return mean(first) - mean(second)


# --------------------------------------------------------------------------------------------------------- intervals


def resample(strata: Strata, repetitions: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Draws runs with replacement within each task ([A], section 4.1: the stratified bootstrap).

    Args:
        strata: arrays of shape (..., runs); a run's whole leading part (its curve) is drawn together.

    Returns:
        Arrays of shape (repetitions, ..., runs).
    """
    draws = []
    for scores in strata:
        runs = scores.shape[-1]
        picked = scores[..., generator.integers(runs, size=(repetitions, runs))]
        draws.append(np.moveaxis(picked, -2, 0))
    return draws


def interval(
    statistic: Statistic,
    *samples: Strata,
    repetitions: int = REPETITIONS,
) -> Estimate:
    """A statistic of independent samples with its percentile bootstrap interval ([E], chapter 13).

    The generator is seeded with 0, so that an estimate is a function of its data alone. Where a task has a single run
    there is no interval: resampled, that run would count as exact.

    Args:
        statistic: takes the samples' strata and treats leading axes as a batch.
        samples: strata, each resampled independently of the others.
    """
    generator = np.random.default_rng(0)
    point = np.asarray(statistic(*samples))
    if any(scores.shape[-1] < 2 for strata in samples for scores in strata):
        nothing = np.full(point.shape, np.nan)
        return Estimate(point, nothing, nothing)
    # In parts, so that many tasks' long curves fit into memory.
    size = sum(scores.size for strata in samples for scores in strata)
    batch = 2**20 // size + 1
    parts = [min(batch, repetitions - done) for done in range(0, repetitions, batch)]
    draws = np.concatenate([statistic(*(resample(s, part, generator) for s in samples)) for part in parts])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return Estimate(point, low, high)


def difference(first: Strata, second: Strata, paired: bool = False) -> Estimate:
    """Mean of ``first`` minus mean of ``second`` ([E], chapter 8).

    Args:
        paired: whether the runs of a task belong together in their order; then pairs are resampled, and there are as
            many of the one as of the other. Else the two are independent, and their numbers of runs may differ.
    """
    if paired:
        return interval(mean, [a - b for a, b in zip(first, second, strict=True)])
    return interval(difference_of_means, first, second)


# ------------------------------------------------------------------------------------------------------------ curves


def sample_efficiency(curves: Strata, statistic: Statistic = iqm, repetitions: int = CURVE_REPETITIONS) -> Estimate:
    """A statistic of normalized scores at each epoch ([A], section 4.3: sample-efficiency curves).

    Args:
        curves: for each task an array of shape (epochs, runs).

    Returns:
        Estimates of shape (epochs,). A run is resampled with its whole curve, so that bands are smooth over epochs.
    """
    return interval(statistic, curves, repetitions=repetitions)


# ------------------------------------------------------------------------------------------------ normalized scores


class Reference(NamedTuple):
    """The returns that count as 0 and as 1 on a task, and whose they are."""

    random: float
    expert: float
    source: str


def reference_scores() -> dict[str, Reference]:
    """The committed references by task; tasks without any are absent."""
    entries = json.loads(Path(__file__).with_name("reference_scores.json").read_text(encoding="utf-8"))
    return {task: Reference(*(entry[name] for name in Reference._fields)) for task, entry in entries.items()}


def normalized(score: np.ndarray, reference: Reference) -> np.ndarray:
    """0 for a random policy's return, 1 for an expert's ([F], section 5)."""
    return (score - reference.random) / (reference.expert - reference.random)
