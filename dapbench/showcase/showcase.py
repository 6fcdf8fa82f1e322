"""`dapbench showcase`: what the report shows of a trained policy and its prior, as small files that need no model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dapbench.errors import UserError
from dapbench.files import require_writable, whole, write_json
from dapbench.showcase.film import choose_backend, film, gif

FILM, PROPOSALS, MARGINALS, DESCRIPTION = "film.gif", "proposals.npz", "marginals.npz", "showcase.json"
SECONDS, FPS, WIDTH, HEIGHT, SEED = 4.0, 10, 240, 180, 0  # the film's length, frames a second, pixels and start


def showcase(config: Mapping[str, Any]) -> None:
    """Writes showcase.json to ``out``, and beside it what can be made of the run.

    - ``film.gif``: if ``film`` is true, and where something here can draw.
    - ``proposals.npz``: of PPO-DAP whose terms are on at the end (Q learns as long as they are), see
      :func:`~dapbench.showcase.proposals.guided_proposals`.
    - ``marginals.npz``: the same with ``logs_dir``, see :func:`~dapbench.showcase.proposals.action_marginals`.

    showcase.json holds ``task``, ``method``, ``seed``, ``film_seconds``, the files ``made``, and under ``absent`` why
    each of the others was not. All files are functions of the checkpoint and the logs, on one machine.

    Raises:
        UserError: no checkpoint or no logs where they are said to be, or one of them is malformed.
    """
    run, out, logs_dir = Path(config["run"]), Path(config["out"]), config["logs_dir"]
    require_writable(out)
    torch.set_num_threads(1)  # so that sums do not depend on the number of cores
    absent: dict[str, str] = {}
    try:
        if not config["film"]:
            raise UserError("film=false")
        choose_backend()
    except UserError as error:
        absent[FILM] = str(error)
    # Only now: they import MuJoCo, for which the backend has to be chosen.
    from dapbench.datasets.episodes import PUBLIC
    from dapbench.ppo_dap import PPODAP
    from dapbench.runs.evaluation import load_run
    from dapbench.showcase.proposals import action_marginals, guided_proposals

    if logs_dir is not None and not logs_dir.startswith(PUBLIC) and not Path(logs_dir).is_dir():
        raise UserError(f"there are no logs at logs_dir={logs_dir}; name a folder that dapbench collect made, or null")
    module = load_run(run)
    made: list[str] = []
    for file in (FILM, PROPOSALS, MARGINALS, DESCRIPTION):
        (out / file).unlink(missing_ok=True)  # an earlier one could be of another run
    name = module.config["method"]["name"]
    if not isinstance(module, PPODAP):
        reason = f"{name} is a {type(module).__name__}, which draws no proposals from a prior"
        absent |= dict.fromkeys((PROPOSALS, MARGINALS), reason)
    elif not (module.annealed_imitation_weight or module.annealed_kl_weight):
        reason = f"the terms of {name} ended before the run did, and Q has not learned since"
        absent |= dict.fromkeys((PROPOSALS, MARGINALS), reason)
    else:
        write_arrays(out / PROPOSALS, guided_proposals(module))
        made.append(PROPOSALS)
        if logs_dir is None:
            absent[MARGINALS] = "logs_dir was not given, and actions are compared at states of the logs"
        else:
            write_arrays(out / MARGINALS, action_marginals(module, Path(logs_dir)))
            made.append(MARGINALS)
    if FILM not in absent:
        try:
            content = gif(film(module, SECONDS, FPS, WIDTH, HEIGHT, SEED), FPS)
        except UserError as error:  # a task without pictures
            absent[FILM] = str(error)
        else:
            with whole(out / FILM) as temporary:
                temporary.write_bytes(content)
            made.append(FILM)
    task = module.config["task"]["name"]
    description = {"task": task, "method": name, "seed": module.config["seed"], "film_seconds": SECONDS}
    write_json(out / DESCRIPTION, description | {"made": sorted(made), "absent": absent})
    without = "".join(f"; without {file}: {reason}" for file, reason in absent.items())
    print(f"{task} {name}: {', '.join(sorted(made)) or 'nothing'} in {out}{without}")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz, whole or not at all; numpy puts no time into it, so it is a function of the arrays."""
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # a name could be that of an option
