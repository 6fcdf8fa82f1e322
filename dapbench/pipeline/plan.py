"""What DVC says is to be run, and after what."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import networkx as nx
from dvc.config import Config
from dvc.dependency import param
from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.scm import SCM, SCMError

from dapbench.errors import UserError

# Every cell, by its stage's name, with the cells that have to end before it starts.
Plan = dict[str, set[str]]


def make_plan() -> Plan:
    """The stages that DVC finds stale in the current folder and those downstream of them.

    A stage downstream of a stale one may prove unchanged once its turn comes; DVC then skips it.
    """
    without_git()
    try:
        with Repo(_wait_for_lock=True) as repo, lock_repo(repo), _params_parsed_once():
            stale = set(repo.status())
            graph = nx.relabel_nodes(repo.index.graph, {stage: stage.addressing for stage in repo.index.graph})
    except DvcException as error:
        raise UserError(f"DVC cannot tell what is stale: {' '.join(str(error).split())}") from error
    cells = stale.union(*(nx.ancestors(graph, stage) for stage in stale))  # DVC's edges point at what a stage needs
    return {cell: set(graph.successors(cell)) & cells for cell in cells}


def dependents(plan: Plan, cell: str) -> set[str]:
    """The cells that need ``cell``, directly or not."""
    graph = nx.DiGraph((upstream, name) for name, upstreams in plan.items() for upstream in upstreams)
    return nx.descendants(graph, cell) if cell in graph else set()


@contextmanager
def _params_parsed_once() -> Iterator[None]:
    """DVC parses params.yaml anew for each stage, which takes half a minute for the 250 of the paper profile."""
    load = param.load_path
    param.load_path = cache(load)
    try:
        yield
    finally:
        param.load_path = load


def without_git() -> None:
    """Lets DVC work in a folder that is no git repository, such as an unpacked archive (.dvc/config.local)."""
    try:
        SCM(os.curdir)
    except SCMError:
        with Config(".dvc").edit("local") as config:
            config["core"] = {**config.get("core", {}), "no_scm": True}
