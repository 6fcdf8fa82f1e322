"""What a worker does with a request: runs it for as long as it is wanted, and says what it lacks."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from small_project import wait_until

from dapbench.errors import UserError
from dapbench.pipeline import exchange as exchange_module
from dapbench.pipeline import worker
from dapbench.pipeline.exchange import Exchange
from dapbench.pipeline.local import is_alive
from dapbench.pipeline.worker import Request, execute, probe

COMMAND = """
import os, sys, time
print(os.getpid(), os.environ["GREETING"], flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """An exchange folder in a project whose command sleeps and exits as told, with short times all round."""
    (tmp_path / "dapbench").mkdir()
    (tmp_path / "dapbench/__main__.py").write_text(COMMAND)
    for name in ("POLL_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(worker, name, 0.1)
        monkeypatch.setattr(exchange_module, "SETTLE_SECONDS", 0.1)
    return Exchange(tmp_path)


def request(exchange: Exchange, seconds: float = 0, status: int = 0) -> Request:
    return exchange.open([str(seconds), str(status)], {"GREETING": "hello"})


def started(request: Request) -> psutil.Process:
    """The command's process, once it runs."""
    wait_until(lambda: bool(request.output.read_text().endswith("\n")))
    return psutil.Process(int(request.output.read_text().split()[-2]))


def test_a_command_runs_to_its_end(exchange: Exchange) -> None:
    wanted = request(exchange, status=3)
    assert execute(wanted) == 3
    assert wanted.output.read_text().endswith(" hello\n")


def test_a_command_that_is_no_longer_wanted_ends(exchange: Exchange) -> None:
    wanted = request(exchange, seconds=60)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(execute, wanted)
        process = started(wanted)
        exchange.stop()
        assert ended.result(10) == "no longer wanted"
    assert not is_alive(process)
    assert execute(wanted) == "no longer wanted"


def test_a_second_attempt_takes_over(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SETTLE_SECONDS", 1.0)
    wanted = request(exchange, seconds=1.5)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(execute, wanted)
        process = started(wanted)
        second = pool.submit(execute, wanted)
        assert first.result(10) == "no longer wanted"
        assert not is_alive(process)
        assert len(wanted.output.read_text().splitlines()) == 1
        assert second.result(20) == 0


def test_a_silent_driver_is_taken_for_dead(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SILENCE_SECONDS", 0.5)
    assert "nothing was heard of the driver" in str(execute(request(exchange, seconds=60)))


def test_a_new_driver_ends_what_an_old_one_wanted(exchange: Exchange) -> None:
    wanted = request(exchange, seconds=60)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(execute, wanted)
        process = started(wanted)
        Exchange(exchange.root)
        assert ended.result(10) == "no longer wanted"
    assert not is_alive(process)


def test_a_killed_command_is_for_another_attempt(exchange: Exchange) -> None:
    wanted = request(exchange, seconds=60)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(execute, wanted)
        started(wanted).kill()
        with pytest.raises(ChildProcessError, match="the command was killed on"):
            ended.result(10)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a child of its parent's death")
def test_a_command_dies_with_its_worker(exchange: Exchange) -> None:
    wanted = request(exchange, seconds=60)
    code = f"from dapbench.pipeline.worker import *; execute({wanted!r})"
    host = subprocess.Popen([sys.executable, "-c", code])
    process = started(wanted)
    os.kill(host.pid, signal.SIGKILL)
    host.wait()
    wait_until(lambda: not is_alive(process), 5)


def test_a_worker_that_does_not_see_the_folder_says_so(exchange: Exchange, tmp_path: Path) -> None:
    wanted = request(exchange)
    elsewhere = wanted._replace(folder=str(tmp_path / "nowhere"))
    stale_copy = wanted._replace(driver="another")
    for unseen in (elsewhere, stale_copy):
        assert "does not see what this machine writes into" in str(execute(unseen))
        said = probe(unseen)
        with pytest.raises(UserError, match=r"for --engine ray the project .* has to lie|have to lie in a folder"):
            exchange.judge(request(exchange), said, "ray")
    assert "has no /no/python" in probe(wanted._replace(python="/no/python"))


def test_a_driver_that_does_not_see_the_answer_says_so(exchange: Exchange) -> None:
    seen = request(exchange)
    exchange.judge(seen, probe(seen), "ray")
    with pytest.raises(UserError, match="this machine does not see what a worker writes"):
        exchange.judge(request(exchange), "", "ray")
    start = time.monotonic()
    Exchange(exchange.root)  # nothing is left: no wait
    assert time.monotonic() - start < 1
