"""What the showcase says of proposals: maps that repeat, and guidance that moves them along Q or not at all."""

import numpy as np
import pytest
import torch

from dapbench.ppo_dap import PPODAP
from dapbench.showcase import proposals

PRIOR = {"width": 16, "depth": 1, "solver_steps": 3, "sigma_min": 0.02, "sigma_max": 5.0}
PRIOR |= {"_target_": "dapbench.prior.diffusion.DiffusionPrior"}


@pytest.fixture
def module_of(compose):
    """A function that makes PPO-DAP on Reacher with random weights."""

    def make(*overrides):
        config = compose("train", "task=reacher", "method=ppo_dap", "profile=smoke", *overrides)
        torch.manual_seed(0)
        module = PPODAP(config | {"prior": PRIOR, "logs": {"quality": "medium"}})
        torch.nn.init.normal_(module.prior.network.out.weight)
        return module

    return make


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_map_is_the_same_each_time(size):
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 6, 4, size)).astype(np.float32)
    placed = proposals.embedding(actions)
    assert placed.shape == (2, 6, 4, 2)
    assert placed.dtype == np.float32
    assert np.isfinite(placed).all()
    assert placed.tobytes() == proposals.embedding(actions).tobytes()


def test_guidance_raises_q(module_of):
    drawn = proposals.guided_proposals(module_of())
    assert {name: array.dtype for name, array in drawn.items()} == dict.fromkeys(drawn, np.float32)
    assert drawn["actions"].shape[:3] == drawn["q"].shape == drawn["embedding"].shape[:3]
    assert np.abs(drawn["actions"]).max() <= 1.0
    before, after = drawn["q"].mean((1, 2))
    assert after > before


def test_without_guidance_nothing_changes(module_of):
    drawn = proposals.guided_proposals(module_of("method.guidance_scale=0.0"))
    np.testing.assert_array_equal(drawn["actions"][0], drawn["actions"][1])


def test_states_are_spread_evenly():
    assert proposals.evenly(9, 3).tolist() == [0, 4, 8]
    assert proposals.evenly(2, 3).tolist() == [0, 1]
