"""params.yaml: the catalogue, the cells, and its equality with what DVC composes."""

from typing import Any

import pytest
from small_project import Project

from dapbench.errors import UserError
from dapbench.pipeline.params import compose

BY_DVC = """
import os, sys
from dvc.repo import Repo
from dvc.utils.hydra import compose_and_dump
hydra = Repo().config["hydra"]
conf, plugins = os.path.abspath(hydra["config_dir"]), os.path.abspath(hydra["plugins_path"])
compose_and_dump("by_dvc.yaml", conf, None, hydra["config_name"], plugins, sys.argv[1:])
"""


def composed(project: Project, *overrides: str) -> dict[str, Any]:
    return compose(project.root, ["profile=tiny", *overrides])


def test_dvc_composes_the_same_file(project: Project) -> None:
    overrides = ["method.ppo.gamma=0.9", "profile.seeds=[0,1]"]
    composed(project, *overrides)
    project.write(".dvc/config.local", "[core]\n    no_scm = true\n")
    by_dvc = project.python(BY_DVC, "profile=tiny", *overrides)
    assert by_dvc.returncode == 0, by_dvc.stderr
    assert (project.root / "by_dvc.yaml").read_bytes() == (project.root / "params.yaml").read_bytes()


@pytest.mark.parametrize("group", ["task", "method", "logs", "prior"])
def test_every_file_of_a_group_is_found(project: Project, group: str) -> None:
    before = composed(project)
    project.write(f"conf/{group}/_base.yaml", "value: 1\n")
    project.write(f"conf/{group}/added.yaml", "defaults: [_base]\nname: added\n_target_: baselines.added.Added\n")
    after = composed(project)
    assert after[group] == before[group] | {"added": {"value": 1, "name": "added", "_target_": "baselines.added.Added"}}
    assert after["cells"] == before["cells"]


def test_an_override_of_a_method_leaves_the_behaviour_policy_alone(project: Project) -> None:
    params = composed(project, "method.ppo.gamma=0.5")
    assert (params["method"]["ppo"]["gamma"], params["behaviour"]["gamma"]) == (0.5, 0.99)


def test_more_seeds_only_add_cells(project: Project) -> None:
    before, after = composed(project)["cells"], composed(project, "profile.seeds=[0,1]")["cells"]
    assert set(after["online"]) == {"tiny-hopper-ppo-0", "tiny-hopper-ppo-1"}
    assert all(cells.items() <= after[stage].items() for stage, cells in before.items())


def test_a_method_that_starts_from_logs_needs_no_prior(project: Project) -> None:
    cells = composed(project, "method.ppo_dap.starts_from=logs", "+method.ppo_dap.log_quality=expert")["cells"]
    assert list(cells["collect"]) == ["tiny-hopper-expert"]
    assert cells["pretrain"] == {}
    assert cells["online_from_data"]["tiny-hopper-ppo_dap-0"]["source"] == "results/tiny/logs/hopper/expert"


def test_overhead_cells_bring_the_prior_that_they_need(project: Project) -> None:
    cells = composed(project, "profile.methods=[ppo]", "profile.overhead_tasks=[ant]")["cells"]
    assert list(cells["pretrain"]) == ["tiny-ant-medium-diffusion"]
    assert cells["overhead"]["tiny-ant"]["source"] == "results/tiny/priors/ant/medium/diffusion"
    assert cells["report"]["tiny"]["overhead"] == "results/tiny/overhead"


@pytest.mark.parametrize(
    "line", ["from dapbench.ppo_dap import PPODAP", "import dapbench.ppo_dap", "from dapbench import ppo_dap"]
)
def test_a_method_that_builds_on_another_depends_on_its_file(project: Project, line: str) -> None:
    project.write("conf/method/gap.yaml", "name: gap\n_target_: baselines.gap.Gap\nstarts_from: nothing\n")
    project.write("baselines/gap.py", f"{line}\n")
    cell = composed(project, "profile.methods=[gap]")["cells"]["online"]["tiny-hopper-gap-0"]
    assert (cell["code"], cell["base"]) == ("baselines/gap.py", "dapbench/ppo_dap.py")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["profile=nosuch"], "unknown profile 'nosuch'; choose one of paper, quick, tiny"),
        (["quick"], "'quick' is not of the form key=value, such as profile=quick"),
        (["profile.tasks=[pong]"], "unknown task 'pong' .*; choose one of ant, hopper"),
        (["profile.overhead_tasks=[pong]"], "unknown task 'pong' .*; choose one of ant, hopper"),
        (["profile.methods=[sac]"], "unknown method 'sac' .*; choose one of ppo, ppo_dap"),
        (["profile.seeds=[]"], "profile tiny has no seeds: profile.seeds needs at least one"),
        (["profile.log_quality=good"], "unknown logs 'good' .*; choose one of expert, medium"),
        (["method.ppo_dap.prior=flow"], "unknown prior 'flow' .*; choose one of diffusion, gaussian"),
        (["method.ppo.starts_from=luck"], "starts_from 'luck' is not one of nothing, logs, prior"),
        (["method.ppo.name=pop"], "conf/method/ppo.yaml says name: pop; write name: ppo"),
        (["method.ppo._target_=baselines.gone.Gone"], "method ppo needs the file baselines/gone.py .* does not exist"),
        (["method.ppo.gama=0.9"], "does not compose: .*gama"),
        (["profile.epochs=["], "does not compose"),
    ],
)
def test_bad_input_is_one_line(project: Project, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        composed(project, *overrides)
    assert "\n" not in str(error.value)
    assert not (project.root / "params.yaml").exists()
