"""Commands as jobs of SLURM, through submitit.

All jobs of a project carry one name, by which those of a killed driver are found and cancelled.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import cloudpickle
import psutil
import submitit

from dapbench.errors import UserError
from dapbench.pipeline import worker
from dapbench.pipeline.engines import SlurmSettings, refuse_unseen
from dapbench.pipeline.worker import Project

ATTEMPTS = 4  # at a command whose jobs die
POLL_SECONDS = 1.0  # between looks for a result
QUEUE_SECONDS = 10.0  # between looks at the queue
LOST_SECONDS = 15.0  # out of the queue without a result, after which none will come
CANCEL_SECONDS = 120.0  # what cancelled jobs get to leave the queue in


class Slurm:
    """Jobs of one core each; with ``cluster=local`` they are processes of this machine.

    Raises:
        UserError: there is no SLURM on this machine, it takes no job, or jobs do not see the project's folder.
    """

    def __init__(self, project: Project, settings: SlurmSettings):
        self._project, self._cluster = project, settings.cluster
        self._name = f"dapbench-{hashlib.sha256(project.root.encode()).hexdigest()[:12]}"
        self._folder = Path(project.root, ".dvc/tmp/submitit")
        self._turn = Lock()
        self._stopped = False
        self._queue: set[str] = set()
        self._looked = -QUEUE_SECONDS
        try:
            self._executor = submitit.AutoExecutor(self._folder, cluster=self._cluster)
        except RuntimeError as error:
            raise UserError(
                f"{error}; run where sbatch and srun are, or with --slurm cluster=local (docs/cluster.md)"
            ) from error
        self._executor.update_parameters(
            name=self._name,
            timeout_min=settings.minutes,
            cpus_per_task=1,
            stderr_to_stdout=True,
            slurm_additional_parameters=settings.options,
        )
        cloudpickle.register_pickle_by_value(worker)
        self._cancel()
        self._wait_until_cancelled()
        shutil.rmtree(self._folder, ignore_errors=True)  # what earlier jobs left
        print("slurm: waiting for a first job, which checks that jobs see this folder", flush=True)
        job = self._submit(worker.probe)
        try:
            refuse_unseen(self._result(job), "slurm")
        except _Died as error:  # a job that sees nothing of the folder cannot even leave its result there
            refuse_unseen(f"{error}; it left nothing in {project.root}", "slurm")
        except BaseException:
            self._cancel()
            raise

    def run(self, argv: list[str], log: Path) -> int:
        """Has a job run a command, and another one if that dies; returns the exit status.

        Raises:
            UserError: SLURM takes no job, or as many as it is worth died.
        """
        log.write_bytes(b"")
        for attempt in range(ATTEMPTS):
            try:
                return self._result(self._submit(worker.execute, argv, str(log)))
            except _Stopped:
                return -signal.SIGTERM
            except _Died as error:
                said = f"{error}, as {attempt} before it did" if attempt else str(error)
        raise UserError(said)

    def stop(self) -> None:
        """Cancels every job and submits no more."""
        with self._turn:
            self._stopped = True
        self._cancel()

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> submitit.Job[Any]:
        with self._turn:
            if self._stopped:
                raise _Stopped
            try:
                return self._executor.submit(function, self._project, *arguments)
            except Exception as error:  # of sbatch, in whatever form submitit has it
                raise UserError(f"SLURM takes no job: {_last_line(error)}; see --slurm in docs/cluster.md") from error

    def _result(self, job: submitit.Job[Any]) -> Any:
        """Waits for what a job returns.

        Raises:
            _Died: it left nothing, or raised an error.
            _Stopped: nothing is wanted of it any more.
        """
        submitted = left = time.monotonic()
        while not job.paths.result_pickle.exists():
            if self._stopped:
                raise _Stopped
            time.sleep(POLL_SECONDS)
            if self._is_queued(job, submitted):
                left = time.monotonic()
            elif time.monotonic() - left > LOST_SECONDS:
                raise _Died(f"job {job.job_id} died: it left no result")
        try:
            return job.result()
        except Exception as error:  # the job's own, or what became of it
            raise _Died(f"job {job.job_id} died: {_last_line(error)}") from error

    def _is_queued(self, job: submitit.Job[Any], submitted: float) -> bool:
        if self._cluster == "local":
            return not job.done()
        with self._turn:
            if time.monotonic() - self._looked > QUEUE_SECONDS:
                self._look()
            return job.job_id in self._queue or self._looked < submitted

    def _look(self) -> None:
        """Asks squeue in place of submitit's sacct, which needs an accounting database."""
        command = ["squeue", "--noheader", "--format=%i", f"--name={self._name}", f"--user={os.getuid()}"]
        looked = subprocess.run(command, capture_output=True, text=True, check=False)
        if looked.returncode == 0:  # else the controller is busy or restarts: nothing is known
            self._queue, self._looked = set(looked.stdout.split()), time.monotonic()

    def _cancel(self) -> None:
        """Ends every job of the project, also a killed driver's."""
        if self._cluster == "slurm":
            command = ["scancel", f"--name={self._name}", f"--user={os.getuid()}"]
            subprocess.run(command, capture_output=True, check=False)
            return
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self._folder) in process.cmdline():  # submitit's; its command dies with it
                    process.kill()

    def _wait_until_cancelled(self) -> None:
        start = time.monotonic()
        while self._cluster == "slurm":
            self._look()
            if self._looked >= start and not self._queue:
                return
            if time.monotonic() > start + CANCEL_SECONDS:
                jobs = ", ".join(sorted(self._queue)) or "squeue does not answer"
                raise UserError(f"jobs of a killed dapbench repro do not end ({jobs}); scancel --name={self._name}")
            time.sleep(POLL_SECONDS)


class _Died(Exception):
    """A job ended without a result."""


class _Stopped(Exception):
    """The driver ends."""


def _last_line(error: Exception) -> str:
    """The line of an error of submitit's that says most: the last of the job's trace or of sbatch's output."""
    around = ("---", "You can", "  - ", "Try ")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(around)]
    return lines[-1] if lines else type(error).__name__
