"""Reference scores: what is committed, and the command that makes an entry."""

import json

import numpy as np
import pytest
from gymnasium.spaces import Box

from dapbench.config import choices
from dapbench.datasets.episodes import Episode, write_dataset
from dapbench.datasets.reference import SOURCE, random_returns, reference
from dapbench.errors import UserError
from dapbench.report.statistics import reference_scores
from dapbench.rl.environments import task_spaces


@pytest.fixture
def config(compose, tmp_path):
    """A configuration for Reacher, with logs of two episodes that return −1 and −3."""
    composed = compose("reference", "task=reacher", f"logs_dir={tmp_path}/logs", "episodes=3", f"out={tmp_path}/r.json")
    observations, actions = task_spaces(composed["task"])
    episodes = [
        Episode(np.zeros((3, *observations.shape)), np.zeros((2, 2)), np.full(2, reward), *np.zeros((2, 2), bool))
        for reward in (-0.5, -1.5)
    ]
    described = {"quality": "expert", "env_steps": 7, "behaviour_seed": 1000}
    space = Box(-np.inf, np.inf, observations.shape, np.float64)
    write_dataset(tmp_path / "logs", episodes, space, actions, dataset_id="test/t-v0", metadata=described)
    return composed


def test_every_task_has_references_in_order():
    scores = reference_scores()
    assert set(scores) == set(choices("task"))
    assert all(score.random < score.expert for score in scores.values())
    assert {score.source for score in scores.values()} == {"D4RL", SOURCE}


def test_an_entry_holds_both_scores_and_how_they_were_made(config, tmp_path):
    (tmp_path / "r.json").write_text('{"hopper": {"random": 0}}')
    reference(config)
    written = json.loads((tmp_path / "r.json").read_text())
    entry = written["reacher"]
    assert written["hopper"] == {"random": 0}
    assert entry["expert"] == pytest.approx(-2.0)
    assert entry["random"] == np.mean(random_returns(config["task"], 3, seed=0))
    assert entry["made_by"].endswith("dapbench reference task=reacher")
    assert (entry["random_episodes"], entry["expert_episodes"], entry["expert_seed"]) == (3, 2, 1000)


def test_a_seed_gives_one_result(config):
    assert random_returns(config["task"], 2, seed=1) == random_returns(config["task"], 2, seed=1)
    assert random_returns(config["task"], 2, seed=1) != random_returns(config["task"], 2, seed=2)


def test_bad_input_is_one_line(config, tmp_path):
    with pytest.raises(UserError, match="episodes=0 is not a whole number"):
        reference(config | {"episodes": 0})
    with pytest.raises(UserError, match="no logs at nowhere"):
        reference(config | {"logs_dir": "nowhere"})
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        reference(config)
    metadata = tmp_path / "logs/data/metadata.json"
    metadata.write_text(metadata.read_text().replace('"expert"', '"simple"'))
    with pytest.raises(UserError, match="holds logs of quality simple; collect them with logs=expert"):
        reference(config)
