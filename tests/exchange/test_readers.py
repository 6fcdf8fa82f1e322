"""What other programs write is read as they mean it: steps, returns, task; and what cannot be read is told."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from some_runs import FILES, write_run

from dapbench.curves import alc_eval
from dapbench.errors import UserError
from dapbench.exchange.curves import Missing, Run, stacked, tidy
from dapbench.exchange.readers import Choices, read_runs

NOTHING = Choices()


def only(place: Path, choices: Choices = NOTHING) -> Run:
    (run,) = read_runs(place, choices)
    return run


def test_a_run_of_ours_gives_its_own_numbers(tmp_path: Path) -> None:
    summary = write_run(tmp_path / "run")
    run = only(tmp_path)
    assert (run.env_id, run.task, run.method, run.log_steps) == ("Hopper-v5", "Hopper", "PPO", None)
    assert run.alc40() == pytest.approx(summary["alc40"], rel=1e-12)
    assert run.alc40_eval() == summary["alc40_eval"]
    assert run.final_return() == summary["final_return"]
    curve = pd.read_csv(tmp_path / "run/curve.csv")
    np.testing.assert_allclose(run.curve(), curve.return_mean)


def test_shorter_epochs_of_ours_are_binned_to_those_of_5000_steps(tmp_path: Path) -> None:
    write_run(tmp_path / "run", epochs=6, steps=2500)
    curve = pd.read_csv(tmp_path / "run/curve.csv").fillna({"return_mean": 0})
    total = (curve.return_mean * curve.episodes).to_numpy().reshape(3, 2).sum(axis=1)
    np.testing.assert_allclose(only(tmp_path).curve(), total / curve.episodes.to_numpy().reshape(3, 2).sum(axis=1))
    with pytest.raises(Missing, match="3 of 40 epochs"):
        only(tmp_path).alc40()
    with pytest.raises(Missing, match="of 100 episodes"):
        only(tmp_path).final_return()


@pytest.mark.parametrize("kind", ["Monitor", "VecMonitor"])
def test_sb3_monitors_end_episodes_at_the_steps_that_sb3_counts(
    sb3: Callable[[str], SimpleNamespace], kind: str
) -> None:
    made = sb3(kind)
    run = only(made.folder)
    assert run.program == "Stable-Baselines3"
    assert len(made.episodes) > 20
    assert run.training.env_steps.tolist() == [steps for steps, _ in made.episodes]
    np.testing.assert_allclose(run.training["return"], [value for _, value in made.episodes], atol=1e-5)
    assert run.env_id == ("InvertedDoublePendulum-v5" if kind == "Monitor" else None)


def test_sb3_evaluations_are_an_evaluation_curve(sb3: Callable[[str], SimpleNamespace]) -> None:
    folder = sb3("Monitor").folder
    with np.load(folder / "evaluations.npz") as arrays:
        expected = arrays["timesteps"], arrays["results"].mean(axis=1)
    for run in (only(folder), only(folder / "evaluations.npz")):
        np.testing.assert_array_equal(run.evaluation.env_steps, expected[0])
        np.testing.assert_array_equal(run.evaluation["return"], expected[1])
    assert only(folder / "evaluations.npz").training.empty
    assert only(folder / "0.monitor.csv").training.env_steps.tolist() == (
        pd.read_csv(folder / "0.monitor.csv", comment="#").l.cumsum().tolist()
    )


def test_cleanrl_writes_each_episode_and_its_task() -> None:
    pytest.importorskip("tensorboard")
    runs = read_runs(FILES / "cleanrl", NOTHING)
    assert [run.place.name[-1] for run in runs] == ["1", "2"]
    assert {(run.program, run.env_id) for run in runs} == {("CleanRL", "Hopper-v4")}
    first = runs[0].training
    assert len(first) == 1012
    assert (first.env_steps <= 100_000).all()
    epoch = first[(first.env_steps > 45_000) & (first.env_steps <= 50_000)]
    assert runs[0].curve()[9] == pytest.approx(epoch["return"].mean())
    assert runs[0].final_return() == pytest.approx(first["return"].tail(100).mean())
    assert len(runs[0].curve()) == 20


def test_tianshou_writes_means_of_counted_episodes_and_evaluations() -> None:
    pytest.importorskip("tensorboard")
    run = only(FILES / "tianshou")
    assert (run.program, run.env_id) == ("Tianshou", None)
    assert run.training.env_steps.tolist() == list(range(1000, 21_000, 1000))
    assert run.training.episodes.iloc[:3].tolist() == [73, 75, 65]
    assert run.evaluation.env_steps.tolist() == [0, 5000, 10_000, 15_000, 20_000]
    third = run.training[10:15]
    assert run.curve()[2] == pytest.approx(np.average(third["return"], weights=third.episodes))
    assert run.training.episodes.tail(6).sum() >= 100 > run.training.episodes.tail(5).sum()
    last = run.training.tail(6)
    assert run.final_return() == pytest.approx(np.average(last["return"], weights=last.episodes))
    with pytest.raises(Missing, match="no evaluation at step 25,000"):
        run.alc40_eval()


def write_events(folder: Path, purge_step: int | None = None, **scalars: list[tuple[int, float]]) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    before = set(folder.iterdir())
    with SummaryWriter(str(folder), purge_step=purge_step) as writer:
        for tag, points in scalars.items():
            for step, value in points:
                writer.add_scalar(tag.replace("__", "/"), value, step)
    (written,) = set(folder.iterdir()) - before
    written.rename(folder / f"events.out.tfevents.{len(before)}.host")  # two of one second are in no sure order


@pytest.mark.parametrize(
    ("training", "episodes", "evaluation"),
    [
        ("train__returns_stat__mean", "train__n_collected_episodes", "test__returns_stat__mean"),
        ("train__reward", "train__episode", "test__reward"),
    ],
)
def test_the_tags_of_older_tianshou_are_known(tmp_path: Path, training: str, episodes: str, evaluation: str) -> None:
    tags = {training: [(2000, 3.0)], episodes: [(1000, 0.0), (2000, 4.0)], evaluation: [(0, 1.0), (5000, 2.0)]}
    write_events(tmp_path, **tags)
    run = only(tmp_path)
    assert run.program == "Tianshou"
    assert run.training.to_numpy().tolist() == [[2000, 3.0, 4.0]]
    assert run.evaluation.to_numpy().tolist() == [[0, 1.0], [5000, 2.0]]


def test_any_tag_can_be_named(tmp_path: Path) -> None:
    write_events(tmp_path, rollout__ep_rew_mean=[(1, 1.0)], eval__mean_reward=[(1, 2.0)])
    assert only(tmp_path, Choices(tag="rollout/ep_rew_mean")).training["return"].tolist() == [1.0]
    assert only(tmp_path, Choices(tag="eval/mean_reward")).evaluation["return"].tolist() == [2.0]
    with pytest.raises(UserError, match=r"say --tag NAME, of rollout/ep_rew_mean, eval/mean_reward$"):
        only(tmp_path)
    with pytest.raises(UserError, match=r"no tag 'reward'; there are rollout/ep_rew_mean, eval/mean_reward$"):
        only(tmp_path, Choices(tag="reward"))


def test_every_record_is_read_and_no_sample(tmp_path: Path) -> None:
    write_events(tmp_path, charts__episodic_return=[(step, float(step)) for step in range(10_050)])
    assert only(tmp_path).training["return"].tolist() == list(range(10_050))


def test_what_a_resumed_run_takes_back_is_left_out(tmp_path: Path) -> None:
    write_events(tmp_path, charts__episodic_return=[(10, 1.0), (20, 2.0), (30, 3.0)])
    write_events(tmp_path, purge_step=20, charts__episodic_return=[(20, 5.0), (30, 6.0)])
    assert only(tmp_path).training["return"].tolist() == [1.0, 5.0, 6.0]


def test_two_runs_in_one_event_folder_are_told(tmp_path: Path) -> None:
    for _ in range(2):
        write_events(tmp_path, charts__episodic_return=[(10, 1.0), (20, 2.0)])
    with pytest.raises(UserError, match="go back from 20 to 10: several runs"):
        only(tmp_path)


def test_event_files_without_their_library_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.backend.event_processing.event_accumulator", None)
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install 'dapbench\[tensorboard\]'"):
        only(tmp_path)


def test_a_csv_is_read_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    path.write_text("Step,reward,eval/mean,frames\n100,1.5,,400\n200,,7,800\n300,2.5,8,1200\n")
    run = only(path, Choices(column="reward"))
    assert run.training.to_numpy().tolist() == [[100, 1.5, 1], [300, 2.5, 1]]
    assert run.evaluation.empty
    assert only(tmp_path, Choices(column="eval/mean")).evaluation["return"].tolist() == [7, 8]
    assert only(path, Choices(column="reward", steps="frames")).training.env_steps.tolist() == [400, 1200]


MONITOR = '#{"t_start": 10.0, "env_id": "Hopper-v4"}\nr,l,t\n'


@pytest.mark.parametrize(
    ("files", "choices", "said"),
    [
        ({}, NOTHING, "is empty; what is known: dapbench's run directories, Stable-Baselines3's monitor.csv"),
        ({"notes.txt": "x"}, NOTHING, "holds no run that is known; what is known"),
        ({"a.csv": "step,x\n1,2\n"}, NOTHING, r"CSV files \(a.csv\); say --column NAME, one of step, x$"),
        ({"a.csv": "step,x\n1,2\n"}, Choices("y"), "has no column 'y'; there are step, x"),
        ({"a.csv": "n,x\n1,2\n"}, Choices("x"), "no column of steps that is known; say --steps NAME, one of n, x"),
        ({"a.csv": "n,x\n1,2\n"}, Choices("x", "m"), "has no column 'm'; there are n, x"),
        ({"a.csv": "step,x\n1,\n"}, Choices("x"), "has nothing in its column 'x'"),
        ({"a.csv": "step,x\n1,nan\n"}, Choices("x"), "holds a return of nan at step 1; leave this run out"),
        ({"a.csv": "step,x\n1,word\n"}, Choices("x"), "holds a return of nan at step 1"),
        ({"a.csv": "step,x\n1,-inf\n"}, Choices("x"), "holds a return of -inf at step 1"),
        ({"a.csv": "step,x\n9,1\n3,1\n"}, Choices("x"), "go back from 9 to 3: several runs were written into one"),
        ({"a.csv": ""}, Choices("x"), "is not a readable table"),
        ({"monitor.csv": "r,l,t\n1,2,3\n"}, NOTHING, "is not a monitor.csv of Stable-Baselines3"),
        ({"monitor.csv": MONITOR}, NOTHING, "holds no episode that ended"),
        ({"monitor.csv": f"{MONITOR}nan,5,1.0\n"}, NOTHING, "holds a return of nan at step 5"),
        ({"monitor.csv": f"{MONITOR}1,5,9.0\n2,5,1.0\n"}, NOTHING, "goes back in time: several runs"),
        (
            {"a.monitor.csv": f"{MONITOR}1,5,3.0\n", "b.monitor.csv": f"{MONITOR.replace('10.0', '20.0')}1,5,3.0\n"},
            NOTHING,
            "b.monitor.csv begins after a.monitor.csv has ended, so they are several runs",
        ),
        ({"evaluations.npz": "x"}, NOTHING, "is not an evaluations.npz of Stable-Baselines3"),
        ({"curve.csv": "epoch\n1\n", "summary.json": "{}"}, NOTHING, "summary.json lacks task, method"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, files: dict[str, str], choices: Choices, said: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said) as error:
        read_runs(tmp_path, choices)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "said"), [("nowhere", "there is no file or folder"), ("x.bin", "is of no kind")])
def test_a_place_that_is_no_run(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "x.bin").write_text("")
    with pytest.raises(UserError, match=said):
        read_runs(tmp_path / name, NOTHING)


def test_a_folder_is_one_run_and_an_evaluations_monitor_is_none(tmp_path: Path) -> None:
    (tmp_path / "b/eval").mkdir(parents=True)
    for name in ("b/monitor.csv", "b/eval/monitor.csv", "b/eval.monitor.csv"):
        (tmp_path / name).write_text(f"{MONITOR}1,5,3.0\n2,5,4.0\n")
    run = only(tmp_path)
    assert run.place == tmp_path / "b"
    assert run.training.env_steps.tolist() == [5, 10]


def evaluated(*points: tuple[float, float]) -> Run:
    nothing = pd.DataFrame(columns=["env_steps", "return", "episodes"], dtype=float)
    return Run(Path("x"), "x", nothing, pd.DataFrame(points, columns=["env_steps", "return"]))


def test_alc40_of_an_evaluation_curve_is_ours_where_it_has_our_points() -> None:
    points = [(5000 * epoch, float(epoch**2)) for epoch in range(0, 41, 5)]
    late = [(step + (30 if step else 0), value) for step, value in points]  # after whole rollouts
    expected = alc_eval({epoch: float(epoch**2) for epoch in range(0, 41, 5)})
    assert evaluated(*points).alc40_eval() == evaluated(*late).alc40_eval() == expected
    assert evaluated(*points, (201_000, 0.0)).alc40_eval() == expected
    with pytest.raises(Missing, match="no evaluation at step 0"):
        evaluated(*points[1:]).alc40_eval()


def test_evaluations_of_a_group_meet_on_the_first_runs_steps() -> None:
    steps, returns = stacked([evaluated((0, 0), (10, 1), (20, 2)), evaluated((5, 0), (15, 10))], "evaluation")
    assert steps.tolist() == [10]
    assert returns.tolist() == [[1.0, 5.0]]
    assert stacked([], "training")[1].size == 0


def test_the_tidy_frame_holds_both_curves(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    frame = tidy({"PPO": read_runs(tmp_path, NOTHING)})
    assert list(frame) == ["label", "run", "curve", "env_steps", "return"]
    assert frame.curve.value_counts().to_dict() == {"training": 41, "evaluation": 9}  # none ended in epoch 1
    assert frame.notna().all(axis=None)


def test_the_real_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FILES.rglob("*") if path.is_file()) < 200_000
