"""Hydra's side of the commands: composing conf/, help, checks and errors in one line."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dapbench.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[1] / "conf"

# The output folder is `out` alone: Hydra writes no folders and no logs of its own.
HYDRA_OVERRIDES = [
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    f"hydra.sweep.dir={tempfile.gettempdir()}",  # where a sweep leaves its multirun.yaml
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]


def choices(group: str) -> list[str]:
    """The names in a group of conf/, such as every task; a leading underscore marks what others build on."""
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


def run_command(name: str, function: Callable[[dict[str, Any]], Any], argv: list[str]) -> int:
    """Runs ``function`` on the configuration that conf/``name``.yaml and the overrides in ``argv`` compose.

    Hydra's own syntax holds: ``key=value``, ``-m`` for sweeps, ``--help``, ``--cfg job``.

    Raises:
        UserError: an unknown choice or key, or whatever ``function`` finds wrong.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    for argument in argv:
        group, _, choice = argument.partition("=")
        if choice and (CONF / group).is_dir() and "," not in choice and choice not in choices(group):
            raise UserError(f"unknown {group} '{choice}'; choose one of {', '.join(choices(group))}")

    failures: list[UserError] = []

    def main(composed: Any) -> None:
        # Kept until Hydra is done: it would print a line of its own, and end a sweep at its first failure.
        try:
            function(resolved(composed))
        except MissingMandatoryValue as error:
            failures.append(UserError(f"{error.full_key} is not set; say {error.full_key}=VALUE (see --help)"))
        except UserError as error:
            failures.append(error)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole, to be told in one line
    # Overrides before flags: Hydra's parser takes them in one piece only.
    overrides = [argument for argument in argv if not argument.startswith("-") and "=" in argument]
    flags = [argument for argument in argv if argument not in overrides]
    sys.argv = [f"dapbench {name}", *overrides, *HYDRA_OVERRIDES, *flags]
    try:
        hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")(main)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(str(error).split())} (dapbench {name} --help lists every key)") from error
    if failures:
        raise UserError("; ".join(map(str, failures)))
    return 0


def resolved(composed: "DictConfig") -> dict[str, Any]:
    """The composed configuration as plain values; ``params`` names a file whose slices come before conf/'s.

    The slices (task, method, logs, prior by name; profile, behaviour) are put in before anything is derived from them.

    Raises:
        UserError: the file is missing, malformed, or of another profile.
    """
    from omegaconf import OmegaConf

    if composed.params is not None:
        OmegaConf.set_struct(composed, False)
        for group, content in slices_of(Path(composed.params), composed).items():
            composed[group] = content
    config = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    return cast(dict[str, Any], config)


def slices_of(path: Path, composed: "DictConfig") -> dict[str, Any]:
    """What a params file says of each slice that the composed configuration has."""
    import yaml

    groups = ("task", "method", "logs", "prior", "profile", "behaviour")
    named = {group: composed[group].name for group in groups if "name" in (composed.get(group) or {})}
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        slices = {g: params[g] if g in ("profile", "behaviour") else params[g][name] for g, name in named.items()}
    except OSError as error:
        raise UserError(f"cannot read params={path}: {error.strerror}; dapbench repro composes it") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"params={path} lacks what this command needs ({error}); dapbench repro composes it") from error
    if slices["profile"]["name"] != named["profile"]:
        given = slices["profile"]["name"]
        raise UserError(f"params={path} is of profile {given}; compose it anew for profile={named['profile']}")
    return slices
