"""Proximal Policy Optimisation (Schulman et al. 2017), the base of every method as it is."""

from dapbench.on_policy.base import OnPolicy


class PPO(OnPolicy):
    """PPO: no hook overridden."""
