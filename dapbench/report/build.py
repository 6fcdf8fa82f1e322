"""The whole report of a profile: load → tables and figures → notebooks → page."""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dapbench.errors import UserError
from dapbench.files import write_text
from dapbench.report import (
    claims,
    figures,
    proposal_items,
    settings_tables,
    showcases,
    study_figures,
    study_tables,
    tables,
)
from dapbench.report.items import Item, Table, padded
from dapbench.report.notebooks import export_notebooks
from dapbench.report.page import page
from dapbench.report.results import Results, load_results
from dapbench.report.style import logs_text

# What a reader came for stands first; below it, the rest by question.
SECTIONS = {
    "Claims": [claims.claims],
    "Learning curves": [figures.learning_curves, figures.evaluation_curves],
    "Final returns": [tables.final_return, settings_tables.published],
    "Overhead": [study_tables.overhead],
    "On which tasks does a claim hold?": [claims.claims_by_task, claims.claims_of_variants],
    "Who learns faster early on?": [tables.difference, tables.alc40, figures.alc40_intervals],
    "Who is better in the end?": [tables.wins, tables.eval_return, figures.final_return_intervals],
    "And over all tasks?": [
        tables.aggregates,
        figures.sample_efficiency,
        figures.performance_profile,
        figures.improvement,
    ],
    "Which parts of PPO-DAP matter?": [study_tables.ablations, study_figures.ablation_bars, study_tables.controls],
    "What do the logs decide?": [
        study_tables.log_qualities,
        study_figures.log_quality_curve,
        study_figures.log_draws,
        study_tables.logs,
        study_tables.priors,
    ],
    "What does the prior propose?": [
        proposal_items.proposals,
        proposal_items.proposal_map,
        proposal_items.action_marginals,
    ],
    "What do the policies look like?": [showcases.policy_films],
    "Where do time and memory go?": [study_tables.speed, study_figures.time_parts, study_figures.memory],
    "Do policy and prior stay close?": [study_figures.diagnostics],
    "What was run?": [settings_tables.hyper_parameters],
}


def build_report(results_dir: Path, profile: Mapping[str, Any], notebooks: bool = True) -> Path:
    """Writes <results_dir>/<profile>/report: index.html, tables/, figures/ and notebooks/.

    Args:
        results_dir: the root of all profiles' results.
        profile: conf/profile/<name>.yaml, composed.
        notebooks: whether analysis/ is run too, which takes most of the time.

    Returns:
        The path of index.html.

    Raises:
        UserError: a run's file is malformed, or the profile has no run at all.
    """
    results = load_results(results_dir, profile)
    if results.summaries.empty:
        raise UserError(f"no finished run in {results.folder / 'runs'}; dapbench repro makes them")
    report = results.folder / "report"
    shutil.rmtree(report / "notebooks", ignore_errors=True)
    with ThreadPoolExecutor(1) as pool:  # the notebooks' kernels are processes of their own
        exported = pool.submit(export_notebooks, report / "notebooks", results_dir, profile) if notebooks else None
        sections = {heading: [make(results) for make in makers] for heading, makers in SECTIONS.items()}
        for name in ("tables", "figures"):
            # What an earlier report left would stand beside an item that is now skipped.
            shutil.rmtree(report / name, ignore_errors=True)
        for item in (item for group in sections.values() for item in group):
            item.save(report)
    write_text(report / "index.html", page(results, sections, exported.result() if exported else []))
    return report / "index.html"


def headline(results_dir: Path, profile: Mapping[str, Any]) -> str:
    """A short plain table for the terminal: each metric by task and method, and PPO-DAP minus PPO."""
    results = load_results(results_dir, profile)
    if results.summaries.empty:
        return "No run ended."
    lines = []
    for make in (tables.alc40, tables.eval_return, tables.difference):
        item = make(results)
        lines += [item.title, *_plain(item), ""]
    text = "\n".join([*lines, item.sentence, logs_text(results), *_lacking(results)])
    return text.replace("−", "-")  # many a terminal's encoding lacks the minus sign


def _plain(item: Item) -> list[str]:
    """A table in aligned columns, or the sentence in place of one."""
    if not isinstance(item, Table):
        return [f"  {item.sentence}"]
    rows = [list(map(str, item.shown)), *([cell.replace("**", "") for cell in row] for row in item.rows)]
    return ["  " + "  ".join(row).rstrip() for row in padded(rows)]


def _lacking(results: Results) -> list[str]:
    failed, missing = len(results.failures), len(results.missing)
    return [f"{failed} failed and {missing} missing runs are not in these numbers."] if failed + missing else []
