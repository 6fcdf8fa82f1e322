"""`dapbench accept`: results outlive a change of code that changes none of them, and no other change."""

import itertools
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_project import ACCEPT, Project, wait_until

from dapbench.errors import UserError
from dapbench.files import write_json
from dapbench.pipeline.accepting import accept, chosen_cells

LOSSES, TRAINING, SHOWCASE = "dapbench/rl/losses.py", "dapbench/runs/training.py", "dapbench/showcase/showcase.py"
PPO, PPO_DAP = "online@tiny-hopper-ppo-0", "online@tiny-hopper-ppo_dap-0"
BEHAVIOUR, PRETRAIN = "behaviour@tiny-hopper-medium-0", "pretrain@tiny-hopper-medium-diffusion-0"
SHOW, SHOW_DAP, REPORT = "showcase@tiny-hopper-ppo", "showcase@tiny-hopper-ppo_dap", "report@tiny"
LOGS = "results/tiny/logs/hopper/medium/0"
RUN = "scratch train runs/hopper/{}/0"
ALL_IN_SCRATCH = ["scratch behaviour behaviour/hopper/medium/0", "scratch collect logs/hopper/medium/0"]
ALL_IN_SCRATCH += ["scratch pretrain priors/hopper/medium/0/diffusion"]
ALL_IN_SCRATCH += [RUN.format("ppo"), RUN.format("ppo_dap")]


