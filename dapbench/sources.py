"""What code a cell depends on: the project's own files that its modules import, directly or not.

DVC's stages, the fingerprint of a stopped run and the catalogue all read this one statement. Files are read and never
imported, so that it holds for a project other than the one at work, and for a user's own modules too.
"""

import ast
import functools
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]  # the folder of the packages dapbench and baselines
PACKAGES = ("dapbench", "baselines")
# Arguments, checks, messages and files: no number of a result is computed here.
PLUMBING = (
    "__init__.py",
    "arguments.py",
    "cli.py",
    "config.py",
    "errors.py",
    "files.py",
    "profiles.py",
    "settings.py",
    "sources.py",
    "surroundings.py",
)


def sources(modules: Iterable[str], root: Path = HOME) -> list[Path]:
    """The files that importing ``modules`` executes, sorted; of other people's libraries none.

    Args:
        modules: dotted names, such as ``dapbench.runs.training`` and the module of a method's ``_target_``.
        root: where dapbench and baselines are looked for; a user's modules are also found on ``sys.path``.
    """
    found: set[Path] = set()
    waiting = list(modules)
    seen: set[str] = set()
    user_folders = _user_folders(root)
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        for name in (".".join(parts[:i]) for i in range(1, len(parts) + 1)):  # a package runs before what is in it
            if name in seen:
                continue
            seen.add(name)
            file = _file(name, [root] if parts[0] in PACKAGES else user_folders)
            if file is not None:
                found.add(file)
                waiting += _imports(file, name, file.stat().st_mtime_ns)
    return sorted(found)


def dependencies(modules: Iterable[str], root: Path) -> list[str]:
    """The paths that DVC is to watch for ``modules``: a room below ``root`` as a whole, other files singly.

    A room is a folder of dapbench or baselines. Left out are empty files and the :data:`PLUMBING` of dapbench.
    """
    paths = set()
    for file in sources(modules, root):
        parts = file.relative_to(root).parts if file.is_relative_to(root) else ()
        if parts[:1] == ("dapbench",) and len(parts) == 2 and parts[1] in PLUMBING:
            continue
        if parts and parts[0] in PACKAGES and len(parts) > 2:
            paths.add("/".join(parts[:2]))
        elif file.stat().st_size:
            paths.add("/".join(parts) or file.as_posix())  # the latter is a user's own file elsewhere
    return sorted(paths)


def _file(module: str, folders: Iterable[Path]) -> Path | None:
    """The project's or the user's file of a module; None for a library's."""
    for folder in folders:
        place = folder / module.replace(".", "/")
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def _user_folders(root: Path) -> list[Path]:
    """Where modules lie that are neither the standard library's nor installed."""
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = [root, *(Path(entry).resolve() for entry in sys.path if Path(entry).is_dir())]
    return [folder for folder in folders if not any(folder.is_relative_to(place) for place in installed)]


@functools.cache
def _imports(file: Path, module: str, _modified: int) -> list[str]:
    """The names that a file imports anywhere but for type checkers; what ``from`` names may be a module or not."""
    return list(_names(file, module))


def _names(file: Path, module: str) -> Iterator[str]:
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _executed(ast.parse(file.read_text(encoding="utf-8"), file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below ``node`` but for what is under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            child = ast.Module(child.orelse, [])
        yield child
        yield from _executed(child)
