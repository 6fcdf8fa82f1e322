"""dapbench: a reproducible benchmark of PPO-DAP and on-policy baselines."""

__version__ = "0.1.0"
