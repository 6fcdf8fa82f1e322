"""The profile of PPO: every part that it names is counted."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from dapbench.runs.training import build, fit
from dapbench.timing.profile import PARTS, Profile


def test_the_parts_make_up_the_whole(small: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    fit(build(small("task=reacher", "method=ppo")), [Profile()])
    head, *rows = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"reacher: [\d.]+ µs a step of an environment", head)
    shares = {
        text: float(share) for share, text in (re.match(r" *([\d.]+) % .* µs  (.*)", row).groups() for row in rows)
    }
    assert list(shares) == list(PARTS.values())
    assert sum(shares.values()) == pytest.approx(100, abs=1)
    assert min(shares[PARTS[part]] for part in ("physics", "task", "vector", "collector", "advantages", "update")) > 0
