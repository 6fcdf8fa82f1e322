"""`dapbench export`: a profile's curves and summaries as tidy tables that need no dapbench, with a data card."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from dapbench import __version__
from dapbench.arguments import Parser, key_values
from dapbench.config import compose_profile
from dapbench.errors import UserError
from dapbench.files import require_writable, whole, write_text
from dapbench.report.items import padded
from dapbench.report.results import Results, load_results
from dapbench.report.style import counted, listed, provenance


class Column(NamedTuple):
    """A column of an exported table."""

    kind: str  # pandas' type; Int64, Float64 and string may be empty
    unit: str
    text: str


KEY = {
    "task": Column("string", "", "name of the task in dapbench"),
    "method": Column("string", "", "name of the method in dapbench"),
    "seed": Column("int64", "", "the run's seed"),
    "draw": Column("Int64", "", "the draw of logs that the run started from; empty without logs"),
    "log_quality": Column("string", "", "quality of those logs: simple, medium, expert or mixed; empty without logs"),
}
CURVES = KEY | {
    "epoch": Column("int64", "", "0 is before training and has an evaluation alone"),
    "env_steps": Column("int64", "environment steps", "online steps so far; those behind the logs are not among them"),
    "return_mean": Column(
        "float64", "return", "mean of the training episodes that ended in the epoch; empty if none did"
    ),
    "return_std": Column("float64", "return", "their standard deviation"),
    "episodes": Column("Int64", "episodes", "how many they were"),
    "length_mean": Column("float64", "steps", "their mean length"),
    "eval_return": Column(
        "float64", "return", "mean of the deterministic evaluation after the epoch; empty where there was none"
    ),
}
SUMMARIES = KEY | {
    "group": Column("string", "", "main, or the group of the profile that asks for the run, such as ablations"),
    "log_env_steps": Column("Int64", "environment steps", "cost of the logs, on top of env_steps"),
    "log_transitions": Column("Int64", "transitions", "size of the logs"),
    "log_return_mean": Column("float64", "return", "mean return of the logs' episodes"),
    "env_steps": Column("int64", "environment steps", "online steps of the run"),
    "epochs": Column("int64", "epochs", "epochs of the run"),
    "alc40": Column("float64", "return", "ALC@40, training: mean of the training curve over epochs 1 to 40"),
    "alc40_eval": Column(
        "float64", "return", "ALC@40, evaluation: area under the evaluation curve over epochs 0 to 40, divided by 40"
    ),
    "final_return": Column(
        "float64", "return", "mean of the last 100 training episodes; empty where a group has fewer epochs"
    ),
    "final_episodes": Column("Int64", "episodes", "how many those were, if fewer ended"),
    "eval_return": Column(
        "float64", "return", "mean of the deterministic evaluation at the end; empty where final_return is for that"
    ),
    "eval_std": Column("float64", "return", "its standard deviation over episodes"),
    "eval_episodes": Column("int64", "episodes", "its episodes"),
    "eval_return_start": Column("float64", "return", "mean of the deterministic evaluation before training"),
}
RENAMED = {
    "logs_draw": "draw",
    "logs_quality": "log_quality",
    "logs_env_steps": "log_env_steps",
    "logs_transitions": "log_transitions",
    "logs_return_mean": "log_return_mean",
}
EXAMPLE = """\
import pandas as pd

