"""The networks: their tanh against torch's, and the numpy copy that acts against the network that learns."""

import numpy as np
import torch

from dapbench.on_policy.networks import MLP, Tanh


def test_tanh_and_its_gradient_are_torchs() -> None:
    x = torch.cat([torch.linspace(-12.0, 12.0, 20_001), torch.tensor([0.0, 1e-6, -1e-6, 1e4, -1e4])])
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    for y in (Tanh()(ours), torch.tanh(theirs)):
        y.sum().backward()
    torch.testing.assert_close(Tanh()(x).double(), torch.tanh(x.double()), rtol=0.0, atol=2e-7)
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.0, atol=5e-7)


def test_the_numpy_copy_is_the_network() -> None:
    torch.manual_seed(0)
    network, x = MLP(5, [64, 64], 3, last_gain=1.0), torch.randn(100, 5)
    np.testing.assert_allclose(network.to_numpy()(x.numpy()), network(x).detach().numpy(), atol=2e-6)
