"""One driver per project, and what a killed one leaves of DVC's own files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_project import Project

from dapbench.errors import UserError
from dapbench.pipeline import bookkeeping
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


def test_a_lock_file_is_written_whole_or_not_at_all(
    project: Project, finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished_project.root / "dvc.lock").read_text(encoding="utf-8")
    project.write("dvc.lock", before)
    project.stale()
    for file, text in finished_project.results().items():
        project.write(file, text)

    class Killed(Exception):
        pass

    class CutOff(bookkeeping.Lockfile):
        def dump(self, stage: object, **_: object) -> None:
            Path(self.path).write_text(before[:100], encoding="utf-8")
            raise Killed

    books = Bookkeeping()
    books.plan()
    monkeypatch.setattr(bookkeeping, "Lockfile", CutOff)
    with pytest.raises(Killed):
        books.end("online@tiny-hopper-ppo-0")
    books.close()
    assert (project.root / "dvc.lock").read_text(encoding="utf-8") == before


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
