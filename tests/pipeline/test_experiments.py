"""DVC's experiments: `dvc exp run`, `show`, `diff`, `apply` and `branch` see the metrics of every cell."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from small_project import ONLY_PPO, Project

from dapbench.pipeline.params import compose

RUN = "results/tiny/runs/hopper/ppo/0"
OF_THE_STUB = ("calls.txt", "pids.txt", ".dvc/.gitignore")  # the last is in the real project's git
PAPER = ("profile=paper", "profile.tasks=[hopper]", "profile.methods=[ppo]", "profile.seeds=[0]")
PAPER += ("profile.controls=null", "profile.ablations=null", "profile.log_qualities=null", "profile.overhead_tasks=[]")


class Experiments:
    """A small project in git whose PPO has run, on which experiments run."""

    def __init__(self, root: Path, overrides: tuple[str, ...]):
        self.project, self.overrides = Project(root), overrides
        self.git("init", "-q", "-b", "main")
        (root / ".git/info").mkdir(exist_ok=True)
        (root / ".git/info/exclude").write_text("\n".join(OF_THE_STUB))
        compose(root, list(overrides))
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "start")

    def git(self, *argv: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *argv]
        done = subprocess.run(command, cwd=self.project.root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def dvc(self, *argv: str) -> str:
        code = "import sys; from dvc.cli import main; sys.exit(main(sys.argv[1:]))"
        identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = self.project.python(code, *argv, **identity)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def run(self, name: str, gamma: float, cell: str, *options: str) -> str:
        """`dvc exp run` of a cell with another discount."""
        settings = (*self.overrides, f"method.ppo.gamma={gamma}")
        return self.dvc("exp", "run", *options, "-n", name, *(part for s in settings for part in ("-S", s)), cell)

    def shown(self) -> dict[str, dict[str, Any]]:
        """Every experiment's metrics by file, as `dvc exp show` has them."""
        baselines = json.loads(self.dvc("exp", "show", "--json"))
        revisions = [rev for base in baselines for group in base["experiments"] or [] for rev in group["revs"]]
        return {rev["name"]: rev["data"]["metrics"] for rev in revisions}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    made = Experiments(tmp_path_factory.mktemp("experiments"), ONLY_PPO)
    assert made.project.repro(*ONLY_PPO[1:]).returncode == 0
    for name, gamma in (("a", 0.5), ("b", 0.25)):
        made.run(name, gamma, "online@tiny-hopper-ppo-0")
    return made


def test_show_has_the_metrics_of_each_experiment(experiments: Experiments) -> None:
    shown = experiments.shown()
    for name, gamma in (("a", "0.5"), ("b", "0.25")):
        for file in ("summary.json", "timing.json"):
            assert shown[name][f"{RUN}/{file}"] == {"data": {"read": gamma, "out": RUN}}


def test_diff_compares_them(experiments: Experiments) -> None:
    compared = json.loads(experiments.dvc("exp", "diff", "a", "b", "--json"))
    values = {key: compared["metrics"][f"{RUN}/summary.json"]["read"][key] for key in ("old", "new")}
    assert values == {"old": "0.5", "new": "0.25"}
    assert compared["params"]["params.yaml"]["method.ppo.gamma"]["new"] == 0.25


def test_apply_brings_back_all_that_a_run_left(experiments: Experiments) -> None:
    root = experiments.project.root
    for name, gamma in (("a", "0.5"), ("b", "0.25"), ("a", "0.5")):
        experiments.dvc("exp", "apply", name)
        for file in ("summary.json", "timing.json", "curve.csv", "model.ckpt"):
            assert f'"{gamma}"' in (root / RUN / file).read_text(), file
    assert not (root / RUN / ".gitignore").exists()


def test_a_branch_holds_nothing_that_was_generated(experiments: Experiments) -> None:
    experiments.dvc("exp", "branch", "a", "of-a")
    changed = experiments.git("diff", "--name-only", "main", "of-a").split()
    assert changed == ["dvc.lock", "params.yaml"]
    untracked = experiments.git("ls-files", "--others", "--exclude-standard").split()
    assert untracked == ["dvc.lock"]


def test_plots_of_experiments_can_be_compared(experiments: Experiments) -> None:
    plotted = json.loads(experiments.dvc("plots", "diff", "a", "b", "--json"))
    assert f"{RUN}/curve.csv" in plotted["data"]
    assert not plotted.get("errors")


def test_an_experiment_in_a_folder_of_its_own(experiments: Experiments) -> None:
    before = (experiments.project.root / RUN / "summary.json").read_text()
    experiments.run("c", 0.125, "online@tiny-hopper-ppo-0", "--temp")
    assert experiments.shown()["c"][f"{RUN}/summary.json"]["data"]["read"] == "0.125"
    assert (experiments.project.root / RUN / "summary.json").read_text() == before


def test_the_paper_profiles_metrics_are_in_git_and_in_the_run_cache(tmp_path: Path) -> None:
    made, cell = Experiments(tmp_path, PAPER), "online_in_git@paper-hopper-ppo-0"
    made.run("a", 0.5, cell)
    kept = [f"results/paper/runs/hopper/ppo/0/{name}" for name in ("curve.csv", "summary.json", "timing.json")]
    commit = next(ref for ref in made.git("for-each-ref", "--format=%(refname)").split() if ref.endswith("/a"))
    assert made.git("ls-tree", "-r", "--name-only", commit, "results").split() == kept
    assert made.shown()["a"][kept[1]]["data"]["read"] == "0.5"
    made.project.calls()
    made.run("b", 0.25, cell)
    made.run("again", 0.5, cell, "-f")
    assert made.project.calls() == ["train runs/hopper/ppo/0"] * 2
