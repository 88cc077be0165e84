"""A process that has torch loaded and forks a child for each stage: a stage then starts in a tenth of a second.

`python -m stages.search` alone spends two to four seconds on imports. The server imports the same modules once, runs no
code of a stage itself and starts no thread, so each child begins in the state that a fresh process would have.

Messages are JSON lines over a socket. The request `{"id": 3, "argv": [...], "env": {...}}` is answered by
`{"id": 3, "pid": 7}` when the child starts and by `{"id": 3, "code": 0}` when it ends. The server's first line holds
what params.yaml asks for; if params.yaml is invalid, the server prints the reason and exits instead.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

PRELOADED = (  # what stages import, at their start or on the way
    "torch._dynamo",  # by the first optimiser
    "safetensors.torch",
    "nas.training.derive",
    "nas.training.evaluate",
    "nas.training.search",
    "nas.training.retrain",
    "nas.spaces.channel.space",
    "nas.spaces.darts.layered",
    "nas.spaces.darts.space",
    "nas.spaces.enas.space",
    "nas.spaces.mobile.space",
    "nas.spaces.nasbench201.layered",
    "nas.spaces.nasbench201.space",
    "nas.report",
    "stages.search",
    "stages.derive",
    "stages.retrain",
    "stages.evaluate",
    "stages.trial",
)


class ServerError(ValueError):
    """The server ended before it answered."""


class ForkServer:
    """The launcher's end. `run` may be called from several threads."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()  # children see its end when this process dies, however it dies
        command = [sys.executable, "-m", "nas.commands.fork_server", str(theirs.fileno()), str(lifeline)]
        self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(), lifeline), start_new_session=True)
        theirs.close()
        os.close(lifeline)
        self._socket, self._lines = ours, ours.makefile("r", encoding="utf-8")
        self._answers: dict[int, Future[int]] = {}
        self._children: dict[int, int] = {}  # request -> pid
        self._guard = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="fork-server", daemon=True)

    def params(self) -> dict[str, Any]:
        """What params.yaml asks for: `device`, and `runs` as (key, method, seed). To be called once, first.

        Raises:
            ServerError: params.yaml cannot be used; the server has printed why.
        """
        line = self._lines.readline()
        if not line:
            raise ServerError(f"the process that loads params.yaml ended with code {self._process.wait()}")
        self._reader.start()
        return dict(json.loads(line))

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Exit code of a stage: `argv` is a module with an `app` of typer, and its arguments. Negative: a signal."""
        answer: Future[int] = Future()
        with self._guard:
            number = len(self._answers)
            self._answers[number] = answer
            request = json.dumps({"id": number, "argv": list(argv), "env": dict(env)})
            with suppress(OSError):  # the reader reports a server that is gone
                self._socket.sendall(f"{request}\n".encode())
        return answer.result()

    def signal(self, signum: int) -> None:
        """Send a signal to every running stage."""
        for pid in list(self._children.values()):
            with suppress(ProcessLookupError):
                os.killpg(pid, signum)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._process.kill()  # it may still be importing; no stage is running
        self._process.wait()
        os.close(self._lifeline)

    def _read(self) -> None:
        for line in self._lines:
            message = json.loads(line)
            if "pid" in message:
                self._children[message["id"]] = message["pid"]
            else:
                self._children.pop(message["id"], None)
                self._answers[message["id"]].set_result(message["code"])
        with self._guard:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ServerError("the process that starts stages was killed"))


# --- The server's end


def serve(channel: socket.socket, lifeline: int) -> None:
    """Fork a child for each request until the launcher closes its end."""
    children: dict[int, int] = {}  # pid -> request
    awake, wake = socket.socketpair()
    awake.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler, so that the wakeup socket hears of it
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
                run_stage(request["argv"], request["env"], lifeline)
            children[pid] = request["id"]
            answer(channel, {"id": request["id"], "pid": pid})


def ended(children: Mapping[int, int]) -> list[tuple[int, int]]:
    """(pid, exit code) of the children that have ended; minus the signal for one that was killed."""
    done = []
    for pid in children:
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone:
            done.append((pid, os.waitstatus_to_exitcode(status)))
    return done


def answer(channel: socket.socket, message: Mapping[str, int]) -> None:
    with suppress(OSError):  # the launcher is gone; the next recv says so
        channel.sendall(f"{json.dumps(message)}\n".encode())


def run_stage(argv: Sequence[str], env: Mapping[str, str], lifeline: int) -> NoReturn:
    """In the child: the program of a stage, as `python -m` runs it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # Ctrl-C in a terminal reaches the launcher, which tells its stages
    os.environ.update(env)
    threading.Thread(target=end_with_launcher, args=(lifeline,), name="lifeline", daemon=True).start()
    module, *arguments = argv
    sys.argv = [module, *arguments]
    code = 1
    try:
        import_module(module).app(arguments, prog_name=f"python -m {module}")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # what Python itself would print
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # not through the server's own frames


def end_with_launcher(lifeline: int) -> None:
    """Stop this stage, with a checkpoint, when the launcher has died."""
    watched = select.poll()
    watched.register(lifeline, 0)  # POLLHUP is always reported
    watched.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    from nas.project import clear_errors, load

    channel, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    config = clear_errors(load)()
    runs = {"device": config.runtime.device, "runs": config.runs()}
    channel.sendall(f"{json.dumps(runs)}\n".encode())
    serve(channel, lifeline)


if __name__ == "__main__":
    main()
