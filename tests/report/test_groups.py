"""The groups of a profile beside its main runs: which methods are ablations, controls, and variants on other logs."""

import dataclasses
from pathlib import Path

import made_up_results as made_up
import numpy as np
import pytest
import yaml

from dapbench.config import compose_profile
from dapbench.report import statistics, study_figures, study_tables, tables
from dapbench.report.items import Skipped
from dapbench.report.results import load_results

PARAMS = Path(__file__).parents[2] / "params.yaml"
BASES, QUALITIES = ("ppo_bc", "ppo_gap", "ppo_dap", "ppo_dap_warm"), ("simple", "expert", "mixed")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """PPO and the four methods that start from logs, on logs of three qualities."""
    variants = {"methods": [f"{m}_on_{q}" for m in BASES for q in ("simple", "expert")], "tasks": ["hopper"]}
    profile = made_up.profile(methods=["ppo", "ppo_bc", "ppo_dap", "ppo_dap_warm"])
    profile |= {"controls": {"methods": ["ppo_gap"], "tasks": ["hopper"]}, "log_qualities": variants}
    profile |= made_up.ABLATIONS
    root = made_up.fabricate(tmp_path_factory.mktemp("results"), profile)
    return load_results(root, profile)


def test_the_paper_profile_runs_its_methods_on_other_qualities():
    """A variant is its base in all but name, title and quality, as the pipeline composes them."""
    methods = yaml.safe_load(PARAMS.read_text())["method"]
    wanted = {(base, quality) for base in BASES for quality in QUALITIES}
    wanted |= {("ppo_dap_weighted", "mixed"), ("ppo_bc_weighted", "mixed")}
    group = compose_profile("paper")["log_qualities"]
    assert group["tasks"] == ["half_cheetah", "hopper"]
    variants = [name for name in group["methods"] if methods[name].get("log_quality")]
    assert set(group["methods"]) - set(variants) == {"ppo_dap_weighted", "ppo_bc_weighted"}
    assert len(variants) == len(wanted)
    found = set()
    for name in variants:
        rest = {key: value for key, value in methods[name].items() if key not in ("name", "title", "log_quality")}
        bases = [
            other
            for other, config in methods.items()
            if "log_quality" not in config and rest == {k: v for k, v in config.items() if k not in ("name", "title")}
        ]
        assert len(bases) == 1
        found.add((bases[0], methods[name]["log_quality"]))
        assert methods[name]["log_quality"] in methods[name]["title"]
    assert found == wanted


def test_a_variant_belongs_to_the_method_that_it_equals_but_for_the_logs(study):
    expected = {base: {"medium": base} | {q: f"{base}_on_{q}" for q in ("simple", "expert")} for base in BASES}
    assert study.by_quality() == expected
    for (_, method), config in study.configs.items():  # whatever it is called
        if method == "ppo_bc_on_expert":
            config["method"]["gamma"] = 0.5
    changed = study.by_quality()
    for (_, method), config in study.configs.items():
        if method == "ppo_bc_on_expert":
            config["method"]["gamma"] = 0.99
    assert changed["ppo_bc"] == {"medium": "ppo_bc", "simple": "ppo_bc_on_simple"}


def test_the_table_has_a_column_for_each_method_and_a_row_for_each_quality(study):
    item = study_tables.log_qualities(study)
    titles = ["PPO+BC", "PPO-DAP", "PPO-DAP, warm start", "PPO-GAP"]
    assert item.shown.columns.tolist() == ["Task", "Logs", "Return in the logs", "PPO", *titles]
    assert item.shown.Logs.tolist() == ["simple", "medium", "expert"]  # the lowest return first
    assert set(item.shown.Task) == {"Hopper"}
    row = item.values.set_index(["method", "quality"]).loc[("ppo_gap", "expert")]
    ours, ppo = study.scores("alc40", "hopper", "ppo_gap_on_expert"), study.scores("alc40", "hopper", "ppo")
    assert row.estimate == pytest.approx(ours.mean())
    assert row.minus_ppo_estimate == pytest.approx(ours.mean() - ppo.mean())
    assert row.logs_return == pytest.approx(2000 * 1.5 * 1.1)
    difference = statistics.difference([ours], [ppo])
    mark = item.shown.set_index("Logs").loc["expert", "PPO-GAP"].endswith(" ▲")
    assert mark == bool(difference.low > 0)


