"""A finished run's proposals before and after guidance, and its actions beside those of its logs.

The prior, as the run tuned it, and the critic are those of the checkpoint. Draws are seeded; on one thread they are the
same each time.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dapbench.datasets.episodes import load_transitions
from dapbench.ppo_dap import PPODAP
from dapbench.prior.base import Guidance
from dapbench.rl.environments import env_seeds, make_envs, to_policy_actions
from dapbench.rl.rollout import Collector

SEED = 0
# The rollout; streams 0, 1 and 3 of a seed are those of training and evaluations, from 4 on those of recording logs.
ENVS, STEPS, STREAM = 4, 500, 2
STATES = 24  # visited states with proposals
LOGGED_STATES = 1000  # states of the logs with an action of each


@torch.no_grad()
def guided_proposals(module: PPODAP) -> dict[str, np.ndarray]:
    """K proposals at each of M states that the run's policy visits, before (0) and after (1) guidance, from one noise.

    The states lie evenly through a rollout. They are the policy's own and not the logs', since that is where proposals
    are drawn in training and where Q was fitted.

    Returns:
        ``actions`` [2, M, K, A] in [-1, 1], their ``q`` [2, M, K] in scaled reward, and their places in the plane,
        ``embedding`` [2, M, K, 2]; all float32.
    """
    visited = visited_observations(module)
    observations = torch.as_tensor(visited[evenly(len(visited), STATES)])
    actions = draw_proposals(module, observations, module.hp.num_proposals)
    q = q_values(module, observations, actions)
    return {"actions": actions.numpy(), "q": q.numpy(), "embedding": embedding(actions.numpy())}


@torch.no_grad()
def action_marginals(module: PPODAP, logs_dir: Path) -> dict[str, np.ndarray]:
    """One action of the logs, the prior, the guided prior and the policy at each of N states, evenly through the logs.

    Returns:
        ``logs``, ``prior``, ``guided`` and ``policy``, each [N, A] in [-1, 1], float32.

    Raises:
        UserError: the logs are missing, malformed or of another task.
    """
    logs = load_transitions(logs_dir, module.observation_space, module.action_space, module.config["task"]["env_id"])
    chosen = evenly(len(logs.actions), LOGGED_STATES)
    observations = torch.as_tensor(logs.observations[chosen])
    prior, guided = draw_proposals(module, observations, 1).squeeze(2)
    logged = to_policy_actions(logs.actions[chosen], module.action_space).clip(-1.0, 1.0)
    policy = policy_actions(module, observations)
    return {"logs": logged, "prior": prior.numpy(), "guided": guided.numpy(), "policy": policy.numpy()}


# -- what is asked of the module: everything that depends on how a method keeps its parts ------------------------------


def visited_observations(module: PPODAP) -> np.ndarray:
    """The raw observations [ENVS × STEPS, O] of a rollout of the policy, one environment after the other."""
    shape = (STEPS, ENVS, module.action_size)
    noise = np.random.default_rng([SEED, STREAM]).standard_normal(shape, np.float32)
    envs = make_envs(module.config["task"], ENVS)
    collector = Collector(envs, STEPS, env_seeds(SEED, ENVS, STREAM))
    rollout = collector.collect(module.mean_action(), noise * module.actor.log_std.exp().numpy())
    envs.close()
    return rollout.observations[:-1].swapaxes(0, 1).reshape(-1, module.observation_size)


def draw_proposals(module: PPODAP, observations: Tensor, count: int) -> Tensor:
    """Proposals [2, M, count, A] at raw observations [M, O], unguided (0) and guided (1), from the same noise."""
    noise = torch.randn(len(observations), count, module.action_size, generator=torch.Generator().manual_seed(SEED))
    states = module.prior.normalize(observations)
    features = module.critic.trunk(module.observation_stats.normalize(observations))
    guidance = Guidance(module.q_gradient, features, module.hp.guidance_scale)
    return torch.stack([module.prior.sample(states, noise, along) for along in (None, guidance)])


def q_values(module: PPODAP, observations: Tensor, actions: Tensor) -> Tensor:
    """Q [2, M, K] of actions [2, M, K, A] at raw observations [M, O]."""
    features = module.critic.trunk(module.observation_stats.normalize(observations))
    return torch.stack([module.q_of(features, proposed) for proposed in actions])


def policy_actions(module: PPODAP, observations: Tensor) -> Tensor:
    """An action [N, A] of the policy at each raw observation [N, O], clipped to [-1, 1]."""
    mean, log_std = module.actor(module.observation_stats.normalize(observations))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(SEED + 1))
    return (mean + log_std.exp() * noise).clamp(-1.0, 1.0)


# -- places in the plane -----------------------------------------------------------------------------------------------


def embedding(actions: np.ndarray) -> np.ndarray:
    """Places [2, M, K, 2] in the plane of actions [2, M, K, A], the same bytes each time.

    t-SNE (van der Maaten & Hinton 2008) of all actions together. Actions of two dimensions are their own places; one
    dimension is drawn against the number of the state.
    """
    *shape, size = actions.shape
    if size == 1:
        state = np.broadcast_to(np.arange(shape[1], dtype=np.float32)[:, None], shape)
        return np.stack([actions[..., 0], state], axis=-1)
    if size == 2:
        return actions
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    points = actions.reshape(-1, size).astype(float)
    tsne = TSNE(perplexity=min(30.0, len(points) / 4), init="pca", max_iter=500, random_state=SEED, n_jobs=1)
    with threadpool_limits(1):  # with more, sums are taken in another order each time
        return tsne.fit_transform(points).reshape(*shape, 2).astype(np.float32)


def evenly(available: int, count: int) -> np.ndarray:
    """At most ``count`` indices, spread evenly from the first of ``available`` to the last."""
    return np.linspace(0, available - 1, min(available, count)).round().astype(int)
