"""The numpy copy of a network, which acts, against the network, which learns."""

import numpy as np
import torch

from dapbench.rl.networks import MLP, Tanh


def test_the_numpy_copy_is_the_network() -> None:
    torch.manual_seed(0)
    network, x = MLP(5, [64, 64], 3, last_gain=1.0), torch.randn(100, 5)
    np.testing.assert_allclose(network.to_numpy()(x.numpy()), network(x).detach().numpy(), atol=2e-6)


def test_tanh_is_tanh() -> None:
    x = torch.linspace(-30.0, 30.0, 100_001, requires_grad=True)
    ours = Tanh()(x)
    torch.testing.assert_close(ours, x.tanh(), rtol=0, atol=2e-7)
    gradient = torch.autograd.grad(ours.sum(), x)[0]
    torch.testing.assert_close(gradient, 1.0 - x.double().tanh().float() ** 2, rtol=0, atol=5e-7)
