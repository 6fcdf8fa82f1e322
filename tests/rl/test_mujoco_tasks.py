"""The MuJoCo tasks in one batch: bit for bit what Gymnasium's own vector environment gives."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from dapbench.config import choices
from dapbench.rl import environments, mujoco_tasks
from dapbench.rl.environments import Environments, gymnasium_envs, make_envs
from dapbench.rl.mujoco_tasks import MujocoTasks

Compose = Callable[..., dict[str, Any]]
FORWARD = {"ctrl_cost_weight": 0.37, "forward_reward_weight": 1.7, "reset_noise_scale": 0.03, "frame_skip": 3}
POSITIONS = {"exclude_current_positions_from_observation": False}
STANDING = {"healthy_reward": 0.7, "terminate_when_unhealthy": False}
CONTACTS = {"contact_cost_weight": 0.01}
CHANGED: dict[str, list[dict[str, Any]]] = {
    "ant": [
        FORWARD | POSITIONS | STANDING | CONTACTS | {"contact_force_range": (-0.3, 0.2), "main_body": 2},
        {"include_cfrc_ext_in_observation": False, "healthy_z_range": (0.45, 0.9)},
    ],
    "half_cheetah": [FORWARD | POSITIONS],
    "hopper": [FORWARD | POSITIONS | STANDING, {"healthy_state_range": (-3.0, 3.0), "healthy_z_range": (0.8, 1.4)}],
    "humanoid": [
        FORWARD | POSITIONS | STANDING | CONTACTS | {"contact_cost_range": (0.001, 0.3)},
        {f"include_{name}_in_observation": False for name in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")},
    ],
    "inverted_double_pendulum": [{"healthy_reward": 3, "reset_noise_scale": 0.3, "frame_skip": 2}],
    "reacher": [{"reward_dist_weight": 0.3, "reward_control_weight": 0.7, "frame_skip": 3}],
    "swimmer": [FORWARD | POSITIONS],
    "walker2d": [FORWARD | POSITIONS | STANDING, {"healthy_z_range": (0.9, 1.5), "healthy_angle_range": (-0.2, 0.3)}],
}
FAST = (MujocoTasks, Environments)


def task_of(name: str, **env_kwargs: Any) -> dict[str, Any]:
    env_id = "".join(part.capitalize() for part in name.split("_")) + "-v5"
    return {"name": name, "env_id": env_id.replace("Halfcheetah", "HalfCheetah"), "env_kwargs": env_kwargs}


def compare(task: dict[str, Any], steps: int, num_envs: int = 3, dtype: type = np.float32) -> int:
    """Steps both kinds under the same actions and asserts equal bytes throughout; returns the number of resets."""
    fast, theirs = make_envs(task, num_envs), gymnasium_envs(task, num_envs)
    assert (type(fast), type(theirs)) == FAST
    assert fast.single_observation_space == theirs.single_observation_space
    assert fast.single_action_space == theirs.single_action_space
    seeds = list(range(5, 5 + num_envs))
    space, rng, resets = fast.single_action_space, np.random.default_rng(0), 0
    assert_same(fast.reset(seed=seeds)[0], theirs.reset(seed=seeds)[0])
    for step in range(steps):
        # Weak actions keep a body standing for long, strong ones bring it down.
        scale = (0.1, 1.0)[step // 300 % 2]
        actions = (scale * rng.uniform(space.low, space.high, (num_envs, *space.shape))).astype(dtype)
        *ours, infos = fast.step(actions)
        *expected, their_infos = theirs.step(actions)
        for mine, other in zip(ours, expected, strict=True):
            assert_same(mine, other)
        assert infos.keys() == their_infos.keys()
        if infos:
            assert_same(infos["_final_obs"], their_infos["_final_obs"])
            for e in np.flatnonzero(infos["_final_obs"]):
                assert_same(infos["final_obs"][e], their_infos["final_obs"][e])
                resets += 1
    for mine, other in zip(fast.generators, theirs.envs, strict=True):
        assert mine.bit_generator.state == other.unwrapped.np_random.bit_generator.state
    fast.close()
    theirs.close()
    return resets


def assert_same(mine: np.ndarray, other: np.ndarray) -> None:
    assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
    assert mine.tobytes() == other.tobytes(), f"{np.argwhere(mine != other)}"


@pytest.mark.parametrize("name", CHANGED)
def test_the_same_bytes_as_gymnasium(name: str) -> None:
    assert compare(task_of(name), 3000) >= 9


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in CHANGED for case in range(len(CHANGED[name]))])
def test_the_same_bytes_with_other_arguments(name: str, case: int) -> None:
    """Double precision, as `collect` has it, and a time limit of the user's own, which also ends episodes."""
    changed = CHANGED[name][case] | {"max_episode_steps": 90}
    assert compare(task_of(name, **changed), 400, dtype=np.float64) >= 12
    assert compare(task_of(name, **changed), 200, num_envs=1) >= 2


