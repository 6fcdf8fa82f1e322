"""Commands that are forked from a process with the libraries in it: they behave as commands that are started."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from small_project import ROOT, preloaded_with_little, wait_until

from dapbench.pipeline import preloaded
from dapbench.pipeline.local import is_alive
from dapbench.pipeline.preloaded import LIBRARIES, SOCKET

# Stands in for dapbench/cli.py: the command's first argument is what it does.
CLI = """
import os, signal, subprocess, sys, time

def main():
    if "DAPBENCH_PRELOADED" in os.environ:
        from dapbench.pipeline.preloaded import hand_over

        status = hand_over(sys.argv[1:])
        if status is not None:
            sys.exit(status)
    sys.path.insert(0, os.getcwd())
    exec(sys.argv[1])
"""
SLEEP = "print(os.getpid(), os.getppid(), flush=True); time.sleep(60)"


class Commands:
    """Runs commands of a package whose cli is ``CLI``, with a server's variables in their environment."""

    def __init__(self, root: Path, variables: dict[str, str]):
        self.root = root
        self.environment = os.environ | {"PYTHONPATH": str(root)} | variables

    def start(self, code: str, **variables: str) -> "subprocess.Popen[str]":
        """Starts a command that runs ``code``."""
        return subprocess.Popen(
            [sys.executable, "-c", "from dapbench.cli import main; main()", code],
            cwd=self.root,
            env=self.environment | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, said: str = "", **variables: str) -> tuple[int, str, str]:
        """Runs ``code`` to its end; returns the exit status and what it printed."""
        process = self.start(code, **variables)
        output, error = process.communicate(said, timeout=60)
        return process.returncode, output, error

    def sleeper(self) -> "tuple[subprocess.Popen[str], psutil.Process, psutil.Process]":
        """A command that sleeps, the process that does so for it, and that process's parent."""
        command = self.start(SLEEP)
        assert command.stdout
        worker, server = (psutil.Process(int(pid)) for pid in command.stdout.readline().split())
        assert worker.pid != command.pid
        return command, worker, server


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    """Commands with a server that has imported little."""
    (tmp_path / "dapbench/pipeline").mkdir(parents=True)
    for name in ("errors", "pipeline/local", "pipeline/worker"):
        shutil.copyfile(ROOT / f"dapbench/{name}.py", tmp_path / f"dapbench/{name}.py")
    (tmp_path / "dapbench/pipeline/preloaded.py").write_text(preloaded_with_little(), encoding="utf-8")
    (tmp_path / "dapbench/cli.py").write_text(CLI, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (tmp_path / "lock").open("w") as lock, preloaded.preloaded(tmp_path, lock.fileno()) as variables:
        yield Commands(tmp_path, variables)


def test_a_fork_has_the_command_s_arguments_environment_folder_and_files(commands: Commands) -> None:
    code = "print(sys.argv[1:] == [sys.argv[-1]], os.environ['OF'], os.environ.get('DAPBENCH_PRELOADED'), os.getcwd());"
    code += "print(sys.stdin.read(), file=sys.stderr); sys.exit(7)"
    assert commands.run(code, "said", OF="this command") == (7, f"True this command None {commands.root}\n", "said\n")
    assert commands.run("print('OF' in os.environ)") == (0, "False\n", "")


def test_a_fork_runs_the_code_that_is_there_when_it_starts(commands: Commands) -> None:
    for number in ("1", "22"):  # of another size, since compiled modules are told apart by time and size
        (commands.root / "used.py").write_text(f"print({number})")
        assert commands.run("import used") == (0, f"{number}\n", "")


def test_forks_keep_the_lock_and_nothing_of_the_server_s(commands: Commands) -> None:
    files = "[os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if int(fd) > 2]"
    command, _, server = commands.sleeper()
    status, output, error = commands.run(f"print({files})")
    command.kill()
    command.communicate()
    assert (status, error) == (0, "")
    assert f"{commands.root}/lock" in output
    assert "socket" not in output
    assert "pidfd" not in output
    assert server.is_running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_fork(commands: Commands, number: signal.Signals) -> None:
    code = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); signal.signal(signal.SIGINT, lambda *_: sys.exit(3));"
    )
    command = commands.start(code + SLEEP)
    assert command.stdout
    command.stdout.readline()
    command.send_signal(number)
    assert command.wait(30) == 3
    command.communicate()


def test_a_fork_that_a_signal_ends_says_so(commands: Commands) -> None:
    command, worker, _ = commands.sleeper()
    worker.kill()
    assert command.wait(30) == 128 + signal.SIGKILL
    command.communicate()


def test_a_fork_and_its_children_do_not_outlive_the_command(commands: Commands) -> None:
    command = commands.start("print(subprocess.Popen(['sleep', '60'], stdout=2).pid, os.getpid(), flush=True);" + SLEEP)
    assert command.stdout
    of_fork = [psutil.Process(int(pid)) for pid in command.stdout.readline().split()]
    command.kill()
    command.communicate()
    wait_until(lambda: not any(map(is_alive, of_fork)))
    assert commands.run("pass") == (0, "", ""), "the server goes on"


def test_a_fork_does_not_outlive_the_server(commands: Commands) -> None:
    command, worker, server = commands.sleeper()
    server.kill()
    assert command.wait(30) == 1
    assert "dapbench repro has gone; the same command goes on from here" in command.communicate()[1]
    wait_until(lambda: not is_alive(worker))


def test_without_a_server_a_command_runs_by_itself(commands: Commands) -> None:
    command = commands.start("print(os.getpid())", **{SOCKET: "/tmp/no-such-socket"})
    assert command.communicate()[0] == f"{command.pid}\n"


def test_libraries_are_none_of_ours() -> None:
    assert not [library for library in LIBRARIES if library.split(".")[0] in ("dapbench", "baselines", "analysis")]
