"""Tables, figures, notebooks and the page, made of made-up results."""

import dataclasses
import json
import re
from pathlib import Path

import made_up_results as made_up
import numpy as np
import pandas as pd
import pytest

from dapbench.errors import UserError
from dapbench.report import figures, study_figures, study_tables, tables
from dapbench.report.build import SECTIONS, build_report, headline
from dapbench.report.build import build_report as build
from dapbench.report.items import Skipped, Table
from dapbench.report.notebooks import export_notebooks
from dapbench.report.page import page
from dapbench.report.results import load_results
from dapbench.report.statistics import Estimate
from dapbench.report.style import legend_below, number, panels, spread

MAKERS = [make for makers in SECTIONS.values() for make in makers]
UNMADE = {"overhead", "priors", "claims_of_variants"}  # of which nothing is made up
NAMES = [make.__name__ for make in MAKERS]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_builds_are_the_same_bytes_and_need_nothing_else(made_up_root):
    index = build(made_up_root, made_up.full_profile(), notebooks=False)
    first = contents(index.parent)
    build(made_up_root, made_up.full_profile(), notebooks=False)
    assert contents(index.parent) == first
    assert {path.split(".")[-1] for path in first} == {"html", "csv", "md", "tex", "pdf", "svg", "png", "gif"}
    text = first["index.html"].decode()
    assert not re.search(r'(src|href)="(https?:)?//', text)
    for link in re.findall(r'href="((?:tables|figures)/[^"]+)"', text):
        assert link in first


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_an_item_has_a_sentence_or_says_why_not(results, make):
    item = make(results)
    assert item.sentence.endswith(".")
    assert isinstance(item, Skipped) == (item.name in UNMADE)


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [0]},
        {"tasks": ["hopper"]},
        {"methods": ["ppo"]},
        {"methods": ["ppo_dap", "ppg"]},
        {"epochs": 3, "seeds": [0], "tasks": ["reacher"]},
        {"timing": False, "seeds": [0, 1], "tasks": ["swimmer"], "methods": ["ppo", "ppo_dap"]},
    ],
    ids=["one seed", "one task", "PPO alone", "no PPO", "smoke", "no timing"],
)
def test_partial_results_still_give_every_item_a_sentence(small, changes):
    found = small(**changes)
    for make in MAKERS:
        item = make(found)
        assert item.sentence.endswith(".")
        assert "nan" not in item.sentence.split()
        assert not isinstance(item, Table) or "<td" in item._repr_html_()


def test_what_is_lacking_is_said(small):
    found = small(epochs=3, seeds=[0], tasks=["hopper"], timing=False)
    assert "Fewer than 40 epochs" in tables.alc40(found).sentence
    assert "no ALC@40" in tables.difference(found).sentence
    assert "at least two tasks" in figures.sample_efficiency(found).sentence
    assert "nothing is said about speed and memory" in study_tables.speed(found).sentence
    assert "no runs of ablations" in study_figures.ablation_bars(found).sentence
    assert "1 seed" in tables.final_return(found).note


def test_an_aggregate_recomputed_from_the_raw_curves(made_up_root, results):
    runs = made_up_root / "made_up" / "runs"

    def curve(task, method, seed):
        return pd.read_csv(runs / task / method / str(seed) / "curve.csv").return_mean.ffill().bfill()

    scores = sorted(
        (curve(task, "ppo", seed)[:40].mean() - low) / (high - low)
        for task, low, high in (("half_cheetah", -280.178953, 12135.0), ("hopper", -20.272305, 3234.3))
        for seed in range(3)
    )
    aggregates = tables.aggregates(results).values.set_index(["metric", "method", "statistic"]).estimate
    assert aggregates["alc40", "ppo", "IQM"] == pytest.approx(np.mean(scores[1:-1]), abs=1e-9)


def test_marks_of_the_best_and_of_what_cannot_be_told_from_it(small):
    found = small(tasks=["hopper"], methods=["ppo", "ppg", "ppo_dap"])
    item = tables.alc40(found)
    assert dict(zip(item.values.method, item.values["mark"], strict=True))["ppo_dap"] == "best"
    assert item.shown.loc[0, "PPO-DAP"].startswith("**")


