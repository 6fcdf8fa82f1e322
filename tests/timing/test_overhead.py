"""Overhead: ratios by hand, and one real measurement."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dapbench.errors import UserError
from dapbench.timing.overhead import overhead, ratios

SMALL = ("task=reacher", "profile=smoke", "profile.overhead_pairs=1", "profile.overhead_epochs=1")


def test_ratios_are_medians_within_repeats() -> None:
    walls = {"ppo": [1.0, 2.0, 4.0], "other": [2.0, 3.0, 4.0]}
    runs = [
        {"method": method, "repeat": repeat, "wall_seconds": wall, "peak_memory_bytes": 100 * wall}
        for method, values in walls.items()
        for repeat, wall in enumerate(values)
    ]
    assert ratios(runs) == {"ppo": {"wall": 1.0, "memory": 1.0}, "other": {"wall": 1.5, "memory": 1.5}}


def test_a_measurement(
    compose: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overhead(compose("overhead", *SMALL, "methods=[ppo_rnd]", "json=true", f"out={tmp_path}"))
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"task", "ppo", "ppo_rnd"}
    written = json.loads((tmp_path / "overhead.json").read_text())
    assert written["ppo_rnd"] == printed["ppo_rnd"]
    assert [(run["method"], run["repeat"]) for run in written["runs"]] == [("ppo", 1), ("ppo_rnd", 1)]
    assert 0.2 < printed["ppo_rnd"]["wall"] < 5.0


def test_bad_input_is_one_line(compose: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown method 'sac' in methods; choose one of "):
        overhead(compose("overhead", *SMALL, "methods=[sac]", f"out={tmp_path}"))
    with pytest.raises(UserError, match=r"profile\.overhead_pairs=0 is not a whole number"):
        overhead(compose("overhead", *SMALL, "profile.overhead_pairs=0", f"out={tmp_path}"))
