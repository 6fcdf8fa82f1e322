"""Datasets: Minari itself reads them, the same episodes give the same bytes, and bad ones are refused in one line."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box

from dapbench.datasets.episodes import Episode, load_transitions, write_dataset
from dapbench.errors import UserError

OBSERVATIONS = Box(-np.inf, np.inf, (11,), np.float64)
ACTIONS = Box(-1.0, 1.0, (3,), np.float32)
LENGTHS = (5, 1, 7)


def episodes(seed: int = 0) -> list[Episode]:
    """Three episodes: cut off, ended by the task, cut off."""
    generator = np.random.default_rng(seed)
    return [
        Episode(
            observations=generator.normal(size=(steps + 1, 11)).astype(np.float32),
            actions=generator.uniform(-1, 1, size=(steps, 3)).astype(np.float32),
            rewards=generator.normal(size=steps).astype(np.float32),
            terminations=np.arange(steps) == (steps - 1 if steps == 1 else steps),
            truncations=np.arange(steps) == (steps - 1 if steps > 1 else steps),
        )
        for steps in LENGTHS
    ]


def write(path: Path, logged: list[Episode] | None = None) -> Path:
    write_dataset(
        path,
        episodes() if logged is None else logged,
        OBSERVATIONS,
        ACTIONS,
        dataset_id="dapbench/hopper/medium-v0",
        env_spec=gymnasium.spec("Hopper-v5"),
        metadata={"quality": "medium", "env_steps": 1234, "behaviour": [{"epoch": 20, "share": 1.0}]},
    )
    return path


def load(source: Path | str, observation_space: Box = OBSERVATIONS, action_space: Box = ACTIONS, env_id=None):
    return load_transitions(source, observation_space, action_space, env_id)


def test_round_trip(tmp_path: Path) -> None:
    logs, written = load(write(tmp_path), env_id="Hopper-v5"), episodes()
    assert logs.observations.dtype == logs.actions.dtype == logs.rewards.dtype == np.float32
    np.testing.assert_array_equal(logs.observations, np.concatenate([episode.observations[:-1] for episode in written]))
    np.testing.assert_array_equal(logs.actions, np.concatenate([episode.actions for episode in written]))
    np.testing.assert_array_equal(logs.rewards, np.concatenate([episode.rewards for episode in written]))
    assert np.flatnonzero(logs.ends).tolist() == [4, 5, 12]
    assert np.flatnonzero(logs.terminations).tolist() == [5]
    np.testing.assert_allclose(logs.returns, [episode.rewards.sum() for episode in written], rtol=1e-6)
    assert logs.description["return_mean"] == pytest.approx(logs.returns.mean())
    expected = {"quality": "medium", "env_steps": 1234, "transitions": 13, "episodes": 3, "source": str(tmp_path)}
    assert expected.items() <= logs.description.items()


def test_minari_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "dapbench" / "hopper" / "medium-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = minari.load_dataset("dapbench/hopper/medium-v0")
    assert (dataset.total_episodes, dataset.total_steps, dataset.spec.dataset_name) == (3, 13, "medium")
    assert dataset.observation_space == OBSERVATIONS
    np.testing.assert_array_equal(dataset[2].observations, episodes()[2].observations)
    np.testing.assert_array_equal(dataset[1].terminations, [True])
    assert dataset.storage.metadata["dapbench"]["behaviour"] == [{"epoch": 20, "share": 1.0}]
    assert dataset.recover_environment().spec.id == "Hopper-v5"
    # A public name that is in Minari's own cache needs no network.
    assert len(load("minari:dapbench/hopper/medium-v0").actions) == 13


def test_same_episodes_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    time.sleep(1.1)  # a time stamp in seconds would differ
    write(tmp_path / "b")
    files = sorted(file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*"))
    assert [str(file) for file in files] == ["data", "data/main_data.hdf5", "data/metadata.json"]
    for file in files[1:]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_writing_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=r"episode 2 .* NaN or infinite"):
        write(tmp_path, broken(2, rewards=np.full(7, np.nan)))
    assert len(load(tmp_path).actions) == 13
    write(tmp_path, episodes(1)[:1])
    assert len(load(tmp_path).actions) == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/logs: Not a directory"):
        write(tmp_path / "file" / "logs")


def broken(index: int, **changes: object) -> list[Episode]:
    """The three episodes with some arrays of one of them replaced."""
    logged = episodes()
    logged[index] = dataclasses.replace(logged[index], **changes)
    return logged


@pytest.mark.parametrize(
    ("logged", "message"),
    [
        ([], "no episode to write"),
        (
            broken(0, observations=np.zeros((5, 11))),
            r"observations of episode 0 .* shape \(5, 11\) in place of \(6, 11\)",
        ),
        (broken(1, actions=np.zeros((1, 2))), r"actions of episode 1 .* shape \(1, 2\) in place of \(1, 3\)"),
        (broken(1, actions=np.zeros((1, 3), dtype=int)), "actions of episode 1 .* are int64"),
        (broken(2, observations=np.full((8, 11), np.inf)), "observations of episode 2 .* NaN or infinite"),
        (broken(2, observations=np.full((8, 11), 1e200)), "observations of episode 2 .* NaN or infinite"),
    ],
)
def test_bad_episodes_are_not_written(tmp_path: Path, logged: list[Episode], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path / "logs", logged)
    assert not (tmp_path / "logs").exists()


def rewrite_metadata(logs: Path, **changes: object) -> None:
    file = logs / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def overwrite(logs: Path, group: str, values: np.ndarray) -> None:
    """Replaces an array of the first episode behind Minari's back, as a broken tool would."""
    import h5py

    with h5py.File(logs / "data" / "main_data.hdf5", "a") as file:
        del file[f"episode_0/{group}"]
        file[f"episode_0/{group}"] = values


