"""The report: statistics, tables, figures, notebooks and one page. Plotting is imported only once a report is made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def build_report(results_dir: Path, profile: Mapping[str, Any]) -> Path:
    """Writes the report of a profile's results and returns the path of its index.html."""
    from dapbench.report import build

    return build.build_report(results_dir, profile)


def headline(results_dir: Path, profile: Mapping[str, Any]) -> str:
    """The results in a short plain table for the terminal."""
    from dapbench.report import build

    return build.headline(results_dir, profile)
