"""How what lies in the project compares with dvc.lock where large outs may be missing, as in a fresh clone.

It is DVC's `--allow-missing` (dvc 3.67, dvc/stage/__init__.py `Stage.changed`) but for three things: small results have
to be here; a folder from which only large outs are missing counts as it was; and where the recorded version of a large
out is nowhere, one that was made anew stands in for it, since another machine computes other last bits.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dvc.dependency import Dependency, ParamsDependency
from dvc.output import Output
from dvc.stage import PipelineStage
from dvc_data.hashfile.build import build
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta


def is_large(out: Output) -> bool:
    """Whether an out may be missing: checkpoints, logs and, but for the paper profile's, priors."""
    return out.use_cache and not (out.is_metric or out.is_plot)


def is_missing(out: Output) -> bool:
    """Whether an out that dvc.lock has is not in its place."""
    return bool(out.hash_info) and not out.exists


class Comparison:
    """One look at the files of all ``stages``: what it has hashed it does not hash again."""

    def __init__(self, stages: Iterable[PipelineStage]) -> None:
        self._outs: dict[str, Output] = {out.fs_path: out for stage in stages for out in stage.outs}
        self._below: dict[str, list[Output]] = defaultdict(list)  # the large outs in a folder, at any depth
        for path, out in self._outs.items():
            for folder in Path(path).parents if is_large(out) else ():
                self._below[str(folder)].append(out)
        self._found: dict[str, tuple[Meta | None, HashInfo | None]] = {}

    def is_changed(self, stage: PipelineStage) -> bool:
        """Whether a cell has to run."""
        return (
            stage.changed_stage()
            or any(map(self.is_changed_dep, stage.deps))
            or any(map(self.is_changed_out, stage.outs))
        )

    def is_changed_dep(self, dep: Dependency) -> bool:
        """Whether what a cell reads is other than when it ran."""
        if isinstance(dep, ParamsDependency):
            return bool(dep.status())
        return not dep.hash_info or self.seen(dep)[1] != dep.hash_info

    def is_changed_out(self, out: Output) -> bool:
        """Whether what a cell left is not as recorded, unless it is in the cache or may be missing."""
        if is_missing(out):
            return out.changed_cache() and not is_large(out)
        return not out.hash_info or (self._found_at(out)[1] != out.hash_info and not self._is_stand_in(out))

    def is_code(self, dep: Dependency) -> bool:
        """Whether a cell depends on a path as code: it is neither parameters nor another cell's out."""
        return not (isinstance(dep, ParamsDependency) or dep.fs_path in self._outs or dep.fs_path in self._below)

    def inputs(self, stage: PipelineStage) -> Iterator[Output]:
        """The outs of other cells that a cell depends on, those in a folder that it depends on as a whole aside."""
        for dep in stage.deps:
            if dep.fs_path in self._outs:
                yield self._outs[dep.fs_path]

    def seen(self, dep: Dependency) -> tuple[Meta | None, HashInfo | None]:
        """Size and hash of what a cell reads, each missing out counted as dvc.lock has it."""
        out = self._outs.get(dep.fs_path)
        if out is not None and self._is_as_recorded(out):
            return out.meta, out.hash_info
        return self._found_at(dep)

    def take_over(self, stage: PipelineStage) -> None:
        """Has a cell's entry in dvc.lock say that it was made from what is seen now."""
        for dep in stage.deps:
            if not isinstance(dep, ParamsDependency):
                dep.meta, dep.hash_info = self.seen(dep)

    def _found_at(self, entry: Output) -> tuple[Meta | None, HashInfo | None]:
        """Size and hash of the file or folder of an out or a dep."""
        path = entry.fs_path
        if path not in self._found:
            self._found[path] = self._look(entry) if entry.exists else (None, None)
        return self._found[path]

    def _look(self, entry: Output) -> tuple[Meta, HashInfo]:
        meta, found = content(entry, entry.fs_path, ignore=entry.dvcignore)
        absent = [out for out in self._below.get(entry.fs_path, ()) if self._is_as_recorded(out)]
        for out in absent:
            key = tuple(os.path.relpath(out.fs_path, entry.fs_path).split(os.sep))
            here, _ = found.get(key, (None, None))
            meta.size = (meta.size or 0) + (out.meta.size or 0) - (here.size or 0 if here else 0)
            found.add(key, out.meta, out.hash_info)
        if absent:
            meta.nfiles = len(found)
            found.digest()
        return meta, found.hash_info

    def _is_as_recorded(self, out: Output) -> bool:
        return is_missing(out) or self._is_stand_in(out)

    def _is_stand_in(self, out: Output) -> bool:
        """Whether an out was made anew in place of a version that is nowhere; half an out is not in the cache."""
        if not (is_large(out) and out.hash_info and out.exists):
            return False
        found = self._found_at(out)[1]
        return found is not None and found != out.hash_info and out.changed_cache() and out.cache.exists(found.value)


def content(entry: Output, path: str, ignore: Any = None) -> tuple[Meta, Any]:
    """Size, and object with its hash, of the file or folder at ``path``, hashed as DVC hashes an out or a dep."""
    _, meta, found = build(entry.cache, path, entry.fs, entry.hash_name, ignore=ignore, dry_run=True)
    return meta, found
