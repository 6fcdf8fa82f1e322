"""The progress bar of a run: epoch, return, steps per second and time left."""

import sys
from collections import deque
from typing import Any

import lightning.pytorch as pl
import numpy as np
from tqdm import tqdm

from dapbench.ppo import PPO


class Progress(pl.Callback):
    """A bar over environment steps on a terminal; elsewhere one line every ten epochs."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=100)  # returns of training episodes

    def on_train_start(self, trainer: pl.Trainer, module: PPO) -> None:
        """Opens the bar."""
        profile = module.config["profile"]
        self.total = profile["epochs"] * profile["epoch_steps"]
        label = f"{module.config['task']['name']} {module.config['method']['name']} seed {module.config['seed']}"
        self.bar = tqdm(
            total=self.total,
            initial=module.carried.env_steps,
            desc=label,
            unit=" steps",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, module: PPO, outputs: dict[str, Any], *_: Any) -> None:
        """Moves the bar by one iteration."""
        self.recent.extend(outputs["returns"])
        shown = f"{np.mean(self.recent):.1f}" if self.recent else "–"
        self.bar.set_postfix_str(f"epoch {trainer.current_epoch + 1}, return {shown}", refresh=False)
        self.bar.update(module.carried.env_steps - self.bar.n)

    def teardown(self, trainer: pl.Trainer, module: PPO, stage: str) -> None:
        """Closes the bar, after an error too."""
        if hasattr(self, "bar"):
            self.bar.close()
