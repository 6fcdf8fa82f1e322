"""Machines that others use too: folders that are theirs, quotas, shells that run nothing, and long or odd paths."""

import importlib
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from dvc.env import DVC_SITE_CACHE_DIR
from gymnasium.spaces import Box
from small_project import ONLY_PPO, PPO_CALLS, Project

from dapbench import config
from dapbench.cli import main
from dapbench.datasets.episodes import load_episodes
from dapbench.errors import UserError
from dapbench.pipeline.alone import alone
from dapbench.pipeline.bookkeeping import Bookkeeping
from dapbench.pipeline.cores import SHARES, cores

SWEEP = "pretrain -m prior.held_out_share=-1,-2"  # both are refused, which is quick


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine of eight cores outside of any batch system."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in SHARES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


V1, V2 = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        # version 2: a container sees its own group as the root
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "350000 100000\n"}, 3),
        # a login node: the limit is the user's slice's, two groups up
        (
            {
                "proc/self/cgroup": "0::/user.slice/user-7.slice/session-1.scope\n",
                f"{V2}/user.slice/user-7.slice/cpu.max": "400000 100000\n",
                f"{V2}/user.slice/user-7.slice/session-1.scope/cpu.max": "max 100000\n",
            },
            4,
        ),
        # version 1, whose path is the host's where the mount is the container's
        (
            {
                "proc/self/cgroup": "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/\n",
                f"{V1}/cpu.cfs_quota_us": "300000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                f"{V1}/cpu.cfs_quota_us": "-1\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_as_many_cells_as_the_quota_has_cores(machine: Path, files: dict[str, str], expected: int) -> None:
    write(machine, files)
    assert cores(machine) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "6"}, 3),
        ({"SLURM_CPUS_ON_NODE": "6"}, 6),
        ({"SLURM_CPUS_ON_NODE": "64"}, 8),
        ({"NSLOTS": "2"}, 2),
        ({"SLURM_CPUS_PER_TASK": "", "NCPUS": "many"}, 8),
        ({"NCPUS": "0"}, 1),
    ],
)
def test_as_many_cells_as_the_batch_system_gave_cores(
    machine: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cores(machine) == expected


@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/nowhere"])
def test_cells_run_whatever_the_shell(project: Project, shell: str) -> None:
    run = project.repro(*ONLY_PPO[1:], SHELL=shell)
    assert run.returncode == 0, run.stderr
    assert project.calls() == PPO_CALLS


def test_dvcs_folder_for_all_users_may_be_closed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("file", "")
    monkeypatch.setenv(DVC_SITE_CACHE_DIR, str(project.root / "file/dvc"))
    assert len(project.stale(*ONLY_PPO[1:])) == 3
    assert (project.root / ".dvc/tmp/site_cache/repo").is_dir()


def test_dvcs_folder_for_all_users_is_left_to_dvc_to_make(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes it writable for all."""
    monkeypatch.setenv(DVC_SITE_CACHE_DIR, str(project.root / "shared"))
    Bookkeeping().close()
    assert stat.S_IMODE((project.root / "shared/repo").stat().st_mode) == 0o777


def test_what_dvc_cannot_open_is_one_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/tmp/dvc/repo/0a1b")

    monkeypatch.setattr("dapbench.pipeline.bookkeeping.Repo", closed)
    with pytest.raises(UserError, match=r"DVC cannot open the project: .*Permission denied: '/var/tmp/dvc/repo/0a1b'"):
        Bookkeeping()


def test_another_users_project_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".dvc").touch()  # what root, too, cannot write below
    with (
        pytest.raises(UserError, match=r"cannot write .*dapbench_repro\.lock: .*; work in a copy of the project"),
        alone(tmp_path),
    ):
        pass


def test_a_disk_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with (
        pytest.raises(UserError, match="No locks available; put the project on a file system with locks"),
        alone(tmp_path),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="commands are forked on Linux alone")
def test_cells_run_below_a_long_tmpdir(project: Project, tmp_path: Path) -> None:
    """As of a batch system: the paths of sockets have 107 bytes at most."""
    long = tmp_path / ("scratch-of-job-" * 8)
    long.mkdir()
    run = project.repro(*ONLY_PPO[1:], TMPDIR=str(long))
    assert run.returncode == 0, run.stderr
    assert project.calls() == PPO_CALLS


@pytest.mark.parametrize("name", ["shared", "it's [one], {a=b} \\ $x"])
def test_sweeps_leave_nothing_where_others_write(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another user's multirun.yaml may lie there, which is not ours to write."""
    folder = tmp_path / name
    (folder / "multirun.yaml").mkdir(parents=True)  # what root, too, cannot write
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("sys.argv", ["dapbench", *SWEEP.split()])
    importlib.reload(config)  # as in a process that was started with this TMPDIR
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("is not a number from") == 2
    assert [path.name for path in folder.iterdir()] == ["multirun.yaml"]


def test_minaris_folder_may_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file/datasets"))
    box = Box(-1.0, 1.0, (2,))
    with pytest.raises(UserError, match=r"Minari cannot keep datasets in .*file/datasets .*; set MINARI_DATASETS_PATH"):
        load_episodes("minari:mujoco/hopper/medium-v0", box, box)


def test_a_command_without_any_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what needs one fails."""
    code = "import tempfile; tempfile.gettempdir = None; from dapbench.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "train", "--cfg", "job"], capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
