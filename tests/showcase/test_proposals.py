"""Proposals before and after guidance: numbers by hand, and the items over a small run's checkpoint and logs."""

import made_up_results as made_up
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from dapbench.datasets.episodes import Episode, write_dataset
from dapbench.ppo_dap import PPODAP
from dapbench.report import policies, proposal_items, proposals
from dapbench.report.items import Figure, Films, Skipped, Table
from dapbench.report.results import load_results
from dapbench.rl.environments import task_spaces
from dapbench.showcase.proposals import Guided

PRIOR = {"width": 16, "depth": 1, "solver_steps": 3, "sigma_min": 0.02, "sigma_max": 5.0}
PRIOR |= {"_target_": "dapbench.prior.diffusion.DiffusionPrior"}
MAKERS = [proposal_items.proposals, proposal_items.proposal_map, proposal_items.action_marginals]


@pytest.fixture
def run_of(tmp_path, compose):
    """A function that fabricates PPO-DAP's results on Reacher with a checkpoint of random weights, and logs."""

    def make(*overrides, logs=True):
        profile = made_up.profile(tasks=["reacher"], methods=["ppo_dap"], seeds=[0, 1])
        folder = made_up.fabricate(tmp_path, profile) / "made_up"
        config = compose("train", "task=reacher", "method=ppo_dap", "profile=smoke", *overrides)
        module = PPODAP(config | {"prior": PRIOR, "logs": {"quality": "medium"}})
        torch.nn.init.normal_(module.prior.network.out.base_layer.weight, generator=torch.Generator().manual_seed(0))
        content = {"config": module.config, "state_dict": module.state_dict()}
        torch.save(content, folder / "runs/reacher/ppo_dap/0/model.ckpt")
        if logs:
            rng, (observations, actions) = np.random.default_rng(0), task_spaces(config["task"])
            episode = Episode(
                rng.normal(size=(51, *observations.shape)),
                rng.uniform(-1, 1, (50, 2)),
                np.zeros(50),
                np.arange(50) < 0,
                np.arange(50) == 49,
            )
            space = Box(-np.inf, np.inf, observations.shape, np.float64)
            logs_dir = folder / "logs/reacher/medium"
            write_dataset(logs_dir, [episode], space, actions, dataset_id="test/t-v0", metadata={"quality": "medium"})
        return load_results(tmp_path, profile)

    return make


def test_rank_and_standardized_q_by_hand():
    q = np.array([[[0.0, 2.0]], [[2.0, 3.0]]])  # one state: unguided 0 and 2, guided 2 and 3
    drawn = Guided(np.zeros((2, 1, 2, 3)), q)
    assert drawn.rank() == (0.75 + 1.0) / 2  # 2 is above one and ties with the other; 3 is above both
    np.testing.assert_allclose(drawn.standardized_q(), [[[-1.0, 1.0]], [[1.0, 2.0]]])


def test_distance_is_the_mean_over_dimensions():
    zeros = np.zeros((4, 2))
    assert proposals.distance(zeros, zeros + np.array([0.5, 0.1])) == pytest.approx(0.3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_map_is_the_same_each_time(size):
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 6, 4, size))
    placed = proposals.embedding(actions)
    assert placed.shape == (2, 6, 4, 2)
    assert np.isfinite(placed).all()
    assert placed.tobytes() == proposals.embedding(actions).tobytes()


def test_items_of_a_run(run_of):
    results = run_of()
    table, *figures = (make(results) for make in MAKERS)
    assert isinstance(table, Table)
    row = table.values.iloc[0]
    assert row.mean_q_after > row.mean_q_before
    assert 0.5 < row["rank"] <= 1.0
    assert table.sentence == f"Guidance raises the proposals' mean Q on 1 of 1 task; mean rank {row['rank']:.2f}."
    own = proposals.marginals(results, "reacher")
    assert {whose: actions.shape for whose, actions in own.items()} == dict.fromkeys(proposals.WHOSE, (50, 2))
    assert all(np.abs(actions).max() <= 1.0 for actions in own.values())
    for item, make in zip(figures, MAKERS[1:], strict=True):
        assert isinstance(item, Figure)
        assert item.sentence.endswith(".")
        again = make(load_results(results.folder.parent, results.profile))
        assert item.rendered("png") == again.rendered("png")


def test_without_guidance_nothing_changes(run_of):
    drawn = proposals.guided_proposals(run_of("method.guidance_scale=0.0"), "reacher")
    np.testing.assert_array_equal(drawn.actions[0], drawn.actions[1])
    assert drawn.rank() == 0.5


def test_damaged_logs_are_named(run_of):
    results = run_of()
    (results.folder / "logs/reacher/medium/data/metadata.json").write_text("{}")
    assert "is not a Minari dataset" in proposal_items.action_marginals(results).sentence


def test_what_is_lacking_is_said(run_of, small):
    found = run_of(logs=False)
    assert "are not in results/" in proposal_items.action_marginals(found).sentence
    assert proposal_items.proposals(found).shown.loc[0, "Logs to prior"] == "n/a"
    bare = small(tasks=["hopper"], methods=["ppo"], name="bare")
    assert proposal_items.proposals(bare).sentence == "There are no runs of PPO-DAP on Hopper."


def test_a_missing_or_damaged_checkpoint_is_named(run_of):
    found = run_of(logs=False)
    checkpoint = found.first_run("reacher", "ppo_dap") / "model.ckpt"
    checkpoint.write_bytes(b"")
    assert "is not a readable dapbench checkpoint" in proposal_items.proposal_map(found).sentence
    checkpoint.unlink()
    assert "has no model.ckpt" in proposal_items.proposal_map(found).sentence


def test_films_are_of_the_first_seed(run_of, monkeypatch):
    from PIL import Image

    results = run_of(logs=False)
    monkeypatch.setattr("dapbench.showcase.film.choose_backend", lambda: None)
    monkeypatch.setattr(
        "dapbench.showcase.film.film", lambda *_, **__: [Image.new("RGB", (8, 6), c) for c in ("red", "blue")]
    )
    item = policies.policy_films(results)
    assert isinstance(item, Films)
    assert list(item.files().values()) == ["figures/films_reacher_ppo_dap.gif"]
    assert "data:image/gif;base64," in item.body()
    score = results.summaries.set_index("seed").eval_return[0]
    assert f"Reacher, PPO-DAP: −{abs(score):.2f}" in item.files()


def test_films_say_why_there_are_none(run_of, monkeypatch):
    from dapbench.errors import UserError

    def choose_backend():
        raise UserError("nothing here can draw")

    monkeypatch.setattr("dapbench.showcase.film.choose_backend", choose_backend)
    item = policies.policy_films(run_of(logs=False))
    assert isinstance(item, Skipped)
    assert item.sentence == "There are no films: nothing here can draw."
