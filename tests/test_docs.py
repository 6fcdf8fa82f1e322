"""What the documents show runs as shown."""

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dapbench.config import CONF
from dapbench.runs.training import build, fit

DOCS = CONF.parent / "docs"


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)


def test_the_example_baseline_runs(small: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    (code,), (settings,) = blocks("adding-a-baseline.md", "python"), blocks("adding-a-baseline.md", "yaml")
    module = types.ModuleType("baselines.ppo_kl")
    exec(compile(code, "adding-a-baseline.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "baselines.ppo_kl", module)
    stated = yaml.safe_load(settings)
    assert stated.pop("defaults") == ["ppo"]
    config = small("task=reacher")
    config["method"] |= stated
    run = build(config)
    fit(run, [])
    assert run.carried.env_steps == 400
    assert float(run.kl_weight) != 1.0


def test_the_example_task_runs(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (settings,) = blocks("adding-a-task.md", "yaml")
    config = small("method=ppo")
    config["task"] = yaml.safe_load(settings)
    run = build(config)
    fit(run, [])
    assert run.carried.env_steps == 400
    assert float(run.action_space.low[0]) == -2.0


def test_every_setting_that_is_named_exists() -> None:
    choices, keys = {}, {}
    for group in ("method", "profile", "task"):
        contents = {file.stem: yaml.safe_load(file.read_text()) for file in (CONF / group).glob("*.yaml")}
        choices[group], keys[group] = set(contents), {key for content in contents.values() for key in content}
    for document in (CONF.parent / "README.md", CONF.parent / "CONTRIBUTING.md", *DOCS.glob("*.md")):
        # method.clip, or method.ppo.clip as params.yaml has it; not adding-a-task.md or dapbench.timing.profile
        named = re.findall(r"(?<![\w./-])(method|profile|task)\.(\w+)(?:\.(\w+))?", document.read_text())
        for group, name, inner in named:
            key = inner or name if name in choices[group] else name
            assert key in keys[group] | choices[group], f"{document.name} names {group}.{name}"
