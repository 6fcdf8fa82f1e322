"""Hydra's side of the commands: composing conf/, help, checks and errors in one line."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dapbench.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

HERE = Path(__file__).resolve().parent
# dapbench's own conf/: part of the package where it is installed, beside it in a checkout.
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"

# The output folder is `out` alone: Hydra writes no folders and no logs of its own.
HYDRA_OVERRIDES = [
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]


def own_conf() -> Path | None:
    """The user's conf/: that of the folder where the command runs, where it is not dapbench's own."""
    folder = Path("conf").resolve()
    return folder if folder.is_dir() and folder != CONF else None


def choices(group: str) -> list[str]:
    """The names in a group of conf/, such as every task, dapbench's and the user's own.

    A leading underscore marks what others build on.
    """
    folders = [CONF, own_conf() or CONF]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("[!_]*.yaml")})


def search_path() -> list[str]:
    """The override that has Hydra look into the user's conf/ for what dapbench's own does not have."""
    folder = own_conf()
    if folder is None:
        return []
    return [f"hydra.searchpath=[{_quoted(f'file://{folder}')}]"]


def _quoted(text: str) -> str:
    """Text in quotes of Hydra's, whatever it holds."""
    return "'" + text.replace("'", "\\'") + "'"


def compose(name: str | None, *overrides: str) -> dict[str, Any]:
    """A command's configuration outside of the command: compose("train", "task=hopper", ...); None: an empty one."""
    import hydra

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return resolved(hydra.compose(name, [*overrides, *search_path()]))


def run_command(name: str, function: Callable[[dict[str, Any]], Any], argv: list[str]) -> int:
    """Runs ``function`` on the configuration that conf/``name``.yaml and the overrides in ``argv`` compose.

    Hydra's own syntax holds: ``key=value``, ``-m`` for sweeps, ``--help``, ``--cfg job``, ``--config-dir``.

    Raises:
        UserError: an unknown choice or key, or whatever ``function`` finds wrong.
    """
    import hydra
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    for argument in argv:
        group, _, choice = argument.partition("=")
        if choice.startswith("_") and (CONF / group).is_dir():
            raise unknown(group, choice, choices(group))

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
    try:
        with _sweep_folder(flags) as sweep:
            sys.argv = [f"dapbench {name}", *overrides, *search_path(), *HYDRA_OVERRIDES, *sweep, *flags]
            hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")(main)()
    except MissingConfigException as error:  # it knows every folder that was searched
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        raise unknown(group, choice, list(error.options or [])) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(str(error).split())} (dapbench {name} --help lists every key)") from error
    if failures:
        raise UserError("; ".join(map(str, failures)))
    return 0


@contextmanager
def _sweep_folder(flags: list[str]) -> Iterator[list[str]]:
    """The override for the folder where a sweep leaves its multirun.yaml: one of its own, since others share /tmp."""
    if not {"-m", "--multirun"} & set(flags):
        yield []
        return
    with tempfile.TemporaryDirectory() as folder:
        yield [f"hydra.sweep.dir={_quoted(folder)}"]


def unknown(group: str, choice: str, valid: list[str]) -> UserError:
    """The error for a choice that a group of conf/ does not have."""
    listed = ", ".join(name for name in valid if not name.startswith("_"))
    return UserError(f"unknown {group} '{choice}'; choose one of {listed}")


def resolved(composed: "DictConfig") -> dict[str, Any]:
    """The composed configuration as plain values; ``params`` names a file whose slices come before conf/'s.

    The slices (task, method, logs, prior by name; profile, behaviour) are put in before anything is derived from them.

    Raises:
        UserError: the file is missing, malformed, or of another profile.
    """
    from omegaconf import OmegaConf

    if composed.get("params") is not None:
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
