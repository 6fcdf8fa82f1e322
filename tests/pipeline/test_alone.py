"""One driver per project, and what a killed one leaves of DVC's own files."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from small_project import Project, wait_until

from dapbench.errors import UserError
from dapbench.pipeline.alone import alone
from dapbench.pipeline.bookkeeping import Bookkeeping


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(UserError, match=r"another dapbench repro \(process \d+ on .*\) is at work in"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass


def test_a_lock_file_is_written_as_dvc_does_and_whole(
    project: Project, finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, lock = "online@tiny-hopper-ppo-0", project.root / "dvc.lock"
    before = (finished_project.root / "dvc.lock").read_text(encoding="utf-8")
    project.write("dvc.lock", before)
    for file, text in finished_project.results().items():
        project.write(file, text)
    project.write("results/tiny/runs/hopper/ppo/0/curve.csv", "changed")
    project.stale()
    books = Bookkeeping()
    assert cell in books.plan()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            books.end(cell)
    assert lock.read_text(encoding="utf-8") == before
    books.end(cell)
    ours = lock.read_text(encoding="utf-8")
    assert ours != before
    for start in (before, ours):
        lock.write_text(start)
        for stage in books._stages.values():
            stage.dump(update_pipeline=False)
        assert lock.read_text(encoding="utf-8") == ours
    books.close()


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
        wait_until(lambda: "dvc" in psutil.Process(dvc.pid).cmdline())
        assert stays(held_by(dvc.pid))
        dvc.kill()
