"""One driver per project at a time, and what one that was killed leaves behind."""

import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import psutil
import yaml

from dapbench.errors import UserError
from dapbench.pipeline.local import GRACE_SECONDS, OWNER, is_alive

LOCK = ".dvc/tmp/dapbench_repro.lock"
COPY = ".dvc/tmp/dvc.lock.whole"  # of dvc.lock, as it was when the last driver began


@contextmanager
def alone(root: Path) -> Iterator[int]:
    """Holds the project for one driver: a second one would change params.yaml under the first one's cells.

    Yields: the lock's file, which cells keep open: a killed driver's cells hold the project for as long as they run,
        on whatever machine. Those on this machine are ended first.

    Raises:
        UserError: another driver is at work.
    """
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as lock:
        if not _lock(lock):
            lock.seek(0)
            holder = lock.read().split()
            if not _was_killed_here(holder):
                where = f" (process {holder[1]} on {holder[0]})" if len(holder) == 3 else ""
                raise UserError(f"another dapbench repro{where} is at work in {root}; wait for it or stop it")
        _end_leftovers(root)
        deadline = time.monotonic() + GRACE_SECONDS
        while not _lock(lock):
            if time.monotonic() > deadline:
                raise UserError(f"cells of a killed dapbench repro are at work in {root}; wait for them or stop them")
            time.sleep(0.1)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()}")
        lock.flush()
        _mend_dvc(root)
        yield lock.fileno()


def keep_copy(root: Path) -> None:
    """Keeps a copy of dvc.lock, which DVC does not write whole or not at all; to be called when it has been read."""
    copy = root / COPY
    if (root / "dvc.lock").exists():
        shutil.copyfile(root / "dvc.lock", copy.with_suffix(".new"))
        copy.with_suffix(".new").replace(copy)
    else:
        copy.write_bytes(b"")


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _was_killed_here(holder: list[str]) -> bool:
    """Whether the driver that a lock file names was one of this machine that no longer runs."""
    if len(holder) != 3 or holder[0] != socket.gethostname():
        return False
    try:
        driver = psutil.Process(int(holder[1]))
        return driver.create_time() != float(holder[2]) or not is_alive(driver)
    except psutil.NoSuchProcess:
        return True


def _end_leftovers(root: Path) -> None:
    """Ends the cells of a killed driver on this machine: first their commands, upon which DVC goes by itself."""
    left = _started_for(root)
    if not left:
        return
    cells = sum(map(_is_dvc, left))
    print(f"ending {cells or 'the'} cells that a killed dapbench repro left at work", file=sys.stderr, flush=True)
    told: set[psutil.Process] = set()
    deadline = time.monotonic() + GRACE_SECONDS
    while left:
        over = time.monotonic() > deadline
        for process in left:
            with suppress(psutil.NoSuchProcess):
                if over:
                    process.kill()
                elif process not in told and not _is_dvc(process):
                    told.add(process)
                    process.terminate()
        time.sleep(0.1)
        left = _started_for(root)


def _started_for(root: Path) -> list[psutil.Process]:
    """The processes of this machine that a driver started for the project in ``root``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(OWNER) == str(root.resolve()) and is_alive(process):
                found.append(process)
    return found


def _is_dvc(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "--single-item" in process.cmdline()
    return False


def _mend_dvc(root: Path) -> None:
    """Repairs what a process of DVC leaves that is cut off while writing; none of ours runs now."""
    lock, copy, rwlock = root / "dvc.lock", root / COPY, root / ".dvc/tmp/rwlock"
    if copy.exists() and lock.exists() and _is_cut_off(lock):
        lock.replace(root / "dvc.lock.broken")
        if copy.stat().st_size:
            shutil.copyfile(copy, lock)
        print("dvc.lock was cut off (now dvc.lock.broken); going on from the last whole one", file=sys.stderr)
    # DVC would wait for a dead holder whose process id another process has by now.
    if rwlock.exists() and not any(_is_dvc_process(pid) for pid in _holders(rwlock)):
        rwlock.unlink()


def _is_cut_off(lock: Path) -> bool:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    text = lock.read_text(encoding="utf-8", errors="replace")
    if "<<<<<<<" in text:
        return False  # a conflict of git's, for a person to resolve
    try:
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return not content or not COMPILED_LOCKFILE_SCHEMA(content)
    except (yaml.YAMLError, Invalid):
        return True


def _holders(rwlock: Path) -> set[int]:
    """The processes that DVC's file of locks names; none if it was cut off."""
    try:
        locks = json.loads(rwlock.read_text(encoding="utf-8"))
        readers = [holder for holders in locks.get("read", {}).values() for holder in holders]
        return {int(holder["pid"]) for holder in [*readers, *locks.get("write", {}).values()]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def _is_dvc_process(pid: int) -> bool:
    with suppress(psutil.Error):
        return any("dvc" in argument for argument in psutil.Process(pid).cmdline())
    return False