@pytest.fixture
def ended(finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A copy of the finished project, as the current folder."""
    root = tmp_path / "copy"
    shutil.copytree(finished_project.root, root, symlinks=True)
    monkeypatch.chdir(root)
    made = object.__new__(Project)
    made.root = root
    made.calls()
    yield made
    assert not made.commands()


def change(project: Project, file: str, line: str = "# changed") -> None:
    project.write(file, f"{(project.root / file).read_text(encoding='utf-8')}\n{line}\n")


def state(project: Project) -> dict[str, str]:
    """All that a refusal leaves as it was."""
    files = [project.root / name for name in ("dvc.lock", "params.yaml")]
    return project.results() | {file.name: file.read_text(encoding="utf-8") for file in files}


def accepted(project: Project, *argv: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return project.python(ACCEPT, "profile=tiny", *argv, **variables)


def test_a_change_that_changes_nothing_is_accepted(ended: Project) -> None:
    before = state(ended)
    change(ended, LOSSES)
    assert len(ended.stale()) == 8
    run = accepted(ended, WRITES_TIMING="later", WRITES_MODEL="in another form")
    assert run.returncode == 0, run.stderr
    assert ended.calls() == sorted(ALL_IN_SCRATCH)
    assert "profile tiny: 7 cells to accept, 5 of them to be run" in run.stdout
    assert f"online ppo: {PPO} gave the same; 0 taken on trust" in run.stdout
    assert "showcase: none gave the same; 2 taken on trust" in run.stdout
    assert ended.stale() == []
    assert not (ended.root / ".dvc/tmp/scratch").exists()
    after = state(ended)
    assert after.pop("dvc.lock") != before.pop("dvc.lock")
    assert after == before
    status = ended.python("import sys; from dvc.cli import main; sys.exit(main(['status']))")
    assert "up to date" in status.stdout, status.stderr
    assert "up to date" in ended.repro().stdout
    assert ended.calls() == []


@pytest.mark.parametrize(
    ("line", "variables", "reason"),
    [
        ("RESULT = 1", {}, f"{BEHAVIOUR}: results/tiny/behaviour/hopper/medium/0/policies.ckpt is not as"),
        ("", {"WRITES_DATA": "other"}, f"{LOGS} is not as in dvc.lock"),
        ("", {"WRITES_SUMMARY": "other"}, "/0/summary.json is not as in dvc.lock"),
        ("", {"WRITES_CURVE": "other"}, "/0/curve.csv is not as in dvc.lock"),
        (
            "",
            {"WRITES_QUALITY": "other"},
            f"{PRETRAIN}: results/tiny/priors/hopper/medium/0/diffusion/quality.json is not",
        ),
        ("", {"STUB_FAILS": "priors"}, f"{PRETRAIN}: told to fail; see .dvc/tmp/scratch/cell_logs/{PRETRAIN}.txt"),
    ],
)
def test_one_difference_or_failure_and_nothing_is_recorded(
    ended: Project, line: str, variables: dict[str, str], reason: str
) -> None:
    before = state(ended)
    change(ended, LOSSES, f"# changed\n{line}")
    run = accepted(ended, "--jobs", "1", **variables)
    assert run.returncode == 1
    told = run.stderr[run.stderr.index("nothing is recorded") :].splitlines()
    assert told[0] == "nothing is recorded; what was made anew is in .dvc/tmp/scratch:"
    assert reason in told[1]
    assert len(told) == 2
    assert state(ended) == before


def test_a_cell_that_is_stale_for_another_reason_is_left_to_repro(ended: Project) -> None:
    change(ended, LOSSES)
    ended.write(f"{LOGS}/data.hdf5", "edited")
    run = accepted(ended, "method.ppo.gamma=0.9")
    assert run.returncode == 0
    assert "1 cells to accept" in run.stdout  # logs were edited, and PPO is to learn with another discount
    shutil.rmtree(ended.root / LOGS)  # the cache has them
    run = accepted(ended, "method.ppo.gamma=0.9")
    assert run.returncode == 0, run.stderr
    assert ended.calls() == sorted({*ALL_IN_SCRATCH} - {RUN.format("ppo")})
    assert ended.stale("method.ppo.gamma=0.9") == sorted([PPO, SHOW, REPORT])


def test_what_cannot_be_compared_is_taken_on_trust_only_if_its_changed_code_ran(ended: Project) -> None:
    change(ended, SHOWCASE)
    run = accepted(ended)
    assert "0 cells to accept" in run.stdout
    assert f"left to dapbench repro: {SHOW}, {SHOW_DAP}" in run.stdout
    change(ended, "dapbench/ppo_dap.py")
    assert accepted(ended).returncode == 0
    assert ended.calls() == [RUN.format("ppo_dap")]
    assert ended.stale() == sorted([SHOW, SHOW_DAP, REPORT])


def test_code_that_changes_meanwhile_is_not_accepted(ended: Project) -> None:
    change(ended, TRAINING)
    before = state(ended)
    driver = started(ended)
    change(ended, TRAINING)
    ended.release()
    _, error = driver.communicate(timeout=60)
    assert driver.returncode != 0
    assert "the code was changed while cells ran: nothing is recorded" in error
    assert state(ended) == before


def test_ctrl_c_records_nothing(ended: Project) -> None:
    change(ended, TRAINING)
    before = state(ended)
    driver = started(ended)
    driver.send_signal(signal.SIGINT)
    _, error = driver.communicate(timeout=60)
    assert driver.returncode != 0
    assert "stopped: nothing is recorded" in error
    assert state(ended) == before
    assert not (ended.root / ".dvc/tmp/scratch").exists()


def started(project: Project) -> "subprocess.Popen[str]":
    """A `dapbench accept` whose commands wait for ``release``."""
    project.calls()
    project.write("hold", "")
    driver = subprocess.Popen(
        project.command(ACCEPT, "profile=tiny"),
        env=project.environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: (project.root / "calls.txt").exists() or driver.poll() is not None)
    return driver


def test_one_of_each_method_is_run_on_the_quickest_task_and_more_as_asked(tmp_path: Path) -> None:
    seconds = {"hopper": 9.0, "reacher": 2.0}
    cells = {}
    for task, method, seed in itertools.product(seconds, ("ppo", "ppg"), (0, 1)):
        out = tmp_path / f"{task}{method}{seed}"
        cells[f"online@{task}-{method}-{seed}"] = {"task": task, "method": method, "out": str(out)}
        write_json(out / "timing.json", {"wall_seconds": seconds[task] + seed})
    cells["showcase@hopper-ppo"] = {"out": str(tmp_path)}
    stale = {cell: {"ppo.py old new"} for cell in cells}
    each = ["online@reacher-ppg-0", "online@reacher-ppo-0"]
    assert chosen_cells(stale, cells, 1) == each
    assert chosen_cells(stale, cells, 3) == [*each, "online@reacher-ppg-1"]
    stale["online@hopper-ppo-1"] = {"ppo.py older new"}  # its result is of other code than the others'
    assert chosen_cells(stale, cells, 1) == [*each, "online@hopper-ppo-1"]
    assert len(chosen_cells(stale, cells, 99)) == 8


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sample", "0"], "'0' is not a whole number from 1"),
        (["--address", "head:6379"], "--address head:6379 is for --engine ray, not local"),
        (["profile=nosuch"], "unknown profile 'nosuch'"),
    ],
)
def test_bad_arguments_of_accept(project: Project, argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        accept(argv)
