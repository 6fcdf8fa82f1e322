"""The engine of this machine: commands are forked from a process that has imported the libraries.

A command would spend eight seconds on importing what every other one imports too. The standard library's fork server
does it once. dapbench's own modules each command imports itself, as they are when its cell starts.
"""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver, util
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock, Thread

GRACE_SECONDS = 30.0  # what the commands get to end in once they are told to
SOCKET_FOLDER_BYTES = 107 - len("/pymp-12345678/listener-12345678")

# One that is missing, since another version of torch has other modules, is passed over.
LIBRARIES = [
    "lightning.pytorch",
    "torch._dynamo.backends.inductor",  # what torch.compile imports when it is first called, here and below
    "torch._dynamo.repro.after_dynamo",
    "torch._export.passes",
    "torch._inductor.codegen.cpp_wrapper_cpu_array_ref",
    "torch._inductor.codegen.cuda_combined_scheduling",
    "torch._inductor.codegen.cutedsl.cutedsl_scheduling",
    "torch._inductor.codegen.xpu.xpu_combined_scheduling",
    "torch._inductor.compile_fx",
    "torch.distributed.tensor.experimental",
    "torch.utils.cpp_extension",
    "mlflow.store.tracking.sqlalchemy_store",
    "gymnasium.envs.mujoco",
    "h5py",
    "hydra.main",
    "minari",
    "mujoco",
    "peft",
]


class Local:
    """Runs commands on this machine, each on one core."""

    def __init__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        # Asking CUDA what there is would make it unusable in a fork; asking the driver does not.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        self._context: ForkServerContext | SpawnContext
        if sys.platform == "linux":
            _make_socket_folder()
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(LIBRARIES)
            at_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is for the driver alone
            forkserver.ensure_running()
            signal.signal(signal.SIGINT, at_interrupt)
        else:  # where forking is not safe
            self._context = multiprocessing.get_context("spawn")
        self._turn = Lock()  # at multiprocessing's list of children, which threads must not poll at the same time
        self._running: set[BaseProcess] = set()
        self._stopped = False

    def run(self, argv: list[str], log: Path) -> int:
        """Runs a `dapbench` command to its end, its output going to ``log``; returns its exit status.

        A status below zero is the signal that ended it.
        """
        process = self._context.Process(target=_run, args=(argv, log))
        with self._turn:
            if self._stopped:
                return -signal.SIGTERM
            process.start()
            self._running.add(process)
        wait([process.sentinel])
        with self._turn:
            process.join()
            self._running.discard(process)
        _signal(os.killpg, process, signal.SIGKILL)  # what it started and left
        assert process.exitcode is not None
        return process.exitcode

    def stop(self) -> None:
        """Ends all that runs, and runs nothing more."""
        with self._turn:
            self._stopped = True
            for process in self._running:
                _signal(os.kill, process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            while self._running and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            with self._turn:
                for process in self._running:
                    _signal(os.kill, process, signal.SIGKILL)


def _make_socket_folder() -> None:
    """Has multiprocessing put its sockets into /tmp where TMPDIR is too long: their paths have 107 bytes at most."""
    chosen = tempfile.gettempdir()
    if len(os.fsencode(chosen)) > SOCKET_FOLDER_BYTES:
        tempfile.tempdir = "/tmp"
    util.get_temp_dir()  # makes it, for good
    tempfile.tempdir = chosen


def _run(argv: list[str], log: Path) -> None:
    """In the fork: runs the command ``argv``."""
    os.setpgid(0, 0)  # Ctrl-C at a terminal reaches the driver alone, which then ends the commands in order
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Thread(target=_die_with_driver, daemon=True).start()
    gc.freeze()  # what the fork shares with others stays shared for as long as nobody writes to it
    with log.open("wb") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    sys.argv = argv
    from dapbench.cli import main

    main()


def _die_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os.killpg(0, signal.SIGKILL)


def _signal(send: Callable[[int, int], None], process: BaseProcess, number: int) -> None:
    assert process.pid
    with suppress(ProcessLookupError):
        send(process.pid, number)