def test_the_figure_has_a_line_for_each_method(study):
    (axis,) = study_figures.log_quality_curve(study).figure.axes
    drawn = {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}
    assert list(drawn) == ["PPO+BC", "PPO-DAP", "PPO-DAP, warm start", "PPO-GAP", "PPO, mean"]
    means = [study.scores("alc40", "hopper", f"ppo_gap{q}").mean() for q in ("_on_simple", "", "_on_expert")]
    np.testing.assert_allclose(drawn["PPO-GAP"].get_ydata(), means)
    assert {text.get_text() for text in axis.texts} == {"simple", "medium", "expert"}
    colours = [line.get_color() for line in drawn.values()]
    assert len(set(colours)) == 5


def test_a_control_is_no_ablation_and_stands_on_its_own_tasks(study):
    variants = study_tables.ablations(study).values.method
    assert set(variants) == {"ppo_dap", "ppo_dap_no_kl", "ppo_dap_frozen"}
    labels = [label.get_text() for label in study_figures.ablation_bars(study).figure.axes[0].get_yticklabels()]
    assert labels == ["PPO-DAP without KL (1 task)", "ppo_dap_frozen (1 task)"]
    item = study_tables.controls(study)
    assert set(item.shown.Task) == {"Hopper"}
    assert item.shown.columns.tolist()[2:] == ["PPO", "PPO+BC", "PPO-DAP", "PPO-DAP, warm start", "PPO-GAP"]
    own = item.values[(item.values.method == "ppo_gap") & (item.values.metric == "final_return")]
    assert own.estimate.tolist() == [pytest.approx(study.scores("final_return", "hopper", "ppo_gap").mean())]
    assert "PPO-GAP started from medium logs" in item.note


def test_methods_of_the_same_logs_are_compared_by_pairs_of_a_seed(study):
    assert study.share_draws("ppo_dap", "ppo_bc")
    assert study.share_draws("ppo_gap_on_simple", "ppo_bc_on_simple")
    assert not study.share_draws("ppo_dap", "ppo_dap_on_simple")  # other logs, so other draws
    assert not study.share_draws("ppo_dap", "ppo")
    summaries = study.summaries.copy()
    own = (summaries.task == "hopper") & summaries.method.isin(["ppo_dap", "ppo_bc"])
    summaries.loc[own & (summaries.method == "ppo_dap"), "alc40"] = [10.0, np.nan, 30.0]
    summaries.loc[own & (summaries.method == "ppo_bc"), "alc40"] = [9.0, 5.0, 28.0]
    found = dataclasses.replace(study, summaries=summaries)
    ours, theirs = found.both_scores("alc40", "hopper", "ppo_dap", "ppo_bc")
    assert (ours.tolist(), theirs.tolist()) == ([10.0, 30.0], [9.0, 28.0])
    paired = tables.difference_of(found, "alc40", "ppo_dap", "ppo_bc", ["hopper"])
    assert [float(x) for x in paired] == [1.5, 1.0, 2.0]  # as pairs; on their own they would hide in their spread
    assert [len(s) for s in found.both_scores("alc40", "hopper", "ppo_dap", "ppo")] == [2, 3]
    assert np.isnan(tables.difference_of(found, "alc40", "ppo_dap", "ppo_bc", []).point)


def test_without_a_group_its_item_says_so(small):
    found = small(methods=["ppo", "ppo_dap"], controls={"methods": ["ppo_gap"], "tasks": ["hopper"]})
    assert study_tables.ablations(found).sentence == "There are no runs of ablations in this profile."
    assert isinstance(study_tables.log_qualities(found), Skipped)


def test_published_numbers_stand_beside_ours_at_the_same_budget_alone(small, tmp_path):
    short = tables.final_return(small(tasks=["hopper", "walker2d"], methods=["ppo", "ppg"]))
    assert short.shown.columns.tolist() == ["Task", "PPO", "PPG"]
    profile = made_up.profile(tasks=["hopper", "reacher"], methods=["ppo", "ppg"], seeds=[0], epochs=200)
    item = tables.final_return(load_results(made_up.fabricate(tmp_path / "long", profile), profile))
    assert item.shown.columns.tolist() == ["Task", "PPO", "Published PPO", "PPG"]
    assert item.shown["Published PPO"].tolist() == ["2316 to 3450", "−8.10 to −4.10"]
