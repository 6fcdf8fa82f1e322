"""What the environment of a command says to libraries behind our back, and must not decide here.

Batch systems, launchers, shells and users set variables for other programs; some libraries take them as orders.
"""

import io
import os
import re
import sys
import warnings

# Ranks, from which Lightning tells which of how many processes this is; defaults of its trainer; Hydra's main module;
# where and from which file matplotlib draws; what IPython runs first; what Python makes of warnings.
OTHERS = re.compile(
    r"(LOCAL_|GROUP_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE|PL_TRAINER_\w+|HYDRA_MAIN_MODULE|TQDM_\w+|MPLBACKEND|MATPLOTLIBRC"
    r"|PYTHONSTARTUP|PYTHONWARNINGS"
)


def settle() -> None:
    """Makes this process, and those that it starts, one run on one core whatever the environment says.

    Output that the terminal's encoding lacks is written as ``\\u2212``: no command fails on a minus sign.
    """
    for name in filter(OTHERS.fullmatch, list(os.environ)):
        del os.environ[name]
    os.environ["OMP_NUM_THREADS"] = "1"
    # A warning of a library would end the command that it is an error for.
    warnings.filters[:] = [rule for rule in warnings.filters if rule[0] != "error"]  # type: ignore[index]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # none where it is closed
            stream.reconfigure(errors="backslashreplace")
