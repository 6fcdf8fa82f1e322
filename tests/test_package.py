"""The package: installed elsewhere it works outside of the checkout, and takes a user's own methods and conf/."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "task=reacher",
    "profile=smoke",
    "profile.epochs=1",
    "profile.epoch_steps=200",
    "method.num_envs=4",
    "method.rollout_steps=50",
    "method.update_epochs=1",
    "tracking=false",
]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed a copy of the checkout, without what it depends on."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "installed"))
    for name in ("dapbench", "baselines", "conf", "analysis"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-compile", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", target, source], check=True)
    return target


@pytest.fixture
def command(installed: Path, tmp_path: Path) -> Command:
    """Runs the installed ``dapbench`` in a folder of its own: command("train", "task=reacher", ...)."""

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        program = [sys.executable, installed / "bin" / "dapbench", *argv]
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        file.parent.relative_to(ROOT) for top in ("dapbench", "baselines") for file in (ROOT / top).rglob("*.py")
    }
    assert listed == sorted({"dapbench.analysis", "dapbench.conf", *(".".join(folder.parts) for folder in folders)})


def test_every_file_is_installed(installed: Path) -> None:
    files = {file.relative_to(ROOT) for top in ("dapbench", "baselines") for file in (ROOT / top).rglob("*.*")}
    moved = [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "analysis").glob("*.py")]
    files |= {"dapbench" / file.relative_to(ROOT) for file in moved}
    assert [file for file in sorted(files) if "__pycache__" not in file.parts and not (installed / file).exists()] == []


def test_the_installed_command_trains_elsewhere(command: Command, tmp_path: Path) -> None:
    done = command("train", "method=ppo", *SMALL, "out=run")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "curve.csv",
        "model.ckpt",
        "summary.json",
        "timing.json",
    ]


def test_a_method_of_the_users_own(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from dapbench.ppo import PPO\n\n\nclass Mine(PPO):\n    pass\n")
    mine = {"defaults": ["ppo"], "_target_": "mine.Mine", "name": "mine", "title": "Mine"}
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(yaml.safe_dump(mine))
    assert " mine " in command("--help").stdout
    assert "choose one of mine, ppg, ppo," in command("train", "method=yours").stderr
    done = command("train", "method=mine", *SMALL, "out=run")
    assert done.returncode == 0, done.stderr
    evaluated = command("evaluate", "run=run", "episodes=1")
    assert '"method": "mine"' in evaluated.stdout, evaluated.stderr


def test_a_conf_folder_named_on_the_command_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "task").mkdir(parents=True)
    pendulum = {"name": "pendulum", "title": "Pendulum", "env_id": "Pendulum-v1", "env_kwargs": {}}
    (tmp_path / "elsewhere" / "task" / "pendulum.yaml").write_text(yaml.safe_dump(pendulum))
    shown = command("train", "task=pendulum", "--config-dir", "elsewhere", "--cfg", "job")
    assert "env_id: Pendulum-v1" in shown.stdout, shown.stderr
    wrong = command("train", "task=pendulums", "--config-dir", "elsewhere")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("dapbench: unknown task 'pendulums'; choose one of ant, ")
    assert "pendulum, reacher" in wrong.stderr
