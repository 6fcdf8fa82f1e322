"""Run directories as frames: what is loaded, what is missing and what is malformed."""

import dataclasses
import json
import shutil

import made_up_results as made_up
import numpy as np
import pytest

from dapbench.config import compose_profile
from dapbench.errors import UserError
from dapbench.profiles import runs
from dapbench.report import claims
from dapbench.report.page import protocol
from dapbench.report.results import KEY, load_results
from dapbench.report.statistics import Reference, reference_scores


def test_every_cell_is_loaded(results):
    assert len(results.summaries) == 2 * 3 * 3 + 4 * 3
    assert results.missing.empty
    assert results.failures.empty
    assert results.tasks == ["half_cheetah", "hopper"]
    assert results.methods == ["ppo", "ppg", "ppo_dap"]
    assert results.titles["ppo_dap"] == "PPO-DAP"
    assert results.baselines == ["ppo", "ppg"]
    assert set(results.summaries.loc[results.summaries.method == "ppo_dap_expert", "group"]) == {"log_qualities"}


def test_a_run_of_two_groups_counts_once():
    profile = made_up.profile(again={"methods": ["ppo"], "tasks": ["hopper"]})
    assert len(list(runs(profile))) == 18


def test_a_group_of_fewer_epochs_has_no_numbers_of_the_end(tmp_path):
    short = {"ablations": made_up.ABLATIONS["ablations"] | {"epochs": 40}}
    profile = made_up.profile(tasks=["hopper"], **short, **made_up.QUALITIES)
    assert {run.method: run.epochs for run in runs(profile)}["ppo_dap_frozen"] == 40
    root = made_up.fabricate(tmp_path, profile)
    for path in root.glob("*/runs/*/ppo_dap_[fn]*/*/summary.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"epochs": 40}))
    found = load_results(root, profile)
    assert len(found.scores("alc40", "hopper", "ppo_dap_frozen")) == 3
    for metric in ("final_return", "eval_return"):
        assert len(found.scores(metric, "hopper", "ppo_dap_frozen")) == 0
        assert len(found.scores(metric, "hopper", "ppo_dap")) == 3
        assert len(found.scores(metric, "hopper", "ppo_dap_expert")) == 3
    ended = next(c for c in claims.part_claims(found) if c.number == "5").findings
    assert [finding.metric for finding in ended] == ["alc40", "alc40_eval"]
    assert claims.UNMEASURED not in [finding.verdict for finding in ended]
    assert claims.difference(found, "final_return", "ppo_dap", "ppo_dap_frozen").verdict == claims.UNMEASURED
    assert protocol(found)["Online budget"].endswith("45 epochs × 5,000; the first 40 epochs for ablations")


def test_curves_are_filled_and_cut_to_the_shortest_run(results):
    curve = results.curve_array("hopper", "ppo")
    assert curve.shape == (45, 3)
    assert not np.isnan(curve).any()
    np.testing.assert_array_equal(curve[0], curve[1])  # in epoch 1 no episode ended


def test_the_draw_is_that_of_the_runs_seed(results):
    frame = results.summaries
    assert frame.loc[frame.method == "ppo", "logs_draw"].isna().all()
    own = frame[(frame.task == "hopper") & (frame.method == "ppo_dap")].sort_values("seed")
    assert own.logs_draw.tolist() == [0, 1, 2]
    assert {run.draw for run in runs(made_up.profile(seeds=[3, 4], log_draws=2))} == {0, 1}


def test_evaluations_start_before_the_first_epoch(results):
    assert results.evaluation_array("hopper", "ppo", "epoch")[:, 0].tolist() == [0, 5, 10, 15, 20, 25, 30, 35, 40]
    assert results.evaluation_array("hopper", "ppo", "env_steps")[:2, 0].tolist() == [0, 25000]
    own = results.summaries[(results.summaries.task == "hopper") & (results.summaries.method == "ppo")]
    returns = results.evaluation_array("hopper", "ppo")
    assert returns.shape == (9, 3)
    np.testing.assert_array_equal(returns[0], own.sort_values("seed").eval_return_start)


def test_missing_and_failed_runs_are_told(tmp_path):
    profile = made_up.profile()
    made_up.fabricate(tmp_path, profile)
    runs = tmp_path / "made_up" / "runs"
    shutil.rmtree(runs / "hopper" / "ppg" / "0")
    (runs / "hopper" / "ppg" / "1" / "summary.json").unlink()
    failure = {"task": "hopper", "method": "ppg", "seed": 1, "epoch": 3, "quantity": "loss", "message": "not finite"}
    (runs / "hopper" / "ppg" / "1" / "failure.json").write_text(json.dumps(failure))
    found = load_results(tmp_path, profile)
    assert found.missing[KEY].to_numpy().tolist() == [["hopper", "ppg", 0]]
    assert found.failures[[*KEY, "epoch"]].to_numpy().tolist() == [["hopper", "ppg", 1, 3]]
    assert len(found.scores("alc40", "hopper", "ppg")) == 1


def test_nothing_at_all_is_all_missing(tmp_path):
    found = load_results(tmp_path, made_up.profile())
    assert len(found.missing) == 18
    assert found.summaries.empty
    assert found.methods == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("summary.json", "{", "not readable JSON"),
        ("summary.json", "[]", "lacks task"),
        ("summary.json", '{"task": "hopper"}', "lacks method, seed"),
        ("timing.json", '{"wall_seconds": 1}', "lacks steps_per_second, peak_memory_bytes"),
        ("curve.csv", "", "not a readable table"),
        ("curve.csv", "epoch,env_steps\n1,5000\n", "lacks the columns return_mean"),
        ("summary.json", '{"task": "hopper", "method": "ppo", "seed": 0}', "lacks env_steps, .*, eval_return_start"),
        (
            "curve.csv",
            "epoch,env_steps,return_mean,return_std,episodes,eval_return\n1,5000,a lot,0,1,\n",
            "not a number in return_mean",
        ),
    ],
)
def test_a_malformed_file_is_named(tmp_path, name, content, words):
    profile = made_up.profile(tasks=["hopper"], methods=["ppo"], seeds=[0])
    path = made_up.fabricate(tmp_path, profile) / "made_up" / "runs" / "hopper" / "ppo" / "0" / name
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load_results(tmp_path, profile)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_in_another_runs_place_is_malformed(tmp_path):
    profile = made_up.profile(tasks=["hopper"], methods=["ppo"])
    runs = made_up.fabricate(tmp_path, profile) / "made_up" / "runs" / "hopper" / "ppo"
    shutil.copy(runs / "1" / "summary.json", runs / "0" / "summary.json")
    with pytest.raises(UserError, match="of another run"):
        load_results(tmp_path, profile)


