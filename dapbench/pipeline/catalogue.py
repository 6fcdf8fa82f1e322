"""What conf/pipeline.yaml is composed from beyond its own lines: the catalogue of conf/ and the pipeline's cells.

A new file in conf/task, conf/method, conf/logs or conf/prior is found by a glob: there is no list to extend.
"""

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from dapbench import profiles
from dapbench.errors import UserError
from dapbench.profiles import draw_of
from dapbench.settings import check_number
from dapbench.sources import dependencies

CATALOGUED = ("task", "method", "logs", "prior")  # the groups of conf/ that params.yaml holds whole
KEPT = ("behaviour", "pretrain", "online", "overhead")  # the stages of which git keeps something, as .gitignore has it
STAGES = (*KEPT, "collect", "showcase", "report", *(f"{stage}_in_git" for stage in KEPT))
IN_GIT = ("paper",)  # for these profiles
# The methods that the report shows, and whether with a film; the authors' terms, and so Q, are at work to the end.
SHOWN = {"ppo": True, "ppo_dap": True, "ppo_dap_v6": False}
COUNTS = (  # a profile's sizes
    *("epochs", "epoch_steps", "schedule_epochs", "eval_episodes", "behaviour_epochs", "log_transitions"),
    *("prior_batches", "overhead_epochs", "overhead_pairs"),
)

OVERHEAD_SEED = 0  # conf/train.yaml's, which dapbench overhead leaves as it is

NUM_DEPS = 16  # dvc.yaml has so many slots for each stage

Cell = dict[str, Any]


def names(conf: Path, group: str) -> list[str]:
    """The choices of a group of ``conf``; a file whose name starts with ``_`` is only a base of others."""
    return sorted(path.stem for path in (conf / group).glob("[!_.]*.yaml"))


def register(conf: Path) -> None:
    """Gives Hydra the config ``catalogue`` and the resolver ``dapbench.cells`` for the folder ``conf``."""
    defaults = [{f"/{group}@{group}.{name}": name} for group in CATALOGUED for name in names(conf, group)]
    ConfigStore.instance().store("catalogue", {"defaults": defaults}, provider="dapbench")

    def resolver(*, _root_: DictConfig) -> DictConfig:
        return OmegaConf.create(_Catalogue(_root_, conf.parent).cells())

    OmegaConf.register_new_resolver("dapbench.cells", resolver, replace=True)


