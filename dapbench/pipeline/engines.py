"""Where cells run: this machine, a Ray cluster, or SLURM."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from dapbench.errors import UserError
from dapbench.pipeline.local import Local
from dapbench.pipeline.schedule import Engine

PACKAGES = {"local": None, "ray": "ray", "slurm": "submitit"}
CLUSTERS = ("slurm", "local")
OURS = ("array", "output", "error", "open-mode", "signal", "nodes", "ntasks", "cpus-per-task")  # options of sbatch


class SlurmSettings(NamedTuple):
    """What --slurm says of the jobs."""

    cluster: str
    minutes: int
    options: dict[str, str | bool]  # of sbatch


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
def open_engine(choice: Choice, root: Path, lock: int) -> Iterator[Engine]:
    """The engine of a ``choice``; ``lock`` is a file that stays open in what it runs.

    Raises:
        UserError: there is no such cluster, or its machines do not see the project's folder.
    """
    if choice.engine == "local":
        from dapbench.pipeline.preloaded import preloaded

        with preloaded(root, lock) as variables:
            yield Local(root, lock, variables)
        return
    from dapbench.pipeline.dispatch import Remote
    from dapbench.pipeline.exchange import Exchange, Workers

    exchange = Exchange(root)
    workers: Workers
    try:
        if choice.engine == "ray":
            from dapbench.pipeline.ray_workers import RayWorkers

            workers = RayWorkers(choice.address, choice.jobs)
        else:
            from dapbench.pipeline.slurm_workers import SlurmWorkers

            workers = SlurmWorkers(exchange.folder, choice.jobs, slurm_settings(choice.slurm))
        try:
            workers.check(exchange)
            engine = Remote(exchange, workers, lock)
            try:
                yield engine
            finally:
                engine.close()
        finally:
            workers.close()
    finally:
        exchange.stop()
