"""A small project in a temporary folder: the real pipeline over commands that only write what the real ones leave."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from dapbench.pipeline.bookkeeping import Bookkeeping
from dapbench.pipeline.params import compose

ROOT = Path(__file__).resolve().parents[2]

# Stands in for dapbench/cli.py: notes each call in calls.txt and writes the command's outs; fails on demand
# and waits for as long as a file named hold holds the command's name, or nothing. What it writes depends on a method's
# gamma, on RESULT in dapbench/rl/losses.py and, for a file, on the environment's WRITES_FILE, as of another machine.
STUB = """
import os, runpy, sys, time
from pathlib import Path

import yaml

OUTS = {
    "behaviour": ["policies.ckpt"],
    "collect": ["data.hdf5"],
    "pretrain": ["prior.ckpt", "quality.json"],
    "train": ["model.ckpt", "summary.json", "timing.json", "curve.csv"],
    "overhead": ["overhead.json"],
    "showcase": ["film.gif"],
    "report": ["index.html"],
}

def main():
    name, *argv = sys.argv[1:]
    root, where = Path.cwd(), ""
    if name == "-C":
        os.chdir(argv[0])
        where, name, argv = "scratch ", argv[1], argv[2:]
    arguments = dict(argument.split("=", 1) for argument in argv)
    params = yaml.safe_load(Path("params.yaml").read_text())
    out = Path(arguments.get("out", f"results/{arguments['profile']}/report"))
    with open(root / "pids.txt", "a") as pids:
        print(os.getpid(), file=pids)
    with open(root / "calls.txt", "a") as calls:
        print(f"{where}{name}", out.relative_to(f"results/{arguments['profile']}"), file=calls)
    hold = root / "hold"
    while hold.exists() and hold.read_text() in name:
        time.sleep(0.05)
    if os.environ.get("STUB_FAILS") in out.parts:
        sys.exit("dapbench: told to fail")
    out.mkdir(parents=True, exist_ok=True)
    result = runpy.run_path("dapbench/rl/losses.py").get("RESULT", "")
    for file in OUTS[name]:
        read = params["method"][arguments["method"]]["gamma"] if name == "train" else name
        read = f"{read}{result}{os.environ.get('WRITES_' + Path(file).stem.upper(), '')}"
        (out / file).write_text(f'{{"read": "{read}", "out": "{out}"}}')
"""

REPORT = """
def headline(results_dir, profile):
    return f"the headline of {profile['name']}"

def build_report(results_dir, profile):
    folder = results_dir / profile["name"]
    print("over", *sorted(path.name for path in folder.iterdir()), "with seeds", profile["seeds"])
    return folder / "report/index.html"
