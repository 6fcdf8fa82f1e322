"""A compiler that is there and does not work: updates run eagerly, with one line of notice."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import Unsupported

from dapbench.rl import updates
from dapbench.rl.updates import can_compile, maybe_compile

REAL = shutil.which("g++") or shutil.which("clang++")
CPU = torch.device("cpu")


def answers_to_version(otherwise: str) -> str:
    """A compiler that knows its version and does this with anything else."""
    return f'#!/bin/sh\n[ "$1" = --version ] && exec echo g++ 12\n{otherwise}\n'


NO_HEADER = "echo 'x.cpp:1:10: fatal error: Python.h: No such file or directory' >&2; exit 1"
# What the file named by CXX holds, and what the notice says of it.
COMPILERS = {
    "no Python.h": (answers_to_version(NO_HEADER), "fatal error: Python.h: No such file"),
    "succeeds and writes nothing": (answers_to_version("exit 0"), "Error"),
    "is killed": (answers_to_version("kill -9 $$"), "Error"),
    "no program": ("garbage", "OSError: [Errno 8] Exec format error"),
}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has compiled nothing, with an empty cache."""
    monkeypatch.setattr(updates, "_gave_up", False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    can_compile.cache_clear()
    yield
    can_compile.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Puts a program in the compiler's place."""

    def place(text: str, name: str = "g++") -> None:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        torch._inductor.config.cpp.cxx = (str(path),)

    # torch would ask this compiler once for all tests what vectors the processor has.
    with torch._inductor.config.patch({"cpp.cxx": (None, "g++"), "cpp.vec_isa_ok": True}):
        yield place


def run_update(compile: bool = True) -> Tensor:
    """What a step gives on inputs of two lengths; not Update's own, which torch would not compile again after that."""
    weight = torch.linspace(-1.0, 1.0, 3)

    def step(x: Tensor) -> Tensor:
        return ((x @ weight).tanh() - 1.0).square().mean()

    run = maybe_compile(step, compile, CPU)
    return torch.stack([run(torch.arange(3.0 * length).view(-1, 3) / 99) for length in (40, 60)])


def runs_eagerly(said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Updates give what eager ones do; the notice, which holds ``said``, is the only line."""
    expected = run_update(compile=False)
    assert torch.equal(run_update(), expected)
    assert torch.equal(run_update(), expected)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("compiling failed, so updates run eagerly and slower (")
    assert said in line
    assert line.endswith("see docs/troubleshooting.md, or say compile=false")


@pytest.mark.parametrize("name", COMPILERS)
def test_a_compiler_that_does_not_compile(
    name: str, compiler: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    text, said = COMPILERS[name]
    compiler(text)
    runs_eagerly(said, capfd)


def test_a_compiler_below_a_folder_with_a_space(
    compiler: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my tools").mkdir()
    compiler(f'#!/bin/sh\nexec {REAL} "$@"\n', "my tools/g++")
    runs_eagerly("FileNotFoundError", capfd)


def test_a_compiler_that_may_not_be_run(
    compiler: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compiler("")
    (tmp_path / "g++").chmod(0o644)
    runs_eagerly("PermissionError: [Errno 13]", capfd)


def test_a_cache_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file/cache"))
    runs_eagerly("NotADirectoryError", capfd)


def test_a_cache_folder_that_is_a_file_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where another user made it: the folder is there, and what has to be written in it cannot be."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/locks").touch()
    runs_eagerly("Error", capfd)


def test_compiling_that_fails_later(compiler: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    """What is compiled stays in use; what comes after runs eagerly, and tries the compiler no more."""
    calls = []

    def graph(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(x) > 2:
            raise OSError(28, "No space left on device")
        return x + 1

    one, other = (maybe_compile(lambda x: x + 1, True, CPU) for _ in range(2))
    assert isinstance(one, updates.Compiled)
    assert isinstance(other, updates.Compiled)
    one.graph = other.graph = graph
    small, large = torch.zeros(2), torch.zeros(3)
    for x in (small, large, large, small):
        assert torch.equal(one(x), x + 1)
    assert torch.equal(other(small), small + 1)
    assert calls == [2, 3, 2]
    assert maybe_compile(graph, True, CPU) is graph
    assert "(OSError: [Errno 28] No space left on device)" in capfd.readouterr().err


def test_an_error_of_the_function_itself_is_not_the_compilers() -> None:
    def wrong(x: Tensor) -> Tensor:
        return x + float(x.sum().item() > input("?"))

    with pytest.raises(Unsupported):
        maybe_compile(wrong, True, CPU)(torch.zeros(2))


def test_torch_does_not_log_the_trace_of_a_damaged_cache() -> None:
    assert not logging.getLogger("torch._inductor.codecache").isEnabledFor(logging.ERROR)
