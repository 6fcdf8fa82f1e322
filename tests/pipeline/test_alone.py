"""One driver per project, and going on after one that was killed."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from small_project import Project

from dapbench.errors import UserError
from dapbench.pipeline.alone import LOCK, alone, keep_copy
from dapbench.pipeline.local import is_alive

BROKEN = "schema: '2.0'\nstages:\n  online@tiny-hopper-ppo-0:\n    cmd: dapbench train\n    deps:\n    - pa"


def test_the_same_command_finishes_after_kills(project: Project, finished_project: Project) -> None:
    orphans: list[psutil.Process] = []
    for command in ("collect", "pretrain", "report"):
        driver = project.start("profile.methods=[ppo,ppo_dap]", hold=command)
        assert not any(map(is_alive, orphans))
        orphans = [process for process in project.commands() if command in process.cmdline()]
        assert len(orphans) == 1
        driver.kill()
        driver.wait()
    project.release()
    run = project.repro()
    assert run.returncode == 0, run.stderr
    assert not any(map(is_alive, orphans))
    assert project.results() == finished_project.results()
    assert project.stale() == []


@pytest.fixture
def orphan(project: Project) -> Iterator[psutil.Process]:
    """A command that a killed driver left at work, which keeps that driver's lock as a cell would."""
    path = project.root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        code = (
            "import fcntl, sys, time; fcntl.flock(int(sys.argv[1]), fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(lock.fileno())],
            pass_fds=[lock.fileno()],
            env=project.environment(DAPBENCH_PROJECT=str(project.root)),
            stdout=subprocess.PIPE,
        )
    assert process.stdout
    process.stdout.readline()
    with process:
        yield psutil.Process(process.pid)
        process.kill()


def write_holder(project: Project, host: str, pid: int, created: float) -> None:
    (project.root / LOCK).write_text(f"{host} {pid} {created}")


def test_what_a_killed_driver_left_at_work_is_ended(
    project: Project, orphan: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    write_holder(project, socket.gethostname(), os.getpid(), 0.0)  # the process id is another process's by now
    with alone(project.root):
        assert orphan.status() == psutil.STATUS_ZOMBIE
        assert (project.root / LOCK).read_text().split()[1] == str(os.getpid())
    assert "that a killed dapbench repro left at work" in capsys.readouterr().err


def test_a_driver_on_another_machine_is_left_alone(project: Project, orphan: psutil.Process) -> None:
    write_holder(project, "elsewhere", 1, 0.0)
    with (
        pytest.raises(UserError, match=r"another dapbench repro \(process 1 on elsewhere\) is at work"),
        alone(project.root),
    ):
        pass
    assert orphan.status() != psutil.STATUS_ZOMBIE


def test_a_lock_file_that_was_cut_off_is_replaced(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    lock = project.root / "dvc.lock"
    with alone(project.root):
        keep_copy(project.root)
    lock.write_text(BROKEN)
    with alone(project.root):
        assert not lock.exists()  # there was none when the last driver began
        lock.write_text("schema: '2.0'\nstages: {}\n")
        keep_copy(project.root)
    lock.write_text(BROKEN)
    with alone(project.root):
        assert lock.read_text() == "schema: '2.0'\nstages: {}\n"
    assert (project.root / "dvc.lock.broken").read_text() == BROKEN
    assert "dvc.lock was cut off" in capsys.readouterr().err

    lock.write_text("<<<<<<< ours\n")
    with alone(project.root):
        assert lock.read_text() == "<<<<<<< ours\n", "a conflict is a person's to resolve"


def test_only_locks_of_living_dvc_processes_stay(project: Project) -> None:
    rwlock = project.root / ".dvc/tmp/rwlock"
    rwlock.parent.mkdir(parents=True, exist_ok=True)

    def stays(text: str) -> bool:
        rwlock.write_text(text)
        with alone(project.root):
            return rwlock.exists()

    def held_by(pid: int) -> str:
        return json.dumps({"write": {"a": {"pid": pid, "cmd": "dvc repro"}}, "read": {}})

    assert not stays("{")
    assert not stays(held_by(2**22 + 1))  # more than there can be
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as another:
        assert not stays(held_by(another.pid))
        another.kill()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dvc"]) as dvc:
        assert stays(held_by(dvc.pid))
        dvc.kill()