"""

TINY = """
defaults: [paper]
name: tiny
tasks: [hopper]
methods: [ppo, ppo_dap]
seeds: [0]
overhead_tasks: []
overhead_methods: [ppo_dap]
controls: null
ablations: null
log_qualities: null
"""

COPIED = [".gitignore", "dvc.yaml", ".dvc/config", ".dvcignore", "dapbench/pipeline", "dapbench/report/command.py"]
COPIED += [
    f"dapbench/{name}.py"
    for name in ("__init__", "__main__", "arguments", "config", "errors", "files", "profiles", "settings", "sources")
]
# What stands in for the code that cells run: each file's imports.
IMPORTS = {
    "dapbench/ppo.py": "from dapbench.rl import environments",
    "dapbench/ppo_dap.py": "from dapbench import ppo\nfrom dapbench.prior.base import Prior",
    "dapbench/rl/environments.py": "import dapbench.rl.losses",
    "dapbench/rl/losses.py": "",
    "dapbench/behaviour.py": "from dapbench import ppo",
    "dapbench/datasets/collecting.py": "from dapbench import behaviour",
    "dapbench/prior/base.py": "from dapbench.rl import environments",
    "dapbench/prior/diffusion.py": "from dapbench.prior import base",
    "dapbench/prior/pretraining.py": "from dapbench.prior import base",
    "dapbench/runs/training.py": "from dapbench import ppo",
    "dapbench/timing/overhead.py": "from dapbench.runs import training",
    "dapbench/showcase/showcase.py": "from dapbench.rl import environments",
    "dapbench/report/build.py": "import dapbench.profiles",
    "analysis/curves.py": "from dapbench import profiles",
}
# Folders that are large enough to fill up the lists of dependencies.
IMPORTS |= {f"dapbench/{room}/part{i}.py": "" for room in ("rl", "report") for i in range(14)}
GROUPS = {
    "task": {"hopper": "env_id: Hopper-v5", "ant": "env_id: Ant-v5"},
    "logs": {"medium": "behaviour_seed: 1000", "expert": "behaviour_seed: 1000"},
    "prior": {
        "diffusion": "_target_: dapbench.prior.diffusion.Diffusion\nwidth: 128",
        "gaussian": "_target_: dapbench.prior.diffusion.Gaussian\nwidth: 128",
    },
    "method": {
        "ppo": "_target_: dapbench.ppo.PPO\nstarts_from: nothing\ngamma: 0.99",
        "ppo_dap": "_target_: dapbench.ppo_dap.PPODAP\nstarts_from: prior\nprior: diffusion\ngamma: 0.99",
    },
}


def local_with_little() -> str:
    """The text of local.py without its libraries, which take longer to import than most tests last."""
    text = (ROOT / "dapbench/pipeline/local.py").read_text(encoding="utf-8")
    return re.sub(r"LIBRARIES = \[.*?\n\]", 'LIBRARIES = ["yaml", "no_such_library"]', text, flags=re.DOTALL)


class Project:
    """The pipeline in ``root``, with a profile ``tiny``: one task, ppo and ppo_dap, one seed."""

    def __init__(self, root: Path):
        self.root = root
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                self.write(name, source.read_text(encoding="utf-8"))
        for name, text in IMPORTS.items():
            self.write(name, f"# {name}\n{text}\n")
        self.write("dapbench/cli.py", STUB)
        self.write("dapbench/pipeline/local.py", local_with_little())
        self.write("dapbench/report/build.py", REPORT)
        self.write("dapbench/tracking/recording.py", "def prepare():\n    pass\n\ndef track_report(*_):\n    pass\n")
        for name in ("conf/pipeline.yaml", "conf/profile/paper.yaml"):
            self.write(name, (ROOT / name).read_text(encoding="utf-8"))
        self.write("conf/profile/tiny.yaml", TINY)
        self.write("conf/profile/quick.yaml", TINY.replace("tiny", "quick"))
        for group, files in GROUPS.items():
            for name, text in files.items():
                self.write(f"conf/{group}/{name}.yaml", f"name: {name}\n{text}\n")

    def write(self, file: str, text: str) -> None:
        """Writes a file below the root, making its folders."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def command(self, code: str, *argv: str) -> list[str]:
        """The command line that runs ``code`` with ``argv`` on this interpreter."""
        return [sys.executable, "-c", code, *argv]

    def environment(self, **variables: str) -> dict[str, str]:
        """Puts the copied package before the installed one, and this interpreter's commands before all others."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PYTHONPATH": str(self.root), "PATH": path} | variables

    def python(self, code: str, *argv: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs ``code`` in the root to its end."""
        return subprocess.run(
            self.command(code, *argv),
            cwd=self.root,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def repro(self, *argv: str, profile: str = "tiny", **variables: str) -> "subprocess.CompletedProcess[str]":
        """`dapbench repro` of a profile with further arguments."""
        return self.python(REPRO, f"profile={profile}", *argv, **variables)

    def start(self, *argv: str, hold: str = "", **variables: str) -> "subprocess.Popen[str]":
        """Starts `dapbench repro` for ppo alone, or as ``argv`` says; returns once a command waits for ``release``.

        With ``hold``, only commands of that name wait.
        """
        self.calls()
        self.write("hold", hold)
        calls = self.root / "calls.txt"
        command = self.command(REPRO, *ONLY_PPO, *argv)
        environment = self.environment(**variables)
        # Tests that run in the background inherit a Ctrl-C that is ignored.
        driver = subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_until(lambda: (calls.exists() and hold in calls.read_text()) or driver.poll() is not None, 120)
        assert driver.poll() is None, driver.communicate()
        return driver

    def release(self) -> None:
        """Lets commands end by themselves from now on."""
        (self.root / "hold").unlink()

    def commands(self) -> list[psutil.Process]:
        """The stub's processes that are at work for this project, on whatever engine."""
        pids = self.root / "pids.txt"
        found = []
        for pid in pids.read_text(encoding="utf-8").split() if pids.exists() else []:
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return list(filter(is_alive, found))

    def calls(self) -> list[str]:
        """The stub's calls since the last time, sorted: a command and the part of its out below results/tiny."""
        path = self.root / "calls.txt"
        calls = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(calls)

    def stale(self, *overrides: str, profile: str = "tiny") -> list[str]:
        """The cells that a run under ``overrides`` would go through."""
        compose(self.root, [f"profile={profile}", *overrides])
        bookkeeping = Bookkeeping()
        try:
            return sorted(bookkeeping.plan())
        finally:
            bookkeeping.close()

    def git(self, *argv: str) -> str:
        """What a git command prints that succeeds in the root."""
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *argv]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def changed(self) -> list[str]:
        """The files that are other than in git, or not in it and not ignored."""
        return [line.split()[-1] for line in self.git("status", "--porcelain", "--untracked-files=all").splitlines()]

    def results(self) -> dict[str, str]:
        """Every file below results, aside from the cells' logs and what a killed DVC leaves (see .dvcignore)."""
        found = (path for path in (self.root / "results").rglob("*") if path.is_file() and path.suffix != ".tmp")
        files = [path for path in found if "cell_logs" not in path.parts]
        return {str(path.relative_to(self.root)): path.read_text(encoding="utf-8") for path in files}


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for ``condition`` to hold; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still does something; a dead one that its parent has yet to reap does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


ONLY_PPO = ("profile=tiny", "profile.methods=[ppo]")
PPO_CALLS = ["report report", "showcase showcase/hopper/ppo", "train runs/hopper/ppo/0"]
ACCEPT = "import sys; from dapbench.pipeline.accepting import accept; sys.exit(accept(sys.argv[1:]))"
REPRO = "import sys; from dapbench.pipeline.commands import repro; sys.exit(repro(sys.argv[1:]))"
ALL_CALLS = [
    "behaviour behaviour/hopper/medium/0",
    "collect logs/hopper/medium/0",
    "pretrain priors/hopper/medium/0/diffusion",
    *PPO_CALLS,
    "showcase showcase/hopper/ppo_dap",
    "train runs/hopper/ppo_dap/0",
]
ALL_CALLS.sort()
