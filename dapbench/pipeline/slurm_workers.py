"""Workers that SLURM lends, through submitit: requests that come close together are submitted as one array."""

import os
import shutil
import subprocess
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import cloudpickle
import submitit

from dapbench.errors import UserError
from dapbench.files import write_text
from dapbench.pipeline import worker
from dapbench.pipeline.engines import SlurmSettings
from dapbench.pipeline.exchange import Exchange
from dapbench.pipeline.worker import Outcome, Request

ATTEMPTS = 4  # at a command whose jobs die
GATHER_SECONDS = 2.0  # without a new request, after which those that came are submitted
GATHER_AT_MOST_SECONDS = 10.0
QUEUE_SECONDS = 10.0  # between looks at the queue
LOST_SECONDS = 15.0  # out of the queue without a result, after which none will come


@dataclass
class _Task:
    """A request, and the jobs that it takes."""

    request: Request
    future: Future[Outcome] = field(default_factory=Future)
    came: float = field(default_factory=time.monotonic)
    attempts: int = 0


class SlurmWorkers:
    """Jobs of one core each, at most ``jobs`` of an array at once.

    Args:
        folder: the exchange folder; submitit's files lie below it.
        jobs: the limit.
        settings: of the jobs; with ``cluster=local`` they are processes of this machine.

    Raises:
        UserError: there is no SLURM on this machine.
    """

    def __init__(self, folder: Path, jobs: int, settings: SlurmSettings):
        self._cluster = settings.cluster
        self._submitted = folder / "slurm_jobs"
        self._cancel_those_of_a_killed_driver()
        try:
            shutil.rmtree(folder / "submitit", ignore_errors=True)
            self._executor = submitit.AutoExecutor(folder / "submitit", cluster=self._cluster)
        except RuntimeError as error:
            raise UserError(
                f"{error}; run where sbatch and srun are, or with --slurm cluster=local (docs/cluster.md)"
            ) from error
        self._executor.update_parameters(
            name="dapbench",
            timeout_min=settings.minutes,
            cpus_per_task=1,
            stderr_to_stdout=True,
            slurm_array_parallelism=jobs,
            slurm_additional_parameters=settings.options,
        )
        cloudpickle.register_pickle_by_value(worker)
        self._lock = Lock()
        self._new: list[_Task] = []
        self._jobs: dict[submitit.Job[Any], _Task] = {}
        self._gone: dict[str, float] = {}  # jobs that are no longer queued, and since when that is known
        self._looked = 0.0
        self._closed = Event()
        Thread(target=self._watch, daemon=True).start()

    def check(self, exchange: Exchange) -> None:
        """Raises a UserError if a first job cannot be run, or does not see the exchange folder."""
        print("slurm: waiting for a first job, which checks that jobs see this folder", flush=True)
        request = exchange.open([], {})
        try:
            job = self._submit([worker.probe], [request])[0]
        except Exception as error:  # of sbatch, in whatever form submitit has it
            raise UserError(f"SLURM takes no job: {_last_line(error)}; see --slurm in docs/cluster.md") from error
        try:
            while not self._is_over(job):
                time.sleep(worker.POLL_SECONDS)
        except BaseException:
            job.cancel(check=False)
            raise
        # A job that sees nothing of the folder cannot even leave its result there.
        said = job.result() if job.paths.result_pickle.exists() else f"job {job.job_id} left nothing in {exchange.root}"
        exchange.judge(request, said, "slurm")

    def submit(self, request: Request) -> "Future[Outcome]":
        """Has a job run ``request``, and another one if that dies."""
        task = _Task(request)
        with self._lock:
            self._new.append(task)
        return task.future

    def stop(self) -> None:
        """Cancels every job and takes no more."""
        self._closed.set()
        with self._lock:
            for job in self._jobs:
                job.cancel(check=False)

    def close(self) -> None:
        """Ends the watch over jobs."""
        self._closed.set()
        self._submitted.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._closed.wait(worker.POLL_SECONDS):
            with self._lock:
                self._submit_new()
                for job in [job for job in self._jobs if self._is_over(job)]:
                    self._collect(job, self._jobs.pop(job))

    def _submit_new(self) -> None:
        now = time.monotonic()
        if not self._new or (
            now - self._new[-1].came < GATHER_SECONDS and now - self._new[0].came < GATHER_AT_MOST_SECONDS
        ):
            return
        tasks, self._new = self._new, []
        try:
            jobs = self._submit([worker.execute] * len(tasks), [task.request for task in tasks])
        except Exception as error:  # of sbatch, in whatever form submitit has it
            for task in tasks:
                task.future.set_result(f"SLURM takes no job: {_last_line(error)}")
            return
        self._jobs |= dict(zip(jobs, tasks, strict=True))

    def _submit(self, functions: list[Any], requests: list[Request]) -> list[submitit.Job[Any]]:
        with self._executor.batch():
            jobs = [self._executor.submit(*call) for call in zip(functions, requests, strict=True)]
        if self._cluster == "slurm":
            known = self._submitted.read_text() if self._submitted.exists() else ""
            write_text(self._submitted, "\n".join([known, *(job.job_id for job in jobs)]))
        return jobs

    def _is_over(self, job: submitit.Job[Any]) -> bool:
        """Whether ``job`` has left a result, or has been out of the queue for so long that none will come."""
        if job.paths.result_pickle.exists():
            return True
        if self._cluster == "local":
            if job.done():
                self._gone.setdefault(job.job_id, time.monotonic())
        elif time.monotonic() - self._looked > QUEUE_SECONDS:
            self._look_at_the_queue([job, *self._jobs])
        return time.monotonic() - self._gone.get(job.job_id, time.monotonic()) > LOST_SECONDS

    def _look_at_the_queue(self, jobs: list[submitit.Job[Any]]) -> None:
        """Asks squeue in place of submitit's sacct, which needs an accounting database."""
        self._looked = time.monotonic()
        command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
        looked = subprocess.run(command, capture_output=True, text=True, check=False)
        if looked.returncode != 0:
            return  # the controller is busy or restarts: nothing is known
        queued = set(looked.stdout.split())
        for job in jobs:
            if job.job_id in queued:
                self._gone.pop(job.job_id, None)
            else:
                self._gone.setdefault(job.job_id, self._looked)

    def _collect(self, job: submitit.Job[Any], task: _Task) -> None:
        """Ends the task of a ``job`` that is over, or has it run once more."""
        task.attempts += 1
        try:
            if job.paths.result_pickle.exists():
                task.future.set_result(job.result())
                return
            said = "it left no result"
        except Exception as error:  # the job's own, or what became of it
            said = _last_line(error)
        if task.attempts < ATTEMPTS:
            task.came = time.monotonic()
            self._new.append(task)
        else:
            task.future.set_result(f"job {job.job_id} died, as {task.attempts - 1} before it did: {said}")

    def _cancel_those_of_a_killed_driver(self) -> None:
        with suppress(FileNotFoundError):
            subprocess.run(["scancel", *self._submitted.read_text().split()], capture_output=True, check=False)


def _last_line(error: Exception) -> str:
    """The line of an error of submitit's that says most: the last of the job's trace or of sbatch's output."""
    around = ("---", "You can", "  - ", "Try ")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(around)]
    return lines[-1] if lines else type(error).__name__
