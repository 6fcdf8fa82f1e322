"""Learning curves: epochs without episodes, epochs with an evaluation, and the area under the first 40 of each."""

from collections.abc import Mapping

import numpy as np

ALC_EPOCHS = 40  # an epoch is 5,000 environment steps


def filled(curve: np.ndarray) -> np.ndarray:
    """A curve of shape (epochs,) whose empty cells (no episode ended) repeat the last value, leading ones the first."""
    empty = np.isnan(curve)
    if empty.all():
        return curve
    source = np.maximum.accumulate(np.where(empty, -1, np.arange(len(curve))))
    return curve[np.where(source < 0, np.argmin(empty), source)]


def alc(curve: np.ndarray, epochs: int = ALC_EPOCHS) -> float:
    """Area under the filled learning curve over its first ``epochs``, divided by them; NaN for a shorter curve."""
    return float(np.mean(filled(curve[:epochs]))) if len(curve) >= epochs else float("nan")


def is_evaluated(epoch: int) -> bool:
    """Whether a run is evaluated at the end of ``epoch`` (0: before the first): every 5 up to 40, then every 20."""
    return epoch % (5 if epoch <= ALC_EPOCHS else 20) == 0


def alc_eval(returns: Mapping[int, float]) -> float:
    """Area under the evaluation curve over epochs 0 to 40 by trapezoids, divided by 40; NaN where one is lacking.

    Args:
        returns: the mean return of each evaluation, by its epoch.
    """
    epochs = [epoch for epoch in range(ALC_EPOCHS + 1) if is_evaluated(epoch)]
    if not returns.keys() >= set(epochs):
        return float("nan")
    values = np.array([returns[epoch] for epoch in epochs])
    return float(np.diff(epochs) @ (values[:-1] + values[1:]) / 2 / ALC_EPOCHS)
