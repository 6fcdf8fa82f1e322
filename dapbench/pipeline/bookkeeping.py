"""DVC's bookkeeping of cells, held once in the driver: what is stale, what the run cache has, what is recorded.

This is `dvc repro` taken apart (dvc 3.67, dvc/stage/__init__.py `Stage.run` and dvc/stage/run.py `run_stage`), so that
commands can run beside one another and elsewhere. What each cell records is the same, to the byte.

Large outs may be missing (comparing.py): only what a stale cell needs of them is made again.
"""

import copy
import logging
import operator
import os
import re
import shlex
from collections.abc import Iterable, Iterator
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
from dvc.output import Output
from dvc.repo import Repo, lock_repo
from dvc.scm import SCM, SCMError
from dvc.stage import PipelineStage
from dvc.stage.cache import RunCacheNotFoundError
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml
from dvc_data.hashfile.hash_info import HashInfo

from dapbench.errors import UserError
from dapbench.files import require_writable, write_text
from dapbench.pipeline import scratch
from dapbench.pipeline.comparing import Comparison, content, is_missing

# Every cell, by its stage's name, with the cells that have to end before it starts.
Plan = dict[str, set[str]]


class Bookkeeping:
    """The cells of dvc.yaml in the current folder; may be called from several threads.

    Attributes:
        left: cells that proved stale when their turn came, and need an out that is missing; the next plan has it made.
        notes: a line for each out that was made again and is not as dvc.lock has it.
    """

    def __init__(self) -> None:
        logging.getLogger("dvc").setLevel(logging.CRITICAL)  # no lines and bars between ours; errors are raised
        _read_params_once()
        _without_git()
        _own_site_cache()
        self._turn = Lock()
        with _one_line("DVC cannot open the project"):
            self._repo = Repo(_wait_for_lock=True)
        self._stages: dict[str, PipelineStage] = {}
        self._graph = nx.DiGraph()  # from each cell to those that it needs
        self._needed: set[str] = set()  # the cells of the plan that are not stale: what is missing of them is made
        self.left: set[str] = set()
        self.notes: list[str] = []
        scratch.remove()  # a killed driver's

    def plan(self) -> Plan:
        """The cells that DVC finds stale, those downstream of them, and those of which they need what is missing.

        A cell downstream of a stale one may prove unchanged once its turn comes. Of cells that are not stale, what is
        missing and in the cache is put in its place.

        Raises:
            UserError: dvc.yaml or dvc.lock is malformed, or a stage runs something other than `dapbench`.
        """
        with self._locked("DVC cannot tell what is stale"):
            now = self._load()
            stale = {cell for cell, stage in self._stages.items() if now.is_changed(stage)}
            for cell, stage in self._stages.items():
                for out in filter(is_missing, stage.outs):
                    if cell not in stale and not out.changed_cache():
                        out.checkout()
            self._needed = self._lacking(now, stale)
        self.left.clear()
        cells = self._needed.union(stale, *(nx.ancestors(self._graph, cell) for cell in stale))
        for cell in cells:
            if not str(self._stages[cell].cmd).startswith("dapbench "):
                raise UserError(f"dvc.yaml: stage {cell} runs '{self._stages[cell].cmd}'; dapbench repro runs dapbench")
        return self._ordered(cells)

    def begin(self, cell: str) -> list[str] | None:
        """Makes ready for a cell's command; returns the command, or None if there is nothing to run, or not yet.

        Raises:
            UserError: something that the cell depends on is not there.
        """
        stage = self._stages[cell]
        with self._locked("DVC cannot begin"):
            now = self._compare()
            if not now.is_changed(stage):
                return self._in_scratch(now, stage) if cell in self._needed else None
            self._needed.discard(cell)
            if any(map(is_missing, now.inputs(stage))):
                self.left.add(cell)
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
        """Records what a cell's command, which has succeeded, left; of a cell that is not stale, takes what is missing.

        Raises:
            UserError: the command did not write all that it should, or its code was changed meanwhile.
        """
        stage = self._stages[cell]
        with self._locked("DVC cannot record the cell"):
            if cell in self._needed:
                for out in filter(is_missing, stage.outs):
                    self._take(out)
                return
            now = self._compare()
            changed = [dep.def_path for dep in stage.deps if now.is_code(dep) and now.is_changed_dep(dep)]
            if changed:
                raise UserError(f"{', '.join(changed)} changed while it ran; the same command runs it again")
            self._record(stage)

    def stale_by_code(self) -> dict[str, set[str]]:
        """The cells for which nothing but code is other than dvc.lock has it, with each change: path, old and new hash.

        One that is downstream of a cell which is stale for another reason is not among them, as its data may change.
        """
        by_code: dict[str, set[str]] = {}
        others = set()
        with self._locked("DVC cannot tell what is stale"):
            now = self._load()
            for cell, stage in self._stages.items():
                changed = list(filter(now.is_changed_dep, stage.deps))
                is_code = all(map(now.is_code, changed)) and not stage.changed_stage()
                if not is_code or any(map(now.is_changed_out, stage.outs)):
                    others.add(cell)
                elif changed:
                    by_code[cell] = {f"{dep.def_path} {dep.hash_info} {now.seen(dep)[1]}" for dep in changed}
        return {cell: code for cell, code in by_code.items() if not others & nx.descendants(self._graph, cell)}

    def plan_in_scratch(self, cells: Iterable[str]) -> Plan:
        """Some cells, and those of which they need an out that is neither here nor in the cache."""
        with self._locked("DVC cannot begin"):
            return self._ordered({*cells} | self._lacking(self._compare(), {*cells}))

    def begin_in_scratch(self, cell: str) -> list[str]:
        """The command that runs a cell, stale or not, in the scratch folder."""
        with self._locked("DVC cannot begin"):
            return self._in_scratch(self._compare(), self._stages[cell])

    def differences(self, cell: str, aside: Iterable[str]) -> list[str]:
        """The outs of a cell that are not in the scratch folder as they are in dvc.lock, files of some names aside."""
        outs = [out for out in self._stages[cell].outs if Path(out.def_path).name not in aside]
        with self._locked("DVC cannot compare"):
            return [out.def_path for out in outs if _hash_in_scratch(out) != out.hash_info]

    def accept(self, cells: Iterable[str]) -> None:
        """Records that cells are done under the code that is here: all of them, or none if it is interrupted."""
        lock = Path(self._repo.root_dir, "dvc.lock")
        with self._locked("DVC cannot record the cells"):
            now, text = self._compare(), lock.read_text(encoding="utf-8")
            for cell in cells:
                now.take_over(self._stages[cell])
                text = _with_entry(text, dumps_yaml({"stages": to_lockfile(self._stages[cell])}))
            write_text(lock, text)

    def close(self, keep_scratch: bool = False) -> None:
        """Lets go of the repository, and removes the scratch folder."""
        self._repo.close()
        if not keep_scratch:
            scratch.remove()

    def _load(self) -> Comparison:
        self._stages = {stage.addressing: stage for stage in self._repo.index.stages}
        self._graph = nx.relabel_nodes(self._repo.index.graph, {stage: name for name, stage in self._stages.items()})
        return self._compare()

    def _compare(self) -> Comparison:
        return Comparison(self._stages.values())

    def _ordered(self, cells: set[str]) -> Plan:
        return {cell: set(self._graph.successors(cell)) & cells for cell in cells}

    def _lacking(self, now: Comparison, cells: set[str]) -> set[str]:
        """The other cells of which ``cells`` need an out that is missing; what the cache has is put in its place."""
        lacking: set[str] = set()
        waiting = [*cells]
        while waiting:
            for out in filter(is_missing, now.inputs(self._stages[waiting.pop()])):
                maker = out.stage.addressing
                if maker in cells | lacking:
                    continue
                if out.changed_cache():
                    lacking.add(maker)
                    waiting.append(maker)
                else:
                    out.checkout()
        return lacking

    def _in_scratch(self, now: Comparison, stage: PipelineStage) -> list[str]:
        """The command of a cell in the scratch folder, where its inputs are put."""
        if not scratch.FOLDER.exists():
            scratch.lay_out()
        for out in now.inputs(stage):
            scratch.link(out.def_path)
        return scratch.command(shlex.split(stage.cmd))

    def _take(self, out: Output) -> None:
        """Takes an out that was missing from the scratch folder, also into the cache."""
        scratch.take(out.def_path)
        made = copy.copy(out)  # what dvc.lock has stays as it is
        made.save()
        made.commit()
        if made.hash_info != out.hash_info:
            self.notes.append(
                f"{out.def_path} was made again and is not as in dvc.lock (another machine?); it stands in for that"
            )

    def _record(self, stage: PipelineStage) -> None:
        in_run_cache = all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)  # DVC's own rule
        stage.save(run_cache=in_run_cache)
        stage.commit()
        self._compare().take_over(stage)
        lock = Path(self._repo.root_dir, "dvc.lock")
        text = lock.read_text(encoding="utf-8") if lock.exists() else "schema: '2.0'\nstages:\n"
        write_text(lock, _with_entry(text, dumps_yaml({"stages": to_lockfile(stage)})))

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


def _hash_in_scratch(out: Output) -> HashInfo:
    """The hash of what a cell left in the scratch folder in place of an out."""
    return content(out, str((scratch.FOLDER / out.def_path).absolute()))[1].hash_info


def _with_entry(text: str, dumped: str) -> str:
    """The ``text`` of a dvc.lock with a stage, ``dumped`` as all that a dvc.lock holds, in place of what it says of it.

    As `stage.dump(update_pipeline=False)` of dvc 3.67 does, to the byte. But that parses and writes the whole file in
    Python, which comes to take seconds a cell, and it writes in place: a driver killed meanwhile would leave half a
    file.
    """
    _, name, _ = dumped.split("\n", 2)
    entry = dumped.removeprefix("stages:\n")
    before, found, after = text.partition(f"\n{name}\n")
    if not found:
        return text + entry
    after = re.sub(r"\A(    .*\n)*", "", after)
    return f"{before}\n{entry}{after}"


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
