"""`dapbench pretrain`: fits an action prior to logged (s, a) and measures it on held-out episodes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, TQDMProgressBar
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, TensorDataset, WeightedRandomSampler

from dapbench.advantage_weights import advantage_weights
from dapbench.datasets.episodes import Transitions, load_transitions
from dapbench.errors import UserError
from dapbench.files import require_writable, whole, write_json
from dapbench.fitting import fit, make_trainer
from dapbench.prior.base import ActionPrior, build_prior
from dapbench.prior.quality import measure
from dapbench.rl.environments import task_spaces, to_policy_actions
from dapbench.settings import check_number

QUALITY_STATES, QUALITY_PROPOSALS = 1000, 8


class Pretraining(pl.LightningModule):
    """Minimizes a prior's own loss on batches of (observation as the prior normalizes it, action)."""

    def __init__(self, prior: ActionPrior, seed: int) -> None:
        super().__init__()
        self.prior = prior
        self.generator = torch.Generator().manual_seed(seed)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss on one batch."""
        prior_observations, actions = batch
        rows = {
            "prior_observations": prior_observations,
            "actions": actions,
            **self.prior.corrupt(actions, self.generator),
        }
        loss = self.prior.fit_loss(self.prior.predict(rows), rows)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        config = self.prior.config
        return torch.optim.AdamW(
            self.prior.network.parameters(), lr=config["learning_rate"], weight_decay=config["weight_decay"]
        )


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
    prior: ActionPrior, observations: Tensor, actions: Tensor, batches: int, seed: int, weights: Tensor | None = None
) -> None:
    """Trains ``prior`` in place and keeps the moving average of its parameters.

    Args:
        prior: moves.
        observations: [N, O], raw.
        actions: [N, A], in [-1, 1].
        batches: how many.
        seed: of the batches and of their corruption.
        weights: [N], what each row weighs in the loss, by being drawn so much more often; None: all alike.
    """
    prior.fit_statistics(observations, actions)
    data = TensorDataset(prior.normalize(observations), actions)
    generator = torch.Generator().manual_seed(seed)
    batch_size = min(prior.config["batch_size"], len(data))
    count = batches * batch_size
    draws: Sampler[int] = RandomSampler(data, replacement=True, num_samples=count, generator=generator)
    if weights is not None:
        draws = WeightedRandomSampler(weights.tolist(), count, generator=generator)
    trainer = make_trainer(
        max_steps=batches,
        gradient_clip_val=1.0,
        callbacks=[
            EMAWeightAveraging(decay=prior.config["ema_decay"], use_buffers=False),
            TQDMProgressBar(refresh_rate=max(1, batches // 20)),
        ],
    )
    sampler = BatchSampler(draws, batch_size, drop_last=True)
    fit(trainer, Pretraining(prior, seed + 1), DataLoader(data, sampler=sampler, batch_size=None))


def check_pretraining(config: Mapping[str, Any]) -> None:
    """Refuses a configuration of ``dapbench pretrain`` that cannot run."""
    check_number("seed", config["seed"], 0, 2**31 - 1, integer=True)
    check_number("draw", config["draw"], 0, 10**9, integer=True)
    check_number("profile.prior_batches", config["profile"]["prior_batches"], 1, 10**8, integer=True)
    for key in ("width", "depth", "batch_size"):
        check_number(f"prior.{key}", config["prior"][key], 1, 10**5, integer=True)
    for key, high in {"learning_rate": 1.0, "weight_decay": 1.0, "ema_decay": 1.0, "held_out_share": 0.9}.items():
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
    weights, temperature = None, config["prior"]["advantage_temperature"]
    if temperature is not None:
        weights = advantage_weights(logs, actions, temperature, config["profile"]["compile"])[training]
    gaussian = {**config["prior"], "_target_": "dapbench.prior.gaussian.GaussianPrior", "name": "gaussian"}
    beside = {"gaussian": gaussian} if config["prior"]["name"] != "gaussian" else {}
    quality: dict[str, Any] = {"held_out_transitions": len(held_out), "training_transitions": len(training)}
    for label, settings in {"prior": config["prior"], **beside}.items():
        torch.manual_seed(config["seed"])
        prior = build_prior(observations.shape[1], actions.shape[1], settings)
        batches = config["profile"]["prior_batches"]
        fit_prior(prior, observations[training], actions[training], batches, config["seed"], weights)
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
