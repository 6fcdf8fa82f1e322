"""Logged behaviour: episodes of (s, a) written and read as Minari datasets.

A folder of logs holds one dataset in Minari's standard HDF5 layout below ``data/``, so that
``minari.MinariDataset(folder / "data")`` opens it without dapbench. HDF5 as Minari writes it carries no time stamps:
the same episodes give the same bytes. (Minari's Arrow layout does too, but takes two files and a pass over the whole
folder per episode: 30 s in place of 1 s for a thousand episodes.)
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.envs.registration import EnvSpec, parse_env_id
from gymnasium.error import Error as GymnasiumError
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray

from dapbench.errors import UserError
from dapbench.files import withheld

if TYPE_CHECKING:
    from minari import MinariDataset

PUBLIC = "minari:"  # prefix of a source that is the name of a public dataset
EPISODE_BYTES = 40_960  # at most, of HDF5's own beside the arrays
MALFORMED = (OSError, ValueError, TypeError, KeyError, AssertionError, NotImplementedError, GymnasiumError)


@dataclass(frozen=True)
class Episode:
    """One finished or truncated episode of T steps, in environment units."""

    observations: NDArray[Any]  # [T + 1, O], the final observation included
    actions: NDArray[Any]  # [T, A]
    rewards: NDArray[Any]  # [T]
    terminations: NDArray[np.bool_]  # [T]
    truncations: NDArray[np.bool_]  # [T]


@dataclass(frozen=True)
class Transitions:
    """The N transitions of a dataset, episode after episode, in environment units."""

    observations: NDArray[np.float32]  # [N, O], s_t
    actions: NDArray[np.float32]  # [N, A], a_t
    rewards: NDArray[np.float32]  # [N], r_t
    terminations: NDArray[np.bool_]  # [N], the task ended here; its value is zero from here on
    ends: NDArray[np.bool_]  # [N], the last logged step of an episode, whether terminated or cut off
    returns: NDArray[np.float64]  # [episodes], undiscounted
    description: dict[str, Any]  # source, quality, transitions, env_steps, return_mean, ...


def write_dataset(
    path: Path,
    episodes: Sequence[Episode],
    observation_space: Box,
    action_space: Box,
    *,
    dataset_id: str,
    env_spec: EnvSpec | None = None,
    metadata: dict[str, Any],
) -> dict[str, Any]:
    """Writes ``episodes`` as the Minari dataset ``path/data``, whole or not at all, in place of an earlier one.

    Args:
        path: folder of the logs.
        episodes: at least one; arrays that are not finite or do not fit the spaces are refused.
        dataset_id: Minari's name of the dataset, such as ``dapbench/hopper/medium-v0``.
        env_spec: makes ``MinariDataset.recover_environment()`` work.
        metadata: what only the collector knows (quality, behaviour policies, env_steps spent, ...).

    Returns:
        The description that ``load_transitions`` will give, its source aside: ``metadata``, counts, returns,
        versions.
    """
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    if not episodes:
        raise UserError(f"no episode to write to {path}; collect more transitions than one episode has")
    for index, episode in enumerate(episodes):
        _check_episode(f"episode {index} for {path}", episode, observation_space, action_space)
    versions = {name: version(name) for name in ("gymnasium", "mujoco", "minari")}
    description = {**metadata, **_statistics([episode.rewards for episode in episodes]), "versions": versions}

    try:
        path.mkdir(parents=True, exist_ok=True)
        for left in path.glob(".data.*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        _require_space(path, episodes)
        # Absolute, because Minari joins the path to itself when it measures the size.
        temporary = Path(tempfile.mkdtemp(dir=path.absolute(), prefix=".data."))
        try:
            temporary.chmod(0o755)
            storage = MinariStorage.new(
                temporary, observation_space=observation_space, action_space=action_space, env_spec=env_spec
            )
            storage.update_metadata(
                {
                    "dataset_id": dataset_id,
                    "minari_version": versions["minari"],
                    "description": "Transitions of PPO policies, logged by dapbench",
                    "algorithm_name": "PPO",
                    "requirements": [f"{name}=={versions[name]}" for name in ("gymnasium", "mujoco")],
                    "dapbench": description,
                }
            )
            storage.update_episodes(EpisodeBuffer(id=index, **vars(episode)) for index, episode in enumerate(episodes))
            earlier = Path(f"{temporary}.earlier")
            if (path / "data").exists():
                (path / "data").rename(earlier)
            temporary.rename(path / "data")
            shutil.rmtree(earlier, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose another folder or free some space"
        ) from error
    return description


def _require_space(folder: Path, episodes: Sequence[Episode]) -> None:
    """Raises an OSError where ``folder`` has no room for a dataset: HDF5 (2.1 of h5py 3.16) would end the process."""
    size = sum(array.nbytes + EPISODE_BYTES // 5 for episode in episodes for array in vars(episode).values())
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)


def load_transitions(
    source: str | Path, observation_space: Box, action_space: Box, env_id: str | None = None
) -> Transitions:
    """Reads logs as arrays of transitions; arguments and errors as for ``load_episodes``."""
    episodes, description = load_episodes(source, observation_space, action_space, env_id)
    ends = np.zeros(description["transitions"], dtype=bool)
    ends[np.cumsum([len(episode.rewards) for episode in episodes]) - 1] = True
    return Transitions(
        observations=np.concatenate([episode.observations[:-1] for episode in episodes]).astype(np.float32),
        actions=np.concatenate([episode.actions for episode in episodes]).astype(np.float32),
        rewards=np.concatenate([episode.rewards for episode in episodes]).astype(np.float32),
        terminations=np.concatenate([episode.terminations for episode in episodes]).astype(bool),
        ends=ends,
        returns=np.array([np.sum(episode.rewards, dtype=np.float64) for episode in episodes]),
        description=description,
    )


def load_episodes(
    source: str | Path, observation_space: Box, action_space: Box, env_id: str | None = None
) -> tuple[list[Episode], dict[str, Any]]:
    """Reads logs and checks that they are complete, finite and of this task.

    Args:
        source: folder of a Minari dataset, or ``minari:NAME`` for a public one, downloaded once by Minari.
        observation_space, action_space: the task's.
        env_id: the task's; tells tasks apart whose spaces are alike, such as HalfCheetah and Walker2d.

    Returns:
        The episodes, and the description that ``write_dataset`` stored; of a foreign dataset what can be told of it.

    Raises:
        UserError: whatever is wrong with the logs, in one line.
    """
    folder, data = _locate(str(source))
    metadata = _read_metadata(folder, data)
    try:
        from minari import MinariDataset

        dataset = MinariDataset(data)
        _check_task(folder, dataset, observation_space, action_space, env_id)
        episodes = [
            Episode(episode.observations, episode.actions, episode.rewards, episode.terminations, episode.truncations)
            for episode in dataset.iterate_episodes()
        ]
    except (*MALFORMED, MemoryError) as error:
        if kept := withheld(data / "main_data.hdf5", error):
            raise kept from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the Minari dataset {folder} cannot be read ({reason}); {_remedy(folder, data, metadata)}"
        ) from error
    for index, episode in enumerate(episodes):
        _check_episode(f"episode {index} of {folder}", episode, observation_space, action_space)
    # Makers of a foreign dataset do not say how many steps it cost.
    unknown = {"quality": None, "env_steps": None, "source": str(source), "dataset_id": metadata["dataset_id"]}
    return episodes, unknown | metadata.get("dapbench", {}) | _statistics([episode.rewards for episode in episodes])


def _locate(source: str) -> tuple[str, Path]:
    """The name of a source for messages, and the folder with its ``metadata.json``."""
    if source.startswith(PUBLIC):
        return source, _download(source.removeprefix(PUBLIC))
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(
            f"there are no logs at {folder}; make them with `dapbench collect task=TASK logs=QUALITY draw=DRAW "
            f"out={folder}`, or name a public Minari dataset as {PUBLIC}mujoco/hopper/medium-v0"
        )
    return source, folder / "data" if (folder / "data").is_dir() else folder


def _download(name: str) -> Path:
    """The data folder of a public dataset, fetched if it is not in Minari's own cache."""
    from minari import load_dataset
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage.datasets_root_dir import get_dataset_path

    match = DATASET_ID_RE.fullmatch(name)
    if match is None or match.group("version") is None:
        raise UserError(f"{name!r} is not the name of a Minari dataset; names look like mujoco/hopper/medium-v0")
    try:
        data = get_dataset_path(name) / "data"
    except OSError as error:
        raise UserError(
            f"Minari cannot keep datasets in {error.filename} ({error.strerror}); set MINARI_DATASETS_PATH to a folder "
            "that you can write to"
        ) from error
    if not data.exists():
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are not worth a line each
        try:
            load_dataset(name, download=True)
        except Exception as error:  # whatever the HTTP library of the day raises
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"cannot download the Minari dataset {name} ({reason}); check its name and the network, or fetch it "
                f"elsewhere with `minari download {name}` and copy it to {data.parent}"
            ) from error
    return data


