"""A clone stands on the paper profile's small files: what DVC's cache held of them is not there and not needed."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml
from small_project import ACCEPT, Project

SMALL = {"tasks": ["hopper"], "methods": ["ppo", "ppo_dap"], "seeds": [0], "overhead_tasks": ["hopper"]}
SMALL |= {"overhead_methods": ["ppo_dap"]}
SMALL |= dict.fromkeys(("controls", "ablations", "log_qualities"))
OF_THE_STUB = ("calls.txt", "pids.txt", ".dvc/.gitignore")  # the last is in the real project's git
RUNS = [f"results/paper/runs/hopper/{method}/0/" for method in ("ppo", "ppo_dap")]
LOGS = "results/paper/logs/hopper/medium/0"
IN_GIT = [
    "results/paper/behaviour/hopper/medium/0/policies.ckpt",
    "results/paper/overhead/hopper/ppo_dap/overhead.json",
    *(f"results/paper/priors/hopper/medium/0/diffusion/{name}" for name in ("prior.ckpt", "quality.json")),
    "results/paper/report/index.html",
    *(f"{run}{name}" for run in RUNS for name in ("curve.csv", "summary.json", "timing.json")),
    *(f"results/paper/showcase/hopper/{method}/film.gif" for method in ("ppo", "ppo_dap")),
]
COLLECT, TRAIN = "collect logs/hopper/medium/0", "train runs/hopper/{}/0"
SHOWCASES = ["showcase showcase/hopper/ppo", "showcase showcase/hopper/ppo_dap"]
PLAIN_DVC = "import sys; from dvc.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project whose paper profile has run and been committed."""
    made = Project(tmp_path_factory.mktemp("origin"))
    in_profile(made, **SMALL)
    made.git("init", "-q", "-b", "main")
    run = made.repro(profile="paper")
    assert run.returncode == 0, run.stderr
    return committed(made)


