"""What DVC calls stale after a change, and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.dependency import param
from dvc.fs import localfs
from small_project import PPO_CALLS, ROOT, Project

from dapbench.pipeline.catalogue import names

READ_BY_DVC = param.read_param_file  # before bookkeeping.py replaces it

PPO = "online@tiny-hopper-ppo-0"
PPO_DAP = "online@tiny-hopper-ppo_dap-0"
BEHAVIOUR, COLLECT = "behaviour@tiny-hopper-medium-0", "collect@tiny-hopper-medium-0"
PRETRAIN = "pretrain@tiny-hopper-medium-diffusion-0"
SHOW, SHOW_DAP = "showcase@tiny-hopper-ppo", "showcase@tiny-hopper-ppo_dap"
REPORT = "report@tiny"
OF_PPO, OF_PPO_DAP = [PPO, SHOW, REPORT], [PPO_DAP, SHOW_DAP, REPORT]
OF_SEED_1 = ["online@tiny-hopper-ppo-1", "online@tiny-hopper-ppo_dap-1", REPORT]
ALL = [BEHAVIOUR, COLLECT, PRETRAIN, *OF_PPO, PPO_DAP, SHOW_DAP]


def test_nothing_is_stale_after_a_run(finished: Project) -> None:
    assert finished.stale() == []
    run = finished.repro()
    assert "up to date" in run.stdout
    assert "the headline of tiny" in run.stdout
    assert finished.calls() == []


@pytest.mark.parametrize(
    ("override", "stale"),
    [
        ("method.ppo.gamma=0.9", OF_PPO),
        ("method.ppo_dap.gamma=0.9", OF_PPO_DAP),
        ("behaviour.gamma=0.9", [BEHAVIOUR, COLLECT, PRETRAIN, *OF_PPO_DAP]),
        ("logs.medium.behaviour_seed=7", [BEHAVIOUR, COLLECT, PRETRAIN, *OF_PPO_DAP]),
        ("prior.diffusion.width=64", [PRETRAIN, *OF_PPO_DAP]),
        ("task.hopper.env_id=Hopper-v4", ALL),
        ("task.ant.env_id=Ant-v4", []),
        ("prior.gaussian.width=64", []),
        ("profile.epochs=20", [*OF_PPO, PPO_DAP, SHOW_DAP]),
        ("profile.prior_batches=20", [PRETRAIN, *OF_PPO_DAP]),
        ("profile.compile=false", ALL),
        ("profile.log_transitions=9", [COLLECT, PRETRAIN, *OF_PPO_DAP]),
        (
            "profile.seeds=[0,1]",
            [*OF_SEED_1, *(f"{cell}@tiny-hopper-medium-1" for cell in ("behaviour", "collect")), PRETRAIN[:-1] + "1"],
        ),
        ("profile.log_draws=1", [REPORT]),
    ],
)
def test_a_parameter_makes_its_cells_stale(finished: Project, override: str, stale: list[str]) -> None:
    assert finished.stale(override) == sorted(stale)


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("dapbench/ppo.py", ALL),  # the behaviour policy is PPO
        ("dapbench/ppo_dap.py", OF_PPO_DAP),
        ("dapbench/rl/losses.py", ALL),
        ("dapbench/prior/diffusion.py", [PRETRAIN, *OF_PPO_DAP]),
        ("dapbench/behaviour.py", [BEHAVIOUR, COLLECT, PRETRAIN, *OF_PPO_DAP]),
        ("dapbench/datasets/collecting.py", [COLLECT, PRETRAIN, *OF_PPO_DAP]),
        ("dapbench/runs/training.py", [*OF_PPO, PPO_DAP, SHOW_DAP]),
        ("dapbench/showcase/showcase.py", [SHOW, SHOW_DAP, REPORT]),
        ("dapbench/report/build.py", [REPORT]),
        ("analysis/curves.py", [REPORT]),
        ("dapbench/cli.py", []),
        ("dapbench/pipeline/commands.py", []),
        ("dapbench/timing/overhead.py", []),  # the profile times nothing
    ],
)
def test_code_makes_its_cells_stale(finished: Project, file: str, stale: list[str]) -> None:
    text = (finished.root / file).read_text(encoding="utf-8")
    finished.write(file, f"{text}\n# changed\n")
    try:
        assert finished.stale() == sorted(stale)
    finally:
        finished.write(file, text)


LEFT = [".environments.py.swp", ".environments.py.un~", "environments.py~", "#environments.py#", ".#environments.py"]
LEFT += [
    ".DS_Store",
    "._environments.py",
    ".nfs0001",
    "4913",
    "Thumbs.db",
    "desktop.ini",
    ".directory",
    ".fuse_hidden01",
]
LEFT += ["environments.py.orig", "environments.py.rej", "environments.py.bak", "environments.pyc"]
LEFT += [f"{folder}/environments-checkpoint.py" for folder in (".ipynb_checkpoints", ".idea", ".vscode", "__pycache__")]


@pytest.mark.parametrize("folder", ["dapbench/rl", "analysis", "results/tiny/runs/hopper/ppo/0"])
def test_what_editors_and_systems_leave_makes_nothing_stale(finished: Project, folder: str) -> None:
    for name in LEFT:
        finished.write(f"{folder}/{name}", "left")
    try:
        assert finished.stale() == []
    finally:
        for name in LEFT:
            (finished.root / folder / name).unlink()


def test_a_file_that_an_editor_holds_is_no_choice(finished: Project) -> None:
    links = [finished.root / name for name in ("conf/task/.#hopper.yaml", "dapbench/rl/.#losses.py")]
    for link in links:
        link.symlink_to("user@host.1")  # as Emacs marks it
    finished.write("conf/method/._ppo.yaml", "")
    try:
        assert finished.stale() == []
        assert names(finished.root / "conf", "task") == ["ant", "hopper"]
    finally:
        for link in links:
            link.unlink()
        (finished.root / "conf/method/._ppo.yaml").unlink()


def test_another_time_or_mode_makes_nothing_stale(finished: Project) -> None:
    file = finished.root / "dapbench/rl/losses.py"
    mode = file.stat().st_mode
    os.utime(file, (1, 1))
    file.chmod(0o755)
    try:
        assert finished.stale() == []
    finally:
        file.chmod(mode)


def test_a_folder_behind_a_link_counts_by_its_content(finished: Project, tmp_path: Path) -> None:
    room, elsewhere = finished.root / "dapbench/rl", tmp_path / "rl"
    shutil.copytree(room, elsewhere)
    kept = room.rename(room.with_name("kept"))
    room.symlink_to(elsewhere)
    try:
        assert finished.stale() == []
        (elsewhere / "losses.py").write_text("# changed\n")
        assert finished.stale() == sorted(ALL)
    finally:
        room.unlink()
        kept.rename(room)


def test_an_added_method_runs_alone(finished: Project) -> None:
    files = {
        "conf/method/added.yaml": "defaults: [ppo]\nname: added\n_target_: baselines.added.Added\n",
        "baselines/added.py": "from dapbench import ppo\n",
    }
    for file, text in files.items():
        finished.write(file, text)
    try:
        assert finished.stale("profile.methods=[ppo,ppo_dap,added]") == ["online@tiny-hopper-added-0", REPORT]
    finally:
        for file in files:
            (finished.root / file).unlink()


def test_a_value_that_is_set_back_comes_from_the_run_cache(project: Project) -> None:
    only_ppo = "profile.methods=[ppo]"
    assert project.repro(only_ppo).returncode == 0
    before = project.results()
    assert project.repro(only_ppo, "method.ppo.gamma=0.9").returncode == 0
    assert project.results() != before
    assert project.calls() == sorted(PPO_CALLS * 2)
    assert project.repro(only_ppo).returncode == 0
    assert project.results() == before
    assert project.calls() == ["report report", "showcase showcase/hopper/ppo"]  # they lie in git, not in the cache


def test_parameters_are_read_as_dvc_reads_them_and_once(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    load, read_by_dvc = param.load_path, READ_BY_DVC
    monkeypatch.setattr(param, "load_path", lambda *given, **options: reads.append(given) or load(*given, **options))
    assert finished.stale("method.ppo.gamma=0.9") == sorted(OF_PPO)
    assert len(reads) == 1, "DVC no longer reads parameters through the function that bookkeeping.py replaces"
    keys = ["profile", "profile.epochs", "task.hopper", "method.ppo.gamma", "gone", "profile.epochs.gone"]
    given = (localfs, str(finished.root / "params.yaml"), keys)
    assert param.read_param_file(*given, flatten=True) == read_by_dvc(*given, flatten=True)


def test_a_checkout_has_the_same_line_ends_everywhere(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    (tmp_path / "module.py").write_bytes(b"x = 1\n")
    for command in ("init -q", "config core.autocrlf true", "add module.py", "checkout -q -f -- module.py"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
        if command.startswith("add"):
            (tmp_path / "module.py").unlink()
    assert (tmp_path / "module.py").read_bytes() == b"x = 1\n"
