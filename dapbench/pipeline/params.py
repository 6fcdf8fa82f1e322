"""params.yaml: the one file that cells read their configuration from, composed as DVC itself composes it."""

import configparser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dapbench.errors import UserError
from dapbench.files import write_text
from dapbench.pipeline.catalogue import names, register


def compose(root: Path, overrides: list[str]) -> dict[str, Any]:
    """Composes conf/pipeline.yaml of the project in ``root`` into its params.yaml, as `dvc exp run -S` does.

    Args:
        root: the project's folder.
        overrides: in Hydra's syntax, such as ``profile=smoke`` or ``method.ppo.learning_rate=1e-3``.

    Returns: the content of params.yaml.
    """
    from dvc.utils.hydra import compose_and_dump

    settings = configparser.ConfigParser()
    settings.read(root / ".dvc/config", encoding="utf-8")
    hydra = settings["hydra"]
    conf = root / hydra["config_dir"]
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"'{override}' is not of the form key=value, such as profile=quick")
        if key.lstrip("+~").partition(".")[0] == "cells":
            raise UserError(f"'{override}': cells follow from the profile; set profile.tasks, methods or seeds")
        if key == "profile" and value not in names(conf, "profile"):
            raise UserError(f"unknown profile '{value}'; choose one of {', '.join(names(conf, 'profile'))}")
    register(conf)  # Hydra looks for plugins once in a process, and may have looked before
    with TemporaryDirectory() as folder:
        composed = Path(folder) / "params.yaml"  # DVC tells the format by the ending
        try:
            compose_and_dump(
                composed, str(conf), None, hydra["config_name"], str(root / hydra["plugins_path"]), overrides
            )
        except (HydraException, OmegaConfBaseException) as error:
            if isinstance(error.__context__, UserError):  # the catalogue's own, which OmegaConf wraps
                raise error.__context__ from error
            raise UserError(f"conf/pipeline.yaml does not compose: {' '.join(str(error).split())}") from error
        text = composed.read_text(encoding="utf-8")
    write_text(root / "params.yaml", text)
    return yaml.safe_load(text)