@pytest.fixture
def clone(origin: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A clone without a cache, as the current folder."""
    monkeypatch.chdir(tmp_path)
    return cloned(origin, tmp_path / "clone", monkeypatch)


def committed(project: Project) -> Project:
    project.calls()
    (project.root / ".git/info").mkdir(exist_ok=True)
    (project.root / ".git/info/exclude").write_text("\n".join(OF_THE_STUB))
    project.git("add", "-A")
    project.git("commit", "-q", "-m", "results")
    return project


def cloned(project: Project, root: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project.git("clone", "-q", str(project.root), str(root))
    made = copy.copy(project)
    made.root = root
    shutil.copy(project.root / ".git/info/exclude", root / ".git/info/exclude")
    monkeypatch.chdir(root)
    return made


def in_profile(project: Project, **changes: object) -> None:
    file = project.root / "conf/profile/paper.yaml"
    profile = yaml.safe_load(file.read_text(encoding="utf-8"))
    project.write("conf/profile/paper.yaml", yaml.safe_dump(profile | changes))


def add_method(project: Project, starts_from: str) -> None:
    settings = f"defaults: [ppo]\nname: added\n_target_: baselines.added.Added\nstarts_from: {starts_from}\n"
    project.write("conf/method/added.yaml", f"{settings}prior: diffusion\n")
    project.write("baselines/added.py", "from dapbench import ppo\n")
    in_profile(project, methods=["ppo", "ppo_dap", "added"])


def change(project: Project, file: str) -> None:
    project.write(file, f"{(project.root / file).read_text(encoding='utf-8')}\n# changed\n")


def run(project: Project, profile: str = "paper", **variables: str) -> tuple[list[str], str, str]:
    """The calls of a `dapbench repro` that succeeds, and what it prints."""
    done = project.repro(profile=profile, **variables)
    assert done.returncode == 0, done.stderr
    return project.calls(), done.stdout, done.stderr


def test_git_has_the_small_files_and_nothing_else(origin: Project) -> None:
    origin.write("results/paper/report/notebooks/curves.html", "")  # as the real report leaves them
    origin.write(f"{RUNS[0]}resume.ckpt", "")
    assert origin.changed() == []
    assert origin.git("ls-files", "results").split() == sorted(IN_GIT)


def test_a_clone_is_up_to_date(clone: Project) -> None:
    calls, told, _ = run(clone)
    assert calls == []
    assert "profile paper: up to date" in told
    assert clone.changed() == []


def test_of_a_clone_with_a_method_more_only_its_cells_and_the_report_run(
    clone: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_method(clone, "prior")
    before = (clone.root / "dvc.lock").read_text(encoding="utf-8")
    assert run(clone)[0] == ["report report", "train runs/hopper/added/0"]
    added = [f"results/paper/runs/hopper/added/0/{name}" for name in ("curve.csv", "summary.json", "timing.json")]
    of_the_method = ["baselines/added.py", "conf/method/added.yaml", "conf/profile/paper.yaml", "params.yaml"]
    assert set(clone.changed()) == {*of_the_method, "dvc.lock", *added}
    lock = yaml.safe_load((clone.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert lock.pop("online_in_git@paper-hopper-added-0")
    assert {cell for cell, entry in yaml.safe_load(before)["stages"].items() if lock.pop(cell) != entry} == {
        "report@paper"
    }
    assert not lock
    assert clone.stale(profile="paper") == []
    assert cloned(committed(clone), tmp_path / "next", monkeypatch).stale(profile="paper") == []


def test_what_a_stale_cell_needs_is_made_again_and_nothing_of_it_changes(clone: Project) -> None:
    change(clone, "dapbench/showcase/showcase.py")
    needed = [COLLECT, TRAIN.format("ppo"), TRAIN.format("ppo_dap")]
    calls, _, error = run(clone, WRITES_TIMING="later")
    assert calls == sorted([*(f"scratch {call}" for call in needed), *SHOWCASES])
    assert clone.changed() == ["dapbench/showcase/showcase.py", "dvc.lock"]
    assert "note:" not in error
    assert not (clone.root / ".dvc/tmp/scratch").exists()
    assert clone.stale(profile="paper") == []
    assert (clone.root / LOGS / "data.hdf5").exists()
    shutil.rmtree(clone.root / LOGS)
    assert clone.stale(profile="paper") == []
    assert (clone.root / LOGS / "data.hdf5").exists(), "the cache has them by now"


def test_what_proves_stale_on_the_way_gets_what_it_needs_too(clone: Project) -> None:
    change(clone, "dapbench/runs/training.py")
    assert "collect@paper-hopper-medium-0" not in clone.stale(profile="paper")
    calls = run(clone, WRITES_MODEL="another")[0]  # only now the showcases are stale
    assert [call for call in calls if "report" not in call] == sorted(
        [
            f"scratch {COLLECT}",
            *SHOWCASES,
            *(TRAIN.format(method) for method in ("ppo", "ppo_dap")),
            "overhead overhead/hopper/ppo_dap",
        ]
    )
    assert clone.stale(profile="paper") == []


def test_logs_of_another_machine_stand_in_for_those_that_are_nowhere(
    clone: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_method(clone, "logs")
    before = yaml.safe_load((clone.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    calls, _, error = run(clone, WRITES_DATA="another")
    assert calls == sorted([f"scratch {COLLECT}", "train runs/hopper/added/0", "report report"])
    assert f"note: {LOGS} was made again and is not as in dvc.lock" in error
    assert clone.stale(profile="paper") == []
    lock = yaml.safe_load((clone.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert all(lock[cell] == entry for cell, entry in before.items() if cell != "report@paper")
    assert cloned(committed(clone), tmp_path / "next", monkeypatch).stale(profile="paper") == []
    monkeypatch.chdir(clone.root)
    clone.write(f"{LOGS}/data.hdf5", "half")  # neither what was recorded nor what was made
    assert "collect@paper-hopper-medium-0" in clone.stale(profile="paper")


@pytest.mark.parametrize("file", [*IN_GIT[:4], f"{RUNS[1]}curve.csv", "results/paper/showcase/hopper/ppo_dap/film.gif"])
def test_a_small_file_that_is_missing_or_changed_is_made_again(clone: Project, file: str) -> None:
    for edit in (lambda: clone.write(file, "changed"), (clone.root / file).unlink):
        edit()
        assert any(made_by(clone, cell, file) for cell in clone.stale(profile="paper"))


def made_by(project: Project, cell: str, file: str) -> bool:
    stage, _, key = cell.partition("@")
    cells = yaml.safe_load((project.root / "params.yaml").read_text(encoding="utf-8"))["cells"]
    return file.startswith(f"{cells[stage][key]['out']}/")


def test_another_profile_adds_to_the_lock_and_touches_no_other_file_of_git(clone: Project) -> None:
    before = (clone.root / "dvc.lock").read_text(encoding="utf-8")
    run(clone, profile="tiny")
    assert clone.changed() == ["dvc.lock", "params.yaml"]
    assert (clone.root / "dvc.lock").read_text(encoding="utf-8").startswith(before)
    assert clone.stale(profile="paper") == []


def test_plain_dvc_with_allow_missing_builds_the_report_alone(clone: Project) -> None:
    done = clone.python(PLAIN_DVC, "repro", "--allow-missing")
    assert done.returncode == 0, done.stderr
    assert clone.calls() == ["report report"]


def test_a_change_of_code_is_accepted_without_what_is_missing(clone: Project) -> None:
    change(clone, "dapbench/prior/diffusion.py")
    done = clone.python(ACCEPT, "profile=paper")
    assert done.returncode == 0, done.stderr
    needed = [COLLECT, "pretrain priors/hopper/medium/0/diffusion", TRAIN.format("ppo_dap")]
    assert clone.calls() == [f"scratch {call}" for call in needed]
    assert clone.changed() == ["dapbench/prior/diffusion.py", "dvc.lock"]
    assert not (clone.root / LOGS).exists()
    assert clone.stale(profile="paper") == []
