"""What the environment says must not decide: batch systems, shells, terminals and users' files for other programs."""

import ast
import importlib
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import pytest
from lightning.fabric.utilities.rank_zero import _get_rank

from dapbench import cli
from dapbench.cli import main
from dapbench.report import style
from dapbench.report.notebooks import export_notebooks
from dapbench.surroundings import settle

ROOT = Path(__file__).resolve().parents[1]
RUN = (
    "train task=reacher profile=smoke profile.epochs=1 profile.epoch_steps=200 profile.eval_episodes=1 "
    "method.num_envs=4 method.rollout_steps=50 method.minibatch_size=50 tracking=false"
)
COLLECT = (
    "collect task=reacher profile=smoke profile.behaviour_epochs=1 profile.epoch_steps=200 "
    "behaviour.num_envs=4 behaviour.rollout_steps=50 behaviour.minibatch_size=50 profile.log_transitions=200 out=logs"
)
PRETRAIN = (
    "pretrain task=reacher profile=smoke profile.prior_batches=2 prior.width=8 prior.depth=1 logs_dir=logs out=prior"
)
SBATCH = {
    "SLURM_JOB_NAME": "x",
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
JSRUN = {"LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_SIZE": "4"}
JSRUN |= {"JSM_NAMESPACE_LOCAL_RANK": "0", "JSM_NAMESPACE_RANK": "2"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "four", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0"}


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Works in a folder of its own, and puts back what a command changes for its process."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Runs a command and returns its exit status."""

    def command(line: str) -> int:
        monkeypatch.setattr("sys.argv", ["dapbench", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return command


def results(folder: str) -> list[bytes]:
    return [Path(folder, name).read_bytes() for name in ("curve.csv", "summary.json")]


@pytest.mark.parametrize(
    "variables",
    [
        SBATCH,
        JSRUN,
        ELASTIC,
        {"RANK": "gold", "LOCAL_RANK": "x", "NODE_RANK": "x"},
        {"PL_TRAINER_PRECISION": "16", "PL_TRAINER_NUM_NODES": "2", "PL_TRAINER_LIMIT_TRAIN_BATCHES": "0"},
        {"PL_TRAINER_DETECT_ANOMALY": "true"},
        {"OMP_NUM_THREADS": "8", "COLUMNS": "0", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": "none"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_a_run_is_the_same_whatever_variables_say(
    variables: dict[str, str], run: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(f"{RUN} out=plain") == 0
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run(f"{RUN} out=odd") == 0
    assert results("odd") == results("plain")
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_every_fit_runs_inside_an_allocation(run: Callable[[str], int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SBATCH.items():
        monkeypatch.setenv(name, value)
    Path("hpc_ckpt_1.ckpt").touch()  # in SLURM, Lightning would go on from what it once saved here
    assert [run(command) for command in (COLLECT, PRETRAIN, f"{RUN} out=run")] == [0, 0, 0]


def test_ranks_are_gone_before_lightning_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does when it is imported, and takes no word for a number."""
    monkeypatch.setenv("RANK", "gold")
    with pytest.raises(ValueError, match="gold"):
        _get_rank()
    settle()
    assert _get_rank() is None


@pytest.mark.parametrize(
    "variables",
    [
        {"TQDM_MININTERVAL": "abc"},
        {"MPLBACKEND": "nonsense"},
        {"MUJOCO_GL": "nonsense"},
        {"PYTHONWARNINGS": "error"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_libraries_are_imported_whatever_variables_say(variables: dict[str, str]) -> None:
    code = "from dapbench.surroundings import settle; settle(); import tqdm, matplotlib, mujoco"
    code += "; import warnings; warnings.warn('only told')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_commands_that_draw_still_learn_what_mujoco_gl_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from dapbench.showcase.film import choose_backend

    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    settle()
    settle()  # a command that another one starts
    assert "MUJOCO_GL" not in os.environ
    with pytest.raises(cli.UserError, match="MUJOCO_GL=nonsense does not work here"):
        choose_backend.__wrapped__()


@pytest.mark.filterwarnings("ignore:old")
def test_warnings_are_no_errors(run: Callable[[str], int], monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(argv: list[str]) -> int:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("dapbench.report.command.report", warn)
    monkeypatch.setattr("sys.warnoptions", ["error", "ignore::UserWarning"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run("report") == 0
    assert sys.warnoptions == ["ignore::UserWarning"]  # multiprocessing's fork server gets them


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437", "utf-8"])
def test_any_terminal_shows_what_commands_say(
    encoding: str, run: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "−1.0 ± 2 † 3–4 × 5 µs ÷ β caf\udce9"  # of a file's name, what is no UTF-8

    def show(argv: list[str]) -> int:
        print(said)
        raise cli.UserError(said)

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr("dapbench.report.command.report", show)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    assert run("report") == 2
    for stream in (out, err):
        stream.flush()
        assert stream.buffer.getvalue().decode(encoding).rstrip().endswith("caf\\udce9")


@pytest.mark.parametrize("closed", [("stderr",), ("stdout", "stderr")])
def test_a_closed_terminal_is_as_good_as_any(
    closed: tuple[str, ...], run: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in closed:
        monkeypatch.setattr(f"sys.{name}", None)
    assert run(f"{RUN} out=run") == 0


def test_libraries_files_are_utf8_whatever_the_locale() -> None:
    code = "from dapbench.surroundings import settle; settle(); import locale, sys; "
    code += "print(locale.getpreferredencoding(False), sys.stdout.encoding, chr(8722), sys.argv[1])"
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, "$x 'y'"]
    done = subprocess.run(command, env=os.environ | ascii_locale, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "utf-8 ascii \\u2212 $x 'y'\n", done.stderr


def unspoken(file: Path) -> Iterator[int]:
    """The lines that read or write text in whatever encoding the locale has."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            is_method = isinstance(node.func, ast.Attribute)
            owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
            modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            of_text = name == "read_text" or (name == "write_text" and is_method)
            opens = name == "open" and owner not in ("os", "webbrowser") and not {"rb", "wb", "ab"} & set(modes)
            if (of_text or opens) and "encoding" not in {keyword.arg for keyword in node.keywords}:
                yield node.lineno


def test_no_file_is_read_or_written_in_the_locales_encoding() -> None:
    files = [file for room in ("dapbench", "baselines", "analysis") for file in sorted((ROOT / room).rglob("*.py"))]
    assert [f"{file.relative_to(ROOT)}:{line}" for file in files for line in unspoken(file)] == []


def test_a_matplotlibrc_of_the_users_does_not_style_the_report() -> None:
    with matplotlib.rc_context({"text.usetex": True, "savefig.dpi": 30.0}):
        importlib.reload(style)
        assert (matplotlib.rcParams["text.usetex"], matplotlib.rcParams["savefig.dpi"]) == (False, "figure")


def test_notebooks_run_on_this_python_whatever_kernels_the_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Jupyter's folders cannot be written to, and with a file that IPython would run first."""
    kernel = Path("jupyter/kernels/python3")
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Another Python", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    Path("jupyter/startup.py").write_text("raise SystemExit('no')", encoding="utf-8")
    Path("file").touch()
    monkeypatch.setenv("JUPYTER_PATH", str(Path("jupyter").absolute()))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(Path("file/runtime").absolute()))
    monkeypatch.setenv("PYTHONSTARTUP", str(Path("jupyter/startup.py").absolute()))
    settle()
    Path("one.py").write_text("# %%\nimport sys\nprint(sys.executable)\n", encoding="utf-8")
    (page,) = export_notebooks(Path("out"), Path("results"), {"name": "smoke"}, Path())
    assert sys.executable in page.with_suffix(".ipynb").read_text(encoding="utf-8")
