"""What a profile (a file of conf/profile, composed) asks for: groups of runs, their draws of logs and their epochs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dapbench.errors import UserError

GROUPS = ("controls", "ablations", "log_qualities")  # of runs, beside a profile's main ones


@dataclass(frozen=True)
class Run:
    """One run that a profile asks for: the group that asks for it, its epochs, and the draw of logs for its seed."""

    group: str
    task: str
    method: str
    seed: int
    draw: int
    epochs: int


def groups_of(profile: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of runs that a profile asks for, its main one under ``main`` first.

    Returns:
        By name the tasks, methods, seeds and epochs of each, the profile's own where the group does not say.
    """
    groups = {"main": profile, **{k: v for k, v in profile.items() if isinstance(v, Mapping) and "methods" in v}}
    sizes = ("tasks", "methods", "seeds", "epochs")
    return {name: {size: group.get(size) or profile[size] for size in sizes} for name, group in groups.items()}


def runs(profile: Mapping[str, Any]) -> Iterator[Run]:
    """The runs of a profile: its tasks, methods and seeds under ``main``, then each group with methods of its own."""
    seen = set()
    for name, group in groups_of(profile).items():
        for task in group["tasks"]:
            for method in group["methods"]:
                for seed in group["seeds"]:
                    if (task, method, seed) not in seen:
                        seen.add((task, method, seed))
                        draw = draw_of(int(seed), profile["log_draws"])
                        yield Run(name, task, method, int(seed), draw, group["epochs"])


def epochs_of(profile: Mapping[str, Any], task: str, method: str, seed: int) -> int:
    """The epochs of a run: those of the first group of its profile that asks for it, else the profile's."""
    for group in groups_of(profile).values():
        if task in group["tasks"] and method in group["methods"] and seed in group["seeds"]:
            return group["epochs"]
    return profile["epochs"]


def draw_of(seed: int, log_draws: int) -> int:
    """The draw of the logs that a run starts from: those of the behaviour policy of seed behaviour_seed + draw.

    Runs of different seeds start from different draws, so that intervals over runs hold the luck of the draw.

    Args:
        seed: the run's.
        log_draws: how many there are of each task and quality, as the profile says.
    """
    if not isinstance(log_draws, int) or log_draws < 1:
        raise UserError(f"profile.log_draws={log_draws} is not a whole number from 1 on")
    if not isinstance(seed, int):
        raise UserError(f"seed={seed} is not a whole number")
    return seed % log_draws
