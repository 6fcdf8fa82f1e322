"""Made-up results, written once for all tests of the report."""

import made_up_results as made_up
import pytest

from dapbench.report.results import load_results


@pytest.fixture(scope="session")
def made_up_root(tmp_path_factory):
    """The root of the results of a full profile."""
    return made_up.fabricate(tmp_path_factory.mktemp("results"), made_up.full_profile())


@pytest.fixture(scope="session")
def results(made_up_root):
    """The full profile's results, loaded."""
    return load_results(made_up_root, made_up.full_profile())


@pytest.fixture
def small(tmp_path):
    """A function that fabricates a changed profile and loads it."""

    def make(timing: bool = True, **changes):
        profile = made_up.profile(**changes)
        return load_results(made_up.fabricate(tmp_path, profile, timing), profile)

    return make
