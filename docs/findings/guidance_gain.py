"""The true gain of value guidance: python docs/findings/guidance_gain.py [METHOD] [--help]

A run of a few epochs is trained; then its policy acts, and the environments are put back to states that it met. At
each of them every proposal is taken once as the first action, the policy follows, and the discounted return is
counted: the same noise follows every proposal of a state, so that two returns differ by their first actions alone.
A row of guidance_gain.csv is a run; all returns are in the units of Q, the scaled reward, and stand against the mean
of the raw proposals: `believed` is Q's own gain of the guided ones and `guided` the true one, `policy` is the policy's
mean action, `energy` the raw ones weighted by exp(Q), `favourite` the one of highest Q. `rank` is the rank correlation,
within a state, of Q and return. How much there is to gain at all: the raw ones are taken twice, each time with noise of
its own, `reliability` is the correlation of the two returns within a state, and `oracle` the second return of the one
whose first was highest. And what a critic with more data could do: `more_rank` and `more_favourite` are of a Q fitted
to many transitions of this one policy, which no on-policy method has. What is there is not made again.
"""

import argparse
import csv
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from dapbench.advantage_weights import LoggedCritic
from dapbench.datasets.episodes import Transitions
from dapbench.files import write_text
from dapbench.pipeline.local import Local
from dapbench.ppo_dap import PPODAP
from dapbench.prior.base import Guidance
from dapbench.rl.environments import env_seeds, make_envs, to_env_actions
from dapbench.rl.losses import energy_weights
from dapbench.runs.evaluation import load_run

RESULTS = Path(__file__).with_suffix(".csv")
IDENTITY = ["method", "quality", "task", "seed", "epochs"]
STREAM = 8  # of a seed's environments; no run uses it
PROPOSALS = 10  # at each state
MORE_STEPS = 5000  # of each environment, for the critic with more data


class Continuation:
    """Returns of first actions at states that a policy met.

    Args:
        module: a trained run, whose policy acts before and after.
        seed: of environments and noise.
        horizon: steps that a return counts.
    """

    def __init__(self, module: PPODAP, seed: int, horizon: int) -> None:
        self.module, self.horizon = module, horizon
        self.envs = make_envs(module.config["task"], module.hp.num_envs)
        self.mean_action = module.mean_action()
        self.std = module.actor.log_std.exp().detach().numpy()
        self.rng = np.random.default_rng([seed, STREAM])
        self.observation, _ = self.envs.reset(seed=env_seeds(seed, module.hp.num_envs, STREAM))

    def noise(self, steps: int) -> np.ndarray:
        """[steps, E, A], scaled."""
        return self.std * self.rng.standard_normal((steps, self.envs.num_envs, len(self.std)))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps all environments under the policy's ``actions`` [E, A]; returns rewards, terminations and ends [E]."""
        scaled = to_env_actions(actions, self.module.action_space)
        self.observation, rewards, terminations, truncations, _ = self.envs.step(scaled)
        return rewards, terminations, terminations | truncations

    def policy(self) -> np.ndarray:
        """The policy's mean action [E, A]."""
        return self.mean_action(self.observation.astype(np.float32))

    def go_on(self, steps: int) -> None:
        """Lets the policy act."""
        for noise in self.noise(steps):
            self.step(self.policy() + noise)

    def transitions(self, steps: int) -> Transitions:
        """What the policy meets in so many steps of each environment, whose last counts as an end."""
        rows = []
        for noise in self.noise(steps):
            observation, actions = self.observation.astype(np.float32), np.clip(self.policy() + noise, -1.0, 1.0)
            rows.append((observation, actions.astype(np.float32), *self.step(actions)))
        rows[-1][-1][:] = True
        flat = [np.stack(column, 1).reshape(-1, *column[0].shape[1:]) for column in zip(*rows, strict=True)]
        return Transitions(*flat, returns=np.zeros(0), description={})

    def returns(self, candidates: np.ndarray) -> np.ndarray:
        """Discounted scaled returns [E, C] of first actions ``candidates`` [E, C, A] at the present states."""
        state, observation = self.envs.state(), self.observation
        noise, gamma = self.noise(self.horizon - 1), self.module.hp.gamma
        totals = np.zeros(candidates.shape[:2])
        for c in range(candidates.shape[1]):
            self.envs.restore(state)
            total, _, done = self.step(candidates[:, c])
            for t, of_step in enumerate(noise, start=1):
                rewards, _, ended = self.step(self.policy() + of_step)
                total = total + gamma**t * rewards * ~done
                done |= ended
                if done.all():
                    break
            totals[:, c] = total
        self.envs.restore(state)
        self.observation = observation
        return totals / self.module.reward_stats.std()


