"""`dapbench behaviour`: the policies behind logs, kept at one or more points of a training with PPO.

They are small enough for git, where the logs are not: so logs that are made again, on whatever machine, are of the
same policies.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from dapbench.checkpoints import read_checkpoint, write_checkpoint
from dapbench.errors import UserError
from dapbench.files import require_writable, whole
from dapbench.ppo import PPO, Divergence
from dapbench.runs.progress import Progress
from dapbench.runs.training import build, fit
from dapbench.settings import check_number

FILE = "policies.ckpt"
ACTING = ("actor.", "observation_stats.")  # what a policy acts by, of a module's state


@dataclass(frozen=True)
class Policy:
    """A behaviour policy.

    Attributes:
        epoch: of the training after which it was kept.
        env_steps: of the training until then.
        state: the actor's weights and the observation statistics, by their names in the module.
    """

    epoch: int
    env_steps: int
    state: dict[str, Tensor]

    def act_in(self, module: PPO) -> None:
        """Has a module act as this policy.

        Raises:
            UserError: the module is of other code or settings.
        """
        others = {name: value for name, value in module.state_dict().items() if not name.startswith(ACTING)}
        try:
            module.load_state_dict(others | self.state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the policy kept after epoch {self.epoch} is of other code or settings than behaviour's ({reason}); "
                "dapbench behaviour trains it again"
            ) from error


class Keeper(pl.Callback):
    """Keeps the policy that a training has at the end of some epochs."""

    def __init__(self, epochs: Collection[int]) -> None:
        self.epochs = epochs
        self.policies: list[Policy] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: PPO) -> None:
        """Keeps it if the epoch that ended is one of them."""
        epoch = trainer.current_epoch + 1
        if epoch in self.epochs:
            state = {n: value.clone() for n, value in module.state_dict().items() if n.startswith(ACTING)}
            self.policies.append(Policy(epoch, module.carried.env_steps, state))


def check_behaviour(config: Mapping[str, Any]) -> None:
    """Refuses a configuration of which no behaviour policy can be trained, its method's settings aside.

    Raises:
        UserError: names the first bad value and the valid ones.
    """
    check_number("profile.behaviour_epochs", config["profile"]["behaviour_epochs"], 1, 10**6, integer=True)
    check_number("logs.behaviour_seed", config["logs"]["behaviour_seed"], 0, 10**9, integer=True)
    check_number("draw", config["draw"], 0, 10**9, integer=True)


def mixture(config: Mapping[str, Any]) -> dict[int, float]:
    """The epochs at which policies are taken, each with its share of the logs' transitions.

    Raises:
        UserError: ``logs.mixture`` is no mixture.
    """
    shares = {float(share): float(weight) for share, weight in config["logs"]["mixture"].items()}
    if not shares or min(shares) <= 0 or max(shares) > 1 or abs(sum(shares.values()) - 1.0) > 1e-6:
        raise UserError(
            f"logs.mixture={shares} is no mixture: its keys are shares of the behaviour's budget in (0, 1] and "
            "its values add up to 1"
        )
    epochs: dict[int, float] = {}
    for share, weight in shares.items():
        epoch = max(1, round(share * config["profile"]["behaviour_epochs"]))
        epochs[epoch] = epochs.get(epoch, 0.0) + weight
    return dict(sorted(epochs.items()))


def behaviour_seed(config: Mapping[str, Any]) -> int:
    """The seed of the behaviour policy of a draw."""
    return int(config["logs"]["behaviour_seed"] + config["draw"])


def behaviour_module(config: dict[str, Any]) -> PPO:
    """The module that is trained, and that acts as one of its policies later."""
    schedule = {"epochs": max(mixture(config)), "schedule_epochs": config["profile"]["behaviour_epochs"]}
    profile = config["profile"] | schedule
    return build(config | {"profile": profile, "method": config["behaviour"], "seed": behaviour_seed(config)})


def train_policies(config: dict[str, Any]) -> list[Policy]:
    """Trains the behaviour policy of one task and draw; returns it as it was at each epoch of the logs' mixture.

    Raises:
        UserError: bad configuration, or divergence.
    """
    keeper, module = Keeper(mixture(config)), behaviour_module(config)
    try:
        fit(module, [keeper, Progress()])
    except Divergence as error:
        raise UserError(
            f"the behaviour policy of {config['task']['name']} diverged after {module.carried.env_steps} steps: "
            f"{error}; choose another logs.behaviour_seed or behaviour's settings"
        ) from error
    return keeper.policies


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of policies says of them."""
    return {"task": config["task"]["name"], "seed": behaviour_seed(config)}


def read_policies(folder: Path, config: Mapping[str, Any]) -> list[Policy]:
    """The policies that `dapbench behaviour` left in ``folder``, in the order of their epochs.

    Raises:
        UserError: the file is missing, damaged, or of another task, seed or mixture than ``config``.
    """
    path = folder / FILE
    task, quality = config["task"]["name"], config["logs"]["name"]
    remedy = f"dapbench behaviour task={task} logs={quality} draw={config['draw']} out={folder} makes it"
    if not path.is_file():
        raise UserError(f"no policies at {path}; {remedy}")
    content = read_checkpoint(path, "file of behaviour policies", ("task", "seed", "policies"), remedy)
    found = {name: content[name] for name in identity(config)} | {"epochs": [p["epoch"] for p in content["policies"]]}
    asked = identity(config) | {"epochs": list(mixture(config))}
    if found != asked:
        raise UserError(f"{path} holds policies of {described(found)}, not of {described(asked)}; {remedy}")
    return [Policy(**policy) for policy in content["policies"]]


def described(values: Mapping[str, Any]) -> str:
    """Values with their names, as text."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def behaviour(config: dict[str, Any]) -> None:
    """Writes the policies of one task, log quality and draw to ``out``.

    Raises:
        UserError: bad configuration, logs that are given and have no policies, or divergence.
    """
    check_behaviour(config)
    out = Path(config["out"])
    require_writable(out)
    if config["logs"]["source"] is not None:
        raise UserError(f"logs.source={config['logs']['source']} is given, so no policies are trained for it")
    policies = train_policies(config)
    with whole(out / FILE) as temporary:
        write_checkpoint(temporary, identity(config) | {"policies": [asdict(policy) for policy in policies]})
    logs = f"{config['task']['name']} {config['logs']['name']} draw {config['draw']}"
    kept = ", ".join(f"{policy.env_steps:,}" for policy in policies)
    print(f"{logs}: the policy after {kept} steps, in {out}")
