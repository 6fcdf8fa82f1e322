"""`dapbench pretrain`: fits an action prior to logged (s, a) and measures it on held-out episodes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor

from dapbench.advantage_weights import advantage_weights
from dapbench.datasets.episodes import Transitions, load_transitions
from dapbench.errors import UserError
from dapbench.files import require_writable, whole, write_json
from dapbench.fitting import fit, make_trainer
from dapbench.prior.base import ActionPrior, build_prior
from dapbench.prior.quality import measure
from dapbench.rl.environments import task_spaces, to_policy_actions
from dapbench.rl.updates import Batch, FlatParameters, Update
from dapbench.settings import check_number

BATCHES_A_STEP = 10  # one compiled loop; the average of the parameters takes them in at its end
QUALITY_STATES, QUALITY_PROPOSALS = 1000, 8


class Pretraining(pl.LightningModule):
    """Minimizes a prior's own loss on random rows of the logs, and averages its parameters.

    Args:
        prior: moves.
        logs: {name: [N, ...]}, ``prior_observations`` as the prior normalizes them and ``actions`` in [-1, 1].
        weights: [N], what each row weighs in the loss, by being drawn so much more often.
        seed: of the rows and of their corruption.
        compile: compile the steps.
    """

    def __init__(self, prior: ActionPrior, logs: Batch, weights: Tensor, seed: int, compile: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.prior, self.logs, self.weights = prior, logs, weights
        self.generator = torch.Generator().manual_seed(seed)
        rate = prior.config["learning_rate"]
        self.update = Update(FlatParameters({"prior": prior}), self.loss, rate, max_grad_norm=1.0, compile=compile)
        self.average = self.update.flat.detach().clone()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The prior's own loss."""
        return self.prior.fit_loss(self.prior.predict(batch), batch), {}

    def training_step(self, batches: int, batch_idx: int) -> None:
        """A step of Adam on each of ``batches`` batches, and one of the average."""
        size, decay = self.prior.config["batch_size"], self.prior.config["ema_decay"]
        rows = torch.multinomial(self.weights, batches * size, replacement=True, generator=self.generator)
        batch = {name: column[rows] for name, column in self.logs.items()}
        batch |= self.prior.corrupt(batch["actions"], self.generator)
        self.log_dict(self.update.epoch(batch, size, self.generator), prog_bar=True)
        self.average.lerp_(self.update.flat.detach(), 1.0 - decay**batches)

    def on_train_end(self) -> None:
        """Leaves the prior with the average."""
        with torch.no_grad():
            self.update.flat.copy_(self.average)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, which :class:`Update` steps."""
        return self.update.optimizer


def split(logs: Transitions, held_out_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row indices (training, held out) such that no episode is in both; at least one episode is on each side."""
    ends = torch.as_tensor(logs.ends).long()
    episode = ends.cumsum(0) - ends
    count = int(episode.max()) + 1
    if count < 2:
        raise UserError("the logs hold one episode, which leaves none to hold out; log more transitions")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[order[: max(1, int(count * held_out_share))]] = True
    rows = torch.arange(len(episode))
    return rows[~held_out[episode]], rows[held_out[episode]]