def test_a_single_run_is_marked_as_compared_by_its_mean_alone(small):
    found = small(tasks=["hopper"], methods=["ppo", "ppo_dap"])
    kept = found.summaries[(found.summaries.method == "ppo") | (found.summaries.seed == 0)]
    item = tables.alc40(dataclasses.replace(found, summaries=kept))
    assert item.shown.loc[0, "PPO"].endswith(" ‡")
    assert "‡: compared with it by the mean alone" in item.note


def test_a_legend_names_what_any_panel_shows(results):
    without = results.curves[(results.curves.task != results.tasks[0]) | (results.curves.method == "ppo")]
    drawn = figures.learning_curves(dataclasses.replace(results, curves=without)).figure
    labels = {text.get_text() for text in drawn.legends[0].get_texts()}
    assert labels == {results.titles[method] for method in results.methods}


def test_both_readings_of_alc40_stand_side_by_side(results):
    for item in (tables.alc40(results), tables.difference(results)):
        assert item.shown.Curve.tolist()[:2] == ["training", "evaluation"]
        assert "epochs 1 to 40" in item.note
        assert "epochs 0, 5, ..., 40" in item.note
    assert tables.alc40(results).sentence.count("By mean ALC@40 (") == 2


def test_without_evaluations_on_the_way_only_the_training_is_read(tmp_path):
    profile = made_up.profile(tasks=["hopper"], methods=["ppo", "ppo_dap"], eval_curve_episodes=0)
    made_up.fabricate(tmp_path, profile)
    found = load_results(tmp_path, profile)
    assert figures.evaluation_curves(found).sentence.startswith("No run was evaluated on its way")
    assert tables.alc40(found).shown.Curve.tolist() == ["training"]
    assert tables.difference(found).shown.Curve.tolist() == ["training"]


def test_captions_count_the_draws_of_the_logs(results, small):
    assert "Runs per cell: 3 seeds on 3 draws of logs." in tables.alc40(results).note
    assert (
        "(training, 3 seeds on 3 draws of logs). By the evaluation it is above PPO's on 2"
        in tables.difference(results).sentence
    )
    fewer = small(seeds=[0, 1, 2], log_draws=2, tasks=["hopper"])
    assert "3 seeds on 2 draws of logs" in figures.learning_curves(fewer).sentence


def test_each_draw_of_the_logs_is_a_row_and_each_run_a_point(results):
    item = study_tables.logs(results)
    own = item.shown[(item.shown.Task == "Hopper") & (item.shown.Quality == "medium")]
    assert own["Draw"].tolist() == ["0", "1", "2"]
    assert own["Behaviour seed"].tolist() == ["1000", "1001", "1002"]
    figure = study_figures.log_draws(results)
    assert figure.sentence.endswith("The draws' logs return 3000 to 3600 on HalfCheetah and 2000 to 2400 on Hopper.")
    points, line = figure.figure.axes[1].get_lines()
    assert line.get_label() == "PPO, mean"
    assert points.get_xdata().tolist() == pytest.approx([2000, 2200, 2400])
    assert points.get_ydata().tolist() == pytest.approx(results.scores("alc40", "hopper", "ppo_dap").tolist())


def test_the_priors_of_each_draw_are_listed(tmp_path):
    profile = made_up.profile(tasks=["hopper"], methods=["ppo", "ppo_dap"])
    made_up.fabricate(tmp_path, profile)
    measured = {key: {"energy_score": 0.1, "energy_distance": 0.2} for key in ("prior", "gaussian")}
    for draw in (0, 1):
        folder = tmp_path / f"made_up/priors/hopper/medium/{draw}/diffusion"
        folder.mkdir(parents=True)
        (folder / "quality.json").write_text(json.dumps(measured))
    shown = study_tables.priors(load_results(tmp_path, profile)).shown
    assert shown[["Logs", "Draw", "Prior"]].to_numpy().tolist() == [["medium", d, "diffusion"] for d in ("0", "1")]


