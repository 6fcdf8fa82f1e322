"""How good a prior's proposals are on held-out states."""

import torch
from torch import Tensor

from dapbench.prior.base import ActionPrior


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ (Székely & Rizzo 2013) between samples [N, D] and [M, D], V-statistic."""
    return float(2.0 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def energy_score(proposals: Tensor, actions: Tensor) -> float:
    """E‖X − a‖ − ½ E‖X − X'‖ (Gneiting & Raftery 2007), the mean over states; lower is better.

    It is, up to a constant of the logs, the energy distance of the conditional distributions at each state.

    Args:
        proposals: [M, K, A], K > 1 draws at each state.
        actions: [M, A], the logged action of each.
    """
    k = proposals.shape[1]
    to_logged = (proposals - actions.unsqueeze(1)).norm(dim=-1).mean()
    spread = torch.cdist(proposals, proposals).sum((1, 2)).mean() / (k * (k - 1))
    return float(to_logged - 0.5 * spread)


@torch.no_grad()
def measure(prior: ActionPrior, observations: Tensor, actions: Tensor, proposals: int, seed: int) -> dict[str, float]:
    """Energy distance (pooled over states) and energy score (at each state) of a prior's proposals.

    Args:
        prior: a fitted prior.
        observations, actions: held-out raw states [M, O] and their logged actions [M, A] in [-1, 1].
        proposals: K draws at each state.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(actions), proposals, actions.shape[1], generator=generator)
    drawn = prior.sample(prior.normalize(observations), noise)
    return {"energy_distance": energy_distance(drawn[:, 0], actions), "energy_score": energy_score(drawn, actions)}
