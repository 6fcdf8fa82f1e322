"""Tasks from outside: whatever Gymnasium can make is taken by every command or refused before the work in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest

from dapbench.cli import main
from dapbench.config import compose_profile
from dapbench.datasets.collecting import collect
from dapbench.errors import UserError
from dapbench.report.build import SECTIONS, headline
from dapbench.report.results import load_results
from dapbench.rl.environments import make_env, task_spaces
from dapbench.rl.snapshots import NotPlain, pack
from dapbench.runs.evaluation import load_run
from dapbench.runs.training import train
from dapbench.showcase import film

Compose = Callable[..., dict[str, Any]]
SIZES = ["profile=smoke", "profile.epoch_steps=80", "profile.behaviour_epochs=1", "profile.log_transitions=90"]
SIZES += ["profile.prior_batches=2", "profile.epochs=1"]
OF_METHOD = ["num_envs=4", "rollout_steps=20", "minibatch_size=40", "update_epochs=1"]
IN_METHOD = [f"method.{setting}" for setting in OF_METHOD]
IN_BEHAVIOUR = [f"behaviour.{setting}" for setting in OF_METHOD]


def task(env_id: str, **kwargs: Any) -> dict[str, Any]:
    return {"name": "new", "title": "New", "env_id": env_id, "env_kwargs": kwargs}


def command(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr("sys.argv", ["dapbench", *argv])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_every_command_takes_a_module_and_a_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The observations are a picture of whole numbers, the bounds of the actions lie askew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(film, "choose_backend", lambda: None)
    monkeypatch.setattr("dapbench.showcase.showcase.choose_backend", lambda: None)
    kwargs = "{shape: [2, 2, 3], dtype: uint8}"
    for file, text in {
        "task/new": f"name: new\ntitle: New\nenv_id: outside_envs:ns/Plain-v0\nenv_kwargs: {kwargs}",
        "profile/mine": "defaults: [smoke]\nname: mine\ntasks: [new]\nmethods: [ppo, ppo_dap]",
    }.items():
        path = tmp_path / f"conf/{file}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    new = ["task=new", "profile=mine", *SIZES[1:]]
    assert command(monkeypatch, "collect", *new, "logs=expert", *IN_BEHAVIOUR) == 0
    logs, runs = "results/mine/logs/new/expert/0", "results/mine/runs/new"
    recovered = minari.MinariDataset(tmp_path / logs / "data").recover_environment()
    assert recovered.spec.id == "ns/Plain-v0"
    assert recovered.observation_space.shape == (12,)
    assert command(monkeypatch, "pretrain", *new, "logs=expert") == 0
    sizes = [*new, *IN_METHOD, "log_quality=expert", "tracking=false"]
    assert command(monkeypatch, "train", *sizes, f"out={runs}/ppo/0") == 0
    dap = ["method=ppo_dap", "method.tuning_batch_size=10", f"out={runs}/ppo_dap/0"]
    assert command(monkeypatch, "train", *sizes, *dap) == 0
    assert command(monkeypatch, "evaluate", f"run={runs}/ppo_dap/0", "episodes=2") == 0
    shown = [f"run={runs}/ppo_dap/0", f"logs_dir={logs}", "out=results/mine/showcase/new/ppo_dap"]
    assert command(monkeypatch, "showcase", *shown) == 0
    assert (tmp_path / "results/mine/showcase/new/ppo_dap/film.gif").is_file()
    assert command(monkeypatch, "render", f"run={runs}/ppo/0", "seconds=0.5", "out=new.gif") == 0
    monkeypatch.setattr("dapbench.datasets.reference.random_returns", lambda *_: [-100.0, -99.0])
    assert command(monkeypatch, "reference", "task=new", f"logs_dir={logs}", "out=scores.json") == 0
    assert json.loads(Path("scores.json").read_text())["new"]["random"] == -99.5
    results = load_results(Path("results"), compose_profile("mine"))
    assert "New  " in headline(Path("results"), results.profile)
    assert all(make(results).sentence for makers in SECTIONS.values() for make in makers)


@pytest.mark.parametrize(
    "given",
    [
        task("gymnasium:Pendulum-v1"),
        task("Pendulum"),
        task("outside_envs:Plain"),
        task("outside_envs:Function-v0"),
        task("outside_envs:Endless-v0", max_episode_steps=20),
        *(task("outside_envs:Plain-v0", dtype=dtype) for dtype in ("float16", "float64", "int32", "uint8")),
        task("outside_envs:Plain-v0", shape=[]),
        task("outside_envs:Stuck-v0"),
    ],
    ids=lambda given: f"{given['env_id']} {given['env_kwargs']}",
)
def test_logs_are_written_and_learnt_from(compose: Compose, tmp_path: Path, given: dict[str, Any]) -> None:
    observations, actions = task_spaces(given)
    config = compose("collect", *SIZES, *IN_BEHAVIOUR, f"out={tmp_path}/logs") | {"task": given}
    collect(config)
    config = compose("train", *SIZES, *IN_METHOD, "method=ppo_bc", f"logs_dir={tmp_path}/logs", f"out={tmp_path}/run")
    config["method"] |= {"warm_start_epochs": 1, "warm_start_minibatch_size": 40}
    train(config | {"task": given})
    assert observations.dtype in (np.float32, np.float64)
    assert load_run(tmp_path / "run").action_space == actions


REFUSED = {
    "outside_envs:Dict-v0": "has the observation space Dict",
    "outside_envs:Counts-v0": r"has the observation space Discrete\(3\); dapbench needs a Box",
    "outside_envs:Empty-v0": "which shows nothing",
    "outside_envs:Buttons-v0": r"has the action space Discrete\(3\); dapbench needs a Box",
    "outside_envs:Unbounded-v0": "dapbench needs a bounded vector",
    "outside_envs:HalfBounded-v0": "dapbench needs a bounded vector",
    "outside_envs:Widest-v0": "dapbench needs a bounded vector",
    "outside_envs:Fixed-v0": "each lower bound below its upper one",
    "outside_envs:Table-v0": "dapbench needs a bounded vector",
    "outside_envs:Scalar-v0": "dapbench needs a bounded vector",
    "outside_envs:None-v0": "dapbench needs a bounded vector",
    "outside_envs:Whole-v0": "of floating-point numbers",
    "outside_envs:Endless-v0": "has no time limit, .*add one to its env_kwargs in conf/task, such as max_episode_steps",
    "outside_envs:Raises-v0": "cannot make task new: KeyError: 'licence'",
    "outside_envs:OldReset-v0": "cannot be played: ",
    "outside_envs:Lies-v0": "cannot be played: |in place of an array",
    "outside_envs:Lists-v0": "shows a list",
    "outside_envs:Gone-v0": "cannot make task new: Environment `Gone` doesn't exist",
    "outside_envs:Plain-v9": "cannot make task new: ",
    "no_such_module:Plain-v0": "cannot make task new: No module named 'no_such_module'",
    "broken_module:Plain-v0": "cannot make task new: ZeroDivisionError: division by zero",
    "a:b:Plain-v0": "cannot make task new: ",
    "no good-v0": "cannot make task new: ",
    "": "cannot make task new: ",
}


@pytest.mark.parametrize(("env_id", "message"), REFUSED.items())
def test_what_cannot_be_taken_is_refused_before_the_work(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env_id: str, message: str
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "logs"
    with pytest.raises(UserError, match=message) as error:
        collect(compose("collect", *SIZES, f"out={out}") | {"task": task(env_id)})
    assert "\n" not in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"xml_file": "/no.xml"}, "cannot make task new: .*/no.xml"),
        ({"xml_file": __file__}, "cannot make task new: "),
        ({"no_such": 1}, "unexpected keyword argument 'no_such'"),
        ({"max_episode_steps": -1}, "has no time limit"),
        ({"max_episode_steps": 0}, "cannot make task new: "),
        ({"frame_skip": 0}, "cannot make task new: |cannot be played"),
        (None, r"env_kwargs: None; write env_id: Hopper-v5, say, and env_kwargs: \{\}"),
        ([1], "env_kwargs"),
    ],
)
def test_arguments_that_an_environment_does_not_take(kwargs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        task_spaces(task("Hopper-v5") | {"env_kwargs": kwargs})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("env_id", [None, 5, ["Hopper-v5"]])
def test_an_id_that_is_none(env_id: Any) -> None:
    with pytest.raises(UserError, match="write env_id: Hopper-v5"):
        make_env(task("") | {"env_id": env_id})


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "tracking=false"],
        ["collect"],
        ["pretrain"],
        ["reference", "task=hopper"],
        ["throughput", "peers=[]", "pairs=1", "seconds=0.1"],
    ],
    ids=lambda argv: argv[0],
)
def test_a_missing_model_file_is_one_line_of_every_command(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *argv, "++task.env_kwargs.xml_file=/no.xml") == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line and "steps/s" not in line]
    assert said.startswith("dapbench: cannot make task hopper: ")
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_is_gone_after_training(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What evaluates, films or shows a run makes the task that its checkpoint names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(film, "choose_backend", lambda: None)
    monkeypatch.setattr("dapbench.showcase.showcase.choose_backend", lambda: None)
    source = Path(gym.__file__).parent / "envs/mujoco/assets/hopper.xml"
    model = Path(shutil.copy(source, tmp_path / "own.xml"))
    config = compose("train", *SIZES, *IN_METHOD, f"++task.env_kwargs.xml_file={model}", "out=run")
    train(config)
    model.unlink()
    capfd.readouterr()
    for argv in (["evaluate", "run=run"], ["render", "run=run"], ["showcase", "run=run", "out=shown"]):
        assert command(monkeypatch, *argv) == 2
        (said,) = capfd.readouterr().err.splitlines()
        assert said.startswith("dapbench: cannot make task hopper: ")


def test_overhead_times_the_task_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its runs are commands of their own: they would time hopper as conf/ has it."""
    monkeypatch.chdir(tmp_path)

    asked = []

    def kept(argv: list[str], **_: Any) -> SimpleNamespace:
        folder = next(argument for argument in argv if argument.startswith("--config-dir=")).partition("=")[2]
        shutil.copytree(folder, tmp_path / "kept")
        asked.extend(argument.replace(folder, str(tmp_path / "kept")) for argument in argv[3:])
        return SimpleNamespace(returncode=1, stderr="not run")

    monkeypatch.setattr("dapbench.timing.overhead.subprocess.run", kept)
    given = ["profile=smoke", "++task.env_kwargs.xml_file=/no.xml", "methods=[ppo]", "out=o"]
    assert command(monkeypatch, "overhead", *given) == 2
    capfd.readouterr()
    assert command(monkeypatch, *asked) == 2
    assert capfd.readouterr().err.startswith("dapbench: cannot make task hopper: ")


