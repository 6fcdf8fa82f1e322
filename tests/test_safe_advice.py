"""Advice that is safe: data are called damaged, and are to be made again, only when they are."""

import errno
import fcntl
import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from dapbench.cli import main
from dapbench.datasets import reference
from dapbench.datasets.episodes import Episode, load_episodes, write_dataset
from dapbench.errors import UserError
from dapbench.files import Withheld
from dapbench.prior.base import read_prior
from dapbench.report.results import read_json
from dapbench.runs.evaluation import load_run
from dapbench.runs.resuming import Resume
from dapbench.runs.training import build, train
from dapbench.tracking.recording import track

Small = Callable[..., dict[str, Any]]
HARM = re.compile(r"again\b(?! once)|delete|damaged|remove|not a readable|not readable")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SPACES = Box(-np.inf, np.inf, (10,), np.float64), Box(-1.0, 1.0, (2,), np.float32)
# What the system says, and what is to be done.
TROUBLES = {
    errno.EACCES: "you have no right to it; ask its owner for it",
    errno.EMFILE: "too many files are open; raise the limit .ulimit -n. or run fewer at once",
    errno.EAGAIN: "another process holds it; wait for that to end",
    errno.ENOLCK: "HDF5_USE_FILE_LOCKING=FALSE",
    errno.ENOMEM: "free some memory",
    errno.ETIMEDOUT: "its disk or network share does not answer",
    errno.ESTALE: "its disk or network share does not answer",
    errno.EIO: "its disk or network share does not answer",
}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    ended = np.arange(60) == 59
    episode = Episode(np.zeros((61, 10)), np.full((60, 2), 0.1), np.zeros(60), ended, ~ended)
    write_dataset(tmp_path / "logs", [episode] * 2, *SPACES, dataset_id="test/reacher-v0", metadata={})
    return tmp_path / "logs"


