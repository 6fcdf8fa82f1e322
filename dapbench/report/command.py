"""`dapbench report`: the report over whatever results there are."""

from pathlib import Path

from dapbench.arguments import Parser, key_values
from dapbench.config import compose_profile
from dapbench.errors import UserError
from dapbench.files import require_writable


def report(argv: list[str]) -> int:
    """`dapbench report`: builds the report over whatever results there are."""
    parser = Parser("dapbench report", description="Build tables, figures and the report page from results.")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="key=value",
        help="profile=NAME (default: quick), results=DIR (default: results), params=FILE (take the profile "
        "from there in place of conf/)",
    )
    given = key_values(parser.parse_args(argv).arguments, profile="NAME", results="DIR", params="FILE")
    profile = compose_profile(given.get("profile", "quick"), given.get("params"))
    results = Path(given.get("results", "results"))
    if not (results / profile["name"]).is_dir():
        raise UserError(f"there is no {results / profile['name']}; dapbench repro profile={profile['name']} fills it")
    require_writable(results / profile["name"] / "report")
    from dapbench.report.build import build_report, headline
    from dapbench.tracking.recording import track_report

    page = build_report(results, profile)
    track_report(page.parent, profile["name"])
    print(f"{headline(results, profile)}\n\nreport: {page}")
    return 0
