"""What the environment of a command says to libraries behind our back, and must not decide here.

Batch systems, launchers, shells and users set variables for other programs; some libraries take them as orders.
"""

import io
import locale
import os
import re
import sys
import warnings
from pathlib import Path

# Ranks, from which Lightning tells which of how many processes this is; defaults of its trainer and of progress bars;
# what matplotlib draws with; what IPython runs first; what Python makes of warnings.
OTHERS = re.compile(
    r"(LOCAL_|GROUP_|NODE_)?RANK|PL_TRAINER_\w+|TQDM_\w+|MPLBACKEND|MATPLOTLIBRC|PYTHONSTARTUP|PYTHONWARNINGS"
)
DRAWING = "DAPBENCH_MUJOCO_GL"  # what MUJOCO_GL said, for the commands that draw


def settle() -> None:
    """Makes this process, and those that it starts, one run on one core whatever the environment says.

    Output that the terminal's encoding lacks is written as ``\\u2212``: no command fails on a minus sign.
    """
    if not sys.flags.utf8_mode and locale.getencoding().lower() not in ("utf-8", "utf8"):
        _start_again_in_utf8()
    for name in filter(OTHERS.fullmatch, list(os.environ)):
        del os.environ[name]
    if "MUJOCO_GL" in os.environ:  # MuJoCo's import fails where there is no such thing, also for those that do not draw
        os.environ[DRAWING] = os.environ.pop("MUJOCO_GL")
    os.environ["OMP_NUM_THREADS"] = "1"
    # A warning of a library would end the command that it is an error for, or another one that inherits the options.
    sys.warnoptions[:] = [option for option in sys.warnoptions if not option.startswith("error")]
    warnings.filters[:] = [rule for rule in warnings.filters if rule[0] != "error"]  # type: ignore[index]
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it is closed, and the next file that is opened would get its number
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _start_again_in_utf8() -> None:
    """Puts the same command in this one's place, with a Python that reads files as UTF-8 in any locale.

    Libraries read theirs, which hold more than ASCII, by the locale: torch's compiler fails on it.
    """
    os.environ["PYTHONUTF8"] = "1"  # for those that this one starts
    os.environ.setdefault("PYTHONIOENCODING", getattr(sys.stdout, "encoding", "utf-8"))  # the terminal's stays
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
