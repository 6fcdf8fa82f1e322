"""The numpy copy of a network, which acts, against the network, which learns."""

import numpy as np
import torch

from dapbench.rl.networks import MLP


def test_the_numpy_copy_is_the_network() -> None:
    torch.manual_seed(0)
    network, x = MLP(5, [64, 64], 3, last_gain=1.0), torch.randn(100, 5)
    np.testing.assert_allclose(network.to_numpy()(x.numpy()), network(x).detach().numpy(), atol=2e-6)