def proposals(module: PPODAP, observation: np.ndarray, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Raw and guided proposals [E, K, A] from the same noise, and Q [E, K] of either."""
    raw_observations = torch.as_tensor(observation, dtype=torch.float32)
    features = module.critic.trunk(module.observation_stats.normalize(raw_observations))
    noise = torch.randn(len(observation), PROPOSALS, module.action_size, generator=generator)
    guidance = Guidance(module.q_gradient, features, module.hp.guidance_scale)
    with torch.no_grad():
        raw, guided = (
            module.prior.sample(module.prior.normalize(raw_observations), noise, g) for g in (None, guidance)
        )
        return raw, guided, module.q_of(features, raw), module.q_of(features, guided)


@torch.no_grad()
def q_of(more: LoggedCritic, observation: np.ndarray, actions: Tensor) -> Tensor:
    """Q [E, K] of the critic with more data."""
    features = more.critic.trunk(more.stats.normalize(torch.as_tensor(observation, dtype=torch.float32)))
    return more.critic.q(features.unsqueeze(1).expand(-1, actions.shape[1], -1), actions)


def of_best(q: Tensor, returns: np.ndarray) -> np.ndarray:
    """By how much the return [E] of the action of highest Q [E, K] exceeds the mean."""
    return np.take_along_axis(returns, q.numpy().argmax(1)[:, None], 1)[:, 0] - returns.mean(1)


def rank(q: Tensor, returns: np.ndarray) -> np.ndarray:
    """The rank correlation [E] of Q and return, [E, K] each."""
    return np.array([spearmanr(*pair).statistic for pair in zip(q.numpy(), returns, strict=True)])


def measure(module: PPODAP, seed: int, moments: int, horizon: int, between: int) -> dict[str, float]:
    """Means over the states of ``moments`` moments, ``between`` steps apart."""
    play, generator = Continuation(module, seed, horizon), torch.Generator().manual_seed(seed)
    met = play.transitions(MORE_STEPS)
    more = LoggedCritic(met, torch.as_tensor(met.actions), compile=True)
    rows: list[dict[str, np.ndarray]] = []
    for _ in range(moments):
        play.go_on(between)
        raw, guided, q_raw, q_guided = proposals(module, play.observation, generator)
        mean = torch.as_tensor(play.policy()).float().clamp(-1, 1).unsqueeze(1)
        returns = play.returns(torch.cat([raw, guided, mean], 1).numpy())
        of_raw, of_guided, of_mean = np.split(returns, [raw.shape[1], 2 * raw.shape[1]], axis=1)
        again = play.returns(raw.numpy())
        both = (of_raw + again) / 2
        q_more = q_of(more, play.observation, raw)
        chosen = np.take_along_axis(again, of_raw.argmax(1)[:, None], 1)[:, 0]
        row = {
            "believed": (q_guided.mean(1) - q_raw.mean(1)).numpy(),
            "guided": of_guided.mean(1) - of_raw.mean(1),
            "energy": (energy_weights(q_raw, torch.tensor(1.0)).numpy() * of_raw).sum(1) - of_raw.mean(1),
            "favourite": of_best(q_raw, both),
            "more_favourite": of_best(q_more, both),
            "policy": of_mean[:, 0] - of_raw.mean(1),
            "oracle": chosen - again.mean(1),
            "reliability": np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(of_raw, again, strict=True)]),
            "rank": rank(q_raw, both),
            "more_rank": rank(q_more, both),
        }
        rows.append(row)
    play.envs.close()
    return {name: float(np.concatenate([row[name] for row in rows]).mean()) for name in rows[0]}


def one(options: argparse.Namespace, task: str, seed: int, epochs: int) -> dict[str, str]:
    """A row: a run that is trained and then measured.

    Raises:
        RuntimeError: it could not be trained; with the end of its log.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder, "run"), Path(folder, "log.txt")
        settings = [f"task={task}", f"method={options.method}", f"seed={seed}", f"profile={options.profile}"]
        settings += [f"++method.log_quality={options.quality}", f"profile.epochs={epochs}", "tracking=false"]
        settings += ["profile.eval_episodes=1", "profile.eval_curve_episodes=0", "checkpoint_epochs=0"]
        if Local().run(["dapbench", "train", *settings, f"out={out}"], log) != 0:
            raise RuntimeError(log.read_text(encoding="utf-8").strip()[-400:])
        module = load_run(out)
    assert isinstance(module, PPODAP)
    measured = measure(module, seed, options.moments, options.horizon, options.between)
    identity = [options.method, options.quality, task, str(seed), str(epochs)]
    return dict(zip(IDENTITY, identity, strict=True)) | {name: f"{value:.5g}" for name, value in measured.items()}


def main() -> None:
    """Runs what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="?", default="ppo_dap")
    parser.add_argument("--tasks", nargs="+", default=["half_cheetah", "hopper"])
    parser.add_argument("--quality", default="medium", help="of the logs")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 40], help="of training before it is measured")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--moments", type=int, default=12, help="at each of which all environments' states are used")
    parser.add_argument("--horizon", type=int, default=250, help="steps that a return counts")
    parser.add_argument("--between", type=int, default=40, help="steps between the moments")
    parser.add_argument("--profile", default="paper", help="whose logs and priors the runs start from")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    options = parser.parse_args()
    rows = list(csv.DictReader(RESULTS.open(encoding="utf-8"))) if RESULTS.exists() else []
    done = {tuple(row[name] for name in IDENTITY) for row in rows}
    wanted = [(task, seed, epochs) for seed in options.seeds for epochs in options.epochs for task in options.tasks]
    missing = [w for w in wanted if (options.method, options.quality, *map(str, w)) not in done]
    failed: list[tuple[str, int, int]] = []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        jobs = {pool.submit(one, options, *w): w for w in missing}
        for job in as_completed(jobs):
            if error := job.exception():  # the others' rows are kept
                failed.append(jobs[job])
                print(f"{jobs[job]} failed: {error}", file=sys.stderr)
                continue
            row = job.result()
            print(json.dumps(row), flush=True)
            rows.append(row)
            rows.sort(key=lambda r: [r[name] for name in IDENTITY])
            lines = [",".join(row), *(",".join(r[name] for name in row) for r in rows)]
            write_text(RESULTS, "\n".join(lines) + "\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
