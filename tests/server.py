"""The command line in processes that are forked from one in which torch is imported already.

Importing takes several seconds, a tiny run two. Each run is a process of its own, with its own signals, locks and
files; what it shares with the others is what was imported, and nothing of that has been used before the fork. The runs
that a run starts, such as those of a comparison, are forked from the same process.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from tests import quick

IMPORTS = (
    "classifier_training.cli", "classifier_training.callbacks.assemble", "classifier_training.workflows.training.fit",
    "classifier_training.training.module", "classifier_training.data.datamodule", "timm", "torchvision",
    "classifier_training.training.run_callbacks", "torch", "pytorch_lightning", "onnxruntime",
    # What the first export of a process imports.
    "torch.onnx._internal.exporter._core", "onnxscript.function_libs.torch_lib.ops", "torch._functorch.partitioners",
    # A painter that is started anew would import it for as long as it draws.
    "matplotlib.pyplot",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """A run that has ended; a negative code is the signal that killed it."""

    code: int
    out: str
    err: str


class Warm:
    """Starts runs, whose figures are drawn by a process that is forked, too. Use it in a `with` block.

    Args:
        preload: a library for LD_PRELOAD.
    """

    def __init__(self, preload: Path | None = None) -> None:
        env = {**os.environ, **({"LD_PRELOAD": str(preload)} if preload else {})}
        self._leaves_out = {"figures": False, "exporter": False}
        self._said = TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.server", self._said.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert self._answer() == "ready"

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._said.cleanup()

    def quick(self, *, figures: bool = True, exporter: bool = True) -> Warm:
        """Start runs from the same process, but without their figures, the exporter that users have, or both."""
        other = copy.copy(self)
        other._leaves_out = {"figures": figures, "exporter": exporter}
        return other

    def start(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> int:
        """Start a run; returns its process number."""
        whole = {**os.environ, **(env or {})}
        return int(self._ask({"start": list(words), "cwd": str(cwd), "env": whole, "leaves_out": self._leaves_out}))

    def wait(self, pid: int) -> Ended:
        """Wait for a run to end; one that a test's time limit interrupts is killed, and the next test can ask again."""
        try:
            while not self.has_ended(pid):
                time.sleep(0.005)
        except BaseException:
            os.killpg(pid, signal.SIGKILL)
            self._ask({"wait": pid})
            raise
        status = int(self._ask({"wait": pid}))
        out, err = (Path(self._said.name) / f"{pid}.{name}" for name in ("out", "err"))
        ended = Ended(os.waitstatus_to_exitcode(status), out.read_text(), err.read_text())
        out.unlink()
        err.unlink()
        return ended

    def has_ended(self, pid: int) -> bool:
        """Whether a run has ended; it must still be waited for."""
        return _has_ended(pid)

    def run(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
        """Start a run and wait for its end."""
        return self.wait(self.start(words, cwd=cwd, env=env))

    def _ask(self, request: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Launched(subprocess.Popen[bytes]):
    """What `subprocess.Popen` is in a run: our program is forked from where the run was, and not started anew.

    Any other program is started as ever, and so is ours where it does not write into a file or has other variables for
    Python.

    Attributes:
        said: folder with the socket of the process that forks.
        leaves_out: what the run leaves out, which those that it starts leave out, too.
    """

    said: str
    leaves_out: Mapping[str, bool]

    def __init__(self, args: Any, **options: Any) -> None:
        words = [] if isinstance(args, str) else [str(word) for word in args]
        environment = dict(options.get("env") or os.environ)
        self._is_forked = (
            words[:3] == [sys.executable, "-m", "classifier_training"]
            and hasattr(options.get("stdout"), "fileno")
            and _pythons(environment) == _pythons(os.environ)
        )
        if not self._is_forked:
            super().__init__(args, **options)
            return
        self._asking = threading.Lock()
        self._child_created = False  # Nobody's child of this process is waited for.
        self.args, self.returncode = args, None
        out = options["stdout"].fileno()
        request = {
            "start": words[3:], "cwd": str(options.get("cwd") or Path.cwd()), "env": environment,
            "leaves_out": self.leaves_out,
        }  # fmt: skip
        self.pid = self._ask(request, (out, *options.get("pass_fds", ())))

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        if not self._is_forked:
            return super().poll()
        with self._asking:
            if self.returncode is None and _has_ended(self.pid):
                self.returncode = os.waitstatus_to_exitcode(self._ask({"wait": self.pid}))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if not self._is_forked:
            return super().wait(timeout)
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began >= timeout:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return code

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> int:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{self.said}/socket")
            socket.send_fds(connection, [b"-"], descriptors)
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            # Not up to its end, which the run that was forked holds open.
            return int(connection.makefile().readline())


def _has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _pythons(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("PYTHON")}


def serve(requests: IO[str], answers: IO[str], *, said: str) -> None:
    """Answer requests of the tests and of runs until the tests have no more.

    Args:
        requests: a line each.
        answers: likewise.
        said: folder for what the runs say, and for the socket where they ask.
    """
    import importlib

    for name in IMPORTS:
        importlib.import_module(name)
    from classifier_training.evaluation import drawing

    drawing.get_context = _painters_context  # type: ignore[assignment, attr-defined]
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as waiting:
        listening.bind(f"{said}/socket")
        listening.listen()
        waiting.register(requests, selectors.EVENT_READ)
        waiting.register(listening, selectors.EVENT_READ)
        answers.write("ready\n")
        answers.flush()
        while True:
            for key, _ in waiting.select():
                if key.fileobj is listening:
                    _answer_run(listening, said)
                elif line := requests.readline():
                    answers.write(f"{_answer(json.loads(line), said)}\n")
                    answers.flush()
                else:
                    return


def _answer(request: dict[str, Any], said: str, out: int | None = None) -> int:
    """Wait for a run or start one; returns its status or its process number."""
    if "wait" in request:
        return os.waitpid(request["wait"], 0)[1]
    pid = os.fork()
    if pid == 0:
        _be_a_run(request, said, out)
    return pid


def _answer_run(listening: socket.socket, said: str) -> None:
    """Answer a run, which gives the files of the one that it starts: the first is for what that says."""
    connection, _ = listening.accept()
    with connection:
        descriptors = socket.recv_fds(connection, 1, maxfds=8)[1]
        request = json.loads(connection.makefile().read())
        answer = _answer(request, said, *descriptors[:1])
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(f"{answer}\n".encode())


def _painters_context(_: str) -> multiprocessing.context.BaseContext:
    """A fork is there at once, but of a process with the threads of these libraries it waits for them for ever."""
    return multiprocessing.get_context("spawn" if {"lance", "obstore"} & sys.modules.keys() else "fork")


def _be_a_run(request: dict[str, Any], said: str, out: int | None) -> None:
    os.setsid()
    os.chdir(request["cwd"])
    paths = [f"{said}/{os.getpid()}.{name}" for name in ("out", "err")]
    descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths] if out is None else [out, out]
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # What Python still has in its buffers is the parent's.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["classifier-training", *request["start"]]
    from classifier_training.cli import entry_point
    from classifier_training.core import runtime

    runtime.IMPORTED = time.monotonic()
    quick.leave_out(setattr, **request["leaves_out"])
    Launched.said, Launched.leaves_out = said, request["leaves_out"]
    subprocess.Popen = Launched  # type: ignore[assignment, misc]
    try:
        entry_point()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the child ends here, and its error is the test's to see
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout, said=sys.argv[1])
