"""`dapbench repro`: failures, interruption, equality with plain `dvc repro`, bad arguments."""

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from small_project import ALL_CALLS, ONLY_PPO, PPO_CALLS, Project, is_alive, wait_until

from dapbench.errors import UserError
from dapbench.pipeline.commands import repro
from dapbench.pipeline.schedule import run_plan
from dapbench.report.command import report


def test_a_failed_cell_stops_only_what_needs_it(project: Project) -> None:
    run = project.repro(STUB_FAILS="logs")
    assert run.returncode == 1
    assert project.calls() == ["behaviour behaviour/hopper/medium/0", "collect logs/hopper/medium/0", *PPO_CALLS]
    log = "results/tiny/cell_logs/collect@tiny-hopper-medium-0.txt"
    assert "1 cells failed, 3 that need them were left out" in run.stderr
    assert f"collect@tiny-hopper-medium-0: told to fail; see {log}" in run.stderr
    assert "told to fail" in (project.root / log).read_text(encoding="utf-8")
    assert "the headline of tiny" in run.stdout

    assert project.repro().returncode == 0
    assert project.calls() == sorted(set(ALL_CALLS[1:]) - set(PPO_CALLS) | {"report report"})


def test_a_failed_showcase_leaves_the_report(project: Project) -> None:
    run = project.repro(*ONLY_PPO[1:], STUB_FAILS="showcase")
    assert run.returncode == 1
    assert project.calls() == PPO_CALLS
    assert "1 cells failed, 0 that need them were left out" in run.stderr


def test_a_command_that_leaves_too_little_fails(project: Project) -> None:
    project.write("dapbench/cli.py", "def main():\n    print('did nothing')\n")
    run = project.repro(*ONLY_PPO[1:])
    assert run.returncode == 1
    assert "online@tiny-hopper-ppo-0: DVC cannot record the cell: output " in run.stderr
    assert "does not exist; see results/tiny/cell_logs/online@tiny-hopper-ppo-0.txt" in run.stderr


def test_plain_dvc_repro_leaves_the_same(project: Project, finished_project: Project) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    project.stale()
    run = project.python("import sys; from dvc.cli import main; sys.exit(main(['repro']))")
    assert run.returncode == 0, run.stderr
    assert project.calls() == ALL_CALLS
    assert project.results() == finished_project.results()
    assert project.stale() == []
    assert not (project.root / ".dvc/config.local").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_end_the_cells_and_the_next_run_goes_on(project: Project, number: int) -> None:
    driver = project.start()
    (command,) = project.commands()
    if number == signal.SIGTERM:
        with pytest.raises(UserError, match=f"another dapbench repro .process {driver.pid} on .* is at work"):
            repro([*ONLY_PPO])
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    _, error = driver.communicate(timeout=120)
    assert driver.returncode != 0
    assert "the same command goes on from here" in error
    assert not is_alive(command)
    wait_until(lambda: not any(map(is_alive, children)))

    project.release()
    project.calls()
    assert project.repro(*ONLY_PPO).returncode == 0
    assert project.calls() == PPO_CALLS


def test_the_same_command_finishes_after_kills(project: Project, finished_project: Project) -> None:
    for command in ("behaviour", "collect", "pretrain", "report"):
        driver = project.start("profile.methods=[ppo,ppo_dap]", hold=command)
        children = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        wait_until(lambda left=children: not any(map(is_alive, left)), 5)  # commands, fork server and all
        assert project.commands() == []
    project.release()
    run = project.repro()
    assert run.returncode == 0, run.stderr
    assert project.results() == finished_project.results()
    assert project.stale() == []


def test_a_cell_whose_code_changed_while_it_ran_is_not_recorded(project: Project) -> None:
    driver = project.start(hold="train")
    project.write("dapbench/ppo.py", "from dapbench.rl import environments  # otherwise\n")
    project.release()
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "online@tiny-hopper-ppo-0: dapbench/ppo.py changed while it ran; the same command runs it again" in error
    project.calls()
    assert project.repro(*ONLY_PPO).returncode == 0
    assert project.calls() == PPO_CALLS


def test_a_killed_command_says_so(project: Project) -> None:
    driver = project.start(hold="train")
    (command,) = project.commands()
    command.kill()
    project.release()
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "online@tiny-hopper-ppo-0: ended by SIGKILL; see" in error


class _Runs:
    """Notes what it was to run, and how many ran at once."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.most = self.now = 0

    def __call__(self, cell: str) -> bool:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        self.order.append(cell)
        return not cell.startswith("bad")


def _run(plan: dict[str, set[str]], runs: _Runs, jobs: int) -> tuple[list[str], list[str]]:
    def stop() -> None:
        raise AssertionError

    return run_plan(plan, runs, stop, jobs, lambda cell: cell == "report")


def test_cells_start_when_their_own_upstreams_have_ended() -> None:
    plan = {f"free{i}": set[str]() for i in range(6)} | {"logs": set(), "prior": {"logs"}, "run": {"prior"}}
    plan["report"] = set(plan)
    runs = _Runs()
    assert _run(plan, runs, jobs=2) == ([], [])
    assert runs.most == 2
    assert runs.order.index("logs") < runs.order.index("prior") < 4  # before most of what waits for nothing
    assert runs.order.index("prior") < runs.order.index("run")
    assert runs.order[-1] == "report"


def test_what_is_timed_has_the_machine_for_itself() -> None:
    beside: dict[str, list[str]] = {}
    now: list[str] = []

    def run(cell: str) -> bool:
        now.append(cell)
        for other in now:
            beside.setdefault(other, []).extend(now)
        time.sleep(0.02)
        now.remove(cell)
        return True

    plan = {f"run{i}": set[str]() for i in range(6)} | {"timed0": set(), "timed1": {"run0"}}
    outcome = run_plan(plan, run, lambda: None, 3, lambda _: False, lambda cell: cell.startswith("timed"))
    assert outcome == ([], [])
    assert beside.keys() == plan.keys()
    assert all(set(beside[cell]) == {cell} for cell in ("timed0", "timed1"))
    assert any(len(set(beside[cell])) > 1 for cell in plan)  # the others did run at once


def test_failures_spread_downstream_and_the_report_is_built() -> None:
    plan = {"bad": set[str](), "next": {"bad"}, "last": {"next"}, "good": set(), "report": {"last", "good"}}
    runs = _Runs()
    assert _run(plan, runs, jobs=1) == (["bad"], ["last", "next"])
    assert runs.order == ["bad", "good", "report"]


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
    code = "import sys; from dapbench.report.command import report; sys.exit(report(sys.argv[1:]))"
    run = finished.python(code, "profile=tiny", "params=params.yaml")
    folders = "behaviour cell_logs logs priors report runs showcase"
    assert run.stdout.splitlines()[0] == f"over {folders} with seeds [0, 1, 2]"
    run = finished.python(code, "profile=tiny", "results=results")
    assert run.stdout.splitlines()[0] == f"over {folders} with seeds [0]"
