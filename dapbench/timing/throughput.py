"""`dapbench throughput`: steps per second beside the environments, the physics and other libraries, on one core."""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from statistics import median
from typing import Any

from tqdm import tqdm

from dapbench.errors import UserError
from dapbench.rl.environments import make_env
from dapbench.runs.training import check_run
from dapbench.settings import check_choice, check_number
from dapbench.timing.overhead import one_core
from dapbench.timing.peers import CLOCKS, PEERS, REPEATING, serve

ENDLESS = 10**9  # epochs: a program runs until it is stopped, and the learning rate stays what it is for the peers


def ratios(speeds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """dapbench's speed relative to every other program's, within each repeat; above 1, dapbench is faster."""
    others = {name: values for name, values in speeds.items() if name != "dapbench"}
    return {
        name: [ours / theirs for ours, theirs in zip(speeds["dapbench"], values, strict=True)]
        for name, values in others.items()
    }


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as the programs read it: the environments in the method, and epochs of whole iterations.

    Raises:
        UserError: a bad value, an unknown peer, or one that is not installed.
    """
    for key, high in (("num_envs", 10**4), ("peer_envs", 10**4), ("pairs", 10**4)):
        check_number(key, config[key], 1, high, integer=True)
    check_number("seconds", config["seconds"], 0.0, 3600.0)
    check_choice("clock", config["clock"], list(CLOCKS))
    if not isinstance(config["peers"], list):
        raise UserError(f"peers={config['peers']} is not a list; say 'peers=[{','.join(PEERS)}]', or 'peers=[]'")
    for name in config["peers"]:
        if name not in PEERS:
            raise UserError(f"unknown peer '{name}' in peers; choose from {', '.join(PEERS)}, or 'peers=[]' for none")
        if find_spec(PEERS[name][0]) is None:
            raise UserError(f"peer {name} is not installed; run pip install 'dapbench[peers]' or leave it out of peers")
    method = config["method"] | {"num_envs": config["num_envs"]}
    # No curve is kept here, so an epoch may be rounded up to whole iterations of whatever size.
    iteration = method["num_envs"] * method["rollout_steps"]
    epoch_steps = -(-config["profile"]["epoch_steps"] // iteration) * iteration
    endless = {"epoch_steps": epoch_steps, "epochs": ENDLESS, "schedule_epochs": ENDLESS}
    result = {**config, "method": method, "profile": config["profile"] | endless}
    check_run(result)
    return result


@contextmanager
def started(name: str, config: dict[str, Any]) -> Iterator[Callable[[list[Any]], tuple[float, list[Any]]]]:
    """Starts a program in a process of its own, and stops it in the end.

    Yields:
        A function that gives the program one turn, with what the one before it left, and returns its environment steps
        per second and what it leaves itself.

    Raises:
        UserError: the program failed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(name, config, theirs), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is heard

    def heard() -> tuple[float, list[Any]]:
        try:
            answer = ours.recv()
        except (EOFError, ConnectionError):
            process.join()
            answer = f"its process ended with status {process.exitcode}"
        if isinstance(answer, str):
            raise UserError(f"{name} could not be timed: {answer}")
        return answer

    def turn(given: list[Any]) -> tuple[float, list[Any]]:
        ours.send(given)
        return heard()

    try:
        heard()  # it is warm
        yield turn
    finally:
        ours.close()  # it ends at its next lap
        process.join(10.0)
        process.kill()


def is_simulated(task: Mapping[str, Any]) -> bool:
    """Whether the task is one of Gymnasium's MuJoCo environments, whose physics can be stepped alone."""
    from gymnasium.envs.mujoco import MujocoEnv

    env = make_env(task)
    env.close()
    return isinstance(env.unwrapped, MujocoEnv)


def throughput(config: dict[str, Any]) -> None:
    """Prints steps per second of every program and dapbench's ratios to the others.

    Every program compiles and warms up first; then each runs in its turn, ``pairs`` times, while the others wait.

    Raises:
        UserError: bad input, or a program that cannot run.
    """
    settings = checked(config)
    simulated = ["physics"] if is_simulated(settings["task"]) else []
    names = list(dict.fromkeys(["dapbench", "bare", *simulated, *settings["peers"]]))
    speeds: dict[str, list[float]] = {name: [] for name in names}
    task, pairs = settings["task"]["name"], settings["pairs"]
    with one_core(), ExitStack() as stack, tqdm(total=len(names) * (pairs + 1), desc=f"throughput {task}") as bar:
        turns = {}
        for name in names:
            turns[name] = stack.enter_context(started(name, settings))
            bar.update()
        for _ in range(pairs):
            left: list[Any] = []
            for name, turn in turns.items():
                speed, own = turn(left if name in REPEATING else [])
                left = own or left
                speeds[name].append(speed)
                bar.update()
    print(json.dumps(summary(task, speeds)) if settings["json"] else table(settings, speeds))


def summary(task: str, speeds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What ``--json`` prints: medians over the repeats."""
    relative = ratios(speeds)
    order = sorted(relative, key=lambda name: name in REPEATING)  # the peers come first
    return {
        "task": task,
        "steps_per_second": {name: median(values) for name, values in speeds.items()},
        "ratio": {name: median(relative[name]) for name in order},
    }


def table(config: Mapping[str, Any], speeds: Mapping[str, Sequence[float]]) -> str:
    """Median, minimum and maximum over the repeats, of the speeds and of dapbench's ratios to the others."""
    envs = f"{config['num_envs']} environments" + (f", peers {config['peer_envs']}" if config["peers"] else "")
    relative = ratios(speeds)
    lines = [f"{config['task']['name']}, {envs}; median (min–max) of {config['pairs']} turns each on one core", ""]
    lines.append(f"{'':<10}{'steps/s':<28}dapbench's speed ÷ its")
    for name, values in speeds.items():
        speed = f"{median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"
        ratio = [f"{f(relative[name]):.2f}" for f in (median, min, max)] if name in relative else None
        lines.append(f"{name:<10}{speed:<28}" + (f"{ratio[0]} ({ratio[1]}–{ratio[2]})" if ratio else "1"))
    return "\n".join(lines)