def test_every_task_of_the_suite_is_fast(compose: Compose) -> None:
    for name in choices("task"):
        task = compose("train", f"task={name}")["task"]
        assert task == task | task_of(name)
        envs = make_envs(task, 2)
        assert type(envs) is MujocoTasks
        envs.close()


@pytest.mark.parametrize(
    ("name", "owner", "broken"),
    [
        ("reacher", "_reacher", lambda values: values * (1 + 2**-52)),
        ("hopper", "_control_cost", lambda values: np.nextafter(values, np.inf)),
        ("walker2d", "_unhealthy", lambda values: ~values),
    ],
)
def test_a_broken_line_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, owner: str, broken: Any) -> None:
    whole = getattr(mujoco_tasks, owner)
    if owner == "_reacher":

        def task(env: Any, gather: Any) -> Any:
            before, after = whole(env, gather)

            def changed(*args: Any) -> Any:
                observations, rewards, terminations = after(*args)
                return observations, broken(rewards), terminations

            return before, changed

        monkeypatch.setitem(mujoco_tasks.TASKS, "Reacher-v5", (mujoco_tasks.TASKS["Reacher-v5"][0], task))
    else:
        monkeypatch.setattr(mujoco_tasks, owner, lambda *args: broken(whole(*args)))
    with pytest.raises(AssertionError):
        compare(task_of(name), 50)


@pytest.mark.parametrize("name", CHANGED)
def test_the_state_goes_on_bitwise(name: str) -> None:
    envs, fresh = make_envs(task_of(name), 2), make_envs(task_of(name), 2)
    space = envs.single_action_space
    actions = np.random.default_rng(0).uniform(space.low, space.high, (400, 2, *space.shape)).astype(np.float32)
    envs.reset(seed=[1, 2])
    for action in actions[:130]:
        envs.step(action)
    fresh.reset(seed=[3, 4])
    fresh.restore(envs.state())
    for action in actions[130:]:
        for mine, other in zip(envs.step(action)[:4], fresh.step(action)[:4], strict=True):
            assert_same(mine, other)


def test_others_are_gymnasiums_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    pendulum = {"name": "pendulum", "env_id": "Pendulum-v1", "env_kwargs": {}}
    old = {"name": "hopper", "env_id": "InvertedPendulum-v5", "env_kwargs": {}}
    for task in (pendulum, old, task_of("hopper", render_mode="rgb_array")):
        envs = make_envs(task, 1)
        assert type(envs) is Environments
        envs.close()
    assert capsys.readouterr().err == ""


def test_another_gymnasium_or_class_is_gymnasiums_with_one_notice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"Hopper-v5": ("hopper_v4:HopperEnv", mujoco_tasks.TASKS["Hopper-v5"][1])}
    for patched in ((gym, "__version__", "9.9"), (mujoco_tasks, "TASKS", other)):
        environments._notice.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(*patched)
            for _ in range(2):
                envs = make_envs(task_of("hopper"), 1)
                assert type(envs) is Environments
                envs.close()
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "Gymnasium 1.4.0" in said
    environments._notice.cache_clear()


def test_actions_of_another_shape_are_refused() -> None:
    envs = make_envs(task_of("hopper"), 2)
    envs.reset(seed=1)
    with pytest.raises(ValueError, match=r"\(2, 1\) in place of \(2, 3\)"):
        envs.step(np.zeros((2, 1), dtype=np.float32))
