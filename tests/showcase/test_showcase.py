"""`dapbench showcase` on small trained runs: its files, the same bytes twice, and the reasons for what is not there."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dapbench.cli import main
from dapbench.errors import UserError
from dapbench.runs.training import train
from dapbench.showcase import showcase as command
from dapbench.showcase.showcase import showcase


@pytest.fixture(autouse=True)
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames that need no OpenGL; tests/showcase/test_film.py draws real ones."""
    monkeypatch.setattr(command, "choose_backend", lambda: None)
    monkeypatch.setattr(command, "film", lambda *_: [Image.new("RGB", (8, 6), c) for c in ("red", "blue")])


@pytest.fixture
def trained(tmp_path: Path, config_of: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Trains a method on Reacher; returns the showcase's configuration for it, and where the logs lie."""

    def make(method: str, *settings: str) -> dict[str, Any]:
        train(config_of(method, "reacher", f"out={tmp_path}/run", *settings))
        logs = tmp_path / "logs"
        return {
            "film": True,
            "run": str(tmp_path / "run"),
            "logs_dir": str(logs) if logs.exists() else None,
            "out": str(tmp_path / "a"),
        }

    return make


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_run_of_ppo_dap_and_its_bytes(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = trained("ppo_dap")
    showcase(config)
    made = contents(config["out"])
    assert capsys.readouterr().out.endswith(f"film.gif, marginals.npz, proposals.npz in {config['out']}\n")
    showcase(config | {"out": str(tmp_path / "b")})
    assert contents(str(tmp_path / "b")) == made
    described = json.loads(made.pop("showcase.json"))
    assert described == {
        "task": "reacher",
        "method": "ppo_dap",
        "seed": 0,
        "film_seconds": 4.0,
        "made": ["film.gif", "marginals.npz", "proposals.npz"],
        "absent": {},
    }
    assert sorted(made) == described["made"]
    with np.load(io.BytesIO(made["marginals.npz"])) as marginals:
        assert list(marginals) == ["logs", "prior", "guided", "policy"]
        assert {marginals[whose].shape for whose in marginals} == {(180, 2)}  # every state of the small logs
        assert all(np.abs(marginals[whose]).max() <= 1.0 for whose in marginals)
        assert {marginals[whose].dtype for whose in marginals} == {np.dtype(np.float32)}


def test_what_cannot_be_made_is_said_and_nothing_old_stays(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = trained("ppo_dap")
    showcase(config)

    def choose_backend() -> None:
        raise UserError("nothing here can draw")

    monkeypatch.setattr(command, "choose_backend", choose_backend)
    showcase(config | {"logs_dir": None})
    left = contents(config["out"])
    assert sorted(left) == ["proposals.npz", "showcase.json"]
    described = json.loads(left["showcase.json"])
    assert described["made"] == ["proposals.npz"]
    assert described["absent"]["film.gif"] == "nothing here can draw"
    assert "logs_dir was not given" in described["absent"]["marginals.npz"]


def test_a_run_of_another_method_has_a_film_alone(trained: Any) -> None:
    config = trained("ppo")
    showcase(config)
    described = json.loads(contents(config["out"])["showcase.json"])
    assert described["made"] == ["film.gif"]
    reason = "ppo is a PPO, which draws no proposals from a prior"
    assert described["absent"] == {"proposals.npz": reason, "marginals.npz": reason}


def test_proposals_end_with_the_terms_and_films_are_left_out_on_demand(trained: Any) -> None:
    config = trained("ppo_dap", "method.terms_decay=1e-6")
    showcase(config | {"film": False})
    described = json.loads(contents(config["out"])["showcase.json"])
    assert described["made"] == []
    ended = "the terms of ppo_dap ended before the run did, and Q has not learned since"
    assert described["absent"] == {"film.gif": "film=false", "proposals.npz": ended, "marginals.npz": ended}


def test_bad_input_is_one_line(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    config = trained("ppo_dap")
    with pytest.raises(UserError, match="there are no logs at logs_dir=nowhere"):
        showcase(config | {"logs_dir": "nowhere"})
    (tmp_path / "logs/data/metadata.json").write_text("{}")
    with pytest.raises(UserError, match="is not a Minari dataset"):
        showcase(config)
    with pytest.raises(UserError, match="no checkpoint at"):
        showcase(config | {"run": str(tmp_path)})
    (tmp_path / "run/model.ckpt").write_bytes(b"")
    monkeypatch.setattr("sys.argv", ["dapbench", "showcase", f"run={config['run']}", f"out={config['out']}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "is not a readable dapbench checkpoint" in capsys.readouterr().err
