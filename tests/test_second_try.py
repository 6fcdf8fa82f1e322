"""A second try after whatever happened to the first: killed late, half-made, moved, a stepped clock, a full disk."""

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from sizes import SMALL

from dapbench.datasets import episodes as logged
from dapbench.datasets.collecting import collect
from dapbench.errors import UserError
from dapbench.pipeline.alone import LOCK, alone
from dapbench.ppo import PPO
from dapbench.runs import resuming, training
from dapbench.runs.training import train
from dapbench.tracking.recording import track

Small = Callable[..., dict[str, Any]]
BYTES = ("curve.csv", "summary.json", "model.ckpt")
SIZES = ("task=reacher", "profile.epochs=3", "checkpoint_epochs=2")


class Killed(BaseException):
    """Stands for SIGKILL, which nothing catches."""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    from dapbench.config import compose

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    train(compose("train", *SMALL, *SIZES, f"out={out}"))
    return out


def killed_at(step: str, when: str, monkeypatch: pytest.MonkeyPatch) -> tuple[pytest.MonkeyPatch, Callable[..., None]]:
    """Kills whoever does ``step`` the next time, before or after it; returns the patch, and what records a run."""
    recorded: list[Path] = []

    def record(out: Path) -> None:
        recorded.append(out)

    owners: dict[str, tuple[Any, str]] = {
        "model": (training.fitting.pl.Trainer, "save_checkpoint"),
        "curve": (training, "write_curve"),
        "timing": (training, "write_timing"),
        "summary": (training, "write_json"),
        "remove": (resuming.Resume, "remove"),
        "times again": (training, "write_timing"),
    }
    if step != "record":
        owner, name = owners[step]
        done, calls = getattr(owner, name), []
        # Of the saves the second is the model's; the times are written once more after recording.
        fatal = {"model": 2, "times again": 2}.get(step, 1)

        def dies(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == fatal and when == "before":
                raise Killed
            result = done(*args, **kwargs)
            if len(calls) == fatal:
                raise Killed
            return result

        monkeypatch.setattr(owner, name, dies)
        return monkeypatch, record

    def killed_record(out: Path) -> None:
        if when == "after":
            record(out)
        raise Killed

    return monkeypatch, killed_record


# After a step is before the next one.
STEPS = [(step, "before") for step in ("model", "curve", "timing", "summary", "record", "times again", "remove")]
STEPS += [("remove", "after")]


@pytest.mark.parametrize(
    ("step", "when", "removes_outs"), [*((*step, False) for step in STEPS), *((*step, True) for step in STEPS[3:])]
)
def test_a_run_killed_at_a_last_step_ends_on_the_second_try(
    small: Small, tmp_path: Path, whole_run: Path, step: str, when: str, removes_outs: bool
) -> None:
    """Ray and SLURM run the same command again; with the local engine DVC removes the cell's outs before."""
    out = tmp_path / "run"
    config = small(*SIZES, f"out={out}")
    with pytest.MonkeyPatch.context() as patch:
        _, record = killed_at(step, when, patch)
        with pytest.raises(Killed):
            train(config, record)
    assert (out / "resume.ckpt").exists() or (step, when) == ("remove", "after")
    (out / ".summary.json.abcdefgh").write_text("{")  # as a process that is killed leaves it
    if removes_outs:
        for name in (*BYTES, "timing.json"):
            (out / name).unlink(missing_ok=True)
    seen: list[bool] = []
    train(config, lambda folder: seen.append((folder / "summary.json").exists()))
    assert seen == [True]
    for name in BYTES:
        assert (out / name).read_bytes() == (whole_run / name).read_bytes(), name
    assert sorted(path.name for path in out.iterdir()) == sorted([*BYTES, "timing.json"])


def test_a_run_killed_while_mlflow_records_it_is_recorded_once(small: Small, tmp_path: Path, database: Path) -> None:
    from mlflow.tracking import MlflowClient

    shutil.copy(database, tmp_path / "mlflow.db")
    out = tmp_path / "run"
    config = small(*SIZES, f"out={out}")
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_: Any, **__: Any) -> None:
            raise Killed

        patch.setattr(MlflowClient, "set_terminated", killed)
        with pytest.raises(Killed):
            train(config, track)
    train(config, track)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (experiment,) = client.search_experiments(filter_string="name = 'dapbench/smoke/reacher'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"


def test_a_finished_run_without_its_model_is_made_whole(small: Small, tmp_path: Path, whole_run: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole_run, out)
    (out / "model.ckpt").unlink()
    train(small(*SIZES, f"out={out}"))
    assert (out / "model.ckpt").read_bytes() == (whole_run / "model.ckpt").read_bytes()


def test_a_finished_run_of_other_settings_stays(small: Small, tmp_path: Path, whole_run: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole_run, out)
    with pytest.raises(UserError, match="already holds a finished run"):
        train(small(*SIZES, f"out={out}", "method.gamma=0.9"))
    (out / "timing.json").write_text("{}")  # of a version that did not say what the run is
    with pytest.raises(UserError, match="already holds a finished run"):
        train(small(*SIZES, f"out={out}"))
    assert (out / "summary.json").read_bytes() == (whole_run / "summary.json").read_bytes()


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may be larger than ``size`` bytes, which fails as a full disk does: within the write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_save_that_fails_leaves_the_earlier_one_and_the_run_goes_on(
    small: Small, tmp_path: Path, whole_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    config = small("task=reacher", "profile.epochs=3", "checkpoint_epochs=1", f"out={out}")
    step, seen = PPO.training_step, []

    def training_step(self: PPO, *args: Any) -> Any:
        seen.append(self.carried.iteration)
        if len(seen) == 3:
            raise Killed
        return step(self, *args)

    on_train_epoch_end = resuming.Resume.on_train_epoch_end

    def saved(self: Any, *args: Any) -> None:
        with small_files(2000 if len(seen) == 2 else resource.RLIM_INFINITY):
            on_train_epoch_end(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPO, "training_step", training_step)
        patch.setattr(resuming.Resume, "on_train_epoch_end", saved)
        with pytest.raises(Killed):
            train(config)
    said = capsys.readouterr().err
    assert f"cannot write {out}/resume.ckpt: File too large" in said
    assert f"the run goes on, from {out}/resume.ckpt if stopped" in said
    train(config)
    assert "going on from epoch 1" in capsys.readouterr().err
    assert (out / "model.ckpt").read_bytes() == (whole_run / "model.ckpt").read_bytes()


@pytest.mark.parametrize(("step", "size"), [("model.ckpt", 2000), ("curve.csv", 100), ("summary.json", 900)])
def test_a_disk_that_is_full_at_the_end_costs_nothing(
    small: Small, tmp_path: Path, whole_run: Path, monkeypatch: pytest.MonkeyPatch, step: str, size: int
) -> None:
    out = tmp_path / "run"
    config = small(*SIZES, f"out={out}")
    names = {"model.ckpt": (training, "whole"), "curve.csv": (training, "write_curve")}
    owner, name = names.get(step, (training, "write_json"))
    write = getattr(owner, name)
    if step == "model.ckpt":

        @contextmanager
        def limited(path: Path) -> Iterator[Path]:
            with write(path) as temporary, small_files(size):
                yield temporary
    else:

        def limited(*args: Any) -> None:  # type: ignore[misc]
            with small_files(size):
                write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, limited)
        with pytest.raises(UserError, match=f"cannot write {out}/{step}: File too large; .* free some space"):
            train(config)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    train(config)
    assert (out / "summary.json").read_bytes() == (whole_run / "summary.json").read_bytes()


def test_a_prior_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    from dapbench.files import whole
    from dapbench.prior.base import build_prior

    prior = build_prior(11, 3, {"_target_": "dapbench.prior.gaussian.GaussianPrior", "width": 64, "depth": 1})
    with (
        pytest.raises(UserError, match=r"cannot write .*prior.ckpt: File too large"),
        small_files(1000),
        whole(tmp_path / "prior.ckpt") as temporary,
    ):
        prior.save(temporary, {})
    assert list(tmp_path.iterdir()) == []


BEHAVIOUR = ["behaviour.num_envs=4", "behaviour.rollout_steps=50", "behaviour.minibatch_size=50"]
LOGS = ["task=reacher", "profile=smoke", "profile.epoch_steps=200", "profile.behaviour_epochs=1", *BEHAVIOUR]


def test_logs_on_a_full_disk_leave_the_earlier_ones(compose: Small, tmp_path: Path) -> None:
    out = tmp_path / "logs"
    config = compose("collect", *LOGS, "profile.log_transitions=100", f"out={out}")
    collect(config)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"cannot write {out}: "), small_files(3000):
        collect(config)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_logs_that_were_killed_half_made_leave_nothing(
    compose: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that lies in the folder of the logs DVC takes a hash."""
    out = tmp_path / "logs"
    (out / ".data.half").mkdir(parents=True)
    (out / ".data.half/main_data.hdf5").write_text("half")
    config = compose("collect", *LOGS, "profile.log_transitions=100", f"out={out}")
    collect(config)
    assert [path.name for path in out.iterdir()] == ["data"]
    # Killed between taking the earlier ones away and putting the new ones in place.
    before = (out / "data/main_data.hdf5").read_bytes()
    with monkeypatch.context() as patch:
        rename = Path.rename

        def dies(self: Path, target: Path) -> Path:
            if Path(target).name == "data":
                raise Killed
            return rename(self, target)

        patch.setattr(Path, "rename", dies)
        patch.setattr(logged.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            collect(config)
    collect(config)
    assert [path.name for path in out.iterdir()] == ["data"]
    assert (out / "data/main_data.hdf5").read_bytes() == before


def test_a_moved_project_goes_on(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        _, record = killed_at("record", "before", patch)
        with pytest.raises(Killed):
            train(small(*SIZES, f"out={out}"), record)
    (out / "summary.json").unlink()
    moved = tmp_path / "elsewhere/run"
    moved.parent.mkdir()
    out.rename(moved)
    train(small(*SIZES, f"out={moved}"))
    assert "going on from epoch 2" in capsys.readouterr().err


def test_a_moved_project_has_the_same_fingerprints(small: Small, tmp_path: Path) -> None:
    """The order in which code and inputs count is not that of their paths."""
    from dapbench.runs.training import build

    seen = set()
    for place in ("a", "z"):
        folder = tmp_path / place
        (folder / "dapbench").mkdir(parents=True)
        code, inputs = folder / "dapbench/code.py", tmp_path / "logs" / place
        code.write_text("code")
        inputs.mkdir(parents=True)
        (inputs / "data").write_text("inputs")
        module = build(small("task=reacher"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resuming, "_code", lambda _, code=code: [code])
            data = tmp_path / "m" / "data" if place == "a" else inputs / "data"
            data.parent.mkdir(exist_ok=True)
            data.write_text("inputs")
            patch.setattr(resuming, "_inputs", lambda _, data=data: iter([data]))
            seen.add(resuming.fingerprint(module))
    assert len(seen) == 1


@pytest.mark.parametrize("stamp", [0, 4_102_444_800], ids=["1970", "2100"])
def test_a_stepped_clock_neither_hides_a_run_nor_its_record(
    small: Small, tmp_path: Path, whole_run: Path, database: Path, stamp: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(database, tmp_path / "mlflow.db")
    out = tmp_path / "run"
    shutil.copytree(whole_run, out)
    for path in out.iterdir():
        os.utime(path, (stamp, stamp))
    assert track(out)
    train(small(*SIZES, f"out={out}"), track)
    assert capsys.readouterr().err == f"out={out} holds this very run already\n"


def test_a_stepped_clock_does_not_hide_new_parameters(tmp_path: Path) -> None:
    """DVC's reading of params.yaml is kept for as long as it is the same file, whatever its time says."""
    from dvc.dependency import param
    from dvc.fs import LocalFileSystem

    from dapbench.files import write_text
    from dapbench.pipeline.bookkeeping import _read_params_once

    before = param.read_param_file
    try:
        _read_params_once()
        path, found = tmp_path / "params.yaml", []
        for gamma in (0.9, 0.8):
            write_text(path, f"gamma: {gamma}\n")
            os.utime(path, (1, 1))
            found.append(param.read_param_file(LocalFileSystem(), str(path), ["gamma"], flatten=True))
    finally:
        param.read_param_file = before
    assert found == [{"gamma": 0.9}, {"gamma": 0.8}]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EACCES])
