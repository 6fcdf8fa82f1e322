"""What a cell depends on: all that its command imports, and nothing that it does not."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dapbench.sources import HOME, PLUMBING, dependencies, sources

# Runs a command and prints the files of the modules that are there at its end.
COMMAND = """
import sys
from dapbench.cli import main

try:
    main()
finally:
    for module in [*sys.modules.values()]:
        print("imported", getattr(module, "__file__", None) or "/")
"""
SMALL_COLLECT = (
    "profile=smoke",
    "profile.epoch_steps=1250",
    "profile.behaviour_epochs=1",
    "profile.log_transitions=1000",
)
TRAINING = "dapbench.runs.training"


def imported(tmp_path: Path, *argv: str) -> set[Path]:
    """The files below dapbench/ and baselines/ that a command really imports, relative to the project."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *argv, f"out={tmp_path}/out"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    files = [Path(line.removeprefix("imported ")) for line in done.stdout.splitlines() if line.startswith("imported ")]
    return {
        file.relative_to(HOME)
        for file in files
        if any(file.is_relative_to(HOME / p) for p in ("dapbench", "baselines"))
    }


def missing(files: set[Path], modules: list[str]) -> list[str]:
    """Those of ``files`` that a cell of ``modules`` does not depend on, though they say something."""
    deps = dependencies(modules, HOME)
    return sorted(
        str(file)
        for file in files
        if not any(file.is_relative_to(dep) for dep in deps)
        and file.as_posix() not in {f"dapbench/{name}" for name in PLUMBING}
        and file.parts[1] != "tracking"  # shows what a run has left
        and (HOME / file).stat().st_size
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "ppo_gap"])
def test_a_run_imports_nothing_that_its_cell_does_not_depend_on(
    tmp_path: Path, config_of: Callable[..., dict[str, Any]], method: str
) -> None:
    config = config_of(method, "reacher")
    target = config["method"]["_target_"].rpartition(".")[0]
    prior = config["method"].get("prior")
    inputs = [f"logs_dir={config['logs_dir']}", f"prior_dir={config['prior_dir']}"] if prior else []
    sizes = [f"method.{key}={value}" for key, value in config["method"].items() if isinstance(value, int | float)]
    sizes += ["profile=smoke", f"profile.epoch_steps={config['profile']['epoch_steps']}", "tracking=false"]
    files = imported(tmp_path, "train", "task=reacher", f"method={method}", *sizes, *inputs)
    assert {Path("dapbench/runs/training.py"), Path(f"{target.replace('.', '/')}.py")} <= files
    assert missing(files, [TRAINING, target, *([f"dapbench.prior.{prior}"] if prior else [])]) == []
    assert missing(files, [target]) != [], "the test sees what is missing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "module"), [("behaviour", "dapbench.behaviour"), ("collect", "dapbench.datasets.collecting")]
)
def test_making_logs_imports_nothing_that_its_cell_does_not_depend_on(
    tmp_path: Path, compose: Callable[..., dict[str, Any]], command: str, module: str
) -> None:
    target = compose(command)["behaviour"]["_target_"].rpartition(".")[0]
    files = imported(tmp_path, command, "task=reacher", *SMALL_COLLECT)
    assert Path(f"{module.replace('.', '/')}.py") in files
    assert missing(files, [module, target]) == []


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Writes modules: project({"dapbench/a.py": "import dapbench.b"})."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.mark.parametrize(
    "line",
    [
        "import dapbench.room.part",
        "from dapbench.room import part",
        "from dapbench.room.part import thing",
        "from .room import part",
        "from .room.part import thing",
        "def later():\n    import dapbench.room.part",
        "if True:\n    from dapbench.room import part\nelse:\n    part = None",
    ],
)
def test_every_way_to_import_is_followed(project: Callable[..., Path], line: str) -> None:
    root = project({"dapbench/a.py": line, "dapbench/room/__init__.py": "", "dapbench/room/part.py": "thing = 1"})
    files = [file.relative_to(root).as_posix() for file in sources(["dapbench.a"], root)]
    assert files == ["dapbench/a.py", "dapbench/room/__init__.py", "dapbench/room/part.py"]
    assert dependencies(["dapbench.a"], root) == ["dapbench/a.py", "dapbench/room"]


def test_what_only_type_checkers_import_is_left_out(project: Callable[..., Path]) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import dapbench.b\nelse:\n    import dapbench.c"
    root = project({"dapbench/a.py": text, "dapbench/b.py": "x = 1", "dapbench/c.py": "x = 1"})
    assert dependencies(["dapbench.a"], root) == ["dapbench/a.py", "dapbench/c.py"]


def test_plumbing_libraries_and_empty_files_are_left_out(project: Callable[..., Path]) -> None:
    text = "import os, numpy, dapbench.errors, dapbench.empty\nfrom dapbench.a import b"
    files = {"dapbench/a.py": text, "dapbench/errors.py": "x = 1", "dapbench/empty.py": "", "baselines/__init__.py": ""}
    assert dependencies(["dapbench.a", "baselines"], project(files)) == ["dapbench/a.py"]


def test_a_circle_of_imports_ends(project: Callable[..., Path]) -> None:
    root = project({"dapbench/a.py": "import dapbench.b", "dapbench/b.py": "import dapbench.a"})
    assert dependencies(["dapbench.a"], root) == ["dapbench/a.py", "dapbench/b.py"]


def test_a_users_own_modules_count(
    project: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "own.py").write_text("import dapbench.a", encoding="utf-8")
    monkeypatch.syspath_prepend(elsewhere)
    root = project({"dapbench/a.py": "x = 1", "baselines/mine.py": "import own", "baselines/kit/part.py": "import own"})
    assert dependencies(["baselines.mine"], root) == sorted(
        ["baselines/mine.py", "dapbench/a.py", f"{elsewhere}/own.py"]
    )
    assert "baselines/kit" in dependencies(["baselines.kit.part"], root)
