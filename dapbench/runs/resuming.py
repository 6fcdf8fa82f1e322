"""Going on with a stopped run: it saves itself every few epochs, and ends with the bytes of one never stopped."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dapbench.checkpoints import read_checkpoint, write_checkpoint
from dapbench.errors import UserError
from dapbench.files import Withheld, whole
from dapbench.ppo import PPO
from dapbench.rl.snapshots import NotPlain, pack
from dapbench.runs.run_directory import PACKAGES, RESULTS, stated
from dapbench.sources import sources

NAME = "resume.ckpt"


class PlainCheckpoints(TorchCheckpointIO):
    """Writes checkpoints of plain values and tensors only, of which equal ones have equal bytes."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes ``checkpoint`` to ``path``.

        Raises:
            NotPlain: something in it is an object of another kind.
        """
        packed = {name: content if name == "state_dict" else pack(content) for name, content in checkpoint.items()}
        write_checkpoint(Path(path), packed)


class Resume(pl.Callback):
    """Saves a run to ``resume.ckpt`` in its folder every few epochs, outside what DVC removes before it runs a cell.

    Args:
        module: the run, as built.
        every: epochs between saves; 0: none.
    """

    def __init__(self, module: PPO, every: int) -> None:
        self.path = Path(module.config["out"]) / NAME
        self.fingerprint = fingerprint(module)
        self.every = every
        self.saved_epoch = 0

    def found(self) -> Path | None:
        """The checkpoint to go on from; one of other code, settings or inputs, or a damaged one, is of no use.

        Raises:
            Withheld: there is one that cannot be read for now.
        """
        if not self.path.is_file():
            return None
        try:
            content = read_checkpoint(self.path, "saved run", ("fingerprint", "epoch", "run"), "it starts over")
        except Withheld:
            raise  # starting over would write over it
        except UserError as error:
            print(error, file=sys.stderr)
            return None
        if content["fingerprint"] != self.fingerprint:
            print(f"{self.path} is of other code, settings or inputs: the run starts over", file=sys.stderr)
            return None
        self.saved_epoch = content["epoch"] + 1
        print(f"going on from epoch {self.saved_epoch} of {self.path}", file=sys.stderr)
        return self.path

    def last_good(self) -> str | None:
        """The last checkpoint of the run, if there is one."""
        return str(self.path) if self.saved_epoch else None

    def remove(self) -> None:
        """Removes what a killed run may have left half-written, and last what only a stopped run needs."""
        half_written = (path for name in (*RESULTS, NAME) for path in self.path.parent.glob(f".{name}.*"))
        for path in (*half_written, self.path):
            path.unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: PPO) -> None:
        """Saves the run, if its time has come."""
        done = trainer.current_epoch + 1
        if not self.every or done % self.every or done == trainer.max_epochs:
            return
        with module.clock("checkpoint"):
            try:
                with whole(self.path) as temporary:
                    trainer.save_checkpoint(temporary)
                self.saved_epoch = done
            except UserError as error:
                print(f"{error}; the run goes on, from {self.last_good() or 'its start'} if stopped", file=sys.stderr)
            except NotPlain as error:
                self.every = 0
                print(
                    f"the environments hold a {error}: it cannot be saved, so a stopped run starts over",
                    file=sys.stderr,
                )

    def on_save_checkpoint(self, trainer: pl.Trainer, module: PPO, checkpoint: dict[str, Any]) -> None:
        """Says what the checkpoint is of, so that a run can be rebuilt from it alone."""
        checkpoint["config"] = stated(module.config)
        if trainer.training:
            checkpoint["fingerprint"] = self.fingerprint


def fingerprint(module: PPO) -> str:
    """A hash of all that a run's results depend on: settings, inputs, code and the versions of what it uses."""
    parts = [json.dumps(stated(module.config), sort_keys=True), *(f"{name} {version(name)}" for name in PACKAGES)]
    digest = hashlib.sha256("\n".join(parts).encode())
    # In an order that does not depend on where the project lies.
    for path in (*_code(module), *sorted(_inputs(module.config))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _code(module: PPO) -> list[Path]:
    """The source files that a run executes."""
    targets = [module.config[part]["_target_"] for part in ("method", "prior") if part in module.config]
    return sources(["dapbench.runs.training", *(target.rpartition(".")[0] for target in targets)])


def _inputs(config: Mapping[str, Any]) -> Iterator[Path]:
    """The files that the method starts from; a public dataset is fixed by its name."""
    logs, prior = config["logs_dir"], config["prior_dir"]
    folders = {"logs": [logs], "prior": [prior], "both": [logs, prior]}
    for folder in folders.get(config["method"]["starts_from"], []):
        yield from (path for path in Path(folder).rglob("[!.]*[!~]") if path.is_file())  # not what editors leave
