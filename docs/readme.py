"""Writes the study's learning curves and claims into README.md, from the report in results/paper:

    python docs/readme.py [--check]

What it writes stands between the lines `<!-- study -->` and `<!-- end -->`.
"""

import argparse
import re
import sys
from pathlib import Path

from dapbench.files import write_text

ROOT = Path(__file__).parents[1]
REPORT = Path("results/paper/report")
BLOCK = re.compile(r"(<!-- study -->\n).*?(<!-- end -->\n)", re.DOTALL)
ABSENT = (
    f"*The study at paper scale is in git in part; its report is not in git yet (`{REPORT.as_posix()}`)."
    " What its runs on HalfCheetah and Hopper say so far: [docs/findings.md](docs/findings.md).*\n"
)
CAPTION = """\
*Training return by environment steps: mean and 95 % bootstrap interval over each method's runs; the first 40 epochs \
(200k steps), of which ALC@40 is the mean, are shaded. The steps behind the logs that some methods start from are not \
part of the budget shown.*
"""


def study(root: Path) -> str:
    """What README.md shows of the study, from the report's figure and its table of claims.

    Args:
        root: of the checkout; where it has no report, a line says so.
    """
    table, figure = REPORT / "tables/claims.md", REPORT / "figures/learning_curves.png"
    if not (root / table).exists():
        return ABSENT
    picture = f"![Learning curves of the study's tasks]({figure.as_posix()})\n"
    return f"{picture}\n{CAPTION}\n{(root / table).read_text(encoding='utf-8')}"


def written(text: str, root: Path) -> str:
    """The text of README.md with the block made anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{study(root)}{match[2]}", text)


def main() -> int:
    """Writes README.md; with --check only says whether it is as it would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if README.md is out of date")
    options = parser.parse_args()
    before = (ROOT / "README.md").read_text(encoding="utf-8")
    after = written(before, ROOT)
    if not options.check:
        write_text(ROOT / "README.md", after)
    return int(options.check and after != before)


if __name__ == "__main__":
    sys.exit(main())
