"""One driver per project at a time."""

import fcntl
import json
import os
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
        UserError: another driver is at work.
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"another dapbench repro ({lock.read()}) is at work in {root}; wait for it or stop it"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        _free_rwlock(root / ".dvc/tmp/rwlock")
        yield


def _free_rwlock(rwlock: Path) -> None:
    """Removes DVC's file of locks if a killed process left it: cut off, or naming none that lives.

    DVC itself (3.67) fails on a file that is cut off, and waits for a dead holder whose process id another process has.
    """
    with suppress(FileNotFoundError):
        if not any(_is_dvc(pid) for pid in _holders(rwlock)):
            rwlock.unlink()


def _holders(rwlock: Path) -> set[int]:
    try:
        locks = json.loads(rwlock.read_text(encoding="utf-8"))
        readers = [holder for holders in locks.get("read", {}).values() for holder in holders]
        return {int(holder["pid"]) for holder in [*readers, *locks.get("write", {}).values()]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def _is_dvc(pid: int) -> bool:
    """Whether a process is one of DVC's, and not this one or a driver: those are gone."""
    with suppress(psutil.Error):
        return pid != os.getpid() and any("dvc" in argument for argument in psutil.Process(pid).cmdline())
    return False
