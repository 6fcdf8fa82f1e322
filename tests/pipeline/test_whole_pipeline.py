"""The smoke profile from a fresh clone to the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = "from pathlib import Path; from dapbench.pipeline.params import compose; compose(Path.cwd(), [])"


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git repository to clone")
def test_smoke_run_in_a_clone(tmp_path: Path) -> None:
    clone = tmp_path / "dapbench"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PYTHONPATH": str(clone), "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-c", COMPOSE)
    assert run("git", "status", "--short") == "", "run dapbench repro and commit its params.yaml"

    output = run("dapbench", "repro", "profile=smoke")
    params = yaml.safe_load((clone / "params.yaml").read_text(encoding="utf-8"))
    results = clone / "results/smoke"
    for cell in params["cells"]["online"].values():
        summary = json.loads((clone / cell["out"] / "summary.json").read_text(encoding="utf-8"))
        assert [summary[key] for key in ("task", "method", "seed")] == [cell[key] for key in ("task", "method", "seed")]
        assert summary["env_steps"] == params["profile"]["epochs"] * params["profile"]["epoch_steps"]
        assert len((clone / cell["out"] / "curve.csv").read_text().splitlines()) == params["profile"]["epochs"] + 1
    assert all(any((clone / cell["out"]).iterdir()) for cell in params["cells"]["showcase"].values())
    assert "report: results/smoke/report/index.html" in output
    assert (results / "report/index.html").stat().st_size > 1000

    assert "up to date" in run("dapbench", "repro", "profile=smoke")
    one_method = ["profile.tasks=[reacher]", "profile.methods=[ppo_dap]", "profile.overhead_tasks=[]"]
    output = run("dapbench", "repro", "profile=smoke", *one_method, "profile.seeds=[0,1]", "profile.log_draws=2")
    summaries = [json.loads((results / f"runs/reacher/ppo_dap/{s}/summary.json").read_text()) for s in (0, 1)]
    assert [(own["logs"]["draw"], own["logs"]["behaviour_seed"]) for own in summaries] == [(0, 1000), (1, 1001)]
    assert "1 to 2 seeds" not in output
    assert "2 seeds on 2 draws of logs" in (results / "report/index.html").read_text(encoding="utf-8")
    changed = {line.split()[-1] for line in run("git", "status", "--short").splitlines()}
    assert changed <= {"params.yaml", "dvc.lock"}, "results, databases and logs are ignored"

    with (clone / "dapbench/ppo_dap.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    one_method += ["profile.seeds=[0,1]", "profile.log_draws=2"]
    output = run("dapbench", "accept", "profile=smoke", *one_method)
    assert "online ppo_dap: online@smoke-reacher-ppo_dap-0 gave the same; 1 taken on trust" in output
    assert "up to date" in run("dapbench", "repro", "profile=smoke", *one_method)
