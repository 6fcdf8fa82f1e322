"""What a profile asks for: one place that composes conf/profile and turns it into runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dapbench.config import choices, compose, draw_of, groups_of
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


def compose_profile(name: str, params: str | Path | None = None) -> dict[str, Any]:
    """The profile ``name`` as a plain dict: that of the file ``params`` where one is given, else composed from conf/.

    Raises:
        UserError: there is no such profile, or the file is missing, malformed or of another profile.
    """
    if params is not None:
        try:
            profile = yaml.safe_load(Path(params).read_text(encoding="utf-8"))["profile"]
            found = profile["name"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"params={params} holds no profile ({reason}); dapbench repro composes it") from error
        if found != name:
            raise UserError(f"params={params} is of profile {found}; compose it anew for profile={name}")
        return profile
    if name not in choices("profile"):
        raise UserError(f"unknown profile '{name}'; choose one of {', '.join(choices('profile'))}")
    return compose(None, f"+profile={name}")["profile"]
