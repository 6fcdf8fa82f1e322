"""The report and the notebooks read results and nothing else: no model, environment or learning is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import made_up_results as made_up

LIBRARIES = {"torch", "lightning", "mujoco", "gymnasium", "minari", "sklearn", "peft"}
ROOMS = {"report", "errors", "files", "config", "profiles", "curves"}
SCRIPT = """
import json, runpy, sys
from pathlib import Path
from dapbench.report.build import build_report, headline

root, profile, *notebooks = sys.argv[1:]
content = json.loads(Path(profile).read_text())
build_report(Path(root), content, notebooks=False)
headline(Path(root), content)
for notebook in notebooks:
    runpy.run_path(notebook)
print(json.dumps(sorted(sys.modules)))
"""


def test_a_report_and_its_notebooks_import_no_model(tmp_path):
    profile = made_up.profile(tasks=["hopper"], methods=["ppo", "ppo_dap"], seeds=[0, 1])
    made_up.fabricate(tmp_path, profile)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    root = Path(__file__).parents[2]
    notebooks = sorted(map(str, (root / "analysis").glob("*.py")))
    assert notebooks
    environment = os.environ | {"DAPBENCH_RESULTS": str(tmp_path), "DAPBENCH_PROFILE": str(path)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(path), *notebooks]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    imported = [module.split(".") for module in json.loads(ended.stdout.splitlines()[-1])]
    assert LIBRARIES.isdisjoint(top for top, *_ in imported)
    assert {room for top, room, *_ in (m for m in imported if m[1:]) if top == "dapbench"} <= ROOMS
    assert (tmp_path / "made_up/report/figures/films_hopper_ppo_dap.gif").read_bytes() == made_up.FILM
