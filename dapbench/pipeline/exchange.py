"""The folder in which driver and workers see each other, and the check that workers see it at all."""

import sys
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Protocol

from dapbench.errors import UserError
from dapbench.files import write_text
from dapbench.pipeline.worker import BEAT, SETTLE_SECONDS, Outcome, Request

BEAT_SECONDS = 10.0


class Exchange:
    """The driver's side of the exchange folder, ``.dvc/tmp/dapbench`` of the project.

    Every request has a mark there that says that it is wanted, and the driver has a beat that says that it lives:
    with either gone, a worker ends what it runs. So a killed driver's requests end by themselves, on machines that
    nothing else may reach, and a new driver takes back all of them by clearing the folder.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.folder = self.root / ".dvc/tmp/dapbench"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._driver = uuid.uuid4().hex
        self._lock = Lock()
        self._stopped = Event()
        left = list(self.folder.glob("*.request"))
        self._clear()
        if left:
            time.sleep(SETTLE_SECONDS)  # until workers of a killed driver have ended
        self._beat(0)
        Thread(target=self._keep_beating, daemon=True).start()

    def open(self, argv: list[str], environment: dict[str, str]) -> Request:
        """Makes a request that is wanted until it is closed.

        Raises:
            ConnectionError: the driver is about to end.
        """
        name = uuid.uuid4().hex
        request = Request(name, self._driver, str(self.root), str(self.folder), sys.executable, argv, environment)
        with self._lock:
            if self._stopped.is_set():
                raise ConnectionError("the driver ends")
            request.output.touch()
            request.mark.touch()
        return request

    def close(self, request: Request) -> None:
        """Ends ``request``, if it is not ended, and removes its files."""
        request.mark.unlink(missing_ok=True)
        request.output.unlink(missing_ok=True)

    def judge(self, probed: Request, said: str, engine: str) -> None:
        """Checks what came of a probe.

        Raises:
            UserError: the worker lacks something, or what it wrote is not to be seen here.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while not said and not probed.output.read_bytes():
            if time.monotonic() > deadline:
                said = f"this machine does not see what a worker writes into {self.root}"
            time.sleep(0.1)
        self.close(probed)
        if said:
            raise UserError(
                f"{said}: for --engine {engine} the project and its .venv have to lie in a folder that every machine "
                "has at the same path; move them to one (docs/cluster.md)"
            )

    def stop(self) -> None:
        """Ends all requests and the beat."""
        with self._lock:
            self._stopped.set()
            self._clear()

    def _clear(self) -> None:
        for pattern in ("*.request", "*.output"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _beat(self, count: int) -> None:
        write_text(self.folder / BEAT, f"{self._driver} {count}")

    def _keep_beating(self) -> None:
        count = 0
        while not self._stopped.wait(BEAT_SECONDS):
            count += 1
            with suppress(UserError):  # a disk that is full for a while
                self._beat(count)


class Workers(Protocol):
    """Machines that run requests."""

    def check(self, exchange: Exchange) -> None:
        """Raises a UserError if the workers do not see the exchange folder."""

    def submit(self, request: Request) -> "Future[Outcome]":
        """Has ``request`` run, again if its worker dies."""

    def stop(self) -> None:
        """Takes back what no worker has begun; what has begun ends by itself, as its mark is gone."""

    def close(self) -> None:
        """Lets go of the workers."""
