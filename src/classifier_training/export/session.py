"""Running ONNX files in ONNX Runtime, with weights outside of them or not, and timing what runs. Needs no torch."""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.files import contained
from classifier_training.core.runtime import command, leave_interrupts, num_cores, starts_quietly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, TensorProto

log = logging.getLogger(__name__)

INPUT_NAME, OUTPUT_NAME = "input", "logits"

Runner = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
"""Inputs, float32 [B, 3, H, W] -> logits, float32 [B, K]."""

BATCH_SIZES = (1, 2, 7)
"""At which an exported file is compared with PyTorch, unless its format takes others."""

Accelerator = Literal["auto", "cpu", "cuda", "mps"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}
"""What ONNX Runtime calls the devices."""

ERRORS_ONLY = 3
"""ONNX Runtime's log level that keeps its notes off the screen."""


def open_session(
    path: Path | bytes, *, num_threads: int | None = None, accelerator: Accelerator = "cpu", spinning: bool = True
) -> Any:
    """Open an ONNX file, or the bytes of one.

    Args:
        path: of the file.
        num_threads: all cores when left out.
        accelerator: where to compute.
        spinning: whether idle threads wait awake: a batch begins sooner, but others get less of the cores.

    Raises:
        UserError: when it is missing or no model that ONNX Runtime can run, keeps tensors outside its folder, or the
            accelerator is not there.
    """
    import onnxruntime

    if not isinstance(path, bytes) and path.is_file():
        refuse_escaping_data(path)
    providers = choose_providers(accelerator, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or num_cores()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        missing = not isinstance(path, bytes) and not path.exists()
        raise UserError(
            f"{path!s}: {'is missing' if missing else f'cannot be loaded ({error})'}",
            "the file that the run exported",
            f"restore it from a copy of the run folder, or write it again: {command('export')} run=…",
        ) from error
    if accelerator != "auto" and session.get_providers()[0] != providers[0]:
        # A build for a device starts without the device, and ONNX Runtime then takes the CPU.
        raise _no_accelerator(accelerator, ["cpu"])
    return session


def choose_providers(accelerator: Accelerator, available: Sequence[str]) -> list[str]:
    """Return ONNX Runtime's names of the device and of the CPU behind it, for what a device cannot do.

    Args:
        accelerator: auto takes CUDA where ONNX Runtime has it, else the CPU.
        available: what this build of ONNX Runtime offers.

    Raises:
        UserError: when the device is not among them.
    """
    wanted = accelerator
    if accelerator == "auto":
        wanted = "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[wanted] not in available:
        raise _no_accelerator(accelerator, [name for name, provider in PROVIDERS.items() if provider in available])
    return list(dict.fromkeys([PROVIDERS[wanted], PROVIDERS["cpu"]]))


def device_words(session: Any) -> str:
    """Say where a session computes."""
    provider = session.get_providers()[0]
    name = next((name for name, known in PROVIDERS.items() if known == provider), provider)
    return f"{name.upper()}, {num_cores()} cores" if name == "cpu" else name.upper()


def _no_accelerator(accelerator: str, present: Sequence[str]) -> UserError:
    remedy = "trainer.accelerator=auto"
    if accelerator == "cuda":
        remedy += "   (for CUDA: a GPU with its driver, and onnxruntime-gpu in place of onnxruntime)"
    return UserError(
        f"trainer.accelerator={accelerator}: ONNX Runtime has no such device here",
        f"one of {', '.join(present)}",
        remedy,
    )


def onnx_runner(path: Path, *, num_threads: int | None = None) -> Runner:
    """Return a function that runs an ONNX file on the CPU; see `open_session`."""
    session = open_session(path, num_threads=num_threads)
    dtype = np.float16 if "float16" in session.get_inputs()[0].type else np.float32

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = session.run([OUTPUT_NAME], {INPUT_NAME: inputs.astype(dtype, copy=False)})
        return np.asarray(logits, dtype=np.float32)

    return run


MARK = b"location"
"""What stands in every file that keeps a tensor elsewhere. The others need not be parsed twice."""


def refuse_escaping_data(path: Path) -> None:
    """Raise when an ONNX file keeps tensors outside its folder.

    Raises:
        UserError: for the first such tensor; or when the file is no ONNX.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return  # what opens it says that it is empty
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(MARK) < 0:
                return
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's, which has no types
        raise UserError(f"{path}: no ONNX file ({error})", "the file that the run exported", "restore it") from error
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                contained(path.parent, entry.value, where=f"{path}, tensor {tensor.name!r}")


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: object) -> Iterator[TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                if graph.node or graph.initializer or graph.sparse_initializer:
                    yield from _graph_tensors(graph)


NUM_RUNS, NUM_WARM_UPS = 30, 3
BLOCK = 10
REST_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds for one image.

    Args:
        median_ms: half of the runs were faster.
        quartiles_ms: a quarter and three quarters of the runs were faster.
        num_runs: that were timed.
        num_threads: of the runtime.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    num_runs: int
    num_threads: int


def measure_side_by_side(candidates: Sequence[Callable[[], object]], *, num_runs: int = NUM_RUNS) -> list[Latency]:
    """Time functions in turn, a block of runs each, so that a noisy minute hits all of them.

    Each block begins with a rest and warm-up runs: the threads of the one before go on spinning for a while, and would
    take the cores away.
    """
    seconds: list[list[float]] = [[] for _ in candidates]
    for start in range(0, num_runs, BLOCK):
        for candidate, timed in zip(candidates, seconds, strict=True):
            time.sleep(REST_SECONDS)
            for _ in range(NUM_WARM_UPS):
                candidate()
            for _ in range(min(BLOCK, num_runs - start)):
                began = time.perf_counter()
                candidate()
                timed.append(time.perf_counter() - began)
    quantiles = np.quantile(np.array(seconds).T * 1e3, [0.25, 0.5, 0.75], axis=0)
    low, middle, high = quantiles
    return [
        Latency(
            median_ms=float(middle[column]),
            quartiles_ms=(float(low[column]), float(high[column])),
            num_runs=num_runs,
            num_threads=num_cores(),
        )
        for column in range(len(candidates))
    ]


def measure_latency_ms(model: Path) -> float | None:
    """Return the median time of a prediction for one image on the CPU with all cores, in ms; None where it fails.

    The model is opened in another process: it may take more memory than this one should.
    """
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=leave_interrupts)
    with pool:
        try:
            with starts_quietly():
                found = pool.submit(_measure, model)
            return found.result()
        except (UserError, BrokenProcessPool) as error:
            log.warning("%s: its latency cannot be measured: %s", model, error)
            return None


def _measure(model: Path) -> float:
    session = open_session(model)
    (wanted,) = [item for item in session.get_inputs() if item.name == INPUT_NAME]
    dtype = np.float16 if "float16" in wanted.type else np.float32
    # Predictions for noise take as long as others.
    pixels = np.random.default_rng(0).standard_normal((1, *wanted.shape[1:])).astype(dtype)
    (found,) = measure_side_by_side([lambda: session.run(None, {INPUT_NAME: pixels})])
    return found.median_ms
