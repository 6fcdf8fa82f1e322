"""What DVC calls stale after a change, and nothing else."""

import pytest
from small_project import Project

PPO = "online@tiny-hopper-ppo-0"
PPO_DAP = "online_from_data@tiny-hopper-ppo_dap-0"
COLLECT = "collect@tiny-hopper-medium"
PRETRAIN = "pretrain@tiny-hopper-medium-diffusion"
REPORT = "report@tiny"
ALL = sorted([COLLECT, PRETRAIN, PPO, PPO_DAP, REPORT])


def test_nothing_is_stale_after_a_run(finished: Project) -> None:
    assert finished.stale() == []
    run = finished.repro()
    assert "up to date" in run.stdout
    assert "the headline of tiny" in run.stdout
    assert finished.calls() == []


@pytest.mark.parametrize(
    ("override", "stale"),
    [
        ("method.ppo.gamma=0.9", [PPO, REPORT]),
        ("method.ppo_dap.gamma=0.9", [PPO_DAP, REPORT]),
        ("behaviour.gamma=0.9", [COLLECT, PRETRAIN, PPO_DAP, REPORT]),
        ("logs.medium.behaviour_seed=7", [COLLECT, PRETRAIN, PPO_DAP, REPORT]),
        ("prior.diffusion.width=64", [PRETRAIN, PPO_DAP, REPORT]),
        ("task.hopper.env_id=Hopper-v4", ALL),
        ("task.ant.env_id=Ant-v4", []),
        ("prior.gaussian.width=64", []),
        ("profile.epochs=20", [PPO, PPO_DAP, REPORT]),
        ("profile.prior_batches=20", [PRETRAIN, PPO_DAP, REPORT]),
        ("profile.seeds=[0,1]", ["online@tiny-hopper-ppo-1", "online_from_data@tiny-hopper-ppo_dap-1", REPORT]),
    ],
)
def test_a_parameter_makes_its_cells_stale(finished: Project, override: str, stale: list[str]) -> None:
    assert finished.stale(override) == sorted(stale)


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("baselines/ppo.py", ALL),  # the behaviour policy is PPO
        ("dapbench/ppo_dap.py", [PPO_DAP, REPORT]),
        ("dapbench/prior/edm.py", [PRETRAIN, PPO_DAP, REPORT]),
        ("dapbench/ppo.py", ALL),
        ("dapbench/report/__init__.py", [REPORT]),
        ("dapbench/showcase/film.py", [REPORT]),
        ("analysis/curves.py", [REPORT]),
        ("dapbench/cli.py", []),
        ("dapbench/pipeline/engine.py", []),
    ],
)
def test_code_makes_its_cells_stale(finished: Project, file: str, stale: list[str]) -> None:
    text = (finished.root / file).read_text(encoding="utf-8")
    finished.write(file, f"{text}\n# changed\n")
    try:
        assert finished.stale() == sorted(stale)
    finally:
        finished.write(file, text)


def test_an_added_method_runs_alone(finished: Project) -> None:
    files = {
        "conf/method/added.yaml": "defaults: [ppo]\nname: added\n_target_: baselines.added.Added\n",
        "baselines/added.py": "",
    }
    for file, text in files.items():
        finished.write(file, text)
    try:
        assert finished.stale("profile.methods=[ppo,ppo_dap,added]") == ["online@tiny-hopper-added-0", REPORT]
    finally:
        for file in files:
            (finished.root / file).unlink()


def test_a_value_that_is_set_back_comes_from_the_run_cache(project: Project) -> None:
    only_ppo, cell, report = "profile.methods=[ppo]", "train runs/hopper/ppo/0", "report report"
    assert project.repro(only_ppo).returncode == 0
    before = project.results()
    assert project.repro(only_ppo, "method.ppo.gamma=0.9").returncode == 0
    assert project.results() != before
    assert project.calls() == sorted([cell, report] * 2)
    assert project.repro(only_ppo).returncode == 0
    assert project.results() == before
    assert project.calls() == [report]
