"""`dapbench render`: a film of a trained policy, drawn without a screen."""

import functools
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dapbench.errors import UserError
from dapbench.files import require_writable_file, whole
from dapbench.rl.environments import env_seeds, make_env, to_env_actions
from dapbench.settings import check_number
from dapbench.surroundings import DRAWING

if TYPE_CHECKING:  # a module that imports MuJoCo is imported after choose_backend
    from dapbench.ppo import PPO

BACKENDS = ("egl", "osmesa")  # those of MuJoCo's that need no screen
PROBE = "import mujoco; mujoco.GLContext(16, 16).make_current()"
FILM_STREAM = 2  # the other streams of a seed: training 0, evaluation 1, its curve 3, recording logs from 4 on
COLOURS = 64  # a gif of 128 looks no better here and is a quarter larger
RANGES = {"seconds": (0.1, 600.0), "fps": (1, 50), "width": (16, 2000), "height": (16, 2000), "seed": (0, 2**31 - 1)}


@functools.cache
def choose_backend() -> None:
    """Sets MUJOCO_GL to a backend that works here, with a screen or without, or tries the one that it names.

    Each is tried in a process of its own, since one that fails spoils PyOpenGL for the next; and before MuJoCo is
    imported, since the import itself fails with one that does not work.

    Raises:
        UserError: none works.
    """
    chosen = os.environ.get("MUJOCO_GL") or os.environ.get(DRAWING)
    if sys.platform != "linux" and not chosen:
        return
    screen = ["glfw"] if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") else []  # it may be long gone
    reasons = []
    for backend in [chosen] if chosen else [*screen, *BACKENDS]:
        environment = os.environ | {"MUJOCO_GL": backend}
        tried = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True)
        if tried.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return
        reasons.append(
            f"{backend}: {(tried.stderr.decode(errors='replace').strip().splitlines() or ['it crashed'])[-1]}"
        )
    if chosen:
        raise UserError(f"MUJOCO_GL={chosen} does not work here ({reasons[0]}); unset it to have one chosen")
    raise UserError(
        f"nothing here can draw without a screen ({'; '.join(reasons)}); install Mesa's EGL (on Debian and Ubuntu: "
        "apt-get install libegl1 libgl1-mesa-dri) or OSMesa (libosmesa6)"
    )


def drawn_task(task: Mapping[str, Any], width: int, height: int) -> dict[str, Any]:
    """The task with the arguments that make it draw; other tasks than MuJoCo's choose their size themselves.

    Raises:
        UserError: the task cannot be drawn into an array.
    """
    from gymnasium.envs.mujoco import MujocoEnv

    env = make_env(task)
    modes, is_mujoco = env.metadata.get("render_modes") or [], isinstance(env.unwrapped, MujocoEnv)
    env.close()
    if "rgb_array" not in modes:
        known = f"it knows {', '.join(modes)}" if modes else "it has no rendering"
        raise UserError(f"task {task['name']} ({task['env_id']}) has no render mode rgb_array: {known}; no film of it")
    # Most models have a camera "track", which follows; Gymnasium 1.4 no longer chooses it, and robots leave the film.
    given = {"camera_name", "camera_id"} & task["env_kwargs"].keys()
    look = {"width": width, "height": height} | ({} if given else {"camera_name": "track"}) if is_mujoco else {}
    return dict(task) | {"env_kwargs": {**task["env_kwargs"], "render_mode": "rgb_array", **look}}


def film(module: "PPO", seconds: float, fps: int, width: int, height: int, seed: int) -> list[Image.Image]:
    """Frames of the policy's mean action, in the task's own time; :func:`choose_backend` comes before.

    Args:
        module: with its weights and statistics, such as from :func:`load_run`.
        seconds, fps: length of the film and frames in a second of it.
        width, height: pixels that a frame may have at most.
        seed: of the episodes' starts.

    Raises:
        UserError: the task cannot be drawn, or nothing here can draw.
    """
    from gymnasium.envs.mujoco import MujocoEnv

    task = drawn_task(module.config["task"], width, height)
    env, mean_action = make_env(task), module.mean_action()
    observation, _ = env.reset(seed=env_seeds(seed, 1, FILM_STREAM)[0])
    if isinstance(env.unwrapped, MujocoEnv):
        # Without a GPU a frame takes 0.3 s as the tasks come and 0.03 s like this, and looks much the same.
        model = env.unwrapped.model
        model.vis.quality.shadowsize, model.vis.quality.offsamples = 1024, 0
        model.mat_reflectance[:] = 0.0
    steps, steps_per_frame = 0, (env.metadata.get("render_fps") or 30) / fps
    frames = []
    for index in range(max(1, round(seconds * fps))):
        while steps < round(index * steps_per_frame):
            action = mean_action(observation[None].astype(np.float32))[0]
            observation, _, terminated, truncated, _ = env.step(to_env_actions(action, module.action_space))
            steps += 1
            if terminated or truncated:
                observation, _ = env.reset()
        try:
            frame = Image.fromarray(np.asarray(env.render(), dtype=np.uint8))
        except Exception as error:  # each backend and library has errors of its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"cannot draw task {task['name']}: {reason}; try MUJOCO_GL=egl") from error
        frame.thumbnail((width, height))
        frames.append(frame)
    env.close()
    return frames


def gif(frames: list[Image.Image], fps: int) -> bytes:
    """An endless gif: the same bytes for the same frames."""
    some = frames[:: max(1, len(frames) // 6)]
    sheet = Image.fromarray(np.concatenate([np.asarray(frame) for frame in some]))
    palette = sheet.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    # No dithering: its noise would change in every frame, for the eye and for the compression.
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, optimize=False)
    return buffer.getvalue()


def write_mp4(path: Path, frames: list[Image.Image], fps: int) -> None:
    """Writes an mp4 (H.264)."""
    import imageio_ffmpeg

    # Sizes are even: the encoder's colours have half the resolution.
    frames = [frame.crop((0, 0, frame.width // 2 * 2, frame.height // 2 * 2)) for frame in frames]
    options = {"fps": fps, "macro_block_size": 2, "output_params": ["-f", "mp4"], "ffmpeg_log_level": "error"}
    writer = imageio_ffmpeg.write_frames(str(path), frames[0].size, **options)
    writer.send(None)
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()


def render(config: Mapping[str, Any]) -> None:
    """Writes the film of a run directory's policy to ``out``.

    Raises:
        UserError: an unknown suffix, no checkpoint, or nothing here that can draw or encode.
    """
    out = Path(config["out"])
    if out.suffix not in (".gif", ".mp4"):
        raise UserError(f"out={out} ends in neither .gif nor .mp4; name the film with one of these")
    if out.suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        raise UserError(f"out={out} needs imageio-ffmpeg; pip install 'dapbench[render]', or choose a .gif")
    for key, (low, high) in RANGES.items():
        check_number(key, config[key], low, high, integer=key != "seconds")
    require_writable_file(out)
    choose_backend()
    from dapbench.runs.evaluation import load_run

    module = load_run(Path(config["run"]))
    frames = film(module, **{key: config[key] for key in RANGES})
    with whole(out) as temporary:
        if out.suffix == ".gif":
            temporary.write_bytes(gif(frames, config["fps"]))
        else:
            write_mp4(temporary, frames, config["fps"])
    names = [module.config[part]["name"] for part in ("task", "method")]
    print(f"{' '.join(names)}: {len(frames)} frames, {out.stat().st_size / 1024:.0f} KiB, in {out}")
