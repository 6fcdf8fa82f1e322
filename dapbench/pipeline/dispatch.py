"""Engines whose commands run on other machines, while every process of DVC stays on the driver's.

DVC's locks name their holders by process id alone, so a process of DVC on one machine takes those of another for dead
(docs/cluster.md). Hence a cell's `dvc repro` runs here; the `dapbench` command that it starts finds a socket in its
environment, hands its arguments over to the driver, and waits for a worker to have run them.
"""

import os
import shutil
import sys
import tempfile
from concurrent.futures import Future, wait
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Thread

from dapbench.errors import UserError
from dapbench.pipeline.exchange import Exchange, Workers
from dapbench.pipeline.local import Local
from dapbench.pipeline.worker import SETTLE_SECONDS, Outcome

SOCKET = "DAPBENCH_DISPATCHER"
LOOK_SECONDS = 0.5


class Remote:
    """Runs DVC's processes here and their commands on ``workers``."""

    def __init__(self, exchange: Exchange, workers: Workers, lock: int | None):
        self._exchange, self._workers = exchange, workers
        self._at_work: set[Future[Outcome]] = set()
        self._folder = tempfile.mkdtemp(prefix="dapbench-", dir="/tmp")  # a socket's path has 107 letters at most
        self._listener = Listener(f"{self._folder}/socket", "AF_UNIX", backlog=128)
        self._local = Local(exchange.root, lock, {SOCKET: str(self._listener.address)})
        self.run = self._local.run
        Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Ends all that runs."""
        self._exchange.stop()
        self._workers.stop()
        self._local.stop()
        wait(list(self._at_work), SETTLE_SECONDS)

    def close(self) -> None:
        """Takes no more commands."""
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return  # closed
            Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        """Has a worker run what a command hands over, and tells the command how it ended."""
        with connection, suppress(EOFError, OSError):
            request = self._exchange.open(*connection.recv())
            try:
                connection.send(str(request.output))
                future = self._workers.submit(request)
                self._at_work.add(future)
                future.add_done_callback(self._at_work.discard)
                while not wait([future], LOOK_SECONDS).done:
                    if connection.poll():
                        return  # the command is gone: nothing else comes from it
                connection.send(_outcome(future))
                connection.recv()  # ends with the connection, once the command has shown all output
            finally:
                self._exchange.close(request)


def _outcome(future: "Future[Outcome]") -> Outcome:
    try:
        return future.result()
    except Exception as error:  # of whatever kind the workers' library has
        return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def hand_over(argv: list[str]) -> int:
    """Has the driver run ``argv`` on a worker; shows what it prints and returns its exit status.

    Raises:
        UserError: the driver has gone, or no worker could run it to its end.
    """
    environment = {name: value for name, value in os.environ.items() if name not in (SOCKET, "TMPDIR")}
    try:
        with Client(os.environ[SOCKET], "AF_UNIX") as connection:
            connection.send((argv, environment))
            output, shown = Path(connection.recv()), 0
            while not connection.poll(LOOK_SECONDS):
                shown = _show(output, shown)
            outcome = connection.recv()
            _show(output, shown)
    except (OSError, EOFError) as error:
        raise UserError("dapbench repro has gone; the same command goes on from here") from error
    if isinstance(outcome, str):
        raise UserError(outcome)
    return outcome if outcome >= 0 else 128 - outcome


def _show(output: Path, start: int) -> int:
    """Prints ``output`` from ``start`` on; returns where it ends. Opening it is what makes NFS look anew."""
    with output.open("rb") as file:
        file.seek(start)
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()
        return file.tell()
