"""A folder in which commands find the project and leave its results alone: links to all but results and records.

The commands' paths are the project's, so that what they write is the same to the byte.
"""

import shutil
from pathlib import Path

FOLDER = Path(".dvc/tmp/scratch")
LEFT_OUT = ("results", "runs", "mlartifacts", "tmp", "build")  # and all that starts with a dot or mlflow.db


def lay_out() -> None:
    """Makes the folder anew for the project in the current one."""
    remove()
    FOLDER.mkdir(parents=True)
    for entry in Path.cwd().iterdir():
        if entry.name not in LEFT_OUT and not entry.name.startswith((".", "mlflow.db")):
            (FOLDER / entry.name).symlink_to(entry)


def link(path: str) -> None:
    """Puts a link to a result of the project into the folder; what the project lacks has been made in there."""
    place = FOLDER / path
    if place.is_symlink() or not Path(path).exists():
        return
    if place.exists():  # made for comparison alone: what the project has is what its own cells start from
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(Path(path).absolute())


def take(path: str) -> None:
    """Moves what was made in the folder into its place in the project."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(FOLDER / path, path)


def command(argv: list[str]) -> list[str]:
    """The `dapbench` command ``argv`` in the folder; a run there is not recorded in MLflow."""
    untracked = ["tracking=false"] if argv[1] == "train" else []
    return [argv[0], "-C", str(FOLDER), *argv[1:], *untracked]


def remove() -> None:
    """Removes the folder if it is there."""
    shutil.rmtree(FOLDER, ignore_errors=True)
