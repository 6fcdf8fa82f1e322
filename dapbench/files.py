"""Files are written whole or not at all, to a temporary neighbour first; and why one cannot be read."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dapbench.errors import UserError

UNANSWERED = ["EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTDOWN"]
UNANSWERED += ["EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENODEV", "ENXIO", "EREMOTEIO", "EBUSY"]
# What the system may say of a file in which nothing need be wrong.
TROUBLES = {
    (errno.EACCES, errno.EPERM): "you have no right to it; ask its owner for it",
    (errno.EMFILE, errno.ENFILE): "too many files are open; raise the limit (ulimit -n) or run fewer at once",
    (errno.EAGAIN, errno.EWOULDBLOCK): "another process holds it; wait for that to end",
    (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP): "its file system has no locks; set HDF5_USE_FILE_LOCKING=FALSE",
    (errno.ENOMEM,): "there is too little memory; free some memory",
    (errno.ENOSPC, errno.EDQUOT): "the disk is full; free some space",
    # Not every system has every name.
    tuple(getattr(errno, name, None) for name in UNANSWERED): "its disk or network share does not answer; wait for it",
}
LFS = b"version https://git-lfs.github.com/spec/"


class Withheld(UserError):
    """A file that the system does not give out for now: what is in it may be sound, so it is not to be made anew."""


def withheld(path: Path, error: BaseException) -> Withheld | None:
    """The error for ``path`` where reading it failed with ``error`` for reasons that say nothing of its content."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, OSError):
        told = re.search(r"errno = (\d+)", str(error))  # HDF5 tells the system's error in its text alone
        number = error.errno or (int(told[1]) if told else None)
        for numbers, reason in TROUBLES.items():
            if number is not None and number in numbers:
                return Withheld(f"{path} cannot be used now: {reason}")
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS)) == LFS
    except OSError:
        return None
    return Withheld(f"{path} is a pointer of Git LFS; fetch the file itself with git lfs pull") if is_pointer else None


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; it becomes ``path`` when the block ends without an error.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder or free some space") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder or free some space") from error
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Refuses an output folder that cannot be made or written to, before the work and not after it.

    Raises:
        UserError: names the part of the path that is in the way.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        reason = "may not be written to" if existing.is_dir() else "is a file"
        raise UserError(f"cannot write {folder}: {existing} {reason}; choose another folder")


def require_writable_file(path: Path) -> None:
    """Refuses an output file that is a folder, or whose folder cannot be made or written to.

    Raises:
        UserError: names what is in the way.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    require_writable(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` as UTF-8, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` to ``path`` as indented JSON with sorted keys; NaN is refused, as JSON has none."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
