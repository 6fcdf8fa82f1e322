"""Films: their frames and bytes, the choice of a backend, and bad input in one line. Only one test needs OpenGL."""

import io
import os
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box
from PIL import Image

from dapbench.errors import UserError
from dapbench.ppo import PPO
from dapbench.showcase import film as rendering
from dapbench.showcase.film import choose_backend, film, gif, render

CONFIG = {"run": "nowhere", "out": "film.gif", "seconds": 1.0, "fps": 10, "width": 64, "height": 48, "seed": 0}


class Painted(gym.Env):
    """An environment whose picture's brightness is its step within an episode of seven steps; it needs no OpenGL."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple:
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, self.steps == 7, False, {}

    def render(self) -> Any:
        return np.full((96, 128, 3), 20 * self.steps, np.uint8)


class Blind(Painted):
    """The same without pictures."""

    metadata = {"render_modes": []}  # noqa: RUF012


@pytest.fixture
def module() -> Any:
    """A stand-in for a policy on Painted."""
    for name, made in (("Painted", Painted), ("Blind", Blind)):
        gym.register(f"dapbench_test/{name}-v0", made, max_episode_steps=100)
    task = {"name": "painted", "env_id": "dapbench_test/Painted-v0", "env_kwargs": {}}
    yield SimpleNamespace(
        config={"task": task}, action_space=Painted.action_space, mean_action=lambda: lambda observations: observations
    )
    for name in ("Painted", "Blind"):
        del gym.registry[f"dapbench_test/{name}-v0"]


def test_frames_follow_the_tasks_own_time(module: Any) -> None:
    frames = film(module, 1.0, 10, 64, 64, seed=0)
    # 20 steps a second at 10 frames a second: every second step, and after seven steps the next episode.
    assert [frame.getpixel((0, 0))[0] // 20 for frame in frames] == [0, 2, 4, 6, 1, 3, 5, 0, 2, 4]
    assert frames[0].size == (64, 48)


def test_a_gif_is_a_function_of_its_frames() -> None:
    frames = [Image.new("RGB", (8, 8), (20 * step, 0, 255)) for step in range(10)]
    content = gif(frames, 10)
    assert gif(frames, 10) == content
    read = Image.open(io.BytesIO(content))
    assert (read.n_frames, read.info["duration"], read.info["loop"]) == (10, 100, 0)


def test_a_task_without_pictures_is_named(module: Any) -> None:
    module.config["task"]["env_id"] = "dapbench_test/Blind-v0"
    with pytest.raises(UserError, match=r"task painted .* has no render mode rgb_array: it has no rendering"):
        film(module, 1.0, 10, 64, 64, seed=0)


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No backend has been chosen, and there is no screen; what is chosen in a test ends with it."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr("sys.platform", "linux")
    choose_backend.cache_clear()
    yield
    choose_backend.cache_clear()


def test_a_backend_that_works_is_chosen(no_screen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "PROBE", "import os; os.environ['MUJOCO_GL'] == 'osmesa' or exit('no device')")
    choose_backend()
    assert os.environ["MUJOCO_GL"] == "osmesa"


def test_without_any_backend_it_is_said_what_to_install(no_screen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "PROBE", "exit('no device')")
    with pytest.raises(UserError, match=r"\(egl: no device; osmesa: no device\); install .*libosmesa6"):
        choose_backend()
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(UserError, match=r"MUJOCO_GL=osmesa does not work here \(osmesa: no device\); unset it"):
        choose_backend()


@pytest.mark.parametrize(("works", "chosen"), [("glfw", "glfw"), ("egl", "egl")])
def test_a_screen_is_used_if_it_is_still_there(
    works: str, chosen: str, no_screen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DISPLAY outlives the connection that set it, as in tmux."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(rendering, "PROBE", f"import os; os.environ['MUJOCO_GL'] == {works!r} or exit('no device')")
    choose_backend()
    assert os.environ["MUJOCO_GL"] == chosen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "film.webm"}, "out=film.webm ends in neither .gif nor .mp4"),
        ({"seconds": 0}, "seconds=0 is not a number from 0.1 to 600"),
        ({"fps": 100}, "fps=100 is not a whole number from 1 to 50"),
        ({"width": 1}, "width=1 is not a whole number from 16"),
        ({}, "no checkpoint at nowhere/model.ckpt"),
    ],
)
def test_bad_input_is_one_line(changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "choose_backend", lambda: None)
    with pytest.raises(UserError, match=message):
        render(CONFIG | changes)


def test_an_mp4_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs imageio-ffmpeg; pip install"):
        render(CONFIG | {"out": "film.mp4"})


def test_a_film_of_a_real_task(compose: Any, no_screen: None) -> None:
    try:
        choose_backend()
    except UserError as error:
        pytest.skip(str(error))
    module = PPO(compose("train", "task=reacher", "method=ppo", "profile=smoke"))
    first, second = (film(module, 0.3, 10, 64, 48, seed=0) for _ in range(2))
    assert [frame.tobytes() for frame in first] == [frame.tobytes() for frame in second]
    assert len({frame.tobytes() for frame in first}) == 3