def said(function: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as error:
        function()
    text = str(error.value)
    assert "\n" not in text
    return text


def fails(number: int) -> Callable[..., Any]:
    def raises(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return raises


def test_a_dataset_that_another_process_has_locked(logs: Path) -> None:
    with (logs / "data/main_data.hdf5").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        text = said(lambda: load_episodes(logs, *SPACES))
    assert "main_data.hdf5 cannot be used now: another process holds it; wait for that to end" in text
    assert not HARM.search(text)
    assert load_episodes(logs, *SPACES)[1]["transitions"] == 120


@pytest.mark.parametrize(("number", "advice"), TROUBLES.items(), ids=[errno.errorcode[n] for n in TROUBLES])
@pytest.mark.parametrize("what", ["dataset", "metadata", "prior", "run", "results", "scores"])
def test_what_the_system_does_not_give_out_is_not_damaged(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int, advice: str
) -> None:
    (tmp_path / "file").write_text("{}")
    for name in ("model.ckpt", "prior.ckpt"):
        torch.save({}, tmp_path / name)
    if what == "dataset":
        monkeypatch.setattr("minari.MinariDataset", fails(number))
    elif what in ("prior", "run"):
        monkeypatch.setattr("torch.load", fails(number))
    else:
        monkeypatch.setattr(Path, "read_text", fails(number))
    reads: dict[str, Callable[[], Any]] = {
        "dataset": lambda: load_episodes(logs, *SPACES),
        "metadata": lambda: load_episodes(logs, *SPACES),
        "prior": lambda: read_prior(tmp_path / "prior.ckpt"),
        "run": lambda: load_run(tmp_path),
        "results": lambda: read_json(tmp_path / "file", []),
        "scores": lambda: reference.read_entries(tmp_path / "file"),
    }
    text = said(reads[what])
    assert re.search(advice, text)
    assert not HARM.search(text)


def test_a_read_that_fails_in_the_middle_of_a_dataset(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 tells the system's error in its text alone."""

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError("Can't synchronously read data (file read failed: time = Wed, errno = 5, error message = 'I')")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", fails)
    text = said(lambda: load_episodes(logs, *SPACES))
    assert "its disk or network share does not answer" in text
    assert not HARM.search(text)


@pytest.mark.parametrize("file", ["data/metadata.json", "data/main_data.hdf5"])
def test_a_dataset_of_pointers(logs: Path, file: str) -> None:
    (logs / file).write_text(POINTER)
    text = said(lambda: load_episodes(logs, *SPACES))
    assert f"{logs / file} is a pointer of Git LFS; fetch the file itself with git lfs pull" in text
    assert not HARM.search(text)


def test_checkpoints_and_results_that_are_pointers(tmp_path: Path) -> None:
    for name, read in {
        "model.ckpt": lambda path: load_run(path.parent),
        "prior.ckpt": read_prior,
        "summary.json": lambda path: read_json(path, []),
    }.items():
        (tmp_path / name).write_text(POINTER)
        text = said(lambda read=read, name=name: read(tmp_path / name))
        assert "is a pointer of Git LFS; fetch the file itself with git lfs pull" in text
        assert not HARM.search(text)


def test_a_truncated_download_is_damaged(logs: Path) -> None:
    file = logs / "data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[:-1000])
    text = said(lambda: load_episodes(logs, *SPACES))
    assert "truncated file" in text
    assert "collect, copy or download it again" in text
    assert "delete" not in text


def test_a_half_downloaded_public_dataset_names_what_to_remove(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minari keeps what it has, so that without its removal nothing is downloaded again."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    kept = tmp_path / "test/reacher-v0"
    kept.parent.mkdir()
    logs.rename(kept)
    file = kept / "data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[:-1000])
    assert f"remove {kept}, and it is downloaded again" in said(
        lambda: load_episodes("minari:test/reacher-v0", *SPACES)
    )
    (kept / "data/metadata.json").unlink()
    assert f"remove {kept}, and it is downloaded again" in said(
        lambda: load_episodes("minari:test/reacher-v0", *SPACES)
    )


def test_a_dataset_of_a_newer_minari(logs: Path) -> None:
    file = logs / "data/metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"minari_version": "9.9.9"}))
    text = said(lambda: load_episodes(logs, *SPACES))
    assert "it was written by Minari 9.9.9, and this is " in text
    assert not HARM.search(text)


def test_a_checkpoint_of_a_newer_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prior.ckpt").touch()

    def newer(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "Attempted to read a PyTorch file with version 11, but the maximum supported version for reading is 10. "
            "Your PyTorch installation may be too old."
        )

    monkeypatch.setattr("torch.load", newer)
    text = said(lambda: read_prior(tmp_path / "prior.ckpt"))
    assert "prior.ckpt was written by a newer torch than this (" in text
    assert not HARM.search(text)


@pytest.mark.parametrize("change", ["setting", "weights"])
def test_a_run_of_another_version_is_not_to_be_trained_again(small: Small, tmp_path: Path, change: str) -> None:
    train(small("task=reacher", "profile.epochs=1", f"out={tmp_path}"))
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    if change == "setting":
        content["config"]["method"]["momentum"] = 0.5
    else:
        content["state_dict"]["actor.new"] = torch.zeros(1)
    torch.save(content, tmp_path / "model.ckpt")
    text = said(lambda: load_run(tmp_path))
    assert "is of other code than this" in text
    assert "use the version of dapbench that made it" in text
    assert not HARM.search(text)


def test_a_save_that_cannot_be_read_now_is_not_written_over(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting over would lose it."""
    config = small("task=reacher", f"out={tmp_path}")
    saved = tmp_path / "resume.ckpt"
    torch.save({}, saved)
    before = saved.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("torch.load", fails(errno.EMFILE))
        with pytest.raises(Withheld, match=r"resume.ckpt cannot be used now: too many files are open"):
            train(config)
    assert saved.read_bytes() == before
    assert Resume(build(config), 1).found() is None  # which is damaged, and starts over


def test_too_little_memory_is_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: Any, **__: Any) -> Any:
        raise MemoryError

    (tmp_path / "prior.ckpt").touch()
    monkeypatch.setattr("torch.load", raises)
    text = said(lambda: read_prior(tmp_path / "prior.ckpt"))
    assert "free some memory" in text
    assert not HARM.search(text)


def test_a_locked_database_is_for_later(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dapbench.tracking.recording.LOCKED_SECONDS", 0.1)
    train(small("task=reacher", "profile.epochs=1", f"out={tmp_path / 'run'}"))
    capsys.readouterr()
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("CREATE TABLE runs (id)")
        other.execute("BEGIN EXCLUSIVE")
        assert not track(tmp_path / "run")
    text = capsys.readouterr().err
    assert "`dapbench track" in text
    assert "does it later: database is locked" in text
    assert not HARM.search(text)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.ETIMEDOUT])
def test_a_folder_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    """Even to ask whether a file is there fails then."""
    monkeypatch.chdir(tmp_path)

    is_there = Path.is_file

    def is_file(self: Path) -> bool:
        if self.name == "model.ckpt":
            raise OSError(number, os.strerror(number), str(self))
        return is_there(self)

    monkeypatch.setattr("sys.argv", ["dapbench", "evaluate", "run=away"])
    monkeypatch.setattr("dapbench.runs.evaluation.Path.is_file", is_file)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(f"^dapbench: away/model.ckpt .*{TROUBLES[number]}", line)
