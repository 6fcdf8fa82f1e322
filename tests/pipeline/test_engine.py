"""`dapbench repro`: failures, interruption, equality with plain `dvc repro`, bad arguments."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from small_project import ALL_CALLS, ONLY_PPO, PPO_CALLS, Project, wait_until

from dapbench.errors import UserError
from dapbench.pipeline.engine import report, repro
from dapbench.pipeline.local import Local, is_alive
from dapbench.pipeline.schedule import Cells, run_plan

# A command that takes a second to end once it is told to.
SLOW_TO_END = """
import signal, time

def end(*_):
    print("told", flush=True)
    time.sleep(1)
    print("ended", flush=True)
    raise SystemExit

signal.signal(signal.SIGTERM, end)
print("started", flush=True)
time.sleep(60)
"""


def test_a_failed_cell_stops_only_what_needs_it(project: Project) -> None:
    run = project.repro(STUB_FAILS="logs")
    assert run.returncode == 1
    assert project.calls() == ["collect logs/hopper/medium", "report report", "train runs/hopper/ppo/0"]
    log = "results/tiny/cell_logs/collect@tiny-hopper-medium.txt"
    assert "1 cells failed, 2 that need them were left out" in run.stderr
    assert f"collect@tiny-hopper-medium: told to fail; see {log}" in run.stderr
    assert "told to fail" in (project.root / log).read_text(encoding="utf-8")
    assert "the headline of tiny" in run.stdout

    assert project.repro().returncode == 0
    assert project.calls() == sorted(set(ALL_CALLS) - {"train runs/hopper/ppo/0"})


def test_plain_dvc_repro_leaves_the_same(project: Project, finished_project: Project) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    project.stale()
    run = project.python("import sys; from dvc.cli import main; sys.exit(main(['repro']))")
    assert run.returncode == 0, run.stderr
    assert project.calls() == ALL_CALLS
    assert project.results() == finished_project.results()
    assert project.stale() == []
    assert not (project.root / ".dvc/config.local").exists()


def test_sigterm_ends_the_cells_and_the_next_run_goes_on(project: Project) -> None:
    driver = project.start()
    cells = psutil.Process(driver.pid).children(recursive=True)
    with pytest.raises(UserError, match=f"another dapbench repro .process {driver.pid} on .* is at work"):
        repro([*ONLY_PPO])
    driver.send_signal(signal.SIGTERM)
    _, error = driver.communicate(timeout=120)
    assert driver.returncode != 0
    assert "the same command goes on from here" in error
    wait_until(lambda: not any(is_alive(cell) for cell in cells))

    project.release()
    project.calls()
    assert project.repro(*ONLY_PPO).returncode == 0
    assert project.calls() == PPO_CALLS


def test_stop_waits_for_the_command_that_outlives_its_parent(project: Project) -> None:
    project.write("slow.py", SLOW_TO_END)
    log = project.root / "log"
    dvc = ["sh", "-c", f"sh -c '{sys.executable} slow.py; true'; true"]
    engine = Local(project.root)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(engine.run, dvc, log)
        wait_until(lambda: log.exists() and "started" in log.read_text())
        engine.stop()
        assert ended.done()
    assert "ended" in log.read_text()


class _FakeEngine:
    """Notes what it was to run, and how many ran at once."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.most = self.now = 0

    def run(self, command: list[str], log: Path) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        self.order.append(command[0])
        return int(command[0].startswith("bad"))

    def stop(self) -> None:
        raise AssertionError


def _cells() -> Cells:
    return Cells(lambda cell: [cell], lambda cell: Path(cell), lambda cell: cell == "report")


def test_cells_start_when_their_own_upstreams_have_ended() -> None:
    plan = {f"free{i}": set[str]() for i in range(6)} | {"logs": set(), "prior": {"logs"}, "run": {"prior"}}
    plan["report"] = set(plan)
    engine = _FakeEngine()
    assert run_plan(plan, _cells(), engine, jobs=2) == ([], [])
    assert engine.most == 2
    assert engine.order.index("logs") < engine.order.index("prior") < 4  # before most of what waits for nothing
    assert engine.order.index("prior") < engine.order.index("run")
    assert engine.order[-1] == "report"


def test_failures_spread_downstream_and_the_report_is_built() -> None:
    plan = {"bad": set[str](), "next": {"bad"}, "last": {"next"}, "good": set(), "report": {"last", "good"}}
    engine = _FakeEngine()
    assert run_plan(plan, _cells(), engine, jobs=1) == (["bad"], ["last", "next"])
    assert engine.order == ["bad", "good", "report"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--jobs", "0"], "'0' is not a whole number from 1"),
        (["--jobs", "many"], "'many' is not a whole number from 1"),
        (["--engine", "cloud"], "invalid choice: 'cloud'"),
        (["--job"], "--jobs: expected one argument"),
        (["--address", "head:6379"], "--address head:6379 is for --engine ray, not local"),
        (["--engine", "ray", "--address", "ray://head"], "--address ray://head is Ray's client; give HOST:PORT"),
        (["--slurm", "time=5"], "--slurm time=5 is for --engine slurm, not local"),
        (["--engine", "slurm", "--slurm", "cluster=pbs"], "--slurm cluster=pbs is not one of slurm, local"),
        (["--engine", "slurm", "--slurm", "time=1:00"], "--slurm time=1:00 is not a whole number of minutes"),
        (["--engine", "slurm", "--slurm", "array=1"], "--slurm array is set by dapbench"),
        (["profile=nosuch"], "unknown profile 'nosuch'"),
        (["quick"], "'quick' is not of the form key=value"),
    ],
)
def test_bad_arguments_of_repro(project: Project, argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        repro(argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["quick"], "'quick' is not one of profile=NAME, results=DIR, params=FILE"),
        (["seed=0"], "'seed=0' is not one of"),
        (["profile=nosuch"], "unknown profile 'nosuch'; choose one of .*quick"),
        (["params=gone.yaml"], "params=gone.yaml holds no profile"),
        (["params=params.yaml"], "params=params.yaml is of profile tiny"),
        (["profile=tiny", "params=params.yaml"], "there is no results/tiny; dapbench repro profile=tiny fills it"),
    ],
)
def test_bad_arguments_of_report(project: Project, argv: list[str], message: str) -> None:
    project.stale()
    with pytest.raises(UserError, match=message):
        report(argv)


def test_repro_needs_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"has no dvc\.yaml"):
        repro([])


def test_a_broken_lock_file_is_one_line(project: Project) -> None:
    project.write("dvc.lock", "stages: {online@ti")
    with pytest.raises(UserError, match=r"DVC cannot tell what is stale: .*dvc\.lock"):
        repro(["profile=tiny"])


def test_the_report_follows_the_params_file(finished: Project) -> None:
    finished.stale("profile.seeds=[0,1,2]")
    code = "import sys; from dapbench.pipeline.engine import report; sys.exit(report(sys.argv[1:]))"
    run = finished.python(code, "profile=tiny", "params=params.yaml")
    assert run.stdout.splitlines()[0] == "over cell_logs logs priors report runs with seeds [0, 1, 2]"
    run = finished.python(code, "profile=tiny", "results=results")
    assert run.stdout.splitlines()[0] == "over cell_logs logs priors report runs with seeds [0]"