def fit_prior(
    prior: ActionPrior,
    observations: Tensor,
    actions: Tensor,
    batches: int,
    seed: int,
    weights: Tensor | None = None,
    compile: bool = True,
) -> None:
    """Trains ``prior`` in place and leaves it with the moving average of its parameters.

    Args:
        prior: moves.
        observations: [N, O], raw.
        actions: [N, A], in [-1, 1].
        batches: how many.
        seed: of the batches and of their corruption.
        weights: [N], what each row weighs in the loss; None: all alike.
        compile: compile the steps.
    """
    prior.fit_statistics(observations, actions)
    logs = {"prior_observations": prior.normalize(observations), "actions": actions}
    weights = torch.ones(len(actions)) if weights is None else weights
    full, rest = divmod(batches, BATCHES_A_STEP)
    steps = [BATCHES_A_STEP] * full + [rest] * (rest > 0)
    trainer = make_trainer(max_epochs=1, callbacks=[TQDMProgressBar(refresh_rate=max(1, len(steps) // 20))])
    fit(trainer, Pretraining(prior, logs, weights, seed, compile), steps)


def check_pretraining(config: Mapping[str, Any]) -> None:
    """Refuses a configuration of ``dapbench pretrain`` that cannot run."""
    check_number("seed", config["seed"], 0, 2**31 - 1, integer=True)
    check_number("draw", config["draw"], 0, 10**9, integer=True)
    check_number("profile.prior_batches", config["profile"]["prior_batches"], 1, 10**8, integer=True)
    for key in ("width", "depth", "batch_size"):
        check_number(f"prior.{key}", config["prior"][key], 1, 10**5, integer=True)
    for key, high in {"learning_rate": 1.0, "ema_decay": 1.0, "held_out_share": 0.9}.items():
        check_number(f"prior.{key}", config["prior"][key], 0.0, high)
    if config["prior"]["advantage_temperature"] is not None:
        check_number("prior.advantage_temperature", config["prior"]["advantage_temperature"], 1e-3, 1e6)
    if "sigma_min" in config["prior"]:
        check_number("prior.solver_steps", config["prior"]["solver_steps"], 1, 1000, integer=True)
        check_number("prior.sigma_max", config["prior"]["sigma_max"], 1e-3, 1e3)
        check_number("prior.sigma_min", config["prior"]["sigma_min"], 1e-6, config["prior"]["sigma_max"])


def pretrain(config: dict[str, Any]) -> None:
    """Reads logs, fits the prior and a conditional Gaussian beside it, writes prior.ckpt and quality.json.

    Raises:
        UserError: bad configuration, or logs that are missing, malformed or of another task.
    """
    check_pretraining(config)
    require_writable(Path(config["out"]))
    start = time.perf_counter()
    spaces = task_spaces(config["task"])
    logs = load_transitions(Path(config["logs_dir"]), *spaces, config["task"]["env_id"])
    observations = torch.as_tensor(logs.observations)
    actions = torch.as_tensor(to_policy_actions(logs.actions, spaces[1])).clamp(-1.0, 1.0)
    training, held_out = split(logs, config["prior"]["held_out_share"], config["seed"])
    compile = config["profile"]["compile"]
    weights, temperature = None, config["prior"]["advantage_temperature"]
    if temperature is not None:
        weights = advantage_weights(logs, actions, temperature, compile)[training]
    gaussian = {**config["prior"], "_target_": "dapbench.prior.gaussian.GaussianPrior", "name": "gaussian"}
    beside = {"gaussian": gaussian} if config["prior"]["name"] != "gaussian" else {}
    quality: dict[str, Any] = {"held_out_transitions": len(held_out), "training_transitions": len(training)}
    for label, settings in {"prior": config["prior"], **beside}.items():
        torch.manual_seed(config["seed"])
        prior = build_prior(observations.shape[1], actions.shape[1], settings)
        batches = config["profile"]["prior_batches"]
        fit_prior(prior, observations[training], actions[training], batches, config["seed"], weights, compile)
        chosen = held_out[:: max(1, len(held_out) // QUALITY_STATES)]
        quality[label] = measure(prior, observations[chosen], actions[chosen], QUALITY_PROPOSALS, config["seed"])
        if label == "prior":
            with whole(Path(config["out"]) / "prior.ckpt") as temporary:
                prior.save(temporary, logs.description)
    quality.setdefault("gaussian", quality["prior"])
    write_json(Path(config["out"]) / "quality.json", quality)
    ours, theirs = quality["prior"], quality["gaussian"]
    print(
        f"{config['task']['name']} {config['logs']['name']} draw {config['draw']} {config['prior']['name']} prior on "
        "held-out states: "
        f"energy distance {ours['energy_distance']:.4f} (a Gaussian's {theirs['energy_distance']:.4f}), "
        f"energy score {ours['energy_score']:.4f} ({theirs['energy_score']:.4f}); {time.perf_counter() - start:.0f} s"
    )
