"""Bad input of every kind on the command line: one line that names the bad value and what to do, exit status 2."""

import functools
import importlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hydra
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dapbench.cli import COMMANDS, main
from dapbench.config import CONF, check_choices, checked
from dapbench.datasets.episodes import Episode, write_dataset
from dapbench.errors import UserError
from dapbench.prior.base import build_prior

SMALL = (
    "task=reacher profile=smoke profile.epochs=1 profile.epoch_steps=200 method.num_envs=4 method.rollout_steps=50 "
    "method.minibatch_size=50 tracking=false out=run"
)
PRIOR = {"_target_": "dapbench.prior.diffusion.DiffusionPrior", "width": 8, "depth": 1}
PRIOR |= {"solver_steps": 2, "sigma_min": 0.02, "sigma_max": 5.0}


class Made:
    """What a case needs beforehand, made in the current folder."""

    def nothing(self) -> None:
        pass

    def logs(self) -> None:
        """Sound logs of reacher (10 observations, 2 actions)."""
        ended = np.arange(60) == 59
        episode = Episode(np.zeros((61, 10)), np.full((60, 2), 0.1), np.zeros(60), ended, ~ended)
        space, actions = Box(-np.inf, np.inf, (10,), np.float64), Box(-1.0, 1.0, (2,), np.float32)
        write_dataset(Path("logs"), [episode] * 2, space, actions, dataset_id="test/reacher-v0", metadata={})

    def _overwrite(self, name: str, values: np.ndarray) -> None:
        self.logs()
        with h5py.File("logs/data/main_data.hdf5", "a") as file:
            del file[f"episode_0/{name}"]
            file[f"episode_0/{name}"] = values

    def logs_with_nan(self) -> None:
        self._overwrite("rewards", np.full(60, np.nan))

    def logs_of_integers(self) -> None:
        self._overwrite("actions", np.zeros((60, 2), int))

    def logs_cut_short(self) -> None:
        self._overwrite("actions", np.zeros((59, 2)))

    def truncated_logs(self) -> None:
        self.logs()
        file = Path("logs/data/main_data.hdf5")
        file.write_bytes(file.read_bytes()[:-1000])

    def empty_logs(self) -> None:
        Path("logs").mkdir()

    def prior(self) -> None:
        """A prior of hopper's sizes."""
        Path("prior").mkdir()
        build_prior(11, 3, PRIOR).save(Path("prior/prior.ckpt"), {"quality": "test"})

    def narrower_prior(self) -> None:
        """Its weights are not of the width that it states."""
        Path("prior").mkdir()
        build_prior(10, 2, PRIOR).save(Path("prior/prior.ckpt"), {"quality": "test"})
        content = torch.load("prior/prior.ckpt", weights_only=True)
        content["config"]["width"] = 16
        torch.save(content, "prior/prior.ckpt")

    def truncated_prior(self) -> None:
        self.prior()
        file = Path("prior/prior.ckpt")
        file.write_bytes(file.read_bytes()[:500])

    def malicious_prior(self) -> None:
        Path("prior").mkdir()
        torch.save({"config": os.system}, "prior/prior.ckpt")

    def finished_run(self) -> None:
        Path("run").mkdir()
        Path("run/summary.json").write_text("{}")

    def malicious_run(self) -> None:
        Path("run").mkdir()
        torch.save({"config": os.system}, "run/model.ckpt")

    def foreign_run(self) -> None:
        Path("run").mkdir()
        torch.save({"weights": torch.zeros(1)}, "run/model.ckpt")

    def truncated_run(self) -> None:
        self.foreign_run()
        Path("run/model.ckpt").write_bytes(Path("run/model.ckpt").read_bytes()[:100])

    def file_in_place_of_a_folder(self) -> None:
        Path("occupied").touch()


TRAIN = f"train {SMALL}"
FROM_LOGS = f"{TRAIN} method=ppo_bc logs_dir=logs"
FROM_PRIOR = f"{TRAIN} method=ppo_dap prior_dir=prior method.tuning_batch_size=20"

