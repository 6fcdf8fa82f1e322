"""Checkpoints of weights and plain values only, and one clear error for whatever is wrong with a file."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dapbench.errors import UserError


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
        UserError: the file is damaged, holds more than weights and plain values, or is of another kind.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file; each means the same here
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a readable {kind} ({reason}); {remedy}") from error
    missing = sorted(set(keys) - set(content if isinstance(content, dict) else ()))
    if missing:
        raise UserError(f"{path} is not a readable {kind} (it lacks {', '.join(missing)}); {remedy}")
    return content
