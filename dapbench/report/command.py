"""`dapbench report`: the report over whatever results there are."""

from pathlib import Path
from typing import Any

import yaml

from dapbench.arguments import Parser
from dapbench.errors import UserError


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
    given = {}
    for argument in parser.parse_args(argv).arguments:
        key, equals, given[key] = argument.partition("=")
        if not equals or key not in ("profile", "results", "params"):
            raise UserError(f"'{argument}' is not one of profile=NAME, results=DIR, params=FILE")
    profile = _profile(given.get("profile", "quick"), given.get("params"))
    results = Path(given.get("results", "results"))
    if not (results / profile["name"]).is_dir():
        raise UserError(f"there is no {results / profile['name']}; dapbench repro profile={profile['name']} fills it")
    from dapbench.report import build_report, headline
    from dapbench.tracking.recording import track_report

    page = build_report(results, profile)
    track_report(page.parent, profile["name"])
    print(f"{headline(results, profile)}\n\nreport: {page}")
    return 0


def _profile(name: str, params: str | None) -> dict[str, Any]:
    """The profile ``name``, from the file ``params`` or from conf/."""
    if params is not None:
        try:
            profile = yaml.safe_load(Path(params).read_text(encoding="utf-8"))["profile"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise UserError(f"params={params} holds no profile ({error}); dapbench repro composes it") from error
        if profile["name"] != name:
            raise UserError(f"params={params} is of profile {profile['name']}; compose it anew for profile={name}")
        return profile
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from dapbench.config import CONF, choices

    if name not in choices("profile"):
        raise UserError(f"unknown profile '{name}'; choose one of {', '.join(choices('profile'))}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = OmegaConf.to_container(compose(overrides=[f"+profile={name}"]), resolve=True)
    assert isinstance(composed, dict)
    return composed["profile"]