# What is made beforehand, the command, and what its one line says.
CASES: list[tuple[Callable[[Made], None], str, str]] = [
    # values of another kind, which the tests below try in every key
    (Made.nothing, "evaluate run=0", "run=0 is not a path; say run=./0"),
    (Made.nothing, "evaluate run=nowhere episodes=0", "episodes=0 is not a whole number from 1"),
    (Made.nothing, "reference task=null", "unknown task 'null'; choose one of ant, half_cheetah"),
    (Made.nothing, "showcase run=run film=word out=shown", "film=word is not one of true, false"),
    (Made.nothing, "throughput json=maybe", "json=maybe is not one of true, false"),
    (Made.nothing, "train task=1,2 -m", "unknown task '1,2'; choose one of ant, half_cheetah"),
    (Made.nothing, "track nowhere", "'nowhere' is not a folder"),
    # names
    (Made.nothing, "fly", "unknown command 'fly'; choose one of behaviour, collect, pretrain"),
    (Made.nothing, "train task=pong", "unknown task 'pong'; choose one of ant, half_cheetah"),
    (Made.nothing, "train method=sac", "unknown method 'sac'; choose one of "),
    (Made.nothing, "train profile=huge", "unknown profile 'huge'; choose one of paper, quick, smoke"),
    (Made.nothing, "collect logs=perfect", "unknown logs 'perfect'; choose one of expert, medium, mixed, simple"),
    (
        Made.nothing,
        "pretrain prior=flow",
        "unknown prior 'flow'; choose one of diffusion, diffusion_weighted, gaussian",
    ),
    (Made.nothing, "overhead methods=[sac]", "unknown method 'sac' in methods; choose one of "),
    (Made.nothing, "throughput peers=[rllib]", "rllib"),
    (Made.nothing, "repro --engine cloud", "invalid choice: 'cloud'"),
    (Made.nothing, "repro --jobs none", "'none' is not a whole number from 1"),
    (Made.nothing, "repro", "has no dvc.yaml: run this in the project's folder"),
    (Made.nothing, "report profile=nosuch", "unknown profile 'nosuch'; choose one of"),
    (Made.nothing, "report", "there is no results/quick; dapbench repro profile=quick fills it"),
    # misspelt and missing keys
    (Made.nothing, "train sed=1", "Could not override 'sed'"),
    (Made.nothing, "train method.gama=1", "Could not override 'method.gama'"),
    (Made.nothing, "train method.gamma", "method.gamma"),
    (Made.nothing, "train params=nowhere.yaml", "cannot read params=nowhere.yaml"),
    (Made.nothing, "evaluate", "run is not set; say run=VALUE"),
    # numbers
    (Made.nothing, "train seed=", "seed= is not a whole number"),
    (Made.nothing, "train seed=-1", "seed=-1 is not a whole number from 0"),
    (Made.nothing, "train seed=1e99", "seed=1e+99"),
    (Made.nothing, "train profile.log_draws=0", "profile.log_draws=0 is not a whole number from 1"),
    (Made.nothing, "train draw=two", "draw=two is not a whole number from 0"),
    (Made.nothing, "collect draw=-1", "draw=-1 is not a whole number from 0"),
    (Made.nothing, "collect logs.behaviour_seed=x", "logs.behaviour_seed=x is not a whole number"),
    (Made.nothing, "pretrain draw=0.5", "draw=0.5 is not a whole number from 0"),
    (Made.nothing, "train method.gamma=-1", "method.gamma=-1 is not a number from 0 to 1"),
    (Made.nothing, "train method.gamma=abc", "method.gamma=abc is not a number"),
    (Made.nothing, "train method.gamma=nan", "method.gamma=nan is not a number from 0 to 1"),
    (Made.nothing, "train method.learning_rate=1e9", "method.learning_rate=1000000000.0 is not a number from 0 to 1"),
    (Made.nothing, "train method.num_envs=0", "method.num_envs=0 is not a whole number"),
    (Made.nothing, "train method.num_envs=2.5", "method.num_envs=2.5 is not a whole number"),
    (Made.nothing, "train method.update_epochs=-3", "method.update_epochs=-3 is not a whole number"),
    (Made.nothing, "train method.hidden=64", "method.hidden=64 is not a list of whole numbers such as [64,64]"),
    (Made.nothing, "train method.rollout_steps=33", "which does not divide profile.epoch_steps=5000"),
    (Made.nothing, "train method.minibatch_size=99999", "=99999 does not divide the rollout's steps (1250)"),
    (
        Made.nothing,
        "train method.minibatch_size=60",
        "the rollout's steps (1250); choose for instance 50 or 125",
    ),
    (Made.nothing, "train method=ppo_rnd method.minibatch_size=500", "=500 does not divide the rollout's steps (1250)"),
    (Made.nothing, "train +method.gama=1", "method.gama is not a setting of PPOSettings; did you mean gamma?"),
    (Made.nothing, "train profile.epochs=0", "profile.epochs=0 is not a whole number"),
    (Made.nothing, "train checkpoint_epochs=-1", "checkpoint_epochs=-1 is not a whole number"),
    (Made.nothing, "train device=tpu", "device=tpu is not one of cpu, cuda"),
    (Made.nothing, "collect profile.log_transitions=0", "profile.log_transitions=0 is not a whole number"),
    (Made.nothing, "behaviour draw=-1", "draw=-1 is not a whole number from 0"),
    (Made.nothing, "behaviour profile.behaviour_epochs=0", "profile.behaviour_epochs=0 is not a whole number"),
    (Made.nothing, "collect policies_dir=5", "policies_dir=5 is not a path; say policies_dir=./5 or null"),
    (Made.nothing, "collect logs.mixture={0.5:0.3}", "logs.mixture={0.5: 0.3} is no mixture"),
    (Made.nothing, "pretrain prior.solver_steps=0", "prior.solver_steps=0 is not a whole number"),
    (Made.nothing, "pretrain prior.width=-3", "prior.width=-3"),
    (Made.nothing, "overhead profile.overhead_pairs=0", "profile.overhead_pairs=0 is not a whole number"),
    # classes and environments
    (Made.nothing, "train method._target_=os.system", "method._target_=os.system"),
    (Made.nothing, "train task.env_id=Nope-v0", "cannot make task hopper"),
    (Made.nothing, "train task.env_id=CartPole-v1", "has the action space Discrete"),
    # logs
    (Made.nothing, FROM_LOGS, "there are no logs at logs"),
    (Made.empty_logs, FROM_LOGS, "logs is not a Minari dataset"),
    (Made.truncated_logs, FROM_LOGS, "the Minari dataset logs cannot be read"),
    (Made.logs_with_nan, FROM_LOGS, "the rewards of episode 0 of logs hold NaN"),
    (Made.logs_of_integers, FROM_LOGS, "the actions of episode 0 of logs are int64; floating-point"),
    (Made.logs_cut_short, FROM_LOGS, "the actions of episode 0 of logs have shape (59, 2) in place of (60, 2)"),
    (Made.logs, f"{FROM_LOGS} task=hopper", "the observations of logs are of shape (10,), but the task's are of shape"),
    (Made.nothing, "collect draw=1 logs.source=/a", "logs.source=/a is one dataset, so one draw, and draw=1 is not it"),
    (Made.nothing, "pretrain logs_dir=nowhere", "no logs at nowhere"),
    (Made.nothing, "pretrain logs_dir=minari:hopper", "is not the name of a Minari dataset"),
    # priors and checkpoints
    (Made.nothing, FROM_PRIOR, "no prior at prior/prior.ckpt"),
    (Made.prior, FROM_PRIOR, "is a prior for 11 observations and 3 actions, but the task has 10 and 2"),
    (Made.narrower_prior, FROM_PRIOR, "holds (8, 10) for network.from_state.weight in place of (16, 10)"),
    (Made.truncated_prior, FROM_PRIOR, "prior/prior.ckpt is not a readable prior"),
    (Made.malicious_prior, FROM_PRIOR, "prior/prior.ckpt is not a readable prior"),
    (Made.nothing, "evaluate run=nowhere", "no checkpoint at nowhere/model.ckpt"),
    (Made.malicious_run, "evaluate run=run", "run/model.ckpt is not a readable dapbench checkpoint"),
    (Made.foreign_run, "evaluate run=run", "run/model.ckpt is not a readable dapbench checkpoint (it lacks config"),
    (Made.truncated_run, "evaluate run=run", "run/model.ckpt is not a readable dapbench checkpoint"),
    # folders
    (Made.finished_run, TRAIN, "out=run already holds a finished run"),
    (Made.file_in_place_of_a_folder, f"{TRAIN} out=occupied/run", "occupied is a file; choose another folder"),
]