def _read_metadata(folder: str, data: Path) -> dict[str, Any]:
    """The dataset's raw metadata, looked at before Minari acts on it."""
    try:
        metadata = json.loads((data / "metadata.json").read_text(encoding="utf-8"))
        episodes = metadata["total_episodes"]
        spaces = {"observation_space", "action_space", "dataset_id"} <= metadata.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if kept := withheld(data / "metadata.json", error):
            raise kept from error
        remedy = _remedy(folder, data, {}) if folder.startswith(PUBLIC) else "see docs/logs.md for the layout"
        raise UserError(f"{folder} is not a Minari dataset (no sound metadata.json in {data}); {remedy}") from error
    if not spaces:  # Minari would build an environment from the metadata to learn them
        raise UserError(f"the Minari dataset {folder} does not say its name and spaces; make it with Minari >= 0.5")
    if episodes == 0:
        raise UserError(f"the Minari dataset {folder} holds no episode; collect it again with more transitions")
    return metadata


def _remedy(folder: str, data: Path, metadata: Mapping[str, Any]) -> str:
    """What to do about a dataset that Minari does not read."""
    written, here = metadata.get("minari_version"), version("minari")
    if written not in (None, here):
        return f"it was written by Minari {written}, and this is {here}"
    if folder.startswith(PUBLIC):  # Minari keeps what it has of it
        return f"remove {data.parent}, and it is downloaded again"
    return "collect, copy or download it again"


