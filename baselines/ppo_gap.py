"""Control: PPO-DAP with a conditional Gaussian prior in place of the diffusion, everything else equal."""

from dapbench.ppo_dap import PPODAP


class PPOGAP(PPODAP):
    """The difference is the prior that conf/method/ppo_gap.yaml names."""
