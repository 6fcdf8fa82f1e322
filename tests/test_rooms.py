"""The rooms of the house: an import only ever points down, which is read from the files and not from what is loaded."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HELPERS = (
    "errors",
    "files",
    "arguments",
    "config",
    "settings",
    "curves",
    "checkpoints",
    "fitting",
    "profiles",
    "sources",
)
OF_LOGS = ("behaviour", "datasets", "advantage_weights", "warm_start")
LEARNING = ("rl", "ppo", "runs", *OF_LOGS, "prior", "ppo_dap", *HELPERS)
READING = ("report", "profiles", "curves", "config", "arguments", "errors", "files")

# Room (a folder or a module of dapbench): the others that it may import.
RULES = {
    "errors": (),
    "curves": (),
    "profiles": ("errors",),
    "sources": (),
    "files": ("errors",),
    "arguments": ("errors",),
    "config": ("errors", "profiles"),
    "settings": ("errors",),
    "checkpoints": ("errors", "files"),
    "fitting": ("errors",),
    "rl": ("errors",),
    "ppo": ("rl", *HELPERS),
    "runs": ("rl", "ppo", *HELPERS),
    "behaviour": ("rl", "ppo", "runs", *HELPERS),
    "datasets": ("rl", "ppo", "runs", "behaviour", *HELPERS),
    "advantage_weights": ("rl", "datasets"),
    "prior": ("rl", "ppo", "runs", "datasets", "advantage_weights", *HELPERS),
    "warm_start": ("rl", "ppo", "runs", "datasets", "advantage_weights", *HELPERS),
    "ppo_dap": ("rl", "ppo", "runs", "datasets", "warm_start", "prior", *HELPERS),
    "showcase": ("surroundings", *LEARNING),
    "timing": LEARNING,
    "tracking": LEARNING,
    "report": READING[1:],
    "exchange": READING,
    "surroundings": (),
    # A command's module is named there and imported when the command runs.
    "cli": ("config", "errors", "files", "surroundings"),
    "pipeline": ("surroundings", "showcase", "timing", "tracking", "report", "cli", *LEARNING),
    "__main__": ("cli",),
    "__init__": (),
}
MORE = {"report/command.py": ("tracking",)}  # what single files may import beyond their room
FORBIDDEN = {"rl": ("lightning", "hydra", "omegaconf", "pathlib")}  # libraries that a room does without


def violations(root: Path) -> Iterator[str]:
    """Each import below ``root`` that the rules above forbid, such as "dapbench/rl/losses.py imports dapbench.runs"."""
    for file in sorted((root / "dapbench").rglob("*.py")):
        inner = file.relative_to(root / "dapbench")
        room = inner.with_suffix("").parts[0]
        if room not in RULES:
            yield f"dapbench/{inner} is in no room of the rules"
            continue
        allowed = {room, *RULES[room], *MORE.get(str(inner), ())}
        yield from forbidden(file, root, allowed, FORBIDDEN.get(room, ()))
    for file in sorted((root / "analysis").glob("*.py")):
        yield from forbidden(file, root, set(READING), ())


def forbidden(file: Path, root: Path, allowed: set[str], libraries: tuple[str, ...]) -> Iterator[str]:
    """The imports of one file that are of rooms not in ``allowed``, of baselines or of ``libraries``."""
    path = file.relative_to(root)
    for name in sorted(set(imported(ast.parse(file.read_text(encoding="utf-8")), path.parent.parts))):
        top, *inner = name.split(".")
        if top == "dapbench" and inner:
            module = root / "dapbench" / inner[0]  # or a name that __init__.py defines
            wrong = inner[0] not in allowed and (module.is_dir() or module.with_suffix(".py").is_file())
        else:
            wrong = top in ("baselines", *libraries)
        if wrong:
            yield f"{path} imports {name}"


def imported(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """What the code below ``node`` imports, also within functions, but for what only type checkers import.

    Args:
        node: of a file in ``package``, such as ("dapbench", "rl").
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package[: len(package) - child.level + 1] if child.level else ()
            base = ".".join([*above, *([child.module] if child.module else [])])
            yield from (f"{base}.{alias.name}" for alias in child.names)
        yield from imported(child, package)


def test_imports_point_down() -> None:
    assert list(violations(ROOT)) == []


def test_the_rules_have_no_circle() -> None:
    order = list(TopologicalSorter(RULES).static_order())
    assert order.index("rl") < order.index("ppo") < order.index("runs") < order.index("ppo_dap")


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        ("dapbench/rl/losses.py", "from dapbench.runs.training import fit", "dapbench.runs"),
        ("dapbench/rl/losses.py", "def f():\n    from pathlib import Path", "pathlib"),
        ("dapbench/rl/losses.py", "import lightning.pytorch as pl", "lightning.pytorch"),
        ("dapbench/rl/losses.py", "from dapbench import files", "dapbench.files"),
        ("dapbench/rl/losses.py", "from ..files import write_json", "dapbench.files"),
        ("dapbench/runs/training.py", "def f():\n    import dapbench.pipeline.plan", "dapbench.pipeline"),
        ("dapbench/ppo.py", "from baselines.ppg import PPG", "baselines"),
        ("dapbench/errors.py", "from dapbench.files import whole", "dapbench.files"),
        ("dapbench/report/page.py", "from dapbench.tracking import recording", "dapbench.tracking"),
        ("analysis/curves.py", "from dapbench.ppo import PPO", "dapbench.ppo"),
        ("dapbench/attic.py", "", "is in no room"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, path: str, line: str, found: str) -> None:
    for room in RULES:
        (tmp_path / "dapbench" / room).mkdir(parents=True)
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line)
    broken = list(violations(tmp_path))
    assert broken
    assert all(message.startswith(path) and found in message for message in broken)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("dapbench/rl/losses.py", "import torch\nfrom dapbench.errors import UserError"),
        (
            "dapbench/rl/losses.py",
            "import typing\n\nif typing.TYPE_CHECKING:\n    from dapbench.ppo import PPO",
        ),
        ("dapbench/rl/losses.py", "from dapbench import __version__"),
        ("dapbench/report/command.py", "from dapbench.tracking import recording"),
        ("dapbench/pipeline/driver.py", "from dapbench.runs.training import train"),
        ("analysis/curves.py", "from dapbench.report.results import open_results"),
    ],
)
def test_a_sound_import_is_not(tmp_path: Path, path: str, line: str) -> None:
    for room in RULES:
        (tmp_path / "dapbench" / room).mkdir(parents=True)
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(line)
    assert list(violations(tmp_path)) == []
