"""README.md shows of the study what the report in results/paper holds, and says so while there is none."""

import re
import runpy
import shutil
from pathlib import Path

import made_up_results as made_up
import pytest

from dapbench.report.claims import claims

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "docs/readme.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path, results):
    """A checkout whose study is made up, with a README that has never shown one."""
    report = tmp_path / "results/paper/report"
    claims(results).save(report)
    (report / "figures").mkdir()
    (report / "figures/learning_curves.png").write_bytes(made_up.FILM)
    (tmp_path / "README.md").write_text("# A\n\n<!-- study -->\n<!-- end -->\n\nB\n", encoding="utf-8")
    return tmp_path


def test_the_readme_is_as_the_script_writes_it():
    assert README.count("<!-- study -->\n") == README.count("<!-- end -->\n") == 1
    assert SCRIPT["written"](README, ROOT) == README


def test_while_there_is_no_study_one_line_says_so():
    block = re.search(r"<!-- study -->\n(.*?)<!-- end -->\n", README, re.DOTALL)[1]
    if (ROOT / "results/paper/report/tables/claims.md").exists():
        (picture,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", block)
        assert (ROOT / picture).is_file()
    else:
        assert block.count("\n") == 1
        assert "not in git yet" in block


def test_the_block_is_the_reports_figure_and_table(checkout):
    text = SCRIPT["written"]((checkout / "README.md").read_text(encoding="utf-8"), checkout)
    table = (checkout / "results/paper/report/tables/claims.md").read_text(encoding="utf-8")
    assert table in text
    assert "](results/paper/report/figures/learning_curves.png)" in text
    assert text.startswith("# A\n\n<!-- study -->\n")
    assert text.endswith("<!-- end -->\n\nB\n")
    assert SCRIPT["written"](text, checkout) == text
    shutil.rmtree(checkout / "results")
    assert SCRIPT["written"](text, checkout).count("\n") == 7  # a line in place of all that


def test_check_tells_and_writes_nothing(checkout, monkeypatch):
    main = SCRIPT["main"]
    monkeypatch.setitem(main.__globals__, "ROOT", checkout)
    monkeypatch.setattr("sys.argv", ["readme.py", "--check"])
    before = (checkout / "README.md").read_bytes()
    assert main() == 1
    assert (checkout / "README.md").read_bytes() == before
    monkeypatch.setattr("sys.argv", ["readme.py"])
    assert main() == 0
    monkeypatch.setattr("sys.argv", ["readme.py", "--check"])
    assert main() == 0
