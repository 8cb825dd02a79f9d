"""Measuring the candidates of a benchmark, the forms of one network, each in a process of its own. Needs no torch."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.types import softmax
from classifier_training.export.session import BLOCK, NUM_WARM_UPS, REST_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray


log = logging.getLogger(__name__)

Form = Literal["eager", "compiled", "torchscript", "onnx", "fp16", "int8"]
FORMS: tuple[Form, ...] = ("eager", "compiled", "torchscript", "onnx", "fp16", "int8")
TITLES: dict[str, str] = {
    "eager": "PyTorch eager",
    "compiled": "PyTorch compiled",
    "torchscript": "TorchScript",
    "onnx": "ONNX float32",
    "fp16": "ONNX fp16",
    "int8": "ONNX int8",
}

COMPILERS = ("c++", "g++", "clang++")


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler here."""
    return any(map(shutil.which, COMPILERS))


WORKER = "classifier_training.workflows.serving.benchmark_worker"
"""The program at the other end, by its name: it may know more floors than this one."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One form of the network.

    Args:
        form: which.
        path: its file, or the run folder for a form that PyTorch builds.
        file: whose size counts.
        kept: whether the file is one of the run's, not made for the benchmark.
    """

    form: Form
    path: Path
    file: Path
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a batch took.

    Args:
        batch_size: images in it.
        median_ms: of the runs.
        p10_ms: a tenth of the runs were faster.
        p90_ms: a tenth of the runs were slower.
        num_runs: that were timed.
        images_per_second: at the median.
    """

    batch_size: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    num_runs: int
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The predictions of a form.

    Args:
        num_images: that were predicted.
        accuracy: share of correct predictions.
        change_points: of a hundred, to the reference.
        num_won: images that it gets right and the reference wrong.
        num_lost: images that it gets wrong and the reference right.
        agreement: share of images with the reference's most probable class.
        max_probability_difference: to the reference, over images and classes.
    """

    num_images: int
    accuracy: float
    change_points: float
    num_won: int
    num_lost: int
    agreement: float
    max_probability_difference: float


@dataclass(kw_only=True)
class CandidateResult:
    """What was measured of a form.

    Args:
        form: which.
        size_bytes: of its file.
        kept: whether that file is one of the run's.
        start_seconds: from the start of the process to the first prediction.
        peak_memory_mb: largest resident memory of the process, Python and libraries included.
        timings: for each batch size.
        logits: float32 [N, K]; None when it could not predict.
        quality: of the predictions.
        problem: why something is missing.
    """

    form: Form
    size_bytes: int = 0
    kept: bool = True
    start_seconds: float | None = None
    peak_memory_mb: float | None = None
    timings: list[Timing] = field(default_factory=list)
    logits: NDArray[np.float32] | None = None
    quality: Quality | None = None
    problem: str = ""

    def at(self, batch_size: int) -> Timing | None:
        """Return the timing for a batch size, if there is one."""
        return next((timing for timing in self.timings if timing.batch_size == batch_size), None)


class CandidateError(Exception):
    """A candidate cannot go on; the text says why."""


def measure_candidates(
    candidates: Sequence[Candidate],
    inputs: Path,
    *,
    batch_sizes: Sequence[int],
    threads: int,
    num_runs: int,
    scratch: Path,
) -> list[CandidateResult]:
    """Measure every candidate; one that fails is named, and the others go on.

    They are timed in turn, a block of runs each, so that a noisy minute hits all of them. The memory is read after the
    timing and before the predictions.

    Args:
        candidates: the forms.
        inputs: .npy file, float32 [N, 3, H, W].
        batch_sizes: to time.
        threads: of each.
        num_runs: timed for each batch size.
        scratch: folder for temporary files.
    """
    with ExitStack() as stack:
        results, running = _start(stack, [(one, inputs) for one in candidates], batch_sizes[0], threads)
        for batch_size in batch_sizes:
            _time_in_turn(running, batch_size, num_runs)
        for result, worker in running:
            if result.problem:
                continue
            target = scratch / f"{result.form}.npy"
            try:
                result.peak_memory_mb = worker.ask(do="memory")["peak_mb"]
                worker.ask(do="predict", batch_size=max(batch_sizes), output=str(target))
                result.logits = np.load(target)
            except CandidateError as error:
                result.problem = str(error)
    return results


def time_files(
    candidates: Sequence[tuple[Candidate, Path]], *, batch_size: int, threads: int, num_runs: int
) -> list[CandidateResult]:
    """Time files in turn, each with inputs of its own; one that fails says why.

    Args:
        candidates: the files, and an .npy file with inputs of each, float32 [N, 3, H, W].
        batch_size: images in a batch.
        threads: of each.
        num_runs: timed batches.
    """
    with ExitStack() as stack:
        results, running = _start(stack, candidates, batch_size, threads)
        _time_in_turn(running, batch_size, num_runs)
    return results


