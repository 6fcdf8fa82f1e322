"""Checkpoints of weights and plain values only, and one clear error for whatever is wrong with a file."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dapbench.errors import UserError
from dapbench.files import withheld


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes ``content`` to ``path``.

    Raises:
        OSError: the disk is full, say; ``torch.save`` would raise a RuntimeError of its own for it.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def read_checkpoint(path: Path, kind: str, keys: Iterable[str], remedy: str) -> dict[str, Any]:
    """The content of ``path``, on the CPU, with at least ``keys``.

    Args:
        path: a file written by ``torch.save``.
        kind: what it should be, for the messages, such as "dapbench checkpoint".
        keys: what it has to hold.
        remedy: what the user can do.

    Raises:
        Withheld: the file cannot be read for now.
        UserError: it is damaged, holds more than weights and plain values, or is of another kind.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file; each means the same here
        if kept := withheld(path, error):
            raise kept from error
        if "maximum supported version" in str(error):
            raise UserError(
                f"{path} was written by a newer torch than this ({torch.__version__}); update torch"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a readable {kind} ({reason}); {remedy}") from error
    missing = sorted(set(keys) - set(content if isinstance(content, dict) else ()))
    if missing:
        raise UserError(f"{path} is not a readable {kind} (it lacks {', '.join(missing)}); {remedy}")
    return content