def test_runs_of_other_settings_are_not_averaged(tmp_path):
    profile = made_up.profile(tasks=["hopper"], methods=["ppo"])
    path = made_up.fabricate(tmp_path, profile) / "made_up/runs/hopper/ppo/1/summary.json"
    summary = json.loads(path.read_text())
    summary["config"]["method"]["learning_rate"] = 1.0
    path.write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"ppo/1/summary\.json has other settings of its method than seeds before it"):
        load_results(tmp_path, profile)


def test_a_task_on_which_nothing_was_measured_has_no_reference(small, monkeypatch):
    monkeypatch.setattr("dapbench.report.results.reference_scores", dict)
    found = small(tasks=["reacher"], methods=["ppo"])
    summaries = found.summaries.assign(final_return=np.nan)
    assert dataclasses.replace(found, summaries=summaries).references == {}


def test_references_fall_back_on_these_results(small, monkeypatch):
    known = reference_scores()
    monkeypatch.setattr("dapbench.report.results.reference_scores", lambda: {"hopper": known["hopper"]})
    found = small(tasks=["hopper", "reacher"], methods=["ppo", "ppo_dap"])
    assert found.references["hopper"].source == "D4RL"
    reference = found.references["reacher"]
    finals = [found.scores("final_return", "reacher", m).mean() for m in ("ppo", "ppo_dap")]
    firsts = [found.curve_array("reacher", m)[0].mean() for m in ("ppo", "ppo_dap")]
    assert reference == Reference(min(firsts), max(finals), "these results")


def test_a_profile_is_composed_from_conf_or_read_from_params(tmp_path):
    assert compose_profile("quick")["epochs"] == 40
    assert compose_profile("quick")["name"] == "quick"
    with pytest.raises(UserError, match="unknown profile 'nonsense'"):
        compose_profile("nonsense")
    params = tmp_path / "params.yaml"
    params.write_text("profile: {name: quick, epochs: 7}")
    assert compose_profile("quick", params) == {"name": "quick", "epochs": 7}
    with pytest.raises(UserError, match="is of profile quick; compose it anew for profile=paper"):
        compose_profile("paper", params)


@pytest.mark.parametrize("content", [None, "profile: 3", "", "profile: {", "profile: {epochs: 3}"])
def test_params_without_a_profile_are_named(tmp_path, content):
    params = tmp_path / "params.yaml"
    if content is not None:
        params.write_text(content)
    with pytest.raises(UserError, match="holds no profile") as caught:
        compose_profile("quick", params)
    assert str(params) in str(caught.value)
    assert "\n" not in str(caught.value)