def test_a_behaviour_policy_that_diverges_is_one_line(compose: Compose, tmp_path: Path) -> None:
    config = compose("collect", *SIZES, *IN_BEHAVIOUR, f"out={tmp_path}/logs")
    with pytest.raises(UserError, match="the behaviour policy of new diverged after 0 steps: rewards: no longer"):
        collect(config | {"task": task("outside_envs:Explodes-v0")})


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("outside_envs:Unrendered-v0", "has no render mode rgb_array"),
        ("outside_envs:Stuck-v0", "cannot draw task new: "),
    ],
)
def test_what_cannot_be_filmed_is_one_line(compose: Compose, env_id: str, message: str) -> None:
    from dapbench.runs.training import build

    module = build(compose("train", *SIZES, *IN_METHOD) | {"task": task(env_id)})
    with pytest.raises(UserError, match=message):
        film.film(module, 0.2, 10, 32, 32, 0)


def test_long_episodes_leave_one_to_hold_out(compose: Compose, tmp_path: Path) -> None:
    """A prior needs an episode to be measured on: one that is longer than all that was asked for is not enough."""
    config = compose("collect", *SIZES, *IN_BEHAVIOUR, "profile.log_transitions=10", f"out={tmp_path}/logs")
    config["behaviour"] |= {"num_envs": 1, "rollout_steps": 80}
    collect(config | {"task": task("outside_envs:Plain-v0")})
    assert minari.MinariDataset(tmp_path / "logs/data").total_episodes == 2


@pytest.mark.parametrize("value", [gym.envs.registration.WrapperSpec("a", "b", {}), {1, 2}, np.array(["text"])])
def test_what_no_snapshot_can_hold_is_said(value: Any) -> None:
    with pytest.raises(NotPlain):
        pack(value)


def test_named_tuples_are_no_plain_values() -> None:
    from typing import NamedTuple

    class Place(NamedTuple):
        x: float
        y: float

    with pytest.raises(NotPlain):
        pack(Place(1.0, 2.0))


def test_whatever_gymnasium_registers_is_taken_or_refused() -> None:
    taken, said = [], []
    for env_id in sorted(gym.registry):
        try:
            task_spaces(task(env_id))
            taken.append(env_id)
        except UserError as error:
            said.append(str(error))
    assert not [message for message in said if "\n" in message]
    assert {"Pendulum-v1", "MountainCarContinuous-v0", "Hopper-v5", "Humanoid-v5", "Pusher-v5"} <= set(taken)
