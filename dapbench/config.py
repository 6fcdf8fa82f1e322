"""Hydra's side of the commands: composing conf/, help, checks and errors in one line."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dapbench.errors import UserError
from dapbench.profiles import draw_of, epochs_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What these keys are, in every command that has them; a path may be null where the command's file in conf/ says null.
PATHS = ("run", "out", "logs_dir", "prior_dir", "policies_dir", "params")
SWITCHES = ("compile", "film", "json", "tracking")

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


def register_resolvers() -> None:
    """Gives conf/ the function ``dapbench.draw`` of a seed and the number of draws."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("dapbench.draw", draw_of, replace=True)


@contextmanager
def own_errors() -> Iterator[None]:
    """Lets a resolver's own UserError out as it is; OmegaConf wraps it, once or more."""
    from omegaconf.errors import InterpolationResolutionError

    try:
        yield
    except InterpolationResolutionError as error:
        told: BaseException | None = error
        while told and not isinstance(told, UserError):
            told = told.__context__
        if told is None:
            raise
        raise told from error


def choices(group: str) -> list[str]:
    """The names in a group of conf/, such as every task, dapbench's and the user's own.

    A leading underscore marks what others build on.
    """
    folders = [CONF, own_conf() or CONF]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("[!_.]*.yaml")})


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

    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose(name, [*overrides, *search_path()])
        with own_errors():
            return resolved(composed)


def compose_profile(name: str, params: str | Path | None = None) -> dict[str, Any]:
    """The profile ``name`` as a plain dict: that of the file ``params`` where one is given, else composed from conf/.

    Raises:
        UserError: there is no such profile, or the file is missing, malformed or of another profile.
    """
    if params is not None:
        import yaml

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


def run_command(name: str, function: Callable[[dict[str, Any]], Any], argv: list[str]) -> int:
    """Runs ``function`` on the configuration that conf/``name``.yaml and the overrides in ``argv`` compose.

    Hydra's own syntax holds: ``key=value``, ``-m`` for sweeps, ``--help``, ``--cfg job``, ``--config-dir``.

    Raises:
        UserError: an unknown choice or key, or whatever ``function`` finds wrong.
    """
    import hydra
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    register_resolvers()
    for argument in argv:
        group, _, choice = argument.partition("=")
        if choice.startswith("_") and (CONF / group).is_dir():
            raise unknown(group, choice, choices(group))

    failures: list[UserError] = []

    def main(composed: Any) -> None:
        # Kept until Hydra is done: it would print a line of its own, and end a sweep at its first failure.
        try:
            with own_errors():
                config = checked(name, composed)
            function(config)
        except MissingMandatoryValue as error:
            failures.append(UserError(f"{error.full_key} is not set; say {error.full_key}=VALUE (see --help)"))
        except UserError as error:
            failures.append(error)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole, to be told in one line
    # Overrides before flags: Hydra's parser takes them in one piece only.
    overrides = [argument for argument in argv if not argument.startswith("-") and "=" in argument]
    flags = [argument for argument in argv if argument not in overrides]
    try:
        check_choices(overrides)
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


def check_choices(overrides: list[str]) -> None:
    """Refuses a choice of a group of conf/ that is no word, such as ``task=0`` or ``task=[ant]``.

    Raises:
        UserError: names the choices.
        HydraException: an override is malformed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep

    for override in OverridesParser.create().parse_overrides(overrides):
        value = override.value()
        for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
            if (CONF / override.key_or_group).is_dir() and not isinstance(choice, str):
                raise unknown(
                    override.key_or_group, (override.input_line or "").partition("=")[2], choices(override.key_or_group)
                )


def checked(command: str, composed: "DictConfig") -> dict[str, Any]:
    """A command's composed configuration as plain values, its paths and switches checked.

    Raises:
        UserError: names the bad value and the valid ones.
    """
    check_paths(command, composed)
    config = resolved(composed)
    for key in SWITCHES:
        if not isinstance(config.get(key, True), bool):
            raise UserError(f"{key}={config[key]} is not one of true, false")
    return config


def check_paths(command: str, composed: "DictConfig") -> None:
    """Refuses a path of a command's configuration that is no text.

    Raises:
        UserError: names the key and what may be said.
    """
    import yaml
    from omegaconf import OmegaConf

    stated = yaml.safe_load((CONF / f"{command}.yaml").read_text(encoding="utf-8"))
    for key in PATHS:
        if key not in stated or OmegaConf.is_missing(composed, key):
            continue
        path = composed[key]
        if path is None and stated[key] is None:
            continue
        if not isinstance(path, str) or not path:
            example = f"{key}=./{path}" if isinstance(path, int | float) else f"{key}=FOLDER"
            raise UserError(f"{key}={path} is not a path; say {example}{' or null' if stated[key] is None else ''}")


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
        if not isinstance(params, dict):
            raise TypeError("it is no mapping")
        slices = {g: params[g] if g in ("profile", "behaviour") else params[g][name] for g, name in named.items()}
        if {"profile", "task", "method"} <= named.keys():  # of dapbench train: a run of a group with epochs of its own
            epochs = epochs_of(params["profile"], named["task"], named["method"], composed.seed)
            slices["profile"] = params["profile"] | {"epochs": epochs}
    except OSError as error:
        raise UserError(f"cannot read params={path}: {error.strerror}; dapbench repro composes it") from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"params={path} lacks what this command needs ({reason}); dapbench repro composes it"
        ) from error
    if "profile" in named and slices["profile"]["name"] != named["profile"]:
        given = slices["profile"]["name"]
        raise UserError(f"params={path} is of profile {given}; compose it anew for profile={named['profile']}")
    return slices
