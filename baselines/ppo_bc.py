"""Control: PPO whose policy and value are warm-started on the logs that PPO-DAP's prior saw, and nothing more."""

from dapbench.warm_start import WarmStartedPPO


class PPOBC(WarmStartedPPO):
    """PPO after behaviour cloning; it tells what the logs alone are worth."""
