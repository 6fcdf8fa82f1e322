"""params.yaml: the catalogue, the cells, and its equality with what DVC composes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_project import ROOT, Project

from dapbench.config import compose as command
from dapbench.errors import UserError
from dapbench.pipeline.catalogue import NUM_DEPS
from dapbench.pipeline.params import compose
from dapbench.profiles import epochs_of

# Of a stage: its command, and the key of its cells that each argument is taken from.
COMMANDS = {
    "behaviour": ("behaviour", "logs", "quality", "draw", "draw"),
    "collect": ("collect", "logs", "quality", "draw", "draw"),
    "pretrain": ("pretrain", "logs", "quality", "draw", "draw", "prior", "prior"),
    "online": ("train", "method", "method", "seed", "seed"),
}
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
    assert set(after["online"]) == {f"tiny-hopper-{method}-{seed}" for method in ("ppo", "ppo_dap") for seed in (0, 1)}
    assert all(cells.items() <= after[stage].items() for stage, cells in before.items())


def test_each_draw_of_the_logs_has_its_cells(project: Project) -> None:
    cells = composed(project, "profile.seeds=[0,1,2,3]", "profile.log_draws=2")["cells"]
    assert list(cells["collect"]) == ["tiny-hopper-medium-0", "tiny-hopper-medium-1"]
    assert list(cells["pretrain"]) == ["tiny-hopper-medium-diffusion-0", "tiny-hopper-medium-diffusion-1"]
    collect, pretrain = cells["collect"]["tiny-hopper-medium-1"], cells["pretrain"]["tiny-hopper-medium-diffusion-1"]
    assert (collect["draw"], collect["out"]) == (1, "results/tiny/logs/hopper/medium/1")
    assert (pretrain["draw"], pretrain["out"]) == (1, "results/tiny/priors/hopper/medium/1/diffusion")
    assert collect["out"] in pretrain["deps"]
    policies = cells["behaviour"]["tiny-hopper-medium-1"]["out"]
    assert (policies, collect["policies_dir"]) == ("results/tiny/behaviour/hopper/medium/1",) * 2
    assert f"{policies}/policies.ckpt" in collect["deps"]
    online = cells["online"]
    started_from = [[d for d in cell["deps"] if "/priors/" in d] for cell in online.values()]
    priors = [f"results/tiny/priors/hopper/medium/{draw}/diffusion/prior.ckpt" for draw in (0, 1)]
    assert started_from == [[], [], [], [], *([prior] for prior in priors * 2)]
    assert online["tiny-hopper-ppo-0"]["deps"] == online["tiny-hopper-ppo-1"]["deps"]


@pytest.mark.parametrize("stage", COMMANDS)
def test_commands_and_cells_agree_on_where_a_draw_lies(stage: str) -> None:
    """The committed params.yaml, of profile quick, against what conf/ has each command read and write by itself."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    name, *keys = COMMANDS[stage]
    cells = [cell for cell in params["cells"][stage].values() if cell["task"] == "hopper"]
    cells = [cell for cell in cells if cell.get("method", "ppo_dap") in ("ppo_bc", "ppo_dap")]
    assert len({cell["out"] for cell in cells}) >= 3
    for cell in cells:
        given = [f"{group}={cell[key]}" for group, key in zip(keys[::2], keys[1::2], strict=True)]
        config = command(name, "profile=quick", "task=hopper", *given)
        if stage == "online":
            prior = f"{config['prior_dir']}/prior.ckpt"
            assert (config["logs_dir"] if cell["method"] == "ppo_bc" else prior) in cell["deps"]
        else:
            assert config["out"] == cell["out"]
            assert stage != "pretrain" or config["logs_dir"] in cell["deps"]


