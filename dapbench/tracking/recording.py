"""MLflow as a view of run directories: they are the truth, and a record that fails costs a warning, never a run.

Runs are recorded when they have ended, in a few batches: a call per value would cost 16-65 ms each. Writers to an
SQLite database take turns through a lock file, so that any number of them can end at once. Whatever a user does to
experiments and runs in MLflow's UI, the next run is recorded all the same.
"""

import gc
import logging
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dapbench.arguments import Parser
from dapbench.errors import UserError
from dapbench.files import whole
from dapbench.tracking.records import OWN_TAGS, Record, line, read_report, read_run

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
TURN_SECONDS = 300.0  # other runs may be recording
LOCKED_SECONDS = 5.0  # something else may hold the database
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100  # MLflow's limits
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on the runs
DESCRIPTION = "mlflow.note.content"
ALL_RUNS = 50_000  # the most that MLflow lists at once
ENVIRONMENT = {  # a value that the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def train(config: dict[str, Any]) -> None:
    """`dapbench train`: trains, then records the run directory, finished or failed, unless ``tracking`` is off.

    Raises:
        UserError: what training finds wrong; a run that diverged is recorded first.
    """
    from dapbench.runs.training import train as train_alone

    train_alone(config, track if config["tracking"] else None)


def prepare(uri: str | None = None) -> None:
    """Creates the embedded database, which takes seconds, if it is the one in use and is not there yet."""
    with _excused("MLflow's database could not be prepared"):
        uri = _resolve(uri)
        path = _database(uri)
        if path is not None and not (path.exists() and path.stat().st_size):
            _import_mlflow(uri)
            with _turn(path):
                pass


def track(run_dir: Path, uri: str | None = None) -> bool:
    """Records a finished or failed run directory, in place of its earlier record; tells whether it worked."""
    later = f"`dapbench track {shlex.quote(str(run_dir))}` does it later"
    with _excused(f"{run_dir} is not recorded in MLflow; {later}"), _no_collection():
        _write(read_run(run_dir), _resolve(uri))
        return True
    return False


def track_report(report_dir: Path, profile: str, uri: str | None = None) -> bool:
    """Records a report, as the artifacts of a run of its own in place of an earlier one."""
    with _excused(f"{report_dir} is not recorded in MLflow"), _no_collection():
        _write(read_report(report_dir, profile), _resolve(uri))
        return True
    return False


def track_command(argv: list[str]) -> int:
    """`dapbench track`: records every run directory below a folder."""
    from tqdm import tqdm

    parser = Parser(
        "dapbench track",
        description="Record finished and failed run directories in MLflow, where they replace their earlier records.",
        epilog=f"MLFLOW_TRACKING_URI names the server or database; without it, it is {DEFAULT_URI}.",
    )
    parser.add_argument("folder", help="a run directory, or a folder with some below it: results/quick")
    given = parser.parse_args(argv).folder
    folder = Path(given)
    if not given or not folder.is_dir():
        raise UserError(f"'{given}' is not a folder; give one with run directories, such as results/quick")
    run_dirs = sorted({file.parent for name in ("summary", "failure") for file in folder.rglob(f"{name}.json")})
    run_dirs = [run_dir for run_dir in run_dirs if "mlartifacts" not in run_dir.relative_to(folder).parts]
    if not run_dirs:
        raise UserError(f"no run directory (a folder with summary.json) in {folder}; give one, such as results/quick")
    uri = _resolve(None)
    unreadable, new = [], 0
    for run_dir in tqdm(run_dirs, desc="recording", unit="run", disable=None):
        try:
            record = read_run(run_dir)
        except UserError as error:
            unreadable.append(error)
            continue
        try:
            new += _write(record, uri)
        except _failures() as error:
            raise UserError(f"cannot record runs in {uri}: {_reason(error)}") from error
    for reason in unreadable:
        print(f"warning: {reason}", file=sys.stderr)
    known = len(run_dirs) - new - len(unreadable)
    print(f"{new} runs recorded, {known} already there, {len(unreadable)} unreadable, in {uri}")
    return 1 if unreadable else 0


def _write(record: Record, uri: str) -> bool:
    """Replaces the record of a run directory, unless nothing in it has changed; tells whether it did."""
    _import_mlflow(uri)
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    with _turn(_database(uri)):
        pass  # to know that it is there before MLflow opens it, which is the slow part and needs no turn
    client = MlflowClient(uri)
    with _turn(_database(uri)):
        experiment = _experiment(client, record.experiment, uri)
        earlier = _of_directory(client, experiment, record.directory)
        complete = {run.data.tags.get("fingerprint"): run for run in earlier if run.info.status == record.status}
        kept = complete.get(record.fingerprint)
        if kept is None:
            tags = record.tags | {"directory": record.directory, "fingerprint": record.fingerprint}
            tags |= _users_tags(earlier)
            run = client.create_run(experiment, start_time=record.start, tags=tags, run_name=record.name)
            run_id = run.info.run_id
            for params in _batches([Param(*param) for param in record.params.items()], PARAMS_PER_CALL):
                client.log_batch(run_id, params=params)
            for metrics in _batches([Metric(*metric) for metric in record.metrics], METRICS_PER_CALL):
                client.log_batch(run_id, metrics=metrics)
            for artifact in record.artifacts:
                client.log_artifact(run_id, str(artifact))  # a folder with all that is in it
            client.set_terminated(run_id, record.status, end_time=record.end)
        for run in earlier:
            if run is not kept:
                client.delete_run(run.info.run_id)
        return kept is None


def _of_directory(client: "MlflowClient", experiment: str, directory: str) -> "list[Run]":
    """The records of a run directory, the newest first; MLflow's filters know no escape for a quotation mark."""
    found = client.search_runs([experiment], f'tags.directory LIKE "{directory.replace(chr(34), "_")}"')
    return [run for run in found if run.data.tags["directory"] == directory]


def _users_tags(earlier: "list[Run]") -> dict[str, str]:
    """What a user has written onto earlier records: a description, and tags of other names than ours."""
    tags = {name: value for run in reversed(earlier) for name, value in run.data.tags.items() if name not in OWN_TAGS}
    return {name: value for name, value in tags.items() if name == DESCRIPTION or not name.startswith("mlflow.")}


def _experiment(client: "MlflowClient", name: str, uri: str) -> str:
    """The id of an experiment, created if need be; beside an SQLite database its artifacts lie in ``mlartifacts``.

    One that was deleted in the UI keeps its name, so that no other can be created: it comes back without its runs.
    """
    from mlflow.exceptions import MlflowException

    path = _database(uri)
    location = None if path is None else (path.absolute().parent / "mlartifacts" / name).as_uri()
    found = client.get_experiment_by_name(name)
    try:
        if found is None:
            return client.create_experiment(name, location, EXPERIMENT_TAGS)
        if found.lifecycle_stage == "deleted":
            _restore(client, found.experiment_id)
            print(f"MLflow's experiment {name} had been deleted and is back, without its earlier runs", file=sys.stderr)
    except MlflowException:  # on a server, another run may have created or restored it just now
        found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage == "deleted":
            raise
    return found.experiment_id


def _restore(client: "MlflowClient", experiment: str) -> None:
    """Restores a deleted experiment; MLflow restores its runs with it, and here they are deleted again."""
    from mlflow.entities import ViewType

    deleted = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY, max_results=ALL_RUNS)
    client.restore_experiment(experiment)
    for run in deleted:
        client.delete_run(run.info.run_id)