class _Catalogue:
    """The cells of each stage of dvc.yaml, from the profile in the composed ``params``.

    A key such as ``quick-hopper-ppo-0`` names its cell for good: more tasks, methods or seeds only add keys. ``deps``
    is all that a cell reads beside params.yaml: the code that it imports, and the data.
    """

    def __init__(self, params: DictConfig, root: Path):
        self._params, self._profile, self._root = params, params.profile, root
        self._results = f"results/{params.profile.name}"
        self._stages: dict[str, dict[str, Cell]] = {stage: {} for stage in STAGES}
        self._code = functools.cache(lambda *modules: dependencies(modules, root))

    def cells(self) -> dict[str, dict[str, Cell]]:
        """Every cell by its stage and key."""
        self._check()
        for run in profiles.runs(self._profile):
            self._add_run(run)
        for task, method in itertools.product(self._profile.overhead_tasks, self._profile.overhead_methods):
            self._add_overhead(task, method)
        self._add_report()
        return self._stages

    def _add_run(self, run: profiles.Run) -> None:
        starts_from = self._start(run.task, run.method, run.draw)
        out = f"{self._results}/runs/{run.task}/{run.method}/{run.seed}"
        budget = f"profile.{run.group}.epochs" if "epochs" in (self._profile.get(run.group) or {}) else "profile.epochs"
        cell = {"task": run.task, "method": run.method, "seed": run.seed, "epochs": budget, "out": out}
        self._add("online", f"{run.task}-{run.method}-{run.seed}", cell, self._modules_of_run(run.method), starts_from)
        if run.method in SHOWN and f"{self._key(run.task)}-{run.method}" not in self._stages["showcase"]:
            logs = [self._logs(run.task, run.method, run.draw)] if starts_from else []
            shown = {"run": out, "logs_dir": logs[0] if logs else "null", "film": SHOWN[run.method]}
            shown["out"] = f"{self._results}/showcase/{run.task}/{run.method}"
            modules = ["dapbench.showcase.showcase", *self._modules_of_run(run.method)[1:]]
            self._add("showcase", f"{run.task}-{run.method}", shown, modules, [f"{out}/model.ckpt", *logs])

    def _add_overhead(self, task: str, method: str) -> None:
        modules = ["dapbench.timing.overhead", *(m for name in ("ppo", method) for m in self._modules_of_run(name))]
        data = self._start(task, method, draw_of(OVERHEAD_SEED, self._profile.log_draws))
        cell = {"task": task, "method": method, "out": f"{self._results}/overhead/{task}/{method}"}
        self._add("overhead", f"{task}-{method}", cell, modules, data)

    def _add_report(self) -> None:
        made_by = {"runs": "online", "priors": "pretrain", "overhead": "overhead", "showcase": "showcase"}
        data = [f"{self._results}/{folder}" for folder, stage in made_by.items() if self._group(stage)]
        self._add("report", "", {"out": f"{self._results}/report"}, ["dapbench.report.build"], ["analysis", *data])

    def _start(self, task: str, method: str, draw: int) -> list[str]:
        """The paths of the data that a method's runs on a draw start from, if any; adds the cells that make them."""
        config = self._params.method[method]
        starts_from = config.get("starts_from")
        if starts_from not in ("nothing", "logs", "prior", "both"):
            valid = "nothing, logs, prior, both"
            raise UserError(f"conf/method/{method}.yaml: starts_from '{starts_from}' is not one of {valid}")
        if starts_from == "nothing":
            return []
        logs = self._logs(task, method, draw)
        if starts_from == "logs":
            return [logs]
        quality = self._quality(method)
        prior = self._known("prior", config.get("prior"), f"prior of method {method}")
        out = f"{self._results}/priors/{task}/{quality}/{draw}/{prior}"
        modules = ["dapbench.prior.pretraining", self._module(f"prior {prior}", self._params.prior[prior])]
        cell = {"task": task, "quality": quality, "draw": draw, "prior": prior, "out": out}
        self._add("pretrain", f"{task}-{quality}-{prior}-{draw}", cell, modules, [logs])
        checkpoint = f"{out}/prior.ckpt"
        return [checkpoint, logs] if starts_from == "both" else [checkpoint]

    def _logs(self, task: str, method: str, draw: int) -> str:
        """The path of the logs that a method starts from, itself or its prior; adds the cells that make them."""
        quality = self._quality(method)
        source = self._params.logs[quality].get("source")
        if source is not None and self._profile.log_draws > 1:
            raise UserError(f"logs.{quality}.source={source} is one dataset, so one draw; set profile.log_draws=1")
        key, which = f"{task}-{quality}-{draw}", {"task": task, "quality": quality, "draw": draw}
        out, policies = (f"{self._results}/{kind}/{task}/{quality}/{draw}" for kind in ("logs", "behaviour"))
        method = self._module("behaviour", self._params.behaviour)
        if source is None:
            self._add("behaviour", key, {**which, "out": policies}, ["dapbench.behaviour", method], [])
        cell = {**which, "policies_dir": "null" if source else policies, "out": out}
        data = [] if source else [f"{policies}/policies.ckpt"]
        self._add("collect", key, cell, ["dapbench.datasets.collecting", method], data)
        return out

    def _quality(self, method: str) -> str:
        """The quality of the logs that a method starts from."""
        quality = self._params.method[method].get("log_quality") or self._profile.log_quality
        return self._known("logs", quality, f"log_quality of method {method} or profile {self._profile.name}")

    def _add(self, stage: str, key: str, cell: Cell, modules: Iterable[str], data: Iterable[str]) -> None:
        """Adds a cell that runs the code of ``modules`` on the files ``data``."""
        deps = _filled([*self._code(*modules), *sorted(set(data))], self._root, f"{stage} {key}")
        self._group(stage)[self._key(key)] = {"profile": self._profile.name, **cell, "deps": deps}

    def _group(self, stage: str) -> dict[str, Cell]:
        """The cells of a stage, under the name that the stage has in dvc.yaml for this profile."""
        in_git = stage in KEPT and self._profile.name in IN_GIT
        return self._stages[f"{stage}_in_git" if in_git else stage]

    def _key(self, rest: str) -> str:
        return f"{self._profile.name}-{rest}" if rest else str(self._profile.name)

    def _modules_of_run(self, method: str) -> list[str]:
        """The modules behind `dapbench train` for a method."""
        config = self._params.method[method]
        modules = ["dapbench.runs.training", self._module(f"method {method}", config)]
        if config.starts_from in ("prior", "both"):
            modules.append(self._module(f"prior {config.prior}", self._params.prior[config.prior]))
        return modules

    def _module(self, what: str, config: DictConfig) -> str:
        """The module of a ``_target_``, such as ``dapbench.ppo`` for ``dapbench.ppo.PPO``."""
        module = str(config.get("_target_")).rpartition(".")[0]
        if not self._code(module):
            raise UserError(f"{what} needs the module of its _target_ {config.get('_target_')}, which does not exist")
        return module

    def _check(self) -> None:
        """Refuses a profile with unknown or no cells, and a file of conf/ whose name is not its own."""
        where = f"profile {self._profile.name}"
        if not isinstance(self._profile.name, str) or not self._profile.name.isidentifier():
            raise UserError(f"profile.name={self._profile.name} is not a word, such as that of a file of conf/profile")
        for key in ("overhead_tasks", "overhead_methods"):
            _check_list(f"profile.{key}", self._profile[key])
        for key in profiles.GROUPS:
            group = self._profile.get(key)
            if group is not None and not (isinstance(group, DictConfig) and "methods" in group):
                what = f"profile.{key}={group} is no group of runs"
                raise UserError(f"{what}; give it methods, or say profile.{key}=null")
            if group is not None and "epochs" in group:
                check_number(f"profile.{key}.epochs", group.epochs, 1, 10**9, integer=True)
        for name, group in profiles.groups_of(self._profile).items():
            path = "profile" if name == "main" else f"profile.{name}"
            for key in ("tasks", "methods", "seeds"):
                _check_list(f"{path}.{key}", group[key])
                if not group[key]:
                    raise UserError(f"{where} has no {key}: {path}.{key} needs at least one")
            for seed in group["seeds"]:
                check_number(f"{path}.seeds", seed, 0, 2**31 - 1, integer=True)
        for key in COUNTS:
            check_number(f"profile.{key}", self._profile[key], 1, 10**9, integer=True)
        for run in profiles.runs(self._profile):
            self._known("task", run.task, where)
            self._known("method", run.method, where)
        for task, method in itertools.product(self._profile.overhead_tasks, self._profile.overhead_methods):
            self._known("task", task, where)
            self._known("method", method, where)
        for group in CATALOGUED:
            for stem, config in self._params[group].items():
                if not isinstance(config, DictConfig):
                    raise UserError(
                        f"{group}.{stem}={config} is in place of all settings; set one: {group}.{stem}.KEY=..."
                    )
                if config.get("name") != stem:
                    raise UserError(f"conf/{group}/{stem}.yaml says name: {config.get('name')}; write name: {stem}")

    def _known(self, group: str, name: str | None, where: str) -> str:
        """Returns ``name`` if conf/``group`` has a file for it."""
        if name not in self._params[group]:
            raise UserError(f"unknown {group} '{name}' ({where}); choose one of {', '.join(self._params[group])}")
        return str(name)


def _check_list(key: str, value: Any) -> None:
    """Refuses a setting that is no list."""
    if not isinstance(value, ListConfig):
        raise UserError(f"{key}={value} is not a list; say '{key}=[...]'")


def _filled(deps: list[str], root: Path, cell: str) -> list[str]:
    """Makes ``deps`` as long as the lists of dvc.yaml, where DVC's schema wants single paths and takes no list.

    It is filled up with files of the folders that it names: nothing is stale for them that is not so anyway.
    """
    files = (file for dep in deps for file in sorted((root / dep).glob("[!.]*.py")) if file.stat().st_size)
    filling = itertools.islice(files, max(0, NUM_DEPS - len(deps)))
    filled = [*deps, *(file.relative_to(root).as_posix() for file in filling)]
    if len(filled) != NUM_DEPS:
        raise UserError(
            f"{cell} depends on {len(filled)} files and folders in place of {NUM_DEPS} ({', '.join(deps)}); "
            "put what a method imports into a folder of baselines/"
        )
    return filled
