"""Where cells run: this machine, a Ray cluster, or SLURM."""

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

from dapbench.errors import UserError
from dapbench.files import write_text
from dapbench.pipeline.worker import Project

PACKAGES = {"local": None, "ray": "ray", "slurm": "submitit"}
CLUSTERS = ("slurm", "local")
# Options of sbatch that dapbench sets.
OURS = ("array", "output", "error", "open-mode", "signal", "nodes", "ntasks", "cpus-per-task", "job-name")


class Engine(Protocol):
    """Where commands run."""

    def run(self, argv: list[str], log: Path) -> int:
        """Runs a `dapbench` command to its end and returns its exit status; called from several threads.

        Raises:
            UserError: no machine could run it to its end.
        """

    def stop(self) -> None:
        """Ends all that runs, so that every ``run`` returns."""


class SlurmSettings(NamedTuple):
    """What --slurm says of the jobs."""

    cluster: str
    minutes: int
    options: dict[str, str | bool]  # sbatch takes them


def slurm_settings(given: tuple[str, ...]) -> SlurmSettings:
    """Reads ``cluster=slurm`` or ``local``, ``time=MINUTES``, and options of sbatch by their long names.

    Raises:
        UserError: an unknown cluster, a time that is no number, or an option that is dapbench's to set.
    """
    pairs = (setting.partition("=") for setting in given)
    options: dict[str, str | bool] = {key: value if equals else True for key, equals, value in pairs}
    cluster, minutes = str(options.pop("cluster", "slurm")), str(options.pop("time", 240))
    if cluster not in CLUSTERS:
        raise UserError(f"--slurm cluster={cluster} is not one of {', '.join(CLUSTERS)}")
    if not minutes.isdecimal() or int(minutes) < 1:
        raise UserError(f"--slurm time={minutes} is not a whole number of minutes from 1")
    if taken := sorted(set(options) & set(OURS)):
        raise UserError(f"--slurm {taken[0]} is set by dapbench; leave it out (docs/cluster.md lists what to set)")
    return SlurmSettings(cluster, int(minutes), options)


class Choice(NamedTuple):
    """An engine by name, how many cells run at once, and the engine's own settings."""

    engine: str
    jobs: int
    address: str | None = None
    slurm: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises a UserError for settings of another engine, or an engine that is not installed."""
        if self.address is not None and self.engine != "ray":
            raise UserError(f"--address {self.address} is for --engine ray, not {self.engine}; leave one of them out")
        if self.address is not None and self.address.startswith("ray://"):
            raise UserError(
                f"--address {self.address} is Ray's client; give HOST:PORT or auto, on a machine of the cluster"
            )
        if self.slurm and self.engine != "slurm":
            raise UserError(f"--slurm {self.slurm[0]} is for --engine slurm, not {self.engine}; leave one of them out")
        slurm_settings(self.slurm)
        package = PACKAGES[self.engine]
        if package and find_spec(package) is None:
            raise UserError(
                f"--engine {self.engine} needs the package {package}; pip install 'dapbench[{self.engine}]'"
            )


@contextmanager
def open_engine(choice: Choice, root: Path) -> Iterator[Engine]:
    """The engine of a ``choice``.

    Raises:
        UserError: there is no such cluster, or its machines do not see the project's folder.
    """
    if choice.engine == "local":
        from dapbench.pipeline.local import Local

        yield Local()
        return
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"} | {"OMP_NUM_THREADS": "1"}
    project = Project(str(root.resolve()), sys.executable, environment, uuid.uuid4().hex)
    write_text(project.token_file, project.token)
    if choice.engine == "ray":
        from dapbench.pipeline.ray_engine import Ray

        with Ray(choice.address, choice.jobs, project) as ray:
            yield ray
    else:
        from dapbench.pipeline.slurm_engine import Slurm

        yield Slurm(project, slurm_settings(choice.slurm))


def refuse_unseen(said: str, engine: str) -> None:
    """Raises a UserError for what a probe of a machine ``said``, if anything."""
    if said:
        raise UserError(
            f"{said}: for --engine {engine} the project and its .venv have to lie in a folder that every machine "
            "has at the same path; move them to one (docs/cluster.md)"
        )