curves = pd.read_parquet("export/curves.parquet").query("task == '{task}'")
curves.pivot_table(index="env_steps", columns="method", values="return_mean").plot(ylabel="training return")
"""


def export(argv: list[str]) -> int:
    """`dapbench export`: writes curves and summaries, each as parquet and csv, and README.md."""
    parser = Parser(
        "dapbench export",
        description="Write a profile's curves (a row a run and epoch) and summaries (a row a run) as parquet and csv, "
        "with a data card that says what each column is. The same results give the same bytes.",
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="key=value",
        help="profile=NAME (default: quick), results=DIR (default: results), out=DIR (default: export)",
    )
    given = key_values(parser.parse_args(argv).arguments, profile="NAME", results="DIR", out="DIR")
    profile = compose_profile(given.get("profile", "quick"))
    root, out = Path(given.get("results", "results")), Path(given.get("out", "export"))
    require_writable(out)
    written = write_export(load_results(root, profile), out)
    print(f"{written}; {', '.join(sorted(path.name for path in out.iterdir()))} are in {out}")
    return 0


def write_export(results: Results, out: Path) -> str:
    """Writes the tables and the card; returns what is in them, in a few words.

    Raises:
        UserError: no run ended.
    """
    if results.summaries.empty:
        raise UserError(f"no finished run in {results.folder / 'runs'}; dapbench repro makes them")
    tables = {"curves": curves(results), "summaries": summaries(results)}
    for name, frame in tables.items():
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False, engine="pyarrow")
        with whole(out / f"{name}.parquet") as temporary:
            temporary.write_bytes(buffer.getvalue())
        write_text(out / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_text(out / "README.md", card(results, tables))
    return f"{counted(len(tables['summaries']), 'run')}, {counted(len(tables['curves']), 'row')} of curves"


def summaries(results: Results) -> pd.DataFrame:
    """A row for each run: the columns SUMMARIES."""
    return _typed(results.summaries.rename(columns=RENAMED), SUMMARIES)


def curves(results: Results) -> pd.DataFrame:
    """A row for each run and epoch, from the evaluation before training on: the columns CURVES."""
    start = results.evaluations[results.evaluations.epoch == 0]
    rows = pd.concat([results.curves, start], ignore_index=True)
    runs = summaries(results)[list(KEY)]
    place = {tuple(key): i for i, key in enumerate(runs[["task", "method", "seed"]].itertuples(index=False))}
    rows = rows.merge(runs, on=["task", "method", "seed"])
    order = [place[key] for key in zip(rows.task, rows.method, rows.seed, strict=True)]
    rows = rows.assign(place=order).sort_values(["place", "epoch"], ignore_index=True)
    return _typed(rows, CURVES)


def _typed(frame: pd.DataFrame, columns: Mapping[str, Column]) -> pd.DataFrame:
    return frame.reindex(columns=list(columns)).astype({name: column.kind for name, column in columns.items()})


# ---------------------------------------------------------------------------------------------------------- the card


def card(results: Results, tables: Mapping[str, pd.DataFrame]) -> str:
    """README.md, with the header that dataset hubs read."""
    profile = results.profile
    title = f"dapbench: learning curves of the {profile['name']} profile"
    size = len(tables["curves"])
    header = {
        "license": "mit",
        "pretty_name": title,
        "task_categories": ["reinforcement-learning"],
        "tags": ["reinforcement-learning", "ppo", "mujoco", "gymnasium", "benchmark", "learning-curves"],
        "size_categories": [next((text for most, text in SIZES if size < most), "1M<n<10M")],
        "configs": [{"config_name": name, "data_files": f"{name}.parquet"} for name in tables],
    }
    tasks = [[t, results.titles[t], _env_id(results, t)] for t in dict.fromkeys(results.summaries.task)]
    methods = [
        [m, results.titles[m], results.method_config(m).get("starts_from", "nothing")]
        for m in dict.fromkeys(results.summaries.method)
    ]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {title}",
        "Learning curves of PPO with a diffusion action prior (PPO-DAP, arXiv 2409.01427) and of on-policy methods "
        f"beside it, measured and written by dapbench {__version__}.",
        f"```python\n{EXAMPLE.format(task=tasks[0][0]).replace('export/', '')}```",
        "## How it was measured",
        f"An epoch is {profile['epoch_steps']:,} environment steps. The training curve is the mean return of the "
        "training episodes that ended in each epoch. The deterministic evaluation takes the policy's mean action with "
        "frozen observation statistics on seeds of its own; training takes no notice of it. Nothing is a maximum over "
        "a curve, and returns are the task's own, neither clipped nor normalized.",
        f"Seeds: {', '.join(map(str, profile['seeds']))}. {provenance(results)} "
        f"A run of seed s starts from draw s mod {profile['log_draws']} of the logs, each draw "
        "that of a behaviour policy of its own. **Logs cost environment steps that `env_steps` does not count.**",
        _lacking(results),
        *(
            f"## {name}: a row for each {row}\n\n{_described(columns)}"
            for name, row, columns in (("curves", "run and epoch", CURVES), ("summaries", "run", SUMMARIES))
        ),
        f"## Tasks\n\n{_markdown(['task', 'title', 'environment'], tasks)}",
        f"## Methods\n\n{_markdown(['method', 'title', 'starts from'], methods)}",
        f"## Versions and machines\n\n{_machines(results)}",
        "## License\n\nMIT, as dapbench's own.",
    ]
    return "\n\n".join(parts) + "\n"


SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]


def _env_id(results: Results, task: str) -> str:
    return next(str(config["task"]["env_id"]) for (name, _), config in results.configs.items() if name == task)


def _lacking(results: Results) -> str:
    """Which runs of the profile are not in the tables."""
    parts = []
    for what, frame in (("failed", results.failures), ("not there", results.missing)):
        runs = [
            f"{task} {method} {seed}" for task, method, seed in zip(frame.task, frame.method, frame.seed, strict=True)
        ]
        parts += [f"{counted(len(runs), 'run')} {what}: {listed(runs)}."] if runs else []
    return " ".join(parts) or "Every run of the profile is there."


def _described(columns: Mapping[str, Column]) -> str:
    rows = [[f"`{name}`", column.unit, column.text] for name, column in columns.items()]
    return _markdown(["column", "unit", "what"], rows)


def _machines(results: Results) -> str:
    """The distinct versions and machines of the runs, a list; runs without a timing.json say nothing."""
    rows: list[str] = []
    for made in results.machines:
        versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        rows.append(f"- {', '.join(map(str, made['machine'].values()))}: {versions}")
    return "\n".join(rows) or "No run states any."


def _markdown(head: list[str], rows: list[list[Any]]) -> str:
    lines = padded([head, *([str(cell) for cell in row] for row in rows)])
    ruled = [lines[0], ["-" * len(cell) for cell in lines[0]], *lines[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)
