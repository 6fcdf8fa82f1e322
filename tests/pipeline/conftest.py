"""A small project in a temporary folder: the real pipeline over commands that only write what the real ones leave."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from dapbench.pipeline.params import compose
from dapbench.pipeline.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]

# Called as `dapbench COMMAND key=value ...`: writes the command's outs, notes the call in calls.txt, fails on demand.
STUB = """
import os, sys
from pathlib import Path

import yaml

OUTS = {
    "collect": ["data.hdf5"],
    "pretrain": ["prior.ckpt", "quality.json"],
    "train": ["model.ckpt", "summary.json", "timing.json", "curve.csv"],
    "overhead": ["overhead.json"],
    "report": ["index.html"],
}

def main():
    name, *argv = sys.argv[1:]
    arguments = dict(argument.split("=", 1) for argument in argv)
    params = yaml.safe_load(Path("params.yaml").read_text())
    out = Path(arguments.get("out", f"results/{arguments['profile']}/report"))
    with open("calls.txt", "a") as calls:
        print(name, out, file=calls)
    if str(out) == os.environ.get("STUB_FAILS"):
        sys.exit("the stub was told to fail")
    if os.environ.get("STUB_SLEEPS"):
        import time
        time.sleep(float(os.environ["STUB_SLEEPS"]))
    out.mkdir(parents=True, exist_ok=True)
    for file in OUTS[name]:
        seen = [params["method"][arguments["method"]]] if "method" in arguments else []
        text = f"return_mean\\n{out} {seen}\\n"
        (out / file).write_text("{}" if file.endswith(".json") else text)
"""

FILES = ["dvc.yaml", ".dvc/config", ".dvcignore", "dapbench/__init__.py", "dapbench/errors.py", "dapbench/files.py"]
CODE = ["dapbench/on_policy/base.py", "dapbench/prior/diffusion.py", "dapbench/losses.py", "dapbench/logs.py"]
CODE += ["dapbench/collect.py"]
CODE += ["dapbench/ppo_dap.py", "baselines/ppo.py", "analysis/curves.py"]

TINY = """
defaults: [paper]
name: tiny
tasks: [hopper]
methods: [ppo, ppo_dap]
seeds: [0]
overhead_tasks: []
"""

REPORT = """
def build_report(results_dir, profile):
    raise NotImplementedError

def headline(results_dir, profile):
    return f"the headline of {profile['name']}"
"""


class Project:
    """A copy of the pipeline in ``root`` with a profile ``tiny``: one task, ppo and ppo_dap, one seed."""

    def __init__(self, root: Path):
        self.root = root
        for file in FILES:
            self.write(file, (ROOT / file).read_text(encoding="utf-8"))
        for folder in ("conf", "dapbench/pipeline"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in CODE:
            self.write(file, f"# {file}\n")
        self.write("conf/profile/tiny.yaml", TINY)
        self.write("dapbench/cli.py", STUB)
        self.write("dapbench/report/__init__.py", REPORT)
        self.write("dapbench/tracking.py", "def prepare():\n    pass\n")

    def write(self, file: str, text: str) -> None:
        """Writes a file below the root, making its folders."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def python(self, code: str, *argv: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs ``code`` in the root with the copied package ahead of the installed one."""
        environment = os.environ | {"PYTHONPATH": str(self.root)} | environment
        command = [sys.executable, "-c", code, *argv]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    def repro(self, *argv: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """`dapbench repro profile=tiny` with further arguments."""
        code = "import sys; from dapbench.pipeline.engine import repro; sys.exit(repro(sys.argv[1:]))"
        return self.python(code, "profile=tiny", *argv, **environment)

    def calls(self) -> list[str]:
        """What the stub was called for since the last time, sorted."""
        path = self.root / "calls.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(lines)

    def stale(self, *overrides: str) -> list[str]:
        """The cells that would run under ``overrides``, by their stages' names."""
        compose(self.root, ["profile=tiny", *overrides])
        return sorted(make_plan())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh small project without results."""
    return Project(tmp_path)


def lines(*parts: Sequence[str]) -> list[str]:
    """Sorted lines, each made of its parts."""
    return sorted(" ".join(part) for part in parts)