def test_a_group_has_epochs_of_its_own(project: Project) -> None:
    groups = {"ablations": "{methods: [ppo_dap], epochs: 40}", "controls": "{methods: [ppo], tasks: [ant], seeds: [3]}"}
    groups = [f"+profile.{name}={group}" for name, group in groups.items()]
    params = composed(project, "profile.methods=[ppo]", *groups)
    budgets = {key: cell["epochs"] for key, cell in params["cells"]["online"].items()}
    assert budgets == {
        "tiny-hopper-ppo-0": "profile.epochs",
        "tiny-hopper-ppo_dap-0": "profile.ablations.epochs",
        "tiny-ant-ppo-3": "profile.epochs",
    }
    assert epochs_of(params["profile"], "hopper", "ppo", 0) == params["profile"]["epochs"] == 200
    assert epochs_of(params["profile"], "hopper", "ppo_dap", 0) == 40
    assert epochs_of(params["profile"], "hopper", "ppo_dap", 7) == 200  # asked for by no group


def test_a_run_of_the_pipeline_has_the_epochs_of_its_group(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["profile"]["ablations"] = {"methods": ["ppo_dap_frozen"], "epochs": 7}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for given, epochs in (("ppo_dap_frozen", 7), ("ppo_dap", 40)):
        found = command("train", f"params={tmp_path}/params.yaml", "profile=quick", f"method={given}")
        assert (found["profile"]["epochs"], found["profile"]["schedule_epochs"]) == (epochs, 200)
    by_hand = command("train", "profile=paper", "method=ppo_dap_frozen")
    assert by_hand["profile"]["epochs"] == 200  # without the pipeline's file nothing but the command line counts


def test_a_public_dataset_is_one_draw(project: Project) -> None:
    source = "+logs.medium.source=minari:mujoco/hopper/medium-v0"
    cells = composed(project, source, "profile.log_draws=1", "profile.seeds=[0,1]")["cells"]
    assert cells["behaviour"] == {}
    assert [cell["policies_dir"] for cell in cells["collect"].values()] == ["null"]
    with pytest.raises(UserError, match=r"medium-v0 is one dataset, so one draw; set profile\.log_draws=1"):
        composed(project, source)


def test_a_method_that_starts_from_logs_needs_no_prior(project: Project) -> None:
    cells = composed(project, "method.ppo_dap.starts_from=logs", "+method.ppo_dap.log_quality=expert")["cells"]
    assert list(cells["collect"]) == ["tiny-hopper-expert-0"]
    assert cells["pretrain"] == {}
    assert "results/tiny/logs/hopper/expert/0" in cells["online"]["tiny-hopper-ppo_dap-0"]["deps"]
    assert cells["showcase"]["tiny-hopper-ppo_dap"]["logs_dir"] == "results/tiny/logs/hopper/expert/0"


def test_overhead_cells_bring_the_prior_that_they_need(project: Project) -> None:
    cells = composed(project, "profile.methods=[ppo]", "profile.overhead_tasks=[ant]")["cells"]
    assert list(cells["pretrain"]) == ["tiny-ant-medium-diffusion-0"]
    assert "results/tiny/priors/ant/medium/0/diffusion/prior.ckpt" in cells["overhead"]["tiny-ant-ppo_dap"]["deps"]
    assert "results/tiny/overhead" in cells["report"]["tiny"]["deps"]


def test_the_first_seed_of_ppo_and_ppo_dap_is_shown(project: Project) -> None:
    cells = composed(project, "profile.seeds=[1,2]")["cells"]["showcase"]
    assert list(cells) == ["tiny-hopper-ppo", "tiny-hopper-ppo_dap"]
    ppo, ppo_dap = cells.values()
    assert (ppo["run"], ppo["logs_dir"]) == ("results/tiny/runs/hopper/ppo/1", "null")
    assert ppo_dap["logs_dir"] == "results/tiny/logs/hopper/medium/1"
    assert {"results/tiny/runs/hopper/ppo_dap/1/model.ckpt", "results/tiny/logs/hopper/medium/1"} <= {*ppo_dap["deps"]}
    assert "showcase" not in str(composed(project, "profile.methods=[ppo]", "profile.tasks=[ant]")["cells"]["online"])


@pytest.mark.parametrize(
    "line",
    [
        "from dapbench.ppo_dap import PPODAP",
        "import dapbench.ppo_dap",
        "from dapbench import ppo_dap",
        "def later():\n    from dapbench import ppo_dap",
        "from baselines.parts import helper",
    ],
)
def test_a_cell_depends_on_whatever_its_method_imports(project: Project, line: str) -> None:
    project.write("conf/method/gap.yaml", "name: gap\n_target_: baselines.gap.Gap\nstarts_from: nothing\n")
    project.write("baselines/gap.py", f"{line}\n")
    project.write("baselines/parts/helper.py", "from dapbench import ppo_dap\n")
    deps = composed(project, "profile.methods=[gap]")["cells"]["online"]["tiny-hopper-gap-0"]["deps"]
    assert {"baselines/gap.py", "dapbench/ppo_dap.py", "dapbench/prior"} <= {*deps}
    assert ("baselines/parts" in deps) == ("parts" in line)


def test_lists_of_dependencies_are_as_long_as_dvc_wants_them(project: Project) -> None:
    template = yaml.safe_load((project.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {len(stage["do"]["deps"]) for stage in template.values()} == {NUM_DEPS}
    for cells in composed(project)["cells"].values():
        for cell in cells.values():
            assert len({*cell["deps"]}) == NUM_DEPS


def test_a_method_with_too_many_files_is_one_line(project: Project) -> None:
    project.write("conf/method/gap.yaml", "name: gap\n_target_: baselines.gap.Gap\nstarts_from: nothing\n")
    project.write("baselines/gap.py", "".join(f"import baselines.part{i}\n" for i in range(20)))
    for i in range(20):
        project.write(f"baselines/part{i}.py", "x = 1\n")
    with pytest.raises(UserError, match=r"online hopper-gap-0 depends on 2. files .*; put what a method imports"):
        composed(project, "profile.methods=[gap]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["profile=nosuch"], "unknown profile 'nosuch'; choose one of paper, quick, tiny"),
        (["quick"], "'quick' is not of the form key=value, such as profile=quick"),
        (["profile.tasks=[pong]"], "unknown task 'pong' .*; choose one of ant, hopper"),
        (["+profile.ablations=word"], "profile.ablations=word is no group of runs; give it methods"),
        (["+profile.ablations={methods: [ppo], epochs: 0}"], r"profile.ablations.epochs=0 is not a whole number"),
        (
            ["+profile.ablations={methods: [ppo], seeds: [a]}"],
            r"profile\.ablations\.seeds=a is not a whole number",
        ),
        (["+profile.ablations={methods: [ppo], tasks: hopper}"], r"profile\.ablations\.tasks=hopper is not a list"),
        (["profile.overhead_tasks=[pong]"], "unknown task 'pong' .*; choose one of ant, hopper"),
        (
            ["profile.overhead_tasks=[ant]", "profile.overhead_methods=[sac]"],
            "unknown method 'sac' .*; choose one of ppo, ppo_dap",
        ),
        (["profile.methods=[sac]"], "unknown method 'sac' .*; choose one of ppo, ppo_dap"),
        (["profile.seeds=[]"], "profile tiny has no seeds: profile.seeds needs at least one"),
        (["profile.log_draws=0"], "^profile.log_draws=0 is not a whole number from 1"),
        (["profile.log_quality=good"], "unknown logs 'good' .*; choose one of expert, medium"),
        (["method.ppo_dap.prior=flow"], "unknown prior 'flow' .*; choose one of diffusion, gaussian"),
        (["method.ppo.starts_from=luck"], "starts_from 'luck' is not one of nothing, logs, prior"),
        (["method.ppo.name=pop"], "conf/method/ppo.yaml says name: pop; write name: ppo"),
        (
            ["method.ppo._target_=baselines.gone.Gone"],
            "^method ppo needs the module of its _target_ baselines.gone.Gone, .* not exist",
        ),
        (["method.ppo.gama=0.9"], "does not compose: .*gama"),
        (["profile.epochs=["], "does not compose"),
    ],
)
def test_bad_input_is_one_line(project: Project, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        composed(project, *overrides)
    assert "\n" not in str(error.value)
    assert not (project.root / "params.yaml").exists()
