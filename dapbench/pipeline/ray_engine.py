"""Commands as tasks of a Ray cluster."""

import logging
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dapbench.errors import UserError
from dapbench.pipeline import worker
from dapbench.pipeline.engines import refuse_unseen
from dapbench.pipeline.worker import Project

RETRIES = 3  # after a first try whose worker died
CHECK_SECONDS = 60.0
CONNECT_SECONDS = 10.0
TEMPORARY_LENGTH = 32  # Ray adds some seventy letters for its sockets, whose paths have 107 at most
OBJECT_STORE_BYTES = 80 * 2**20  # near the least that Ray takes: nothing but commands goes through it


class Ray:
    """The cores of the Ray cluster at ``address``, or of a local one with ``jobs`` of them.

    A task that dies is run again by Ray; the tasks of a driver that dies are ended by Ray.

    Raises:
        UserError: there is no cluster, or one of its nodes does not see the project's folder.
    """

    def __init__(self, address: str | None, jobs: int, project: Project):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        if len(tempfile.gettempdir()) > TEMPORARY_LENGTH:
            own["_temp_dir"] = "/tmp/ray"
        at_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            if address not in (None, "auto"):
                _knock(str(address))
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"no Ray cluster at --address {address or 'local'} ({' '.join(str(error).split())}); give HOST:PORT as "
                "'ray start --head' prints it, on a machine of the cluster (docs/cluster.md)"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, at_sigterm)  # Ray puts its own in place
        cloudpickle.register_pickle_by_value(worker)
        again: dict[str, Any] = {"max_retries": RETRIES, "retry_exceptions": [ChildProcessError]}
        self._execute = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", **again)(worker.execute)
        self._project = project
        self._running: set[ray.ObjectRef[int]] = set()
        self._stopped = False

    def __enter__(self) -> "Ray":
        self._check()
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def run(self, argv: list[str], log: Path) -> int:
        """Has a node run a command, another one if it dies; returns the exit status.

        Raises:
            UserError: no node could run it to its end.
        """
        log.write_bytes(b"")
        result = self._execute.remote(self._project, argv, str(log))
        self._running.add(result)
        if self._stopped:
            ray.cancel(result, force=True)
        try:
            return ray.get(result)
        except TaskCancelledError:
            return -signal.SIGTERM
        except RayError as error:
            said = [line for line in str(error).splitlines() if line.strip()]
            raise UserError(said[-1] if said else type(error).__name__) from error
        finally:
            self._running.discard(result)

    def stop(self) -> None:
        """Ends every command, and runs nothing more."""
        self._stopped = True
        for result in list(self._running):
            ray.cancel(result, force=True)

    def _check(self) -> None:
        """Raises a UserError if a node of the cluster does not see the project's folder."""
        probe = ray.remote(num_cpus=0)(worker.probe)
        asked = []
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU"):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked.append((node, probe.options(scheduling_strategy=there).remote(self._project)))
        for node, answer in asked:
            try:
                refuse_unseen(ray.get(answer, timeout=CHECK_SECONDS), "ray")
            except (GetTimeoutError, RayError) as error:
                said = " ".join(str(error).split()) or f"silent for {CHECK_SECONDS:.0f} s"
                where = node["NodeManagerHostname"]
                raise UserError(f"node {where} of the Ray cluster runs nothing ({said}); see 'ray status'") from error


def _knock(address: str) -> None:
    """Raises an OSError or ValueError unless something listens at ``address``; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
