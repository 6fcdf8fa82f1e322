"""DVC's bookkeeping of cells, held once in the driver: what is stale, what the run cache has, what is recorded.

This is `dvc repro` taken apart (dvc 3.67, dvc/stage/__init__.py `Stage.run` and dvc/stage/run.py `run_stage`), so that
commands can run beside one another and elsewhere. What each cell records is the same, to the byte.
"""

import logging
import operator
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, reduce
from pathlib import Path
from threading import Lock
from typing import Any

import networkx as nx
from dvc.config import Config
from dvc.dependency import param
from dvc.dirs import site_cache_dir
from dvc.env import DVC_SITE_CACHE_DIR
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.scm import SCM, SCMError
from dvc.stage import PipelineStage
from dvc.stage.cache import RunCacheNotFoundError
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml

from dapbench.errors import UserError
from dapbench.files import require_writable, write_text

# Every cell, by its stage's name, with the cells that have to end before it starts.
Plan = dict[str, set[str]]


class Bookkeeping:
    """The cells of dvc.yaml in the current folder; may be called from several threads."""

    def __init__(self) -> None:
        logging.getLogger("dvc").setLevel(logging.CRITICAL)  # no lines and bars between ours; errors are raised
        _read_params_once()
        _without_git()
        _own_site_cache()
        self._turn = Lock()
        with _one_line("DVC cannot open the project"):
            self._repo = Repo(_wait_for_lock=True)
        self._stages: dict[str, PipelineStage] = {}

    def plan(self) -> Plan:
        """The cells that DVC finds stale and those downstream of them.

        A cell downstream of a stale one may prove unchanged once its turn comes.

        Raises:
            UserError: dvc.yaml or dvc.lock is malformed, or a stage runs something other than `dapbench`.
        """
        with self._locked("DVC cannot tell what is stale"):
            stale = set(self._repo.status())
            self._stages = {stage.addressing: stage for stage in self._repo.index.stages}
            graph = nx.relabel_nodes(self._repo.index.graph, {stage: name for name, stage in self._stages.items()})
        cells = stale.union(*(nx.ancestors(graph, stage) for stage in stale))  # DVC's edges point at what is needed
        for cell in cells:
            if not str(self._stages[cell].cmd).startswith("dapbench "):
                raise UserError(f"dvc.yaml: stage {cell} runs '{self._stages[cell].cmd}'; dapbench repro runs dapbench")
        return {cell: set(graph.successors(cell)) & cells for cell in cells}

    def begin(self, cell: str) -> list[str] | None:
        """Makes ready for a cell's command; returns the command, or None if the cell is done without running it.

        Raises:
            UserError: something that the cell depends on is not there.
        """
        stage = self._stages[cell]
        with self._locked("DVC cannot begin"):
            if not stage.changed():
                return None
            stage.remove_outs(force=False)
            try:
                self._repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                stage.save_deps()
                return shlex.split(stage.cmd)
            self._record(stage)
            return None

    def end(self, cell: str) -> None:
        """Records what a cell's command, which has succeeded, left.

        Raises:
            UserError: the command did not write all that it should.
        """
        with self._locked("DVC cannot record the cell"):
            self._record(self._stages[cell])

    def close(self) -> None:
        """Lets go of the repository."""
        self._repo.close()

    def _record(self, stage: PipelineStage) -> None:
        in_run_cache = all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)  # DVC's own rule
        stage.save(run_cache=in_run_cache)
        stage.commit()
        _write_into_lock(Path(self._repo.root_dir, "dvc.lock"), dumps_yaml({"stages": to_lockfile(stage)}))

    @contextmanager
    def _locked(self, consequence: str) -> Iterator[None]:
        """DVC's lock, whose holders are processes, and our own for the threads of this one."""
        with _one_line(consequence), self._turn, lock_repo(self._repo):
            yield


@contextmanager
def _one_line(consequence: str) -> Iterator[None]:
    """Makes a UserError of whatever DVC finds wrong."""
    try:
        yield
    except (DvcException, OSError) as error:
        raise UserError(f"{consequence}: {' '.join(str(error).split())}") from error


def dependents(plan: Plan, cell: str) -> set[str]:
    """The cells that need ``cell``, directly or not."""
    graph = nx.DiGraph((upstream, name) for name, upstreams in plan.items() for upstream in upstreams)
    return nx.descendants(graph, cell) if cell in graph else set()


def _write_into_lock(lock: Path, dumped: str) -> None:
    """Puts a stage, ``dumped`` as all that a dvc.lock holds, into the file in place of what it says of the stage.

    As `stage.dump(update_pipeline=False)` of dvc 3.67 does, to the byte. But that parses and writes the whole file in
    Python, which comes to take seconds a cell, and it writes in place: a driver killed meanwhile would leave half a
    file.
    """
    text = lock.read_text(encoding="utf-8") if lock.exists() else "schema: '2.0'\nstages:\n"
    _, name, _ = dumped.split("\n", 2)
    entry = dumped.removeprefix("stages:\n")
    before, found, after = text.partition(f"\n{name}\n")
    if found:
        after = re.sub(r"\A(    .*\n)*", "", after)
        write_text(lock, f"{before}\n{entry}{after}")
    else:
        write_text(lock, text + entry)


def _read_params_once() -> None:
    """Has DVC parse params.yaml again only once it is another file, and look keys up in place of searching for them.

    Seen with dvc 3.67: for each stage it parses the file anew, and for each key it walks through all of it, which takes
    half a second a cell at the paper profile's size. If DVC comes to read parameters in another way, this one is not
    called, and all works as before and slower.
    """

    @lru_cache(maxsize=1)
    def parsed(path: str, _modified: int, fs: Any) -> Any:
        return param.load_path(path, fs)

    def read_param_file(fs: Any, path: str, key_paths: list[str] | None = None, flatten: bool = False) -> Any:
        params, found = parsed(path, os.stat(path).st_mtime_ns, fs), {}
        if not (key_paths and flatten):
            return params
        for key in key_paths:
            with suppress(KeyError, TypeError):
                found[key] = reduce(operator.getitem, key.split("."), params)
        return found

    param.read_param_file = read_param_file


def _without_git() -> None:
    """Lets DVC work in a folder that is no git repository, such as an unpacked archive (.dvc/config.local)."""
    try:
        SCM(os.curdir)
    except SCMError:
        with Config(".dvc").edit("local") as config:
            config["core"] = {**config.get("core", {}), "no_scm": True}


def _own_site_cache() -> None:
    """Gives DVC a folder in the project for what it knows of files, where the one that all users share is closed."""
    with suppress(UserError):
        require_writable(Path(site_cache_dir(Config().get("core", {}).get("site_cache_dir")), "repo"))
        return
    os.environ[DVC_SITE_CACHE_DIR] = str(Path(".dvc/tmp/site_cache").absolute())
