"""Workers of a Ray cluster."""

import logging
import os
import signal
import socket
from concurrent.futures import Future
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dapbench.errors import UserError
from dapbench.pipeline import worker
from dapbench.pipeline.exchange import Exchange
from dapbench.pipeline.worker import Outcome, Request

RETRIES = 3  # of a command whose worker died
CHECK_SECONDS = 60.0
CONNECT_SECONDS = 10.0
OBJECT_STORE_BYTES = 80 * 2**20  # near the least that Ray takes: nothing but commands goes through it


class RayWorkers:
    """The cores of the Ray cluster at ``address``, or of a local one with ``jobs`` of them."""

    def __init__(self, address: str | None, jobs: int | None):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
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

    def check(self, exchange: Exchange) -> None:
        """Raises a UserError if a node of the cluster does not see the exchange folder."""
        probe = ray.remote(num_cpus=0)(worker.probe)
        asked = []
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU"):
                request = exchange.open([], {})
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked.append((request, node, probe.options(scheduling_strategy=there).remote(request)))
        for request, node, answer in asked:
            try:
                exchange.judge(request, ray.get(answer, timeout=CHECK_SECONDS), "ray")
            except (GetTimeoutError, RayError) as error:
                said = " ".join(str(error).split()) or f"silent for {CHECK_SECONDS:.0f} s"
                where = node["NodeManagerHostname"]
                raise UserError(f"node {where} of the Ray cluster runs nothing ({said}); see 'ray status'") from error

    def submit(self, request: Request) -> "Future[Outcome]":
        """Has a node run ``request``; another one if it dies."""
        return self._execute.remote(request).future()

    def stop(self) -> None:
        """Leaves what waits: it ends as soon as it begins, since its mark is gone."""

    def close(self) -> None:
        """Leaves the cluster, or ends the local one."""
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises an OSError or ValueError unless something listens at ``address``; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