# Values that no number, choice, switch or path of the commands below may have, and what their line says of each.
NO_COUNT = {
    **dict.fromkeys(("0", "-1", "1e30", "1.5", "nan", "null", "true", "[1,2]", "word", "''"), "is not a whole number")
}
NO_SEED = {value: said for value, said in NO_COUNT.items() if value != "0"}
NO_NUMBER = dict.fromkeys(("-1", "1e30", "nan", "null", "true", "[1,2]", "word", "''"), "is not a number from")
NO_PATH = dict.fromkeys(("0", "-1", "1e30", "1.5", "nan", "null", "true", "[1,2]", "''"), "is not a path; say ")
NO_FILE = {value: said for value, said in NO_PATH.items() if value != "null"} | {
    "nowhere": "cannot read params=nowhere",
    "folder": "cannot read params=folder",
    "occupied": "params=occupied lacks what this command needs",
}
NO_CHOICE = dict.fromkeys(("0", "-1", "1e30", "nan", "null", "true", "[1,2]", "1,2"), "choose one of ")
NO_SWITCH = dict.fromkeys(("0", "null", "word", "[1,2]"), "is not one of true, false")
NO_LIST = dict.fromkeys(("0", "null", "word", "true"), "is not a list; say ")
NO_RUN = NO_PATH | {
    "nowhere": "no checkpoint at nowhere/model.ckpt",
    "occupied": "no checkpoint at occupied/model.ckpt",
}
NO_OUT = NO_PATH | {"folder": "folder", "occupied/x.gif": "occupied is a file"}
NO_DEVICE = dict.fromkeys(("0", "null", "tpu", "[cpu]"), "is not one of cpu, cuda")

