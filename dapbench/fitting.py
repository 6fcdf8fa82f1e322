"""Lightning's trainer as every fit here uses it: quiet, on one thread, and Ctrl-C stays Ctrl-C."""

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch


def make_trainer(accelerator: str = "cpu", **options: Any) -> pl.Trainer:
    """A trainer on one device and one core that writes nothing and prints nothing; ``options`` are Lightning's."""
    torch.set_num_threads(1)
    # Lightning tells of hardware and data loaders that these fits do not use.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return pl.Trainer(accelerator=accelerator, devices=1, **quiet, **options)


def fit(trainer: pl.Trainer, module: pl.LightningModule, data: Iterable[Any], resume_from: Path | None = None) -> None:
    """``trainer.fit``, but Ctrl-C stays KeyboardInterrupt: Lightning would end the process without a word."""
    try:
        trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)
    except SystemExit as error:
        raise KeyboardInterrupt from error
