"""The engine that runs cells as processes of this machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

GRACE_SECONDS = 30.0  # what the commands get to end in once they are told to


class Local:
    """Runs commands on this machine, each on one core."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self._environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path}

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
        try:
            while self._running and time.monotonic() < deadline:
                for process in list(self._running):
                    _terminate_children(process.pid)
                time.sleep(0.2)
        finally:
            for process in list(self._running):
                _kill_group(process.pid)


def _terminate_children(pid: int) -> None:
    try:
        for child in psutil.Process(pid).children(recursive=True):
            child.terminate()
    except psutil.NoSuchProcess:
        return  # it ended by itself


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, 9)
    except ProcessLookupError:
        return  # it ended by itself
