"""One driver per project at a time."""

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from dapbench.errors import UserError

LOCK = ".dvc/tmp/dapbench_repro.lock"


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Holds the project for one driver: a second one would change params.yaml under the first one's cells.

    Raises:
        UserError: another driver is at work, or the folder cannot be written to or locked.
    """
    path = root / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+", encoding="utf-8")
    except OSError as error:  # the project is another user's
        raise UserError(f"cannot write {path}: {error.strerror}; work in a copy of the project of your own") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"another dapbench repro ({lock.read()}) is at work in {root}; wait for it or stop it"
            ) from error
        except OSError as error:  # of NFS without its lock service, or Lustre mounted without -o flock
            raise UserError(
                f"cannot lock {path}: {error.strerror}; put the project on a file system with locks, as DVC needs it"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        _free_rwlock(root / ".dvc/tmp/rwlock")
        yield


def _free_rwlock(rwlock: Path) -> None:
    """Removes DVC's file of locks if a killed process left it: cut off, or naming none of DVC's that lives.

    DVC itself (3.67) fails on a file that is cut off, and waits for a dead holder whose process id another process has.
    """
    with suppress(FileNotFoundError):
        holders = re.findall(r'"pid": (\d+)', rwlock.read_text(encoding="utf-8"))
        if not any(_is_dvc(int(pid)) for pid in holders):
            rwlock.unlink()


def _is_dvc(pid: int) -> bool:
    with suppress(psutil.Error):
        return any("dvc" in argument for argument in psutil.Process(pid).cmdline())
    return False