def _check_task(
    folder: str, dataset: "MinariDataset", observation_space: Box, action_space: Box, env_id: str | None
) -> None:
    """Refuses a dataset of another task."""
    for kind, logged, wanted in (
        ("observations", dataset.observation_space, observation_space),
        ("actions", dataset.action_space, action_space),
    ):
        if not isinstance(logged, Box) or logged.shape != wanted.shape:
            raise UserError(
                f"the {kind} of {folder} are {_shown(logged)}, but the task's are {_shown(wanted)}; "
                "choose logs of the same task"
            )
    ids = [dataset.env_spec.id, env_id] if env_id and dataset.env_spec else []
    # Of module:Name-v0 Gymnasium registers the part after the colon.
    if len({parse_env_id(name.rpartition(":")[2])[:2] for name in ids}) > 1:
        raise UserError(f"{folder} was logged on {ids[0]}, but the task is {env_id}; choose logs of it")


def _shown(space: Space[Any]) -> str:
    return f"of shape {space.shape}" if isinstance(space, Box) else f"a {type(space).__name__}"


def _check_episode(name: str, episode: Episode, observation_space: Box, action_space: Box) -> None:
    """Refuses an episode of wrong lengths, shapes or types, or with values that are not finite."""
    steps = len(episode.rewards)
    for kind, values, shape in (
        ("observations", episode.observations, (steps + 1, *observation_space.shape)),
        ("actions", episode.actions, (steps, *action_space.shape)),
        ("rewards", episode.rewards, (steps,)),
        ("terminations", episode.terminations, (steps,)),
        ("truncations", episode.truncations, (steps,)),
    ):
        if steps == 0 or np.shape(values) != shape:
            raise UserError(f"the {kind} of {name} have shape {np.shape(values)} in place of {shape}; make it again")
        if kind in ("terminations", "truncations"):
            continue
        if not np.issubdtype(values.dtype, np.floating):
            raise UserError(f"the {kind} of {name} are {values.dtype}; floating-point numbers are needed")
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32)).all()
        if not finite:
            raise UserError(f"the {kind} of {name} hold NaN or infinite values; remove that episode or make it again")


def _statistics(rewards: list[NDArray[Any]]) -> dict[str, Any]:
    """Counts, and the undiscounted returns that the episodes show."""
    returns = np.array([np.sum(episode, dtype=np.float64) for episode in rewards])
    return {
        "transitions": int(sum(map(len, rewards))),
        "episodes": len(rewards),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
    }