# Of each command the arguments that are always there, and of each of its keys the bad values.
KEYS: dict[str, dict[str, dict[str, str]]] = {
    "evaluate run=nowhere": {"run": NO_RUN, "episodes": NO_COUNT, "seed": NO_SEED, "params": NO_FILE},
    "render run=nowhere": {
        "run": NO_RUN,
        "out": NO_PATH | {"folder": "ends in neither .gif nor .mp4", "occupied/x.gif": "occupied is a file"},
        "seconds": NO_NUMBER | {"0": "is not a number from 0.1 to 600"},
        "fps": NO_COUNT,
        "width": NO_COUNT,
        "height": NO_COUNT,
        "seed": NO_SEED,
        "params": NO_FILE,
    },
    "reference task=reacher logs_dir=nowhere": {
        "task": NO_CHOICE,
        "logs_dir": NO_PATH | {"nowhere": "no logs at nowhere", "occupied": "no logs at occupied"},
        "episodes": NO_COUNT,
        "seed": NO_SEED,
        "out": NO_PATH | {"folder": "it is a folder; name a file", "occupied/x": "occupied is a file"},
        "params": NO_FILE,
    },
    "throughput task=reacher profile=smoke peers=[]": {
        **dict.fromkeys(("task", "method", "profile", "preset"), NO_CHOICE),
        "peers": NO_LIST | {"[rllib]": "unknown peer 'rllib'", "[1]": "unknown peer '1'"},
        **dict.fromkeys(("num_envs", "peer_envs", "pairs"), NO_COUNT),
        "seconds": NO_NUMBER,
        "clock": dict.fromkeys(("0", "null", "sun", "[wall]"), "is not one of wall, cpu"),
        "seed": NO_SEED,
        "device": NO_DEVICE,
        "compile": NO_SWITCH,
        "json": NO_SWITCH,
        "params": NO_FILE,
    },
    "overhead task=reacher profile=smoke": {
        **dict.fromkeys(("task", "profile"), NO_CHOICE),
        "methods": NO_LIST | {"[sac]": "unknown method 'sac'", "[1]": "unknown method '1'"},
        "device": NO_DEVICE,
        "json": NO_SWITCH,
        "params": NO_FILE,
        "out": NO_PATH | {"occupied/x": "occupied is a file"},
        **dict.fromkeys(("profile.overhead_epochs", "profile.overhead_pairs", "profile.epoch_steps"), NO_COUNT),
    },
    "showcase run=nowhere out=shown": {
        "profile": NO_CHOICE,
        "run": NO_RUN,
        "out": NO_PATH | {"occupied": "occupied is a file"},
        "logs_dir": {v: said for v, said in NO_PATH.items() if v != "null"}
        | {"nowhere": "no logs at logs_dir=nowhere"},
        "params": NO_FILE,
    },
    f"{TRAIN}": {
        **dict.fromkeys(("task", "method", "profile"), NO_CHOICE),
        "out": NO_PATH,
        "params": NO_FILE,
        **dict.fromkeys(("compile", "tracking"), NO_SWITCH),
    },
}
ONE_OF_EACH = [(command, key) for command, keys in KEYS.items() for key in keys]


