"""A finished run's proposals before and after guidance, and its action marginals beside its logs'.

All of it is computed from the first seed's model.ckpt: the prior there is the run's own at its end, as tuned, and Q the
critic that guided it. Draws are seeded, on one thread.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import wasserstein_distance

from dapbench.errors import UserError
from dapbench.report.items import Absent
from dapbench.report.policies import first_policy
from dapbench.report.results import SUBJECT, Results, once

if TYPE_CHECKING:
    import torch

    from dapbench.ppo_dap import PPODAP

SEED = 0
ENVS, STEPS, STREAM = 4, 500, 2  # of the rollout; streams 0 and 1 of a seed train and evaluate, from 3 on logs are made
STATES = 24  # that get proposals
LOGGED = 1000  # states of the logs behind the marginals
WHOSE = ("logs", "prior", "guided", "policy")


@dataclass(frozen=True)
class Guided:
    """K proposals at each of M states, unguided (0) and guided (1), from the same noise.

    Attributes:
        actions: [2, M, K, A], in [-1, 1].
        q: [2, M, K], their Q, in scaled reward.
    """

    actions: np.ndarray
    q: np.ndarray

    def standardized_q(self) -> np.ndarray:
        """Q less the mean of the state's unguided proposals, in their standard deviations [2, M, K]."""
        unguided = self.q[:1]
        return (self.q - unguided.mean(-1, keepdims=True)) / (unguided.std(-1, keepdims=True) + 1e-8)

    def rank(self) -> float:
        """The share of a state's unguided proposals whose Q a guided one exceeds, ties counting half; mean over all.

        0.5 where guidance changes nothing, 1 where each guided proposal is above every unguided one of its state.
        """
        unguided, guided = self.q
        return float(np.mean(np.sign(guided[:, :, None] - unguided[:, None, :]) / 2 + 0.5))


@once
def guided_proposals(results: Results, task: str) -> Guided:
    """Proposals at ``STATES`` states that the run's policy visits, evenly through a rollout of ``ENVS`` × ``STEPS``.

    The states are the policy's own and not the logs', since that is where proposals are drawn in training and where Q
    was fitted.

    Raises:
        Absent: the run or its checkpoint is not there.
    """
    module = _module(results, task)
    import torch

    from dapbench.rl.environments import env_seeds, make_envs
    from dapbench.rl.rollout import Collector

    shape = (STEPS, ENVS, module.action_size)
    noise = np.random.default_rng([SEED, STREAM]).standard_normal(shape, np.float32)
    envs = make_envs(module.config["task"], ENVS)
    collector = Collector(envs, STEPS, env_seeds(SEED, ENVS, STREAM))
    rollout = collector.collect(module.mean_action(), noise * module.actor.log_std.exp().detach().numpy())
    envs.close()
    visited = rollout.observations[:-1].swapaxes(0, 1).reshape(-1, module.observation_size)
    states = torch.as_tensor(visited[_evenly(len(visited), STATES)])
    with torch.no_grad():
        actions = torch.stack(_draws(module, states, module.hp.num_proposals))
        observations = module.observation_stats.normalize(states)
        q = torch.stack([module.q_of(observations, proposed) for proposed in actions])
    return Guided(actions.numpy(), q.numpy().astype(float))


@once
def marginals(results: Results, task: str) -> dict[str, np.ndarray]:
    """One action [N, A] in [-1, 1] of each of ``WHOSE`` at the same N states, evenly through the run's logs.

    Raises:
        Absent: the run, its checkpoint or its logs are not there, or not readable.
    """
    module = _module(results, task)
    folder = results.folder / "logs" / task / str(module.config["logs"].get("quality"))
    if not folder.is_dir():
        raise Absent(f"The logs behind {results.titles[SUBJECT]} on {results.titles[task]} are not in results/.")
    import torch

    from dapbench.datasets.episodes import load_transitions
    from dapbench.rl.environments import to_policy_actions

    try:
        logs = load_transitions(folder, module.observation_space, module.action_space, module.config["task"]["env_id"])
    except UserError as error:
        raise Absent(f"{error}.") from error
    chosen = _evenly(len(logs.actions), LOGGED)
    states = torch.as_tensor(logs.observations[chosen])
    with torch.no_grad():
        prior, guided = (drawn.squeeze(1) for drawn in _draws(module, states, 1))
        mean, log_std = module.actor(module.observation_stats.normalize(states))
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(SEED + 1))
        policy = (mean + log_std.exp() * noise).clamp(-1.0, 1.0)
    logged = to_policy_actions(logs.actions[chosen], module.action_space).clip(-1.0, 1.0)
    return dict(zip(WHOSE, (logged, prior.numpy(), guided.numpy(), policy.numpy()), strict=True))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples [N, A], mean over the action's dimensions; 2 spans the action space."""
    return float(np.mean([wasserstein_distance(x, y) for x, y in zip(first.T, second.T, strict=True)]))


def embedding(actions: np.ndarray) -> np.ndarray:
    """Places [2, M, K, 2] in the plane of a :class:`Guided`'s actions [2, M, K, A]; the same bytes each time.

    t-SNE (van der Maaten & Hinton 2008) of all actions together; two dimensions are their own map, and a single one
    stands against the number of its state.
    """
    *shape, size = actions.shape
    if size == 1:
        state = np.broadcast_to(np.arange(shape[1])[:, None], shape)
        return np.stack([actions[..., 0], state], axis=-1)
    if size == 2:
        return actions
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    points = actions.reshape(-1, size).astype(float)
    tsne = TSNE(perplexity=min(30.0, len(points) / 4), init="pca", max_iter=500, random_state=SEED, n_jobs=1)
    with threadpool_limits(1):  # with more, sums are taken in another order each time
        return tsne.fit_transform(points).reshape(*shape, 2)


def _module(results: Results, task: str) -> "PPODAP":
    module = first_policy(results, task, SUBJECT)
    from dapbench.ppo_dap import PPODAP

    if not isinstance(module, PPODAP):
        raise Absent(f"{results.titles[SUBJECT]} is a {type(module).__name__} here, which has no proposals.")
    return module


def _draws(module: "PPODAP", states: "torch.Tensor", count: int) -> "list[torch.Tensor]":
    """``count`` proposals [M, count, A] at raw states [M, O], unguided and guided, from the same noise."""
    import torch

    from dapbench.prior.base import Guidance

    noise = torch.randn(len(states), count, module.action_size, generator=torch.Generator().manual_seed(SEED))
    standardized, observations = module.prior.normalize(states), module.observation_stats.normalize(states)
    guidance = Guidance(module.q_gradient, observations, module.hp.guidance_scale)
    return [module.prior.sample(standardized, noise, guide) for guide in (None, guidance)]


def _evenly(available: int, count: int) -> np.ndarray:
    return np.linspace(0, available - 1, min(available, count)).round().astype(int)
