"""The engine that runs cells as processes of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

OWNER = "DAPBENCH_PROJECT"  # the variable that marks a process as started by a driver, and for which project
GRACE_SECONDS = 30.0  # what the commands get to end in once they are told to


class Local:
    """Runs commands on this machine, each on one core.

    Args:
        root: the project's folder, which marks what runs as the project's.
        lock: a file that stays open in what runs, and so locked for as long as it does.
        variables: of the commands' environment, beside those of this process.
    """

    def __init__(self, root: Path, lock: int | None = None, variables: Mapping[str, str] | None = None):
        self._running: set[subprocess.Popen[bytes]] = set()
        self._kept = () if lock is None else (lock,)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self._environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path, OWNER: str(root.resolve())}
        self._environment |= variables or {}

    def run(self, command: list[str], log: Path) -> int:
        """Runs ``command`` to its end, its output going to ``log``; returns its exit status."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                pass_fds=self._kept,
                start_new_session=True,  # Ctrl-C reaches the driver alone, which then stops the cells in order
            )
        self._running.add(process)
        try:
            return process.wait()
        finally:
            self._running.discard(process)

    def stop(self) -> None:
        """Ends all that runs.

        Only what DVC started is told to end; DVC itself, cut off while writing dvc.lock, would leave half a file.
        It sees its command fail and goes by itself.
        """
        deadline = time.monotonic() + GRACE_SECONDS
        groups = {process.pid for process in list(self._running)}
        told: set[psutil.Process] = set()
        try:
            while (self._running or any(map(is_alive, told))) and time.monotonic() < deadline:
                for process in list(self._running):
                    groups.add(process.pid)
                    _tell_children(process.pid, told)
                time.sleep(0.1)
        finally:
            for group in groups:
                _kill_group(group)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still does something; a dead one that its parent has yet to reap does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _tell_children(pid: int, told: set[psutil.Process]) -> None:
    """Tells the descendants of ``pid`` that are not among ``told`` to end, and adds them."""
    try:
        for child in psutil.Process(pid).children(recursive=True):
            if child not in told:
                told.add(child)
                child.terminate()
    except psutil.NoSuchProcess:
        return  # it ended by itself


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended
