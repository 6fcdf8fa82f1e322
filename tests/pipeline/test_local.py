"""Commands on this machine, forked from a process with the libraries in it: they behave as those that are started."""

import signal
import subprocess
import sys

import psutil
import pytest
from small_project import Project, is_alive, wait_until

from dapbench.pipeline.local import LIBRARIES

# Stands in for dapbench/cli.py: the command's argument is what it does.
CLI = """
import os, signal, subprocess, sys, time

def main():
    exec(sys.argv[1])
"""
# Runs commands beside one another and prints how they ended, in order.
DRIVER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dapbench.pipeline import local

local.GRACE_SECONDS = 2
engine = local.Local()
with ThreadPoolExecutor() as pool:
    ended = [pool.submit(engine.run, ["dapbench", code], Path(f"log{i}")) for i, code in enumerate(sys.argv[1:])]
    if any("time.sleep" in code for code in sys.argv):
        while not all(Path(f"log{i}").exists() and "started" in Path(f"log{i}").read_text() for i in range(len(ended))):
            time.sleep(0.05)
        if Path("stop").exists():
            engine.stop()
    print([future.result() for future in ended])
"""
SLEEP = "print('started', os.getpid(), os.getppid(), flush=True); time.sleep(60)"
SLOW_TO_END = (
    """
def end(*_):
    time.sleep(0.5)
    print("ended", flush=True)
    sys.exit(5)

signal.signal(signal.SIGTERM, end)
"""
    + SLEEP
)
NEVER_ENDS = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are forked on Linux alone")


@pytest.fixture
def commands(project: Project) -> Project:
    """A small project whose command does what its argument says."""
    project.write("dapbench/cli.py", CLI)
    return project


def logs(project: Project, number: int) -> str:
    return (project.root / f"log{number}").read_text(encoding="utf-8")


def test_output_statuses_and_signals_are_those_of_a_process(commands: Project) -> None:
    codes = [
        "print('out'); print('err', file=sys.stderr)",
        "sys.exit(3)",
        "raise ValueError('wrong')",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "print(sys.stdin.read() == '', signal.getsignal(signal.SIGINT), os.getpgid(0) == os.getpid(), os.getcwd())",
        "print(os.environ['OMP_NUM_THREADS'], sys.argv[0])",
    ]
    run = commands.python(DRIVER, *codes)
    assert run.stdout == "[0, 3, 1, -15, 0, 0]\n", run.stderr
    assert logs(commands, 0) == "out\nerr\n"
    assert "ValueError: wrong" in logs(commands, 2)
    assert logs(commands, 4) == f"True {signal.default_int_handler} True {commands.root}\n"
    assert logs(commands, 5) == "1 dapbench\n"


def test_libraries_are_there_already_and_none_of_ours(commands: Project) -> None:
    shown = "print('yaml' in sys.modules, 'dapbench.pipeline.bookkeeping' in sys.modules)"
    assert commands.python(DRIVER, shown).stdout == "[0]\n"
    assert logs(commands, 0) == "True False\n"
    assert not [library for library in LIBRARIES if library.split(".")[0] in ("dapbench", "baselines", "analysis")]


def test_stop_waits_for_commands_and_kills_those_that_do_not_end(commands: Project) -> None:
    commands.write("stop", "")
    run = commands.python(DRIVER, SLOW_TO_END, NEVER_ENDS, SLEEP)
    assert run.stdout == "[5, -9, -15]\n", run.stderr
    assert "ended" in logs(commands, 0)


def test_a_command_does_not_outlive_the_fork_server_or_its_children_the_command(commands: Project) -> None:
    child = "subprocess.Popen(['sleep', '60']); print('started', os.getpid(), os.getppid(), flush=True); time.sleep(60)"
    driver = subprocess.Popen(
        commands.command(DRIVER, child), env=commands.environment(), stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: (commands.root / "log0").exists() and "started" in logs(commands, 0))
    command, server = (psutil.Process(int(pid)) for pid in logs(commands, 0).split()[1:])
    (child_of_command,) = command.children()
    server.kill()
    assert driver.communicate(timeout=60)[0] == "[255]\n"
    wait_until(lambda: not is_alive(command) and not is_alive(child_of_command), 5)
