"""Learning curves: epochs without episodes, and the area under the first 40."""

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
