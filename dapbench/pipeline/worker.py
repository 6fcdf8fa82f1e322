"""What runs on a worker: a command in the project's folder, for as long as the driver wants it.

Workers get these functions by value, so that one without the project's folder or packages can still say so: this
module imports nothing but the standard library.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 1.0  # how often a worker looks whether its command is still wanted
SETTLE_SECONDS = 5.0  # within which whoever is no longer wanted has ended
SILENCE_SECONDS = 120.0  # after which a driver whose beat stands still is taken for dead
BEAT = "driver"  # the file in the exchange folder that a living driver keeps rewriting

# How a request ends: the command's exit status, or why there is none.
Outcome = int | str


class Request(NamedTuple):
    """A command to run in the project, and the exchange folder in which driver and workers see each other."""

    name: str
    driver: str
    root: str
    folder: str
    python: str
    argv: list[str]
    environment: dict[str, str]

    @property
    def mark(self) -> Path:
        """Exists for as long as the driver wants the command; holds the name of the attempt that runs it."""
        return Path(self.folder, f"{self.name}.request")

    @property
    def output(self) -> Path:
        """What the command prints."""
        return Path(self.folder, f"{self.name}.output")


def execute(request: Request) -> Outcome:
    """Runs the command of ``request`` to its end, unless it is no longer wanted or another attempt takes it over.

    Raises:
        ChildProcessError: the command was killed, as by a system out of memory; another worker may have better luck.
    """
    said = _unseen(request)
    if said:
        return said
    attempt = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
    try:
        with request.mark.open("r+", encoding="utf-8") as mark:
            before = mark.read()
            mark.seek(0)
            mark.truncate()
            mark.write(attempt)
    except OSError:
        return "no longer wanted"
    if before:
        time.sleep(SETTLE_SECONDS)  # an attempt whose node was taken for dead may still be writing results
    own = {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    with request.output.open("ab") as output:
        process = subprocess.Popen(
            [request.python, "-m", "dapbench", *request.argv],
            cwd=request.root,
            env=request.environment | own,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dies_with_parent(),
        )
    try:
        status = _wait(process, request, attempt)
    finally:
        _kill_group(process.pid)
        process.wait()
    if status == -signal.SIGKILL:
        raise ChildProcessError(f"the command was killed on {socket.gethostname()}, perhaps for want of memory")
    return status


def probe(request: Request) -> str:
    """Tells a driver what this machine lacks to run ``request``; if nothing, also by writing into its output."""
    said = _unseen(request)
    if not said:
        request.output.write_text(socket.gethostname(), encoding="utf-8")
    return said


def _unseen(request: Request) -> str:
    """What this machine lacks to run ``request``; nothing if it sees all."""
    here = socket.gethostname()
    # A copy of the project, not shared, would have the beat of an earlier driver at most.
    if not _read(Path(request.folder, BEAT)).startswith(request.driver):
        return f"{here} does not see what this machine writes into {request.root}"
    if not os.access(request.python, os.X_OK):
        return f"{here} has no {request.python}"
    return ""


def _wait(process: "subprocess.Popen[bytes]", request: Request, attempt: str) -> Outcome:
    beat, heard = "", time.monotonic()
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if _read(request.mark) != attempt:
                return "no longer wanted"
        now = _read(Path(request.folder, BEAT))
        if now not in ("", beat):
            beat, heard = now, time.monotonic()
        elif time.monotonic() - heard > SILENCE_SECONDS:
            return f"ended: nothing was heard of the driver for {SILENCE_SECONDS:.0f} s"


def _read(path: Path) -> str:
    """The text of a file; nothing if it is not there. Opening it is what makes NFS look anew."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def dies_with_parent() -> Callable[[], None] | None:
    """What a child calls so that the system kills it when this process dies, in whatever way; Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here, since little is safe between fork and exec
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray blocks SIGINT
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended
