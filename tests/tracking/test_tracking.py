"""Tracking: MLflow shows what run directories hold, once each, and whatever ails it never stops a run."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dapbench.errors import UserError
from dapbench.runs import training
from dapbench.tracking import recording as tracking
from dapbench.tracking.recording import track, track_command, track_report, train

CONFIG = {
    "task": {"name": "hopper", "env_kwargs": {}},
    "method": {"name": "ppo_dap", "clip": 0.2, "prior": None, "title": "PPO-DAP"},
    "profile": {"name": "quick", "seeds": [0, 1]},
    "seed": 3,
}
SUMMARY = {
    "task": "hopper",
    "method": "ppo_dap",
    "seed": 3,
    "profile": "quick",
    "env_steps": 15000,
    "epochs": 3,
    "alc40": None,
    "final_return": 250.5,
    "eval_return": 300.25,
    "logs": {"quality": "medium", "transitions": 50000},
    "config": CONFIG,
}
TIMING = {"steps_per_second": 2900.5, "wall_seconds": 6.0, "seconds": {"update": 4.0}, "versions": {"torch": "2"}}
CURVE = """epoch,env_steps,return_mean,return_std,episodes,policy_loss
1,5000,100.5,3.0,12,0.5
2,10000,,,0,0.25
3,15000,250.5,4.0,9,0.125
"""


def make_run(run_dir: Path, curve: str = CURVE, **changes: object) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "summary.json").write_text(json.dumps(SUMMARY | changes))
    (run_dir / "timing.json").write_text(json.dumps(TIMING))
    (run_dir / "curve.csv").write_text(curve)
    return run_dir


@pytest.fixture
def uri(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The default address in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(database, "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def client(uri: str):
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def runs(uri: str, experiment: str = "dapbench/quick/hopper", **kwargs: int) -> list:
    found = client(uri).get_experiment_by_name(experiment)
    return list(client(uri).search_runs([found.experiment_id], **kwargs)) if found else []


def test_a_finished_run_is_read_back(uri: str, tmp_path: Path) -> None:
    assert track(make_run(tmp_path / "runs" / "a"))
    (run,) = runs(uri)
    assert (run.info.run_name, run.info.status) == ("ppo_dap-3", "FINISHED")
    assert run.info.end_time - run.info.start_time == 6000
    expected = {"task": "hopper", "method": "ppo_dap", "title": "PPO-DAP", "seed": "3", "profile": "quick"}
    expected |= {"logs": "medium"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["directory"] == "runs/a"
    assert run.data.params == {
        "task.name": "hopper",
        "method.name": "ppo_dap",
        "method.clip": "0.2",
        "method.prior": "null",
        "method.title": "PPO-DAP",
        "profile.name": "quick",
        "profile.seeds": "[0, 1]",
        "seed": "3",
    }

    def history(name: str) -> list[tuple[int, float]]:
        points = sorted(client(uri).get_metric_history(run.info.run_id, name), key=lambda point: point.step)
        return [(point.step, point.value) for point in points]

    assert history("curve/return_mean") == [(5000, 100.5), (15000, 250.5)]  # the empty cell is left out
    assert history("training/policy_loss") == [(5000, 0.5), (10000, 0.25), (15000, 0.125)]
    assert history("summary/final_return") == [(0, 250.5)]
    assert history("timing/steps_per_second") == [(0, 2900.5)]
    assert history("timing/update_seconds") == [(0, 4.0)]
    assert "summary/alc40" not in run.data.metrics
    artifacts = client(uri).list_artifacts(run.info.run_id)
    assert [file.path for file in artifacts] == ["curve.csv", "summary.json", "timing.json"]
    assert (tmp_path / "mlartifacts" / "dapbench" / "quick" / "hopper").is_dir()


def test_a_long_curve_takes_several_batches(uri: str, tmp_path: Path) -> None:
    columns = [f"loss_{i}" for i in range(26)]
    lines = [f"{e},{e * 5000},1.0,1.0,{','.join(str(e + i) for i in range(26))}" for e in range(1, 61)]
    curve = "\n".join([",".join(["epoch", "env_steps", "return_mean", "return_std", *columns]), *lines])
    many = {f"h{i}": i for i in range(230)}
    assert track(make_run(tmp_path / "a", curve, config=many))
    (run,) = runs(uri)
    assert run.data.params == {name: str(value) for name, value in many.items()}
    for name in ("curve/return_mean", "training/loss_0", "training/loss_25"):
        assert len(client(uri).get_metric_history(run.info.run_id, name)) == 60
    assert run.data.metrics["training/loss_25"] == 85


def test_the_same_directory_is_recorded_once(uri: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "a")
    assert track(run_dir)
    (first,) = runs(uri)
    # The run adds to its times when it has been recorded.
    (run_dir / "timing.json").write_text(json.dumps(TIMING | {"wall_seconds": 8.0}))
    assert track(tmp_path / "." / "a")
    (same,) = runs(uri)
    assert same.info.run_id == first.info.run_id

    make_run(run_dir, final_return=1.0, method="ppo")
    assert track(run_dir)
    (second,) = runs(uri)
    assert second.info.run_name == "ppo-3"
    assert second.data.metrics["summary/final_return"] == 1.0
    assert len(runs(uri, run_view_type=3)) == 2  # the earlier one can be restored

    client(uri).set_terminated(second.info.run_id, "RUNNING")  # as if recording it had been cut off
    assert track(run_dir)
    (third,) = runs(uri)
    assert third.info.run_id != second.info.run_id
    assert third.info.status == "FINISHED"


def test_a_failed_run(uri: str, tmp_path: Path) -> None:
    failure = {"task": "hopper", "method": "ppo", "seed": 0, "profile": "quick", "epoch": 4, "quantity": "policy_loss"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "failure.json").write_text(json.dumps(failure | {"message": "NaN", "last_good_checkpoint": None}))
    assert track(tmp_path / "a")
    (run,) = runs(uri)
    assert run.info.status == "FAILED"
    assert {"epoch": "4", "quantity": "policy_loss", "message": "NaN"}.items() <= run.data.tags.items()
    make_run(tmp_path / "a", method="ppo")  # it has been run again and finished
    assert track(tmp_path / "a")
    (run,) = runs(uri)
    assert run.info.status == "FINISHED"


def test_training_is_recorded_and_its_time_stated(uri: str, tmp_path: Path, small: Callable[..., dict]) -> None:
    train(small("task=reacher", "method=ppo", f"out={tmp_path}/quiet", "tracking=false"))
    assert runs(uri, "dapbench/smoke/reacher") == []
    assert "tracking" not in json.loads((tmp_path / "quiet" / "timing.json").read_text())["seconds"]
    train(small("task=reacher", "method=ppo", f"out={tmp_path}/run", "tracking=true"))
    (run,) = runs(uri, "dapbench/smoke/reacher")
    assert (run.info.run_name, run.info.status) == ("ppo-0", "FINISHED")
    timing = json.loads((tmp_path / "run" / "timing.json").read_text())
    assert 0 < timing["seconds"]["tracking"] < timing["wall_seconds"]
    assert run.data.metrics["timing/wall_seconds"] < timing["wall_seconds"]


def test_a_run_that_diverges_is_recorded(
    uri: str, tmp_path: Path, small: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(config: dict, record: Callable[[Path], bool]) -> None:
        make_run(tmp_path / "run", message="the loss is not finite")
        (tmp_path / "run" / "summary.json").rename(tmp_path / "run" / "failure.json")
        record(tmp_path / "run")
        raise UserError("the loss is not finite")

    monkeypatch.setattr(training, "train", diverge)
    with pytest.raises(UserError, match="the loss is not finite"):
        train(small("task=reacher", f"out={tmp_path}/run", "tracking=true"))
    (run,) = runs(uri)
    assert run.info.status == "FAILED"


def test_the_report_is_an_artifact(uri: str, tmp_path: Path) -> None:
    (tmp_path / "report" / "tables").mkdir(parents=True)
    (tmp_path / "report" / "index.html").write_text("<p>1")
    (tmp_path / "report" / "tables" / "a.csv").write_text("a")
    assert track_report(tmp_path / "report", "quick")
    assert track_report(tmp_path / "report", "quick")
    (run,) = runs(uri, "dapbench/quick/report")
    paths = [file.path for file in client(uri).list_artifacts(run.info.run_id, "report")]
    assert paths == ["report/index.html", "report/tables"]
    assert not track_report(tmp_path / "nowhere", "quick")


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:///folder",  # a folder in place of the database
        "sqlite:////proc/nowhere/mlflow.db",
        "sqlite:///text",  # not a database
        "sqlite:///file:mlflow.db?mode=ro&uri=true",  # read-only
        "closed port",
        "postgresql://127.0.0.1:9/x",
        "tape://x",
        "./mlruns",  # MLflow's file store is no more
    ],
)
def test_no_store(uri: str, tmp_path: Path, address: str, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not a database\n" * 500)
    start = time.perf_counter()
    assert not track(make_run(tmp_path / "a"), closed_port() if address == "closed port" else address)
    assert time.perf_counter() - start < 5
    warning = capfd.readouterr().err
    assert warning.startswith(f"warning: {tmp_path}/a is not recorded in MLflow; `dapbench track")
    assert warning.count("\n") == 1


def test_a_locked_database(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(tracking, "LOCKED_SECONDS", 0.2)
    holder = sqlite3.connect("mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert not track(make_run(tmp_path / "a"))
    warning = capfd.readouterr().err
    assert "database is locked" in warning
    assert warning.count("\n") == 1
    holder.execute("ROLLBACK")
    assert track(tmp_path / "a")


def test_a_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.perf_counter()
        assert not track(make_run(tmp_path / "a"))
        assert time.perf_counter() - start < 5
    assert capfd.readouterr().err.count("\n") == 1


def test_a_malformed_run_directory(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert not track(tmp_path / "nowhere")
    assert not track(make_run(tmp_path / "a", curve="epoch,env_steps,return_mean\n1,5000,high\n"))
    (make_run(tmp_path / "b") / "summary.json").write_text("{")
    assert not track(tmp_path / "b")
    assert capfd.readouterr().err.count("is not a sound run directory") == 3
    assert not runs(uri)


def test_writers_in_parallel_lose_no_run(uri: str, tmp_path: Path) -> None:
    for seed in range(8):
        make_run(tmp_path / "runs" / str(seed), seed=seed)
    program = "import sys; from pathlib import Path; from dapbench.tracking.recording import track; "
    program += "sys.exit(not all(track(Path(run)) for run in sys.argv[1:]))"
    commands = [[sys.executable, "-c", program, f"runs/{i}", f"runs/{i + 4}"] for i in range(4)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in processes] == [0] * 4
    assert sorted(run.data.tags["seed"] for run in runs(uri)) == [str(seed) for seed in range(8)]
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}


def test_the_command_imports_what_is_there(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for seed in range(3):
        make_run(tmp_path / "results" / "runs" / "hopper" / "ppo_dap" / str(seed), seed=seed)
    assert track(tmp_path / "results" / "runs" / "hopper" / "ppo_dap" / "0")
    assert track_command(["results"]) == 0
    assert capfd.readouterr().out == f"2 runs recorded, 1 already there, 0 unreadable, in {uri}\n"
    assert len(runs(uri)) == 3
    (tmp_path / "results" / "runs" / "hopper" / "ppo_dap" / "1" / "summary.json").write_text("{}")
    assert track_command(["results"]) == 1
    output = capfd.readouterr()
    assert output.out.startswith("0 runs recorded, 2 already there, 1 unreadable")
    assert "ppo_dap/1 is not a sound run directory (KeyError: 'task')" in output.err


def test_the_command_says_what_is_wrong(uri: str, tmp_path: Path, monkeypatch, capsys) -> None:
    with pytest.raises(UserError, match="'nowhere' is not a folder; give one"):
        track_command(["nowhere"])
    make_run(tmp_path / "a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed_port())
    with pytest.raises(UserError, match=r"cannot record runs in http://127.0.0.1"):
        track_command(["a"])
    with pytest.raises(SystemExit) as stop:
        track_command(["--help"])
    assert stop.value.code == 0
    assert "MLFLOW_TRACKING_URI" in capsys.readouterr().out


def test_mlflow_does_not_come_with_the_import() -> None:
    heavy = "{'torch', 'mlflow', 'sqlalchemy'}"
    program = f"import sys, dapbench.tracking.recording; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


HEALS = Callable[[Path, str], None]


def delete_experiment(run_dir: Path, uri: str) -> None:
    client(uri).delete_experiment(client(uri).get_experiment_by_name("dapbench/quick/hopper").experiment_id)


def rename_experiment(run_dir: Path, uri: str) -> None:
    found = client(uri).get_experiment_by_name("dapbench/quick/hopper")
    client(uri).rename_experiment(found.experiment_id, "mine")


def delete_run(run_dir: Path, uri: str) -> None:
    client(uri).delete_run(runs(uri)[0].info.run_id)


def restore_a_replaced_run(run_dir: Path, uri: str) -> None:
    (first,) = runs(uri)
    make_run(run_dir, final_return=1.0)
    assert track(run_dir)
    client(uri).restore_run(first.info.run_id)


def edit_the_tags(run_dir: Path, uri: str) -> None:
    client(uri).set_tag(runs(uri)[0].info.run_id, "fingerprint", "mine")
    client(uri).delete_tag(runs(uri)[0].info.run_id, "method")


def leave_it_running(run_dir: Path, uri: str) -> None:
    client(uri).set_terminated(runs(uri)[0].info.run_id, "RUNNING")


def remove_the_database(run_dir: Path, uri: str) -> None:
    """And leave an empty file in its place, as a writer does that is killed early."""
    Path("mlflow.db").unlink()
    Path("mlflow.db").touch()


def remove_the_artifacts(run_dir: Path, uri: str) -> None:
    shutil.rmtree("mlartifacts")
    make_run(run_dir, final_return=1.0)


def delete_the_experiment_for_good(run_dir: Path, uri: str) -> None:
    from mlflow.tracking._tracking_service.utils import _get_store

    delete_experiment(run_dir, uri)
    _get_store(uri)._hard_delete_experiment("1")  # as `mlflow gc` does


@pytest.mark.parametrize(
    "happens",
    [
        delete_experiment,
        rename_experiment,
        delete_run,
        restore_a_replaced_run,
        edit_the_tags,
        leave_it_running,
        remove_the_database,
        remove_the_artifacts,
        delete_the_experiment_for_good,
    ],
)
def test_whatever_happens_in_mlflow_the_next_record_stands(uri: str, tmp_path: Path, happens: HEALS) -> None:
    assert track(make_run(tmp_path / "a"))
    happens(tmp_path / "a", uri)
    assert track(tmp_path / "a")
    assert track(make_run(tmp_path / "b", seed=4))
    found = {run.data.tags["directory"]: run for run in runs(uri)}
    assert sorted(found) == ["a", "b"]
    assert len(runs(uri)) == 2
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found["a"].data.tags["method"] == "ppo_dap"
    for run in found.values():
        assert len(client(uri).list_artifacts(run.info.run_id)) == 3


def test_a_deleted_experiment_comes_back_without_its_runs(uri: str, tmp_path: Path, capfd) -> None:
    for name in ("a", "b"):
        assert track(make_run(tmp_path / name))
    delete_experiment(tmp_path, uri)
    assert track(tmp_path / "a")
    assert "dapbench/quick/hopper had been deleted and is back, without its earlier runs" in capfd.readouterr().err
    assert [run.data.tags["directory"] for run in runs(uri)] == ["a"]
    assert track_command(["."]) == 0
    assert sorted(run.data.tags["directory"] for run in runs(uri)) == ["a", "b"]
    assert "had been deleted" not in capfd.readouterr().err


def test_what_a_user_writes_onto_a_record_stays(uri: str, tmp_path: Path) -> None:
    assert track(make_run(tmp_path / "a"))
    for name, text in (("mlflow.note.content", "the good one"), ("mine", "yes"), ("title", "Another")):
        client(uri).set_tag(runs(uri)[0].info.run_id, name, text)
    assert track(make_run(tmp_path / "a", final_return=1.0))
    (run,) = runs(uri)
    assert {"mlflow.note.content": "the good one", "mine": "yes", "title": "PPO-DAP"}.items() <= run.data.tags.items()
    assert run.info.run_name == "ppo_dap-3"


def test_a_directory_of_any_name(uri: str, tmp_path: Path) -> None:
    for name in ('say "a"', "it's", "say _a_", "a b%"):
        assert track(make_run(tmp_path / name))
        assert track(make_run(tmp_path / name, final_return=1.0))
    assert len(runs(uri)) == 4


@pytest.mark.parametrize("version", ["ffffffffffff", "7e62b7fbd7a7"])  # of a newer MLflow, and of an older one
def test_a_database_of_another_mlflow(uri: str, tmp_path: Path, version: str, capfd, monkeypatch) -> None:
    (tmp_path / version).mkdir()
    other = shutil.copy("mlflow.db", tmp_path / version / "mlflow.db")
    with sqlite3.connect(other) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    address = f"sqlite:///{other}"
    assert not track(make_run(tmp_path / "it is a"), address)
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1
    assert f"`dapbench track '{tmp_path}/it is a'`" in warning
    way_out = "move mlflow.db away and record the runs anew by `dapbench track results`"
    assert way_out in warning
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError, match=way_out):
        track_command(["it is a"])


def test_a_damaged_database(uri: str, tmp_path: Path, capfd) -> None:
    with Path("mlflow.db").open("r+b") as file:
        file.truncate(100_000)
    assert not track(make_run(tmp_path / "a"))
    assert "malformed; move it away and record the runs anew" in capfd.readouterr().err
