"""The policies behind logs: kept in a small file, and recorded from it as right after their training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dapbench.behaviour import FILE, behaviour, behaviour_module, read_policies, train_policies
from dapbench.config import compose
from dapbench.datasets.collecting import collect
from dapbench.errors import UserError

SIZES = ["task=reacher", "profile=smoke", "profile.epoch_steps=200", "profile.behaviour_epochs=4"]
SIZES += [f"behaviour.{size}" for size in ("num_envs=4", "rollout_steps=50", "minibatch_size=50", "update_epochs=1")]
MIXED = [*SIZES, "logs=mixed", "profile.log_transitions=400"]  # policies after epochs 1, 2 and 4


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `dapbench behaviour` leaves."""
    torch.set_num_threads(1)  # as in every test: the first weights' last bits depend on it
    out = tmp_path_factory.mktemp("behaviour")
    behaviour(compose("behaviour", *MIXED, f"out={out}"))
    return out


def test_logs_of_kept_policies_are_those_of_a_training(kept: Path, tmp_path: Path) -> None:
    for name, folder in (("trained", "null"), ("kept", kept)):
        collect(compose("collect", *MIXED, f"policies_dir={folder}", f"out={tmp_path}/{name}"))
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("trained", "kept")]
    assert len(files[0]) == 2
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_each_policy_acts_as_the_training_did_at_its_epoch(kept: Path) -> None:
    config = compose("behaviour", *MIXED)
    observations = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    module, actions = behaviour_module(config), []
    for policy in read_policies(kept, config):
        policy.act_in(module)
        actions.append(module.mean_action()(observations))
    assert [(p.epoch, p.env_steps) for p in read_policies(kept, config)] == [(1, 200), (2, 400), (4, 800)]
    assert not np.allclose(actions[0], actions[1])
    half = compose("behaviour", *SIZES, "logs=medium")  # the same training, stopped after epoch 2
    (alone,) = train_policies(half)
    alone.act_in(module)
    np.testing.assert_array_equal(module.mean_action()(observations), actions[1])


def test_a_file_holds_no_more_than_what_a_policy_acts_by(kept: Path) -> None:
    content = torch.load(kept / FILE, weights_only=True)
    assert (content["task"], content["seed"]) == ("reacher", 1000)
    names = {name.partition(".")[0] for policy in content["policies"] for name in policy["state"]}
    assert names == {"actor", "observation_stats"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policies_dir=nowhere"], r"no policies at nowhere/policies.ckpt; dapbench behaviour task=reacher logs=mixed"),
        (["draw=1"], "holds policies of task reacher, seed 1000, epochs .1, 2, 4., not of task reacher, seed 1001"),
        (["logs=expert"], r"not of task reacher, seed 1000, epochs \[4\]; dapbench behaviour task=reacher logs=expert"),
        (["task=hopper"], "not of task hopper"),
        (["behaviour.hidden=[8]"], "the policy kept after epoch 1 is of other code or settings than behaviour's"),
    ],
)
def test_policies_of_something_else_are_refused(kept: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        collect(compose("collect", *MIXED, f"policies_dir={kept}", f"out={tmp_path}/logs", *overrides))
    assert not list(tmp_path.glob("logs/*"))


def test_a_damaged_file_is_refused(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "cut")
    (tmp_path / "cut" / FILE).write_bytes((kept / FILE).read_bytes()[:100])
    with pytest.raises(UserError, match=r"policies.ckpt is not a readable file of behaviour policies .*; dapbench beh"):
        read_policies(tmp_path / "cut", compose("behaviour", *MIXED))


def test_given_logs_have_no_policies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logs.source=/a is given, so no policies are trained for it"):
        behaviour(compose("behaviour", *SIZES, "logs.source=/a", f"out={tmp_path}"))
