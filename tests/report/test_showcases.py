"""Films, proposals and marginals from the files of made-up showcases, or the reason for their absence."""

import json
from pathlib import Path

import made_up_results as made_up
import numpy as np
import pytest

from dapbench.errors import UserError
from dapbench.report import proposal_items, showcases
from dapbench.report.items import Figure, Films, Skipped, Table

MAKERS = [
    proposal_items.proposals,
    proposal_items.proposal_map,
    proposal_items.action_marginals,
    showcases.policy_films,
]


@pytest.fixture
def found(small):
    """Results of PPO and PPO-DAP on one task."""
    return small(tasks=["reacher"], methods=["ppo", "ppo_dap"], seeds=[0, 1])


@pytest.fixture
def folder(found) -> Path:
    """Where PPO-DAP's showcase lies."""
    return found.folder / "showcase/reacher/ppo_dap"


def describe(folder: Path, **changes) -> None:
    path = folder / "showcase.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_rank_and_standardized_q_by_hand():
    q = np.array([[[0.0, 2.0]], [[2.0, 3.0]]])  # one state: unguided 0 and 2, guided 2 and 3
    drawn = proposal_items.Guided("ppo_dap", np.zeros((2, 1, 2, 3)), q, np.zeros((2, 1, 2, 2)))
    assert drawn.rank() == (0.75 + 1.0) / 2  # 2 is above one and ties with the other; 3 is above both
    np.testing.assert_allclose(drawn.standardized_q(), [[[-1.0, 1.0]], [[1.0, 2.0]]])


def test_distance_is_the_mean_over_dimensions():
    zeros = np.zeros((4, 2))
    assert proposal_items.distance(zeros, zeros + np.array([0.5, 0.1])) == pytest.approx(0.3)


def test_the_table_is_computed_from_the_arrays(found, folder):
    item = proposal_items.proposals(found)
    assert isinstance(item, Table)
    with np.load(folder / "proposals.npz") as file:
        before, after = file["q"].astype(float).mean((1, 2))
    row = item.values.iloc[0]
    assert (row.mean_q_before, row.mean_q_after) == (pytest.approx(before), pytest.approx(after))
    assert item.sentence == f"Guidance raises the proposals' mean Q on 1 of 1 task; mean rank {row['rank']:.2f}."
    assert "50 logged states" in item.note
    assert "6 states" in item.note


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_map_has_two_panels_a_task_and_its_bar(small, count):
    tasks = ["reacher", "hopper", "half_cheetah"][:count]
    item = proposal_items.proposal_map(small(tasks=tasks, methods=["ppo", "ppo_dap"], seeds=[0]))
    assert isinstance(item, Figure)
    assert len(item.figure.axes) == 2 * count + 1


def test_films_have_the_score_of_their_own_run(found, folder):
    describe(folder, seed=1)
    item = showcases.policy_films(found)
    assert isinstance(item, Films)
    assert list(item.gifs.values()) == [made_up.FILM, made_up.FILM]
    scores = found.summaries.set_index(["method", "seed"]).eval_return
    captions = list(item.files())
    assert captions[0] == f"Reacher, PPO: −{abs(scores['ppo', 0]):.2f}"
    assert captions[1] == f"Reacher, PPO-DAP: −{abs(scores['ppo_dap', 1]):.2f}"


def test_without_a_showcase_items_say_so(found, folder):
    for path in (found.folder / "showcase/reacher").rglob("*.json"):
        path.unlink()
    for make in MAKERS:
        item = make(found)
        assert isinstance(item, Skipped)
        assert "There is no showcase of PPO-DAP on Reacher (dapbench showcase makes it" in item.sentence


def test_the_reason_of_the_showcase_is_the_items(found, folder):
    absent = {"film.gif": "nothing here can draw", "marginals.npz": "logs_dir was not given"}
    describe(folder, made=["proposals.npz"], absent=absent)
    assert proposal_items.action_marginals(found).sentence == "There are no marginals: logs_dir was not given."
    table = proposal_items.proposals(found)
    assert table.shown.loc[0, "Logs to prior"] == "n/a"
    assert "logged states" not in table.note
    films = showcases.policy_films(found)
    assert len(films.gifs) == 1
    assert films.sentence.endswith("Without: There are no films: nothing here can draw.")


def test_the_authors_form_is_shown_where_the_terms_of_the_other_have_ended(small):
    found = small(tasks=["reacher"], methods=["ppo_dap", "ppo_dap_v6"])
    made_up.fabricate_showcase(found.folder / "showcase/reacher/ppo_dap_v6", "reacher", "ppo_dap_v6", 0)
    assert proposal_items.proposals(found).note.startswith("PPO-DAP: ")
    ended = dict.fromkeys(("proposals.npz", "marginals.npz"), "the terms of ppo_dap ended")
    describe(found.folder / "showcase/reacher/ppo_dap", made=["film.gif"], absent=ended)
    title = found.titles["ppo_dap_v6"]
    assert proposal_items.proposals(found).note.startswith(f"{title}: one run")
    assert f" {title}. Dots: the proposals" in proposal_items.proposal_map(found).sentence
    assert f"({title}) of each task" in proposal_items.action_marginals(found).sentence


def test_without_runs_nothing_is_shown(small):
    bare = small(tasks=["hopper"], methods=["ppo"])
    assert proposal_items.proposals(bare).sentence == "There are no runs of PPO-DAP on Hopper."
    assert len(showcases.policy_films(bare).gifs) == 1


Q = np.zeros((2, 6, 4), np.float32)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("showcase.json", b"{", "is not readable JSON"),
        ("showcase.json", b"{}", "lacks task, method, seed"),
        ("proposals.npz", b"", "is not a readable .npz"),
        ("proposals.npz", b"PK\x03\x04 cut off", "is not a readable .npz"),
        ("proposals.npz", made_up.npz({"q": Q}), "is not a readable .npz with actions, q, embedding"),
        ("proposals.npz", made_up.npz({"actions": Q, "q": Q, "embedding": Q}), "along 4 axes as actions"),
        ("proposals.npz", made_up.npz({"actions": np.array({})}), "is not a readable .npz"),
        (
            "proposals.npz",
            made_up.npz({"actions": Q[..., None], "q": Q[:, :5], "embedding": Q[..., None]}),
            r"do not fit each other \(actions \(2, 6, 4, 1\)",
        ),
        ("marginals.npz", made_up.npz(dict.fromkeys(proposal_items.WHOSE, Q[0] * np.nan)), "no finite numbers"),
        (
            "marginals.npz",
            made_up.npz(dict.fromkeys(proposal_items.WHOSE, Q[0]) | {"logs": Q[1, :5]}),
            "arrays of different shapes",
        ),
        ("film.gif", b"<html>", "is not a gif"),
    ],
)
def test_a_malformed_file_is_named(found, folder, name, content, words):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        [make(found) for make in MAKERS]
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "hopper"}, r"is of another run \(hopper ppo_dap 0\)"),
        ({"seed": 7}, r"is of another run \(reacher ppo_dap 7\)"),
        ({"made": "film.gif"}, "holds something of another kind in made"),
    ],
)
def test_a_description_that_does_not_fit_is_named(found, folder, changes, words):
    describe(folder, **changes)
    with pytest.raises(UserError, match=words):
        showcases.policy_films(found)


def test_a_file_that_is_gone_is_named(found, folder):
    for name in ("film.gif", "proposals.npz"):
        (folder / name).unlink()
    for make, name in ((showcases.policy_films, "film.gif"), (proposal_items.proposals, "proposals.npz")):
        with pytest.raises(UserError, match=name):
            make(found)
