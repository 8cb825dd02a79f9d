"""The worker process of `benchmark`: loads one form of a run's network and follows commands on standard input.

Nothing else is loaded, so the memory of the process is that of the form.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.runtime import peak_memory_mb
from classifier_training.export.session import Runner, onnx_runner


def run_worker() -> None:
    """Open the form that the first argument describes, then run the command of each line of standard input."""
    # Libraries may print to standard output, so results go to a copy of it.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    try:
        runner = open_form(spec)
        # Memory-mapped, because it would otherwise count as memory of the form.
        inputs = np.load(spec["inputs"], mmap_mode="r")
        _say(out, {"ready": True})
        for line in sys.stdin:
            _say(out, run_command(json.loads(line), runner, inputs))
    except UserError as error:
        _say(out, {"problem": error.came})


def _say(out: IO[str], words: dict[str, Any]) -> None:
    out.write(json.dumps(words) + "\n")
    out.flush()


def open_form(spec: dict[str, Any]) -> Runner:
    """Open a form.

    Args:
        spec: form, file or run folder, and threads.

    Raises:
        UserError: when it cannot be opened.
    """
    path, threads = Path(spec["path"]), spec["threads"]
    if spec["form"] in ("onnx", "fp16", "int8"):
        return onnx_runner(path, num_threads=threads)
    from classifier_training.export.formats.pytorch import open_network, open_torchscript

    if spec["form"] == "torchscript":
        return open_torchscript(path, threads=threads)
    from classifier_training.core.run_dir import RunDir
    from classifier_training.workflows.evaluating.run_model import load_trained

    network, _ = load_trained(RunDir(path))
    return open_network(network, threads=threads, compiled=spec["form"] == "compiled")


def run_command(order: dict[str, Any], runner: Runner, inputs: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    """Run one command: time a block of batches, return the peak memory, or write the logits of all inputs to a file."""
    if order["do"] == "time":
        batch = np.array(inputs[np.arange(order["batch_size"]) % len(inputs)])
        for _ in range(order["num_warm_ups"]):
            runner(batch)
        seconds = []
        for _ in range(order["num_runs"]):
            began = time.perf_counter()
            runner(batch)
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}
    if order["do"] == "memory":
        return {"peak_mb": own_peak_mb()}
    size = order["batch_size"]
    logits = []
    for start in range(0, len(inputs), size):
        part = np.array(inputs[start : start + size])
        # A batch of another size would be compiled again.
        full = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
        logits.append(runner(full)[: len(part)])
    np.save(order["output"], np.concatenate(logits))
    return {}


def own_peak_mb() -> float:
    """Largest resident memory of this program so far, in MiB.

    Read from /proc if possible, because the system call starts with the memory of the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    return peak_memory_mb()


if __name__ == "__main__":
    run_worker()
