"""A process that has imported the libraries, from which this machine's commands are forked.

A command would spend eight seconds on importing what every other one imports too. So the driver starts a server that
does it once. The `dapbench` command that a cell starts finds the server's socket in its environment, hands over its
arguments, its environment and its files, and stands for the fork that runs them: it passes signals on, and the fork
does not outlive it.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dapbench.errors import UserError
from dapbench.pipeline.local import OWNER
from dapbench.pipeline.worker import dies_with_parent

SOCKET = "DAPBENCH_PRELOADED"
MESSAGE_BYTES = 2**20  # at most, of the arguments and the environment

# Never dapbench's own modules: a cell runs the code that DVC finds when the cell starts.
LIBRARIES = (
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
)


class _Command(NamedTuple):
    """What a fork is to run: arguments of `dapbench`, environment and folder."""

    argv: list[str]
    environment: dict[str, str]
    folder: str


@contextmanager
def preloaded(root: Path, lock: int) -> Iterator[dict[str, str]]:
    """Runs a server; ``lock`` is a file that stays open in what it forks.

    Yields: the variables by which commands find it; none where forking is not safe (anywhere but on Linux).
    """
    if sys.platform != "linux":
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="dapbench-", dir="/tmp") as folder:  # a path has 107 letters at most
        address = f"{folder}/socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(address)
            listener.listen(128)
            server = subprocess.Popen(
                [sys.executable, "-m", "dapbench.pipeline.preloaded", str(listener.fileno())],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Asking CUDA what there is would make it unusable in a fork; asking the driver does not.
                env=os.environ
                | {"OMP_NUM_THREADS": "1", OWNER: str(root.resolve()), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
                pass_fds=(listener.fileno(), lock),
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        try:
            yield {SOCKET: address}
        finally:
            server.terminate()
            server.wait()


def hand_over(argv: list[str]) -> int | None:
    """Has the server run ``argv`` with this process's environment, folder and files; returns its exit status.

    Returns: the status as a shell would say it, or None if there is no server.

    Raises:
        UserError: the server ended before the command did.
    """
    address = os.environ.pop(SOCKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(address)
            message = json.dumps(_Command(argv, dict(os.environ), os.getcwd())).encode()
            socket.send_fds(connection, [message], [0, 1, 2])
        except OSError:
            return None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: connection.send(bytes([number])))
        with suppress(ConnectionError):
            if answer := connection.recv(MESSAGE_BYTES):
                status = int(answer)
                return status if status >= 0 else 128 - status
    raise UserError("dapbench repro has gone; the same command goes on from here")


def serve(listener: socket.socket) -> list[str]:
    """Forks what is handed over, and passes on signals and exit statuses, for as long as the process lives.

    Returns: in each fork, the arguments of the command that it is to run; in the server itself, never.
    """
    for library in LIBRARIES:
        with suppress(ImportError):  # another version of torch has other modules; the command knows what it needs
            importlib.import_module(library)
    gc.freeze()  # forks share the memory of what is loaded for as long as nobody writes to it
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            key, _ = selector.select()[0]  # the first alone: it may make an end of the others
            if key.fileobj is listener:
                command = _fork(listener, selector)
                if command is not None:
                    return command
            elif isinstance(key.fileobj, socket.socket):
                _pass_signal(selector, key.fileobj, key.data)
            else:
                _pass_status(selector, key.fd, *key.data)


def _fork(listener: socket.socket, selector: selectors.BaseSelector) -> list[str] | None:
    """Takes a command from a new connection and forks; returns its arguments in the fork alone."""
    connection, _ = listener.accept()
    message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
    if len(files) < 3:
        connection.close()
        return None
    die_with_server = dies_with_parent()
    fork = os.fork()
    with suppress(OSError):  # by both, whoever comes first: a signal to the group must find it
        os.setpgid(fork, fork)
    if fork:
        for file in files:
            os.close(file)
        selector.register(connection, selectors.EVENT_READ, fork)
        selector.register(os.pidfd_open(fork), selectors.EVENT_READ, (fork, connection))
        return None
    if die_with_server is not None:
        die_with_server()
    connection.close()
    for key in list(selector.get_map().values()):
        key.fileobj.close() if isinstance(key.fileobj, socket.socket) else os.close(key.fd)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    command = _Command(*json.loads(message))
    os.environ.clear()
    os.environ.update(command.environment)
    os.chdir(command.folder)
    return command.argv


def _pass_signal(selector: selectors.BaseSelector, connection: socket.socket, fork: int) -> None:
    """Sends the fork what the command that stands for it was sent; ends it if that command has gone."""
    number = b""
    with suppress(ConnectionError):
        number = connection.recv(1)
    if not number:
        selector.unregister(connection)
    with suppress(ProcessLookupError):
        os.killpg(fork, number[0] if number else signal.SIGKILL)


def _pass_status(selector: selectors.BaseSelector, ended: int, fork: int, connection: socket.socket) -> None:
    """Tells the command that stands for a fork how it ended."""
    selector.unregister(ended)
    os.close(ended)
    status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    with suppress(OSError):  # the command has gone
        connection.send(str(status).encode())
    with suppress(KeyError):  # unregistered already, since the command has gone
        selector.unregister(connection)
    connection.close()


if __name__ == "__main__":
    sys.argv[1:] = serve(socket.socket(fileno=int(sys.argv[1])))
    from dapbench.cli import main

    main()
