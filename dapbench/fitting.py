"""Lightning's trainer as every fit here uses it: quiet, on one thread, and Ctrl-C stays Ctrl-C."""

import logging
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment


def make_trainer(accelerator: str = "cpu", plugins: Iterable[Any] = (), **options: Any) -> pl.Trainer:
    """A trainer on one device and one core that writes nothing and prints nothing; ``options`` are Lightning's.

    It does not look for a batch system or launcher that it may be part of, nor for what one may have saved in the
    current folder: a run is one process.
    """
    torch.set_num_threads(1)
    # Lightning tells of hardware and data loaders that these fits do not use.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    alone: dict[str, Any] = {"devices": 1, "plugins": [LightningEnvironment(), *plugins]}
    return pl.Trainer(accelerator=accelerator, default_root_dir=os.devnull, **alone, **quiet, **options)


def fit(trainer: pl.Trainer, module: pl.LightningModule, data: Iterable[Any], resume_from: Path | None = None) -> None:
    """``trainer.fit``, but Ctrl-C stays KeyboardInterrupt: Lightning would end the process without a word."""
    try:
        trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)
    except SystemExit as error:
        raise KeyboardInterrupt from error