def test_wins_count_against_the_strongest_baseline_without_logs(results):
    item = tables.wins(results)
    assert set(item.values.strongest) <= {"ppo", "ppg"}
    assert (item.shown[["Wins", "Ties", "Losses"]].sum(axis=1) == item.shown.Tasks).all()


def test_speed_is_relative_to_ppo(results):
    values = study_tables.speed(results).values
    ratio = values[(values.method == "ppo_dap") & (values.ratio == "Time per step × PPO")].estimate.item()
    assert ratio == pytest.approx(1.2, abs=0.05)


def test_ablations_name_what_was_changed(results):
    shown = study_tables.ablations(results).shown.set_index("Variant").Changed
    assert shown["PPO-DAP without KL"] == "kl_weight: 0.0"


def test_tables_render_their_marks():
    item = Table(
        "x", "A_b", "50 % of it.", pd.DataFrame({"Task": ["a_b"], "PPO": ["**−1 [−2, 0]** †"]}), pd.DataFrame()
    )
    assert "| a_b  | **−1 [−2, 0]** † |" in item.markdown()
    assert r"a\_b & \textbf{$-$1 [$-$2, 0]} \textdagger{} \\" in item.latex()
    assert r"\caption{A\_b. 50 \% of it.}" in item.latex()
    assert '<strong>−1 <span class="interval">[−2, 0]</span></strong> †' in item._repr_html_()


def test_numbers_read_well():
    assert number(-0.001, 2) == "0.00"
    assert number(float("nan"), 2) == "n/a"
    assert spread(Estimate(np.float64(-4.136), np.float64(-5.0), np.float64(-3.0))) == "−4.14 [−5.00, −3.00]"
    assert spread(Estimate(np.float64(1234.5), np.float64("nan"), np.float64("nan"))) == "1234"


def test_failed_and_missing_runs_are_on_the_page(tmp_path):
    profile = made_up.profile(tasks=["hopper"], methods=["ppo", "ppo_dap"])
    runs = made_up.fabricate(tmp_path, profile) / "made_up" / "runs" / "hopper"
    (runs / "ppo" / "0" / "summary.json").rename(tmp_path / "gone.json")
    found = load_results(tmp_path, profile)
    text = page(found, {"Returns": [tables.difference(found)]}, [])
    assert "0 failed and 1 missing" in text
    assert "1 of the profile's runs failed or are missing" in text
    assert "0 failed and 1 missing runs" in headline(tmp_path, profile)


def test_no_run_at_all_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no finished run in"):
        build_report(tmp_path, made_up.profile())
    assert headline(tmp_path, made_up.profile()) == "No run ended."


def test_the_headline_is_for_the_terminal(made_up_root, results):
    text = headline(made_up_root, made_up.profile())
    assert "PPO-DAP's ALC@40 is above PPO's on 2" in text
    assert "outside the online budget" in text
    assert "**" not in text


def test_negative_returns_show_on_a_terminal_without_a_minus_sign(tmp_path):
    profile = made_up.profile(tasks=["reacher"], seeds=[0, 1])
    text = headline(made_up.fabricate(tmp_path, profile), profile)
    assert re.search(r"Reacher +-\d", text)
    assert text.encode("cp1252")


def test_notebooks_are_the_same_bytes_twice(tmp_path):
    profile = made_up.profile()
    made_up.fabricate(tmp_path, profile)
    source = tmp_path / "sources" / "one.py"
    source.parent.mkdir()
    body = "from dapbench.report import tables\nfrom dapbench.report.results import open_results\n\n"
    source.write_text(f"# %% [markdown]\n# # One\n\n# %%\n{body}tables.difference(open_results())\n")
    for name in ("a", "b"):
        assert export_notebooks(tmp_path / name, tmp_path, profile, source.parent) == [tmp_path / name / "one.html"]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert b"ALC@40 is above PPO" in (tmp_path / "a" / "one.ipynb").read_bytes()
    source.write_text("# %%\n1 / 0\n")
    with pytest.raises(UserError, match=r"one\.py does not run: ZeroDivisionError"):
        export_notebooks(tmp_path / "c", tmp_path, profile, source.parent)


