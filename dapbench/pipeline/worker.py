"""What runs on a machine of a cluster: a command in the project's folder.

Workers get these functions by value, so that one without the project's folder or packages can still say so: this
module imports nothing but the standard library.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Project(NamedTuple):
    """Where commands run, and how: by the same paths on every machine."""

    root: str
    python: str
    environment: dict[str, str]
    token: str  # what the driver has written into a file of the project, to be seen by all

    @property
    def token_file(self) -> Path:
        """The file that holds the token."""
        return Path(self.root, ".dvc/tmp/dapbench_token")


def execute(project: Project, argv: list[str], log: str) -> int:
    """Runs a `dapbench` command to its end, its output going to ``log``; returns its exit status.

    Raises:
        ChildProcessError: the command was killed, as by a system out of memory; another worker may have better luck.
    """
    own = {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    with Path(project.root, log).open("ab") as output:
        process = subprocess.Popen(
            [project.python, "-m", "dapbench", *argv[1:]],
            cwd=project.root,
            env=project.environment | own,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_dies_with_parent(),
        )
    try:
        status = process.wait()
    finally:
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status == -signal.SIGKILL:
        raise ChildProcessError(f"the command was killed on {socket.gethostname()}, perhaps for want of memory")
    return status


def probe(project: Project) -> str:
    """What this machine lacks to run commands of the project; nothing if it has all."""
    try:
        seen = project.token_file.read_text(encoding="utf-8")
    except OSError:
        seen = ""
    if seen != project.token:  # a copy of the project, not shared, has another token or none
        return f"{socket.gethostname()} does not see what the driver writes into {project.root}"
    if not os.access(project.python, os.X_OK):
        return f"{socket.gethostname()} has no {project.python}"
    return ""


def _dies_with_parent() -> Callable[[], None] | None:
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
