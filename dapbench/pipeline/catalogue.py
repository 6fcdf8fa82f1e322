"""What conf/pipeline.yaml is composed from beyond its own lines: the catalogue of conf/ and the pipeline's cells.

A new file in conf/task, conf/method, conf/logs or conf/prior is found by a glob: there is no list to extend.
"""

import ast
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from dapbench import profiles
from dapbench.errors import UserError

GROUPS = ("task", "method", "logs", "prior")
STAGES = ("collect", "pretrain", "online", "online_from_data", "overhead", "report")

Cell = dict[str, Any]


def names(conf: Path, group: str) -> list[str]:
    """The choices of a group of ``conf``; a file whose name starts with ``_`` is only a base of others."""
    return sorted(path.stem for path in (conf / group).glob("[!_]*.yaml"))


def register(conf: Path) -> None:
    """Gives Hydra the config ``catalogue`` and the resolver ``dapbench.cells`` for the folder ``conf``."""
    defaults = [{f"/{group}@{group}.{name}": name} for group in GROUPS for name in names(conf, group)]
    ConfigStore.instance().store("catalogue", {"defaults": defaults}, provider="dapbench")

    def resolver(*, _root_: DictConfig) -> DictConfig:
        return OmegaConf.create(cells(_root_, conf.parent))

    OmegaConf.register_new_resolver("dapbench.cells", resolver, replace=True)


def cells(params: DictConfig, root: Path) -> dict[str, dict[str, Cell]]:
    """The cells of each stage of dvc.yaml, from the profile in the composed ``params``.

    A key such as ``quick-hopper-ppo-0`` names its cell for good: more tasks, methods or seeds only add keys.
    """
    _check(params)
    profile = params.profile
    results = f"results/{profile.name}"
    files = {name: _file(config._target_) for name, config in params.method.items()}
    stages: dict[str, dict[str, Cell]] = {stage: {} for stage in STAGES}
    for run in profiles.cells(profile):
        if not (root / files[run.method]).is_file():
            missing = files[run.method]
            raise UserError(f"method {run.method} needs the file {missing} of its _target_, which does not exist")
        source = _add_source(stages, params, run.task, run.method, files)
        key = f"{profile.name}-{run.task}-{run.method}-{run.seed}"
        stages["online_from_data" if source else "online"][key] = {
            "profile": profile.name,
            "task": run.task,
            "method": run.method,
            "seed": run.seed,
            "code": files[run.method],
            "base": _base(files[run.method], files, root),
            "out": f"{results}/runs/{run.task}/{run.method}/{run.seed}",
        } | source
    for task in profile.overhead_tasks:
        sources = [_add_source(stages, params, task, method, files) for method in ("ppo", "ppo_dap")]
        stages["overhead"][f"{profile.name}-{task}"] = {
            "profile": profile.name,
            "task": task,
            "source": sources[-1]["source"],
            "out": f"{results}/overhead/{task}",
        }
    runs = f"{results}/runs"
    stages["report"][profile.name] = {
        "profile": profile.name,
        "runs": runs,
        "priors": f"{results}/priors" if stages["pretrain"] else runs,  # a dependency has to exist
        "overhead": f"{results}/overhead" if stages["overhead"] else runs,
        "out": f"{results}/report",
    }
    return stages


def _add_source(
    stages: dict[str, dict[str, Cell]], params: DictConfig, task: str, method: str, files: dict[str, str]
) -> Cell:
    """Adds the cells behind the data that a method starts from; returns that data's path as ``source``, if any."""
    profile, config = params.profile, params.method[method]
    starts_from = config.get("starts_from")
    if starts_from not in ("nothing", "logs", "prior"):
        raise UserError(f"conf/method/{method}.yaml: starts_from '{starts_from}' is not one of nothing, logs, prior")
    if starts_from == "nothing":
        return {}
    quality = config.get("log_quality") or profile.log_quality
    _known(params, "logs", quality, f"log_quality of method {method} or profile {profile.name}")
    logs = {"profile": profile.name, "task": task, "quality": quality}
    logs_dir = f"results/{profile.name}/logs/{task}/{quality}"
    stages["collect"][f"{profile.name}-{task}-{quality}"] = {
        **logs,
        "code": files[params.behaviour.name],
        "out": logs_dir,
    }
    if starts_from == "logs":
        return {"source": logs_dir}
    prior = _known(params, "prior", config.get("prior"), f"prior of method {method}")
    prior_dir = f"results/{profile.name}/priors/{task}/{quality}/{prior}"
    stages["pretrain"][f"{profile.name}-{task}-{quality}-{prior}"] = {
        **logs,
        "prior": prior,
        "source": logs_dir,
        "out": prior_dir,
    }
    return {"source": prior_dir}


def _check(params: DictConfig) -> None:
    """Refuses a profile with unknown or no cells, and a file of conf/ whose name is not its own."""
    profile = params.profile
    for key in ("tasks", "methods", "seeds"):
        if not profile[key]:
            raise UserError(f"profile {profile.name} has no {key}: profile.{key} needs at least one")
    for run in profiles.cells(profile):
        _known(params, "task", run.task, f"profile {profile.name}")
        _known(params, "method", run.method, f"profile {profile.name}")
    for task in profile.overhead_tasks:
        _known(params, "task", task, f"profile {profile.name}")
    for group in GROUPS:
        for stem, config in params[group].items():
            if config.get("name") != stem:
                raise UserError(f"conf/{group}/{stem}.yaml says name: {config.get('name')}; write name: {stem}")


def _known(params: DictConfig, group: str, name: str | None, where: str) -> str:
    """Returns ``name`` if conf/``group`` has a file for it."""
    if name not in params[group]:
        raise UserError(f"unknown {group} '{name}' ({where}); choose one of {', '.join(params[group])}")
    return str(name)


def _file(target: str) -> str:
    """The file that holds the class ``target``, such as baselines/ppo.py for dapbench.ppo.PPO."""
    return target.rpartition(".")[0].replace(".", "/") + ".py"


def _base(file: str, files: dict[str, str], root: Path) -> str:
    """The other method's file that ``file`` imports, directly or not; ``file`` itself if there is none.

    One at most, since a stage of dvc.yaml names a fixed number of dependencies.
    """
    modules = {path.removesuffix(".py").replace("/", "."): path for path in files.values()}
    found: set[str] = set()
    waiting = [file]
    while waiting:
        for node in ast.walk(ast.parse((root / waiting.pop()).read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                imported = [str(node.module), *(f"{node.module}.{name}" for name in imported)]
            new = {modules[name] for name in imported if name in modules} - found - {file}
            found |= new
            waiting += new
    if len(found) > 1:
        raise UserError(f"{file} builds on {' and '.join(sorted(found))}; move what they share to dapbench/on_policy")
    return found.pop() if found else file
