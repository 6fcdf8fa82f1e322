"""Environments as other people write them: a task names this module in its env_id, as in outside_envs:Plain-v0."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Plain(gym.Env):
    """Ends after 20 steps by its time limit; its spaces are those that it is made with."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = Box(np.array([-1, 0], np.float32), np.array([3, 0.5], np.float32))

    def __init__(self, dtype: str = "float32", shape: tuple[int, ...] = (3,), render_mode: str | None = None) -> None:
        integers = np.issubdtype(np.dtype(dtype), np.integer)
        self.observation_space = Box(0 if integers else -1.0, 255 if integers else 1.0, tuple(shape), np.dtype(dtype))
        self.render_mode = render_mode

    def show(self) -> np.ndarray:
        return self.np_random.uniform(0, 1, self.observation_space.shape).astype(self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.show(), {}

    def step(self, action: np.ndarray) -> Any:
        assert self.action_space.contains(action.astype(np.float32))
        return self.show(), float(action.sum()), False, False, {}

    def render(self) -> Any:
        return np.zeros((32, 32, 3), np.uint8)


def of(**spaces: Any) -> type[Plain]:
    """The class with other attributes."""
    return type("Other", (Plain,), spaces)


class Raises(Plain):
    def __init__(self) -> None:
        raise KeyError("licence")


class OldReset(Plain):
    def reset(self, **_: Any) -> Any:
        return self.show()


class Lies(Plain):
    def show(self) -> Any:
        return np.zeros(7, np.float32)


class Lists(Plain):
    def show(self) -> Any:
        return [0.0, 0.0, 0.0]


class Explodes(Plain):
    """Not finite after some steps."""

    def reset(self, **options: Any) -> Any:
        self.steps = 0
        return super().reset(**options)

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        return self.show(), float("nan") if self.steps > 5 else 0.0, False, False, {}


class Stuck(Plain):
    def render(self) -> Any:
        return None


LARGEST = np.finfo(np.float32).max
LIMITED = {
    "Plain": "outside_envs:Plain",
    "ns/Plain": "outside_envs:Plain",
    "Function": lambda **kwargs: Plain(**kwargs),
    "Dict": of(observation_space=property(lambda self: Dict(x=Box(0, 1)), lambda self, _: None)),
    "Counts": of(observation_space=property(lambda self: Discrete(3), lambda self, _: None)),
    "Empty": of(observation_space=property(lambda self: Box(0, 1, (0,)), lambda self, _: None)),
    "Buttons": of(action_space=Discrete(3)),
    "Unbounded": of(action_space=Box(-np.inf, np.inf, (2,))),
    "HalfBounded": of(action_space=Box(np.float32([-1, -np.inf]), np.float32([1, 1]))),
    "Widest": of(action_space=Box(-LARGEST, LARGEST, (2,))),
    "Fixed": of(action_space=Box(np.float32([-1, 2]), np.float32([1, 2]))),
    "Table": of(action_space=Box(-1, 1, (2, 3))),
    "Scalar": of(action_space=Box(-1, 1, ())),
    "None": of(action_space=Box(-1, 1, (0,))),
    "Whole": of(action_space=Box(0, 9, (2,), np.int64)),
    "Raises": Raises,
    "OldReset": OldReset,
    "Lies": Lies,
    "Lists": Lists,
    "Explodes": Explodes,
    "Stuck": Stuck,
    "Unrendered": of(metadata={"render_modes": []}),
}
for name, made in LIMITED.items():
    gym.register(f"{name}-v0", made, max_episode_steps=20)
gym.register("Endless-v0", Plain)
