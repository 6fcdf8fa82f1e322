"""Snapshots of what a stopped run goes on from beside weights and optimisers: plain values, generators, environments.

A snapshot holds only what ``torch.load(weights_only=True)`` reads: numbers, strings, tensors, lists and dictionaries.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import torch

PLAIN = (bool, int, float, type(None))
# What a fresh copy of the environment has just the same: the model, the spaces, what draws it, what it was made from.
LEFT = (mujoco.MjModel, gym.Env, gym.Space, gym.envs.registration.EnvSpec)
LEFT_NAMES = ("mujoco_renderer", "screen", "clock")


class NotPlain(Exception):
    """A value that no snapshot can hold."""


def pack(value: Any) -> Any:
    """``value`` as plain values and tensors, of which equal ones are saved as equal bytes.

    Raises:
        NotPlain: it is, or holds, an object of another kind.
    """
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        return {"numpy": torch.from_numpy(np.array(value)), "scalar": isinstance(value, np.generic)}
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, str):
        return same_object(value)
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, torch.Tensor):
        return value.clone()
    # Not their subclasses, such as named tuples, which cannot all be made from their items.
    if type(value) in (list, tuple):
        return type(value)(pack(item) for item in value)
    if type(value) is dict:
        return {pack(key): pack(item) for key, item in value.items()}
    raise NotPlain(type(value).__name__)


def same_object(text: str) -> str:
    """``text`` as the one object that all equal strings share.

    Pickle writes an object once and then points at it, so that equal checkpoints have equal bytes only if their equal
    strings are the same objects (seen with Python 3.11 to 3.13). If this stops working, only the bytes of checkpoints
    differ, and with them what DVC takes for changed; tests/runs/test_resuming.py compares them.
    """
    return sys.intern(text)


def unpack(packed: Any, current: Any = None, device: torch.device | str = "cpu") -> Any:
    """What :func:`pack` was given, tensors on ``device``; a generator is the ``current`` one, set back."""
    if isinstance(current, torch.Generator):
        return current.set_state(packed)
    if isinstance(current, np.random.Generator):
        current.bit_generator.state = packed
        return current
    if isinstance(packed, dict) and packed.keys() == {"numpy", "scalar"}:
        array = packed["numpy"].numpy()
        return array[()] if packed["scalar"] else array
    if isinstance(packed, torch.Tensor):
        return packed.to(device)
    if isinstance(packed, list | tuple):
        return type(packed)(unpack(item, device=device) for item in packed)
    if isinstance(packed, dict):
        return {key: unpack(item, device=device) for key, item in packed.items()}
    return packed


def snapshot(owner: object, names: Sequence[str] = ()) -> dict[str, Any]:
    """The attributes ``names`` of ``owner``, packed; without names the fields of the dataclass that it is."""
    return {name: pack(getattr(owner, name)) for name in names or [f.name for f in fields(owner)]}  # type: ignore[arg-type]


def restore(owner: object, packed: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Sets the attributes that :func:`snapshot` took, tensors on ``device``."""
    for name, value in packed.items():
        setattr(owner, name, unpack(value, getattr(owner, name, None), device))


def environment_state(env: gym.Env) -> list[dict[str, Any]]:
    """The whole state of an environment, from the outermost wrapper inwards.

    Of each layer its plain attributes (a time limit's count, for instance) and its random numbers; of a MuJoCo
    simulation every array, since observations may read what only the last step has computed (contact forces, say).

    Raises:
        NotPlain: the environment keeps state in an object that cannot be told apart, so it cannot be resumed.
    """
    layers = []
    while True:
        inner = env is env.unwrapped
        layer: dict[str, Any] = {}
        for name, value in vars(env).items():
            if isinstance(value, mujoco.MjData):
                layer[name] = simulation_state(value)
            elif not (isinstance(value, LEFT) or name in LEFT_NAMES or callable(value)):
                layer[name] = pack(value)
        layers.append(layer)
        if inner:
            return layers
        env = env.env  # type: ignore[attr-defined]


def restore_environment(env: gym.Env, layers: list[dict[str, Any]]) -> None:
    """Gives a fresh environment that has been reset once the state that :func:`environment_state` took."""
    for layer in layers:
        for name, packed in layer.items():
            current = getattr(env, name, None) if name != "_np_random" else env.unwrapped.np_random
            if isinstance(current, mujoco.MjData):
                restore_simulation(current, packed)
            else:
                setattr(env, name, unpack(packed, current))
        env = getattr(env, "env", env)


def simulation_state(data: mujoco.MjData) -> dict[str, Any]:
    """Every array of a simulation but the contacts' and constraints', which each step makes anew, and its time."""
    fields = {name: getattr(data, name) for name in dir(data) if not name.startswith(("_", "efc_", "contact"))}
    arrays = {name: torch.from_numpy(a.copy()) for name, a in fields.items() if isinstance(a, np.ndarray) and a.size}
    return {"time": data.time} | arrays


def restore_simulation(data: mujoco.MjData, packed: dict[str, Any]) -> None:
    """Gives a simulation of the same model the state that :func:`simulation_state` took."""
    for field, value in packed.items():
        if field == "time":
            data.time = value
        elif getattr(data, field).shape == value.shape:  # else the solver's own, made anew in each step
            getattr(data, field)[...] = value.numpy()
