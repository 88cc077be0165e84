"""A process that has torch loaded and forks a child for each stage, which then starts in a tenth of a second.

`python -m stages.search` alone spends two to four seconds on imports. The server imports the same modules once, runs no
code of a stage itself and starts no thread, so each child begins in the state of a fresh process. After an edit of
the code, stages start from a fresh interpreter instead, because DVC records the checksums of the edited files.

Messages are JSON lines over a socket. The request `{"id": 3, "argv": [...], "env": {...}}` is answered by
`{"id": 3, "pid": 7}` when the child starts and by `{"id": 3, "code": 0}` when it ends. The server's first line holds
what params.yaml asks for; if params.yaml is invalid, the server prints the reason and exits with 1.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from nas.registry import SPACES

COMMAND = (sys.executable, "-m", "nas.commands.fork_server")
PRELOADED = (  # what stages import, at their start or later
    "torch._dynamo",  # by the first optimiser
    "safetensors.torch",
    "nas.training.derive",
    "nas.training.evaluate",
    "nas.training.search",
    "nas.training.retrain",
    *sorted({modules.space for modules in SPACES.values()}),
    "nas.report",
    "stages.search",
    "stages.derive",
    "stages.retrain",
    "stages.evaluate",
    "stages.trial",
)
GONE = "the process that starts stages has ended; it may have been killed for lack of memory"


class ServerError(ValueError):
    """The server was killed or crashed."""


class ForkServer:
    """The launcher's end. `run` may be called from several threads."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()  # children read its end when this process dies, however it dies
        passed = (theirs.fileno(), lifeline)
        self._process = subprocess.Popen([*command, *map(str, passed)], pass_fds=passed, start_new_session=True)
        theirs.close()
        os.close(lifeline)
        self._socket, self._lines = ours, ours.makefile("r", encoding="utf-8")
        self._answers: dict[int, Future[int]] = {}
        self._children: dict[int, int] = {}  # request -> pid
        self._guard = threading.Lock()
        self._gone = False
        self._signum = 0  # the last signal sent to the stages
        self._reader = threading.Thread(target=self._read, name="fork-server", daemon=True)

    def params(self) -> dict[str, Any]:
        """What params.yaml asks for: `device`, and `runs` as (key, method, seed). To be called once, first.

        Raises:
            ServerError: the server was killed.
            SystemExit: params.yaml cannot be used; the server has printed the reason.
        """
        line = self._lines.readline()
        if not line:
            code = self._process.wait()
            if code == 1:
                sys.exit(1)
            raise ServerError(f"the process that loads params.yaml ended with code {code}")
        self._reader.start()
        return dict(json.loads(line))

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Run a stage and return its exit code, or minus the signal that killed it.

        Args:
            argv: a module with a Typer `app`, and its arguments.
            env: variables added to the environment.

        Raises:
            ServerError: the server is gone. The stages that it started end when this process does.
        """
        answer: Future[int] = Future()
        with self._guard:
            if self._gone:
                raise ServerError(GONE)
            number = len(self._answers)
            self._answers[number] = answer
            request = json.dumps({"id": number, "argv": list(argv), "env": dict(env)})
            with suppress(OSError):  # the reader reports a server that is gone
                self._socket.sendall(f"{request}\n".encode())
        return answer.result()

    def signal(self, signum: int) -> None:
        """Send a signal to every running stage, and to those that have been requested but not started yet."""
        self._signum = signum
        for pid in list(self._children.values()):
            send(pid, signum)

    def close(self) -> None:
        with suppress(OSError):  # the server is gone
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.kill()  # it may still be importing; no stage is running
        self._process.wait()
        if self._reader.is_alive():
            self._reader.join()
        self._lines.close()
        self._socket.close()
        os.close(self._lifeline)

    def _read(self) -> None:
        """Handle the server's messages until it closes the socket, or breaks off in the middle of a line."""
        try:
            with suppress(OSError, json.JSONDecodeError):
                for line in self._lines:
                    self._handle(json.loads(line))
        finally:
            with self._guard:
                self._gone = True
                for answer in self._answers.values():
                    if not answer.done():
                        answer.set_exception(ServerError(GONE))

    def _handle(self, message: Mapping[str, int]) -> None:
        number = message["id"]
        if "pid" in message:
            self._children[number] = message["pid"]
            if self._signum:  # it arrived before the child
                send(message["pid"], self._signum)
        else:
            self._children.pop(number, None)
            self._answers[number].set_result(message["code"])


