"""What the documents show runs as shown."""

import ast
import re
import shlex
import shutil
import subprocess
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


PAGES = [CONF.parent / "README.md", CONF.parent / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
COMMANDS = (
    "dapbench",
    "make",
    "dvc",
    "pip",
    "python",
    "mlflow",
    "ray",
    "export",
    "minari",
    "apt-get",
    "jupyter",
    "scancel",
)
QUOTED = re.compile(r"'[^']*'")
IN_DOUBLE = re.compile(r'"([^"]*)"')


def pasted(page: Path) -> list[str]:
    """The command lines of a page: those of blocks without a language, and the spans that are a command or a list."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    shown = [block.replace("\\\n", " ") for language, block in fenced if not language]
    lines = [line for block in shown for line in block.splitlines() if line]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    begins = [span for span in spans if span.partition(" ")[0] in COMMANDS or re.match(r"[A-Z_]+=\S+ \w", span)]
    return [*lines, *begins, *(span for span in spans if re.search(r"(^|[ '])[\w.+]+=\S*[\[{]", span))]


def unsafe(line: str) -> str:
    """What bash, zsh or fish would not take as it stands; nothing if all three take the line alike."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        return str(error)
    bare = QUOTED.sub("q", line)
    for text in IN_DOUBLE.findall(bare):
        if re.search(r"[$`!\\]", re.sub(r"\$(PWD|PATH)\b", "", text)):
            return f"an expansion in double quotes: {text}"
    bare = IN_DOUBLE.sub("q", bare)
    if found := re.search(r"[\[\]{}*?!^$`;]|(^|\s)[#~=]|<\(|\s\\$", bare):
        return f"{found[0].strip()} outside of quotes"  # a glob or brace; zsh takes # for a word
    if words[0] in (".", "source") or (words[0] == "export" and len(words) != 2):
        return "another shell has another form of this"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_command_can_be_pasted_into_bash_zsh_and_fish(page: Path) -> None:
    assert {line: unsafe(line) for line in pasted(page) if unsafe(line)} == {}
    assert not re.search(r"\n\n    (dapbench|dvc|make|[A-Z_]+=)", page.read_text()), "commands are in fenced blocks"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_reads_every_command_alike(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    lines = [line for page in PAGES for line in pasted(page) if line.split()[0] in COMMANDS and ">" not in line]
    lines = [line for line in lines if not line.startswith("export")]
    assert len(lines) > 30
    script = "\n".join(rf"printf '%s\n' {line}" for line in lines)  # nothing but printf runs
    done = subprocess.run([shell, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [word for line in lines for word in shlex.split(line)]


@pytest.mark.parametrize(
    "line",
    [
        "dapbench throughput peers=[sb3]",
        "dapbench repro method.mix={a:1}",
        "make mlflow   # the UI",
        ". .venv/bin/activate",
        "rm results/*",
        "dapbench train out=~/x !",
        'dapbench train out="$HOME/x"',
        "dapbench train out=$(pwd)",
        "dapbench train 'out=a",
        "export A=1 B=2",
    ],
)
def test_what_a_shell_would_not_take_is_seen(line: str) -> None:
    assert unsafe(line)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_path_is_set_alike(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (line,) = [line for line in pasted(CONF.parent / "README.md") if line.startswith("export ")]
    command = tmp_path / "a folder/.venv/bin/dapbench"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\necho it runs\n")
    command.chmod(0o755)
    done = subprocess.run(
        [shell, "-c", f"{line}\ndapbench\nls /"], cwd=tmp_path / "a folder", capture_output=True, text=True
    )
    assert done.stdout.startswith("it runs\n"), done.stderr
    assert done.stderr == ""


def test_messages_quote_the_lists_that_they_print() -> None:
    for file in [*(CONF.parent / "dapbench").rglob("*.py"), *(CONF.parent / "baselines").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError":
                said = ast.unparse(node)
                assert not re.search(r"(?<!['\w.])[\w.]+=\[(?!\d)", said), f"{file.name}: {said}"