def test_the_analysis_notebooks_use_the_reports_own_items():
    analysis = Path(__file__).parents[2] / "analysis"
    used = {name for source in analysis.glob("*.py") for name in re.findall(r"\.(\w+)\(results\)", source.read_text())}
    assert used <= set(NAMES)
    assert set(NAMES) - used <= {"hyper_parameters", "logs", "policy_films"}


def test_loading_is_separate_from_the_profile_on_disk(made_up_root):
    found = load_results(made_up_root, made_up.profile(seeds=[0], methods=["ppo"]))
    assert len(found.summaries) == 2


def test_overhead_is_the_mean_ratio_within_pairs(tmp_path):
    profile = made_up.profile(tasks=["hopper"], methods=["ppo", "ppo_dap"])
    folder = made_up.fabricate(tmp_path, profile) / "made_up" / "overhead" / "hopper" / "ppo_dap"
    folder.mkdir(parents=True)
    walls = {"ppo": [10.0, 20.0], "ppo_dap": [11.0, 26.0]}  # ratios 1.1 and 1.3
    runs = [
        {"task": "hopper", "method": m, "repeat": i, "wall_seconds": w, "peak_memory_bytes": 2**20}
        for m, own in walls.items()
        for i, w in enumerate(own)
    ]
    (folder / "overhead.json").write_text(json.dumps({"task": "hopper", "runs": runs}))
    item = study_tables.overhead(load_results(tmp_path, profile))
    assert item.shown.Method.tolist() == ["PPO-DAP", "PPO-DAP, GPU"]
    assert item.shown.iloc[1].tolist()[1:] == ["", "not measured", "not measured"]
    assert item.shown.Hopper.tolist() == ["1.20", ""]
    values = item.values[item.values.task == "mean over tasks"].set_index("ratio")
    assert values.estimate.to_dict() == pytest.approx({"Wall-clock × PPO": 1.2, "Memory × PPO": 1.0})
    assert values.loc["Wall-clock × PPO", ["low", "high"]].tolist() == pytest.approx([1.1, 1.3])
    slower = [{**run, "wall_seconds": 100.0} for run in runs if run["method"] == "ppo"]
    (folder.parent / "ppg").mkdir()
    (folder.parent / "ppg" / "overhead.json").write_text(json.dumps({"task": "hopper", "runs": slower}))
    assert study_tables.overhead(load_results(tmp_path, profile)).shown.Hopper.tolist() == ["1.20", ""], (
        "of its own pairs"
    )
    (folder.parent / "ppg" / "overhead.json").unlink()
    on_gpu = [run | {"device": "Some GPU", "wall_seconds": 5.0} for run in runs]
    (folder / "overhead.json").write_text(json.dumps({"task": "hopper", "runs": runs + on_gpu}))
    shown = study_tables.overhead(load_results(tmp_path, profile)).shown.set_index("Method")
    assert shown["Wall-clock × PPO"].to_dict() == {
        "PPO-DAP": "1.200 [1.100, 1.300]",
        "PPO-DAP, Some GPU": "1.000 [1.000, 1.000]",
    }


def test_changes_of_return_span_the_epochs_in_which_no_episode_ended():
    curves = pd.DataFrame({"task": "hopper", "seed": 0, "epoch": range(1, 7)})
    curves["return_mean"] = [np.nan, 1.0, np.nan, 3.0, 4.0, np.nan]
    curves["bound_surrogate"] = [9.0, 1.0, 2.0, 5.0, 7.0, 9.0]
    found = study_figures.improvements(curves)
    np.testing.assert_allclose(found.bound_surrogate, [1.5, 5.0])
    np.testing.assert_allclose(found.improvement, np.array([2.0, 1.0]) / np.std([2.0, 1.0], ddof=1))


def test_a_legend_of_many_methods_fits_its_figure():
    drawing, axes = panels(2)
    for i in range(12):
        axes[0].plot([0, 1], label=f"a method with a long name {i}")
    legend_below(drawing, axes)
    drawing.canvas.draw()
    assert drawing.legends[0].get_window_extent().width <= drawing.bbox.width
    assert len(drawing.legends) == 1
