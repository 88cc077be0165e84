"""The process that starts stages: exit codes, signals at any moment, and its own death."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from nas.commands.fork_server import ForkServer, ServerError

PROGRAM = """
import socket, sys, time
from nas.commands import fork_server

fork_server.PRELOADED = ("stages.stub",)
channel = socket.socket(fileno=int(sys.argv[1]))
channel.sendall(b'{"device": "cpu", "runs": []}\\n')
fork_server.serve(channel, int(sys.argv[2]), time.time())
"""
STUB = """
import os, signal, sys, time
from pathlib import Path

def app(arguments, prog_name):
    with Path("log").open("a") as log:
        print(prog_name, *arguments, VERSION, file=log)
    if arguments[0] == "exit":
        sys.exit(int(arguments[1]))
    if arguments[0] == "fail":
        raise RuntimeError("no such thing")
    if arguments[0] == "wait":
        Path(arguments[1]).write_text(str(os.getpid()))
        time.sleep(60)

VERSION = "first"
"""
PATIENCE = 30.0


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A stage module that is found before the project's stages."""
    folder = tmp_path / "stages"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "stub.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))
    monkeypatch.chdir(tmp_path)
    return folder / "stub.py"


@pytest.fixture
def server(stub):
    server = ForkServer((sys.executable, "-c", PROGRAM))
    assert server.params() == {"device": "cpu", "runs": []}
    yield server
    server.close()


def pid_in(path):
    wait_until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def wait_until(found):
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_exit_code_of_a_stage_is_returned(server, tmp_path):
    assert server.run(["stages.stub", "exit", "0"], {}) == 0
    assert server.run(["stages.stub", "exit", "7"], {}) == 7
    assert server.run(["stages.stub", "fail"], {}) == 1
    assert "python -m stages.stub exit 7 first" in (tmp_path / "log").read_text()


def test_edited_code_is_run_as_it_is_now(server, stub, tmp_path):
    """DVC records the checksum of the file, so a module that was loaded before the edit must not be used."""
    assert server.run(["stages.stub", "exit", "3"], {}) == 3
    stub.write_text(STUB.replace("first", "second"))
    assert server.run(["stages.stub", "exit", "4"], {}) == 4
    log = (tmp_path / "log").read_text()
    assert "exit 3 first" in log
    assert "exit 4 second" in log


def test_a_signal_reaches_running_and_later_stages(server, tmp_path):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(server.run(["stages.stub", "wait", "pid"], {})))
    thread.start()
    pid_in(tmp_path / "pid")
    server.signal(signal.SIGTERM)
    thread.join(PATIENCE)
    assert codes == [-signal.SIGTERM]
    assert server.run(["stages.stub", "wait", "later"], {}) == -signal.SIGTERM


def test_a_killed_server_fails_running_and_later_stages(server, tmp_path):
    errors = []

    def run():
        with pytest.raises(ServerError) as caught:
            server.run(["stages.stub", "wait", "pid"], {})
        errors.append(caught.value)

    thread = threading.Thread(target=run)
    thread.start()
    pid = pid_in(tmp_path / "pid")
    server._process.kill()
    thread.join(PATIENCE)
    assert "killed for lack of memory" in str(errors[0])
    with pytest.raises(ServerError):
        server.run(["stages.stub", "exit", "0"], {})
    os.kill(pid, 0)  # it still runs, until this process closes its end of the lifeline
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("afresh", [False, True])
def test_a_stage_ends_with_the_launcher(stub, tmp_path, afresh):
    server = ForkServer((sys.executable, "-c", PROGRAM))
    server.params()
    if afresh:
        assert server.run(["stages.stub", "exit", "0"], {}) == 0  # the module is loaded by now
        stub.write_text(STUB)
    thread = threading.Thread(target=lambda: suppressed(server), daemon=True)
    thread.start()
    pid = pid_in(tmp_path / "pid")
    server.close()
    wait_until(lambda: not alive(pid))
    thread.join(PATIENCE)


def suppressed(server):
    with pytest.raises(ServerError):
        server.run(["stages.stub", "wait", "pid"], {})


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z" not in stat.read_text()  # a zombie, where process 1 reaps no orphans


def test_invalid_parameters_are_reported_by_the_server_and_exit_with_1():
    server = ForkServer((sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(SystemExit) as stopped:
        server.params()
    assert stopped.value.code == 1
    server.close()


def test_a_server_that_is_killed_while_it_loads_is_an_error():
    server = ForkServer((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(ServerError, match="code -9"):
        server.params()
    server.close()
