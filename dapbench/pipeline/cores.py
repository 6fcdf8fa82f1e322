"""How many cores this process may keep busy on a machine that it may share."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# What batch systems say of a job's share, which not all of them enforce: SLURM, Grid Engine, PBS Pro, Torque and LSF.
SHARES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NSLOTS", "NCPUS", "PBS_NP", "LSB_DJOB_NUMPROC")


def cores(root: Path = Path("/")) -> int:
    """The least of the cores bound to, the control groups' quotas below ``root``, and the batch system's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [int(os.environ[name]) for name in SHARES if os.environ.get(name, "").isdecimal()]
    return max(1, int(min([bound, *shares, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The quota of each group that this process is in, down from the outermost; a container sees its own alone."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.exists() else []:
        _, controllers, group = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):  # none in version 2
            path = PurePosixPath(group.lstrip("/"))
            for folder in (path, *path.parents):
                yield from _quota(root / "sys/fs/cgroup" / controllers / folder)


def _quota(folder: Path) -> Iterator[float]:
    """The cores that the control group ``folder`` may use, if it is there and has a limit."""
    with suppress(FileNotFoundError):
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        if quota != "max" and int(quota) > 0:
            yield int(quota) / int(period)
