"""The small project as fixtures."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_project import ALL_CALLS, Project


def pytest_configure(config: pytest.Config) -> None:
    """Leaves out a warning that DVC's own use of pygtrie raises."""
    config.addinivalue_line("filterwarnings", "ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A fresh small project without results, as the current folder."""
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project whose cells have all been run once."""
    project = Project(tmp_path_factory.mktemp("finished"))
    run = project.repro()
    assert run.returncode == 0, run.stderr
    assert project.calls() == ALL_CALLS
    return project


@pytest.fixture
def finished(finished_project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The finished project as the current folder; it is shared, so leave it as it was. params.yaml is put back."""
    monkeypatch.chdir(finished_project.root)
    params = finished_project.root / "params.yaml"
    composed = params.read_text(encoding="utf-8")
    yield finished_project
    params.write_text(composed, encoding="utf-8")