def send(pid: int, signum: int) -> None:
    """Signal a stage and the processes that it has started."""
    with suppress(ProcessLookupError, PermissionError):  # it has ended
        try:
            os.killpg(pid, signum)
        except ProcessLookupError:  # it has no process group of its own yet
            os.kill(pid, signum)


# --- The server's end


def serve(channel: socket.socket, lifeline: int, begun: float) -> None:
    """Fork a child for each request until the launcher closes its end. `begun`: the time before any import."""
    children: dict[int, int] = {}  # pid -> request
    awake, wake = socket.socketpair()
    awake.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler, nothing is written to the wakeup socket
    # From Python 3.12 on. The other threads are OpenBLAS's, which handles forks.
    warnings.filterwarnings("ignore", r"This process .* is multi-threaded", DeprecationWarning)
    for name in PRELOADED:
        import_module(name)
    lines = b""
    while True:
        ready, _, _ = select.select([channel, awake], [], [])
        if awake in ready:
            with suppress(BlockingIOError):
                awake.recv(4096)
        for pid, code in ended(children):
            answer(channel, {"id": children.pop(pid), "code": code})
        if channel not in ready:
            continue
        received = channel.recv(65536)
        if not received:
            return
        *whole, lines = (lines + received).split(b"\n")
        for line in whole:
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                for one in (channel, awake, wake):
                    one.close()
                start_stage(request["argv"], request["env"], lifeline, edited(begun))
            children[pid] = request["id"]
            answer(channel, {"id": request["id"], "pid": pid})


def ended(children: Mapping[int, int]) -> list[tuple[int, int]]:
    """(pid, exit code) of the children that have ended. The code of a killed one is minus the signal."""
    done = []
    for pid in children:
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            done.append((pid, os.waitstatus_to_exitcode(status)))
    return done


def answer(channel: socket.socket, message: Mapping[str, int]) -> None:
    with suppress(OSError):  # the launcher is gone, which the next recv reports
        channel.sendall(f"{json.dumps(message)}\n".encode())


def edited(since: float) -> bool:
    """Whether a loaded module of the project has been edited or removed since that time."""
    loaded = [module for name, module in sys.modules.items() if name.startswith(("nas.", "stages."))]
    files = [Path(module.__file__) for module in loaded if module.__file__]
    return any(not file.exists() or file.stat().st_mtime > since for file in files)


def start_stage(argv: Sequence[str], env: Mapping[str, str], lifeline: int, afresh: bool) -> NoReturn:
    """In the child: run a stage, in a fresh interpreter if the modules that are loaded are out of date."""
    os.setsid()  # Ctrl-C in a terminal reaches only the launcher, which forwards it
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(env)
    if afresh:
        program = f"from nas.commands.fork_server import run_stage; run_stage({list(argv)!r}, {lifeline})"
        os.execv(sys.executable, [sys.executable, "-c", program])  # noqa: S606
    run_stage(argv, lifeline)


def run_stage(argv: Sequence[str], lifeline: int) -> NoReturn:
    """Run the program of a stage as `python -m` does, and exit."""
    threading.Thread(target=end_with_launcher, args=(lifeline,), name="lifeline", daemon=True).start()
    module, *arguments = argv
    sys.argv = [module, *arguments]
    code = 1
    try:
        import_module(module).app(arguments, prog_name=f"python -m {module}")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # print what Python itself would
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # do not return into the server's frames


def end_with_launcher(lifeline: int) -> None:
    """Stop this stage, with a checkpoint, when the launcher has died."""
    os.read(lifeline, 1)  # nobody writes: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    begun = time.time()
    from nas.project import clear_errors, load

    channel, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    config = clear_errors(load)()
    runs = {"device": config.runtime.device, "runs": config.runs()}
    channel.sendall(f"{json.dumps(runs)}\n".encode())
    serve(channel, lifeline, begun)


if __name__ == "__main__":
    main()