def truncate(logs: Path) -> None:
    file = logs / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda logs: shutil.rmtree(logs), "no logs at .*dapbench collect task=TASK"),
        (lambda logs: (logs / "data" / "metadata.json").unlink(), "is not a Minari dataset"),
        (lambda logs: (logs / "data" / "metadata.json").write_text("[1"), "is not a Minari dataset"),
        (lambda logs: (logs / "data" / "metadata.json").write_text("[]"), "is not a Minari dataset"),
        (lambda logs: (logs / "data" / "main_data.hdf5").unlink(), "cannot be read .No data found"),
        (lambda logs: rewrite_metadata(logs, total_episodes=0), "holds no episode"),
        (lambda logs: rewrite_metadata(logs, total_episodes=4), "cannot be read"),
        (lambda logs: rewrite_metadata(logs, data_format="tape"), "cannot be read .*tape"),
        (lambda logs: rewrite_metadata(logs, minari_version="9.9.9"), "cannot be read .*does not support"),
        (lambda logs: rewrite_metadata(logs, observation_space="{}"), "cannot be read"),
        (truncate, "cannot be read .*truncated file"),
        (lambda logs: (logs / "data" / "main_data.hdf5").write_bytes(b"x" * 500), "cannot be read .*signature"),
        (lambda logs: overwrite(logs, "actions", np.full((5, 3), np.nan)), "actions of episode 0 .* NaN or infinite"),
        (lambda logs: overwrite(logs, "rewards", np.full(5, np.inf)), "rewards of episode 0 .* NaN or infinite"),
        (lambda logs: overwrite(logs, "actions", np.ones((5, 3), int)), "actions of episode 0 .* int64; floating"),
        (lambda logs: overwrite(logs, "actions", np.full((5, 3), b"a")), "actions of episode 0 .* floating"),
        (lambda logs: overwrite(logs, "actions", np.ones((4, 3))), r"actions .* \(4, 3\) in place of \(5, 3\)"),
        (lambda logs: overwrite(logs, "observations", np.ones((5, 11))), r"observations .* \(5, 11\) in place of"),
        (lambda logs: overwrite(logs, "rewards", np.float64(1)), "cannot be read"),
    ],
)
def test_damaged_logs(tmp_path: Path, damage, message: str) -> None:
    logs = write(tmp_path / "logs")
    damage(logs)
    with pytest.raises(UserError, match=message) as error:
        load(logs)
    assert "\n" not in str(error.value)


def test_metadata_without_spaces_builds_no_environment(tmp_path: Path) -> None:
    """Minari would import and call the entry point that the metadata names."""
    logs = write(tmp_path)
    file = logs / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["action_space"]
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="does not say its name and spaces"):
        load(logs)


def test_logs_of_another_task(tmp_path: Path) -> None:
    logs = write(tmp_path)
    with pytest.raises(UserError, match=r"observations .* shape \(11,\), but the task's are of shape \(17,\)"):
        load(logs, observation_space=Box(-1, 1, (17,)))
    with pytest.raises(UserError, match=r"actions .* shape \(3,\), but the task's are of shape \(6,\)"):
        load(logs, action_space=Box(-1, 1, (6,)))
    with pytest.raises(UserError, match="logged on Hopper-v5, but the task is Walker2d-v5"):
        load(logs, env_id="Walker2d-v5")
    rewrite_metadata(logs, action_space='{"type": "Discrete", "dtype": "int64", "start": 0, "n": 3}')
    with pytest.raises(UserError, match=r"actions .* are a Discrete, but"):
        load(logs)


def test_public_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for name in ("nonsense", "mujoco/hopper/medium", "../../etc-v0", ""):
        with pytest.raises(UserError, match="not the name of a Minari dataset"):
            load(f"minari:{name}")

    def no_network(*_: object, **__: object) -> None:
        raise RuntimeError("[Errno -2] Name or service not known\nmore")

    monkeypatch.setattr("minari.storage.hosting.download_dataset", no_network)
    with pytest.raises(UserError, match=r"cannot download .*hopper/medium-v0 .*Name or service not known.*the network"):
        load("minari:mujoco/hopper/medium-v0")


def test_neither_torch_nor_minari_comes_with_the_import() -> None:
    program = "import sys, dapbench.datasets.episodes; sys.exit(bool({'torch', 'minari', 'h5py'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