def _start(
    stack: ExitStack, candidates: Sequence[tuple[Candidate, Path]], batch_size: int, threads: int
) -> tuple[list[CandidateResult], list[tuple[CandidateResult, _Worker]]]:
    """Start a process for each candidate, and have it predict once; returns all results, and those that run."""
    results, running = [], []
    for candidate, inputs in candidates:
        result = CandidateResult(form=candidate.form, size_bytes=size_of(candidate.file), kept=candidate.kept)
        results.append(result)
        began = time.perf_counter()
        worker = stack.enter_context(_Worker(candidate, inputs, threads=threads))
        try:
            worker.receive()
            worker.ask(do="time", batch_size=batch_size, num_runs=1, num_warm_ups=0)
        except CandidateError as error:
            result.problem = str(error)
            continue
        result.start_seconds = time.perf_counter() - began
        running.append((result, worker))
    return results, running


def _time_in_turn(running: Sequence[tuple[CandidateResult, _Worker]], batch_size: int, num_runs: int) -> None:
    seconds: list[list[float]] = [[] for _ in running]
    for start in range(0, num_runs, BLOCK):
        for (result, worker), timed in zip(running, seconds, strict=True):
            if result.problem:
                continue
            # The threads of the one before go on spinning for a while, and would take the cores away.
            time.sleep(REST_SECONDS)
            block = min(BLOCK, num_runs - start)
            try:
                found = worker.ask(do="time", batch_size=batch_size, num_runs=block, num_warm_ups=NUM_WARM_UPS)
            except CandidateError as error:
                result.problem = f"at batch size {batch_size}: {error}"
            else:
                timed += found["seconds"]
    for (result, _), timed in zip(running, seconds, strict=True):
        if not result.problem:
            low, middle, high = np.quantile(np.array(timed) * 1e3, [0.1, 0.5, 0.9]).tolist()
            result.timings.append(
                Timing(
                    batch_size=batch_size,
                    median_ms=middle,
                    p10_ms=low,
                    p90_ms=high,
                    num_runs=len(timed),
                    images_per_second=batch_size / middle * 1e3,
                )
            )


def compare_predictions(results: Sequence[CandidateResult], targets: NDArray[np.int64]) -> Form:
    """Fill in the quality of each, against eager PyTorch, or else the first that ran.

    Args:
        results: with their logits.
        targets: true classes [N].

    Returns:
        The form that the others are compared with.

    Raises:
        CheckFailedError: when none has run.
    """
    measured = [result for result in results if result.logits is not None]
    if not measured:
        reasons = "; ".join(f"{result.form}: {result.problem}" for result in results)
        raise CheckFailedError(
            f"no form could be run: {reasons}",
            "one that runs here",
            "write what is missing with export, or choose other formats=…",
        )
    reference = measured[0]
    assert reference.logits is not None
    expected = reference.logits.argmax(axis=1)
    for result in measured:
        assert result.logits is not None
        found = result.logits.argmax(axis=1)
        right, was_right = found == targets, expected == targets
        difference = np.abs(softmax(result.logits) - softmax(reference.logits))
        result.quality = Quality(
            num_images=len(targets),
            accuracy=float(right.mean()),
            change_points=100 * float(right.mean() - was_right.mean()),
            num_won=int((right & ~was_right).sum()),
            num_lost=int((~right & was_right).sum()),
            agreement=float((found == expected).mean()),
            max_probability_difference=float(difference.max()),
        )
    return reference.form


def size_of(path: Path) -> int:
    """Bytes of a file; nothing for one that is not there."""
    return path.stat().st_size if path.is_file() else 0


class _Worker:
    """A candidate's process; it ends with the `with` block."""

    def __init__(self, candidate: Candidate, inputs: Path, *, threads: int) -> None:
        spec = {
            "form": candidate.form,
            "path": str(candidate.path),
            "inputs": str(inputs),
            "threads": threads,
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", WORKER, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order, and wait for what comes back.

        Raises:
            CandidateError: when the process has ended, or says that it cannot.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # It has ended; what it left behind says why.
            pass
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """Wait for a line; see `ask`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CandidateError(self._last_words())
        found: dict[str, Any] = json.loads(line)
        if "problem" in found:
            raise CandidateError(found["problem"])
        return found

    def _last_words(self) -> str:
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", errors="replace").strip().splitlines()
        log.debug("candidate: %s", "\n".join(lines))
        return lines[-1] if lines else f"its process ended with exit code {code}"