def ends_in_one_line(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["dapbench", *argv])
    with pytest.raises(SystemExit) as ended:
        main()
    said = [line for line in capfd.readouterr().err.splitlines() if line and "steps/s" not in line]
    assert ended.value.code == 2
    assert len(said) == 1, said
    assert said[0].startswith("dapbench: ")
    assert message in said[0]


@pytest.mark.parametrize(("made", "command", "message"), CASES, ids=[f"{m.__name__}: {c}" for m, c, _ in CASES])
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: Callable[[Made], None],
    command: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    made(Made())
    before = sorted(tmp_path.rglob("*"))
    ends_in_one_line(command.split(), message, monkeypatch, capfd)
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-done is left


def configured(command: str, key: str, value: str) -> dict[str, Any]:
    """What a command's function gets of ``key=value``, without Hydra's start for each value."""
    name, *given = command.split()
    if (CONF / key).is_dir():
        check_choices([f"{key}={value}"])
    config = composed(name, *given).copy()
    parsed = OverridesParser.create().parse_override(f"{key}={value}")
    OmegaConf.set_struct(config, False)
    OmegaConf.update(config, key, parsed.value(), merge=False)
    return checked(name, config)


@functools.cache
def composed(name: str, *given: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, list(given))


@pytest.mark.parametrize(("command", "key"), ONE_OF_EACH, ids=[f"{c.split()[0]} {key}" for c, key in ONE_OF_EACH])
def test_every_key_of_every_command_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("occupied").write_text("word")
    function = function_of(command.split()[0])
    for value, said in KEYS[command][key].items():
        with pytest.raises(UserError) as error:
            function(configured(command, key, value))
        assert said in str(error.value), value
        assert f"{key}=" in str(error.value) or not said.startswith("is not"), value
        assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "occupied"]


def function_of(command: str) -> Callable[[Any], Any]:
    module, function = COMMANDS[command][1].split(":")
    return getattr(importlib.import_module(module), function)


ARGUMENTS = [
    *((["report", f"profile={value}"], "choose one of ") for value in ("0", "-1", "null", "word", "", "[quick]")),
    *((["report", f"results={value}"], "repro profile=quick fills it") for value in ("0", "nowhere", "occupied", "")),
    *((["report", f"params={value}"], "holds no profile") for value in ("0", "nowhere", "occupied", "folder", "")),
    *((["track", value], f"'{value}' is not a folder; give one") for value in ("", "0", "nowhere", "occupied")),
    (["track", "folder"], "no run directory (a folder with summary.json) in folder; give one"),
    (["track"], "the following arguments are required: folder"),
    (["track", "a", "b"], "unrecognized arguments: b"),
    *(
        (["repro", "--jobs", value], f"'{value}' is not a whole number from 1 to 10000")
        for value in ("0", "-1", "1.5", "1e3", "nan", "null", "many", "", "[2]", "99999999999")
    ),
]


@pytest.mark.parametrize(("argv", "said"), ARGUMENTS, ids=[" ".join(argv) for argv, _ in ARGUMENTS])
def test_arguments_that_are_not_hydras_are_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("occupied").write_text("word")
    with pytest.raises(UserError) as error:
        function_of(argv[0])(argv[1:])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_there_are_forty_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (disk / "filler").write_bytes(b"x" * 60_000)
        argv = [*TRAIN.split(), f"out={disk}/run"]
        ends_in_one_line(argv, f"cannot write {disk}/run", monkeypatch, capfd)
        assert not [path for path in disk.rglob("*") if path.is_file() and path.name != "filler"]
    finally:
        subprocess.run(["umount", disk], check=True)