def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("dapbench.pipeline.alone.fcntl.flock", refused)
    with pytest.raises(UserError, match=f"cannot lock {tmp_path}/{LOCK}: {os.strerror(number)}; "), alone(tmp_path):
        pass


def test_results_that_may_not_be_written_to_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dapbench.report import command
    from dapbench.timing.overhead import overhead

    (tmp_path / "results/smoke/report/tables").mkdir(parents=True)
    (tmp_path / "results/smoke/report/tables/a.csv").write_text("kept")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dapbench.files.os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"cannot write results/smoke/report: .* may not be written to"):
        command.report(["profile=smoke"])
    assert Path("results/smoke/report/tables/a.csv").exists()
    from dapbench.config import compose

    with pytest.raises(UserError, match=r"cannot write results/smoke/overhead/reacher: .* may not be written to"):
        overhead(compose("overhead", "profile=smoke", "task=reacher"))


def test_a_project_that_may_not_be_written_to_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").write_text("a file where a folder belongs")
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/{LOCK}: Not a directory"), alone(tmp_path):
        pass


def test_what_a_killed_dvc_leaves_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    rwlock = tmp_path / ".dvc/tmp/rwlock"
    for text in ("", '{"a": {"write": {"pid": 999999', json.dumps({"a": {"write": {"pid": 1, "cmd": "dvc repro"}}})):
        rwlock.write_text(text)
        with alone(tmp_path):
            assert not rwlock.exists()
