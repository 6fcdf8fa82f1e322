"""What a profile asks for: one place that turns conf/profile into runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """One run that a profile asks for, and the group of the profile that asks for it."""

    group: str
    task: str
    method: str
    seed: int


def runs(profile: Mapping[str, Any]) -> Iterator[Run]:
    """The runs of a profile: its tasks, methods and seeds under ``main``, then each group with methods of its own."""
    groups = {"main": profile, **{k: v for k, v in profile.items() if isinstance(v, Mapping) and "methods" in v}}
    seen = set()
    for name, group in groups.items():
        for task in group.get("tasks") or profile["tasks"]:
            for method in group["methods"]:
                for seed in group.get("seeds") or profile["seeds"]:
                    if (task, method, seed) not in seen:
                        seen.add((task, method, seed))
                        yield Run(name, task, method, int(seed))
