"""The command line in processes that are forked from one in which torch is imported already.

Importing takes several seconds, a tiny run two. Each run is a process of its own, with its own signals, locks and
files; what it shares with the others is what was imported, and nothing of that has been used before the fork.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

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
        self._draws = True
        self._said = TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._said.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert self._answer() == "ready"

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._said.cleanup()

    def without_figures(self) -> Warm:
        """Start runs from the same process, but their figures are not drawn."""
        other = copy.copy(self)
        other._draws = False
        return other

    def start(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> int:
        """Start a run; returns its process number."""
        whole = {**os.environ, **(env or {})}
        return int(self._ask({"start": list(words), "cwd": str(cwd), "env": whole, "draws": self._draws}))

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
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

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


def serve(requests: IO[str], answers: IO[str], *, said: str) -> None:
    """Answer requests until there are no more.

    Args:
        requests: a line each.
        answers: likewise.
        said: folder for what the runs say.
    """
    import importlib

    for name in IMPORTS:
        importlib.import_module(name)
    from classifier_training.evaluation import drawing

    drawing.get_context = _painters_context  # type: ignore[assignment, attr-defined]
    answers.write("ready\n")
    answers.flush()
    for line in requests:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitpid(request["wait"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                _be_a_run(request, said)
        answers.write(f"{answer}\n")
        answers.flush()


def _painters_context(_: str) -> multiprocessing.context.BaseContext:
    """A fork is there at once, but of a process with the threads of these libraries it waits for them for ever."""
    return multiprocessing.get_context("spawn" if {"lance", "obstore"} & sys.modules.keys() else "fork")


def _be_a_run(request: dict[str, Any], said: str) -> None:
    os.setsid()
    os.chdir(request["cwd"])
    paths = [f"{said}/{os.getpid()}.{name}" for name in ("out", "err")]
    descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths]
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
    from classifier_training.evaluation import drawing

    runtime.IMPORTED = time.monotonic()

    if not request["draws"]:
        drawing.Drawer.submit = lambda *_: None  # type: ignore[method-assign]
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
