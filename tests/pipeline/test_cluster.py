"""Cells on Ray and SLURM: the same results as here, whatever dies on the way."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_project import ONLY_PPO, PPO_CALLS, Project, is_alive, wait_until

from dapbench.errors import UserError
from dapbench.pipeline import engines
from dapbench.pipeline.engines import Choice, refuse_unseen
from dapbench.pipeline.worker import Project as Place
from dapbench.pipeline.worker import execute, probe

LOCAL_SLURM = ("--engine", "slurm", "--slurm", "cluster=local")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes that can run one cell each; its head runs none."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # in place of a token in the home folder
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    small: dict[str, Any] = {"object_store_memory": 80 * 2**20}
    quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 4}
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **small}
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **small)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def of_ppo(project: Project) -> dict[str, str]:
    return {name: text for name, text in project.results().items() if "/ppo/" in name}


def test_a_cell_whose_ray_node_dies_is_run_by_another(
    project: Project, finished_project: Project, cluster: Any
) -> None:
    driver = project.start("--engine", "ray", "--address", cluster.address)
    (command,) = project.commands()
    above = {process.pid for process in command.parents()}
    (node,) = (node for node in cluster.list_all_nodes() if node.all_processes["raylet"][0].process.pid in above)
    cluster.remove_node(node, allow_graceful=False)
    wait_until(lambda: len((project.root / "calls.txt").read_text().splitlines()) == 2, 120)
    assert not is_alive(command)
    project.release()
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 0, error
    assert project.calls() == sorted([*PPO_CALLS, "train runs/hopper/ppo/0"])
    assert of_ppo(project) == of_ppo(finished_project)

    project.write("conf/method/ppo.yaml", "name: ppo\n_target_: dapbench.ppo.PPO\nstarts_from: nothing\ngamma: 0.9\n")
    for number in (signal.SIGKILL, signal.SIGINT):
        driver = project.start("--engine", "ray", "--address", cluster.address)
        (command,) = project.commands()
        driver.send_signal(number)
        driver.communicate(timeout=120)
        wait_until(lambda left=command: not is_alive(left), 30)


def test_ctrl_c_and_kill_of_a_driver_end_its_jobs(project: Project, finished_project: Project) -> None:
    pytest.importorskip("submitit")
    driver = project.start(*LOCAL_SLURM)
    (command,) = project.commands()
    driver.send_signal(signal.SIGINT)
    _, error = driver.communicate(timeout=120)
    assert "the same command goes on from here" in error
    assert command not in project.commands()

    driver = project.start(*LOCAL_SLURM)
    (command,) = project.commands()
    driver.kill()
    driver.wait()
    project.calls()
    again = project.start(*LOCAL_SLURM)
    assert command not in project.commands()
    project.release()
    _, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert of_ppo(project) == of_ppo(finished_project)
    assert project.stale(*ONLY_PPO[1:]) == []


def test_a_killed_command_is_run_again_and_a_failed_one_says_why(project: Project) -> None:
    pytest.importorskip("submitit")
    driver = project.start(*LOCAL_SLURM, STUB_FAILS="ppo")
    for process in project.commands():
        process.kill()
    wait_until(lambda: len((project.root / "calls.txt").read_text().splitlines()) == 2, 120)
    project.release()
    _, error = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "online@tiny-hopper-ppo-0: told to fail; see results/tiny/cell_logs" in error


# Stand in for SLURM's commands: a job is a session of processes, and a file of its number holds its leader and name.
FAKE_SLURM = {
    "sbatch": """
for script; do :; done
id=$(ls jobs | wc -l)
name=$(sed -n 's/^#SBATCH --job-name=//p' "$script")
export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
setsid bash "$script" > jobs/output 2>&1 &
echo "$! $name" > jobs/$id
echo "Submitted batch job $id"
""",
    "srun": 'shift 3; exec "$@"',  # --unbuffered --output FILE
    "squeue": """
for name; do case $name in --name=*) name=${name#--name=}; break;; esac; done
cd jobs; for id in $(ls | grep -v output); do
read pid job < $id; [ "$job" = "$name" ] && kill -0 -$pid 2> /dev/null && echo $id; done; exit 0
""",
    "scancel": """
for name; do case $name in --name=*) name=${name#--name=}; break;; esac; done
cd jobs; for id in $(ls | grep -v output); do
read pid job < $id; [ "$job" = "$name" ] && kill -9 -$pid 2> /dev/null && echo $id >> ../cancelled; done; exit 0
""",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs bash and setsid")
def test_jobs_of_a_killed_driver_are_cancelled_by_their_name(
    project: Project, finished_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    (project.root / "jobs").mkdir()
    for name, text in FAKE_SLURM.items():
        project.write(f"bin/{name}", f"#!/bin/bash\n{text}")
        (project.root / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{project.root}/bin:{os.environ['PATH']}")
    driver = project.start("--engine", "slurm")
    (command,) = project.commands()
    driver.kill()
    driver.wait()
    assert is_alive(command)  # SLURM knows nothing of a driver
    project.calls()
    again = project.start("--engine", "slurm")
    assert not is_alive(command)
    assert (project.root / "cancelled").read_text(encoding="utf-8").count("\n") == 1
    project.release()
    _, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert of_ppo(project) == of_ppo(finished_project)


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, engine: str, package: str) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"needs the package {package}; pip install 'dapbench\[{engine}\]'"):
        Choice(engine, 1).check()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "head", "head:port"])
def test_no_ray_cluster_is_one_line(address: str) -> None:
    pytest.importorskip("ray")
    from dapbench.pipeline.ray_engine import Ray

    with pytest.raises(UserError, match=f"no Ray cluster at --address {address} ") as error:
        Ray(address, 1, Place("/", "", {}, ""))
    assert "\n" not in str(error.value)


COMMAND = """
import os, sys, time
print(os.getpid(), os.environ["GREETING"], flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A project whose command sleeps and exits as told."""
    (tmp_path / "dapbench").mkdir()
    (tmp_path / "dapbench/__main__.py").write_text(COMMAND)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    made = Place(str(tmp_path), sys.executable, {"GREETING": "hello"}, "token")
    made.token_file.write_text("token")
    return made


def started(place: Place) -> psutil.Process:
    """The command's process, once it runs."""
    log = Path(place.root, "log")
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
    return psutil.Process(int(log.read_text().split()[-2]))


def test_a_worker_runs_a_command_to_its_end(place: Place) -> None:
    for _ in range(2):
        assert execute(place, ["dapbench", "0", "3"], "log") == 3
    assert Path(place.root, "log").read_text().count(" hello\n") == 2


def test_a_killed_command_is_for_another_attempt(place: Place) -> None:
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(execute, place, ["dapbench", "60", "0"], "log")
        started(place).kill()
        with pytest.raises(ChildProcessError, match="the command was killed on"):
            ended.result(10)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a child of its parent's death")
def test_a_command_dies_with_its_worker(place: Place) -> None:
    code = f"from dapbench.pipeline.worker import *; execute({place!r}, ['dapbench', '60', '0'], 'log')"
    host = subprocess.Popen([sys.executable, "-c", code])
    process = started(place)
    host.kill()
    host.wait()
    wait_until(lambda: not is_alive(process), 5)


def test_a_machine_says_what_it_lacks(place: Place) -> None:
    assert probe(place) == ""
    for unseen in (place._replace(root="/nowhere"), place._replace(token="another")):
        with pytest.raises(UserError, match=r"does not see what the driver writes into .*; move them to one"):
            refuse_unseen(probe(unseen), "ray")
    assert "has no /no/python" in probe(place._replace(python="/no/python"))