def _import_mlflow(uri: str) -> None:
    """Imports what an address needs, and quietens it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow.tracking

    if _database(uri) is not None:
        # A connection that is kept goes on writing to a database that has been removed.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # MLflow would log a traceback of each failure


@contextmanager
def _turn(path: Path | None) -> Iterator[None]:
    """This process's turn at an SQLite database, which is created first if need be; nothing on a server."""
    if path is None:
        yield
        return
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    with FileLock(f"{path}.lock", timeout=TURN_SECONDS):
        if not path.exists() or not path.stat().st_size:
            with whole(path) as temporary:
                MlflowClient(f"sqlite:///{temporary.absolute()}")
        with closing(sqlite3.connect(path, timeout=LOCKED_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # fails in seconds where MLflow would retry for minutes
        yield


def _resolve(uri: str | None) -> str:
    """The address in use; that of an SQLite file is made absolute, as MLflow remembers what it has opened by it."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = _database(uri)
    _, mark, options = uri.partition("?")
    return uri if path is None else f"sqlite:///{path.absolute()}{mark}{options}"


def _database(uri: str) -> Path | None:
    """The file of an SQLite address."""
    path = uri.partition(":///")[2].partition("?")[0] if uri.startswith("sqlite:///") else ""
    return Path(path) if path and not path.startswith("file:") else None


def _failures() -> tuple[type[Exception], ...]:
    """Whatever MLflow and the layers below it raise when a server or database is not to be had."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError, UserError)  # ImportError: drivers


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pauses the garbage collector: beside all that training has loaded, it would take half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def _excused(consequence: str) -> Iterator[None]:
    try:
        yield
    except _failures() as error:
        print(f"warning: {consequence}: {_reason(error)}", file=sys.stderr)


def _reason(error: Exception) -> str:
    """What is wrong in one line, and what to do where trying again would not help."""
    said = line(error)
    if "out-of-date database schema" in said:
        return (
            f"the database is of another version of MLflow ({said.partition('(')[2].partition(')')[0]}); use that "
            "version, or `mlflow db upgrade` if it is an older one, or move mlflow.db away and record the runs anew "
            "by `dapbench track results`"
        )
    if "malformed" in said or "not a database" in said:
        return f"{said}; move it away and record the runs anew by `dapbench track results`"
    return said


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[first : first + size] for first in range(0, len(items), size))
