"""TensorFlow's SavedModel, converted and compared in an environment of its own: TensorFlow never enters ours."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.register import register
from classifier_training.export.job import ExportFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.export.job import ExportJob
    from classifier_training.export.session import Runner

log = logging.getLogger(__name__)

PYTHON = "3.11"
PACKAGES = ("onnx2tf==1.29.24",)
"""The converter, which pins what it needs, TensorFlow 2.19.0 among it, by exact versions."""

WORKER = Path(__file__).with_name("tensorflow_worker.py")

VERSION = "1"
"""Folder within the format's: TensorFlow Serving serves the highest number that it finds."""

SHOWN_CHARACTERS = 600
"""Of the end of what a failed program said."""


@register(group="format", name="saved_model")
@dataclass(frozen=True, kw_only=True)
class SavedModel(ExportFormat):
    """TensorFlow's SavedModel, for TensorFlow Serving: saved_model/1, of any batch size, in float32.

    Its signature serving_default takes `input`, float32 [B, 3, H, W], and gives `logits`, float32 [B, K]. TensorFlow
    and the converter (onnx2tf) are installed by uv in an environment of their own, 2 GB in uv's cache.
    """

    file = "saved_model"
    from_onnx = True

    def write(self, job: ExportJob, path: Path) -> None:
        """Convert from ONNX.

        Raises:
            UserError: when uv is missing, or cannot install what is needed.
            CheckFailedError: when the network cannot be converted.
        """
        install()
        path.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(  # noqa: S603 - our own worker
            [*environment(), str(WORKER), "write", str(job.onnx_source().absolute()), str((path / VERSION).absolute())],
            capture_output=True,
            text=True,
            check=False,
            env=variables(),
            cwd=job.scratch,
        )
        if done.returncode:
            raise CheckFailedError(
                f"format=saved_model: onnx2tf cannot convert the network ({done.stderr.strip()[-SHOWN_CHARACTERS:]})",
                "a network whose operators it has",
                "serve model.onnx, which NVIDIA Triton and KServe take",
            )

    def open(self, job: ExportJob, path: Path) -> Runner:
        """Run it in TensorFlow, in a process of its own."""
        return _Runner(path / VERSION, job.scratch)


def environment() -> list[str]:
    """Return the command that runs a Python program with TensorFlow; a cached environment is used again.

    Raises:
        UserError: when uv is missing.
    """
    uv = shutil.which("uv")
    if uv is None:
        raise UserError(
            "format=saved_model: uv is not installed, which makes the environment of TensorFlow",
            "uv on the path",
            "pip install uv",
        )
    # -P: the worker lies beside modules with the names of libraries.
    packages = [word for package in PACKAGES for word in ("--with", package)]
    return [uv, "run", "--quiet", "--no-project", "--isolated", "--python", PYTHON, *packages, "python", "-P"]


def variables() -> dict[str, str]:
    """Return the variables of the environment: TensorFlow silent, on the processor alone."""
    silent = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, **silent}


def install() -> None:
    """Make the environment, the first time; what uv has in its cache needs no network.

    Raises:
        UserError: when uv is missing, or the packages cannot be had.
    """
    log.info("saved_model: TensorFlow and onnx2tf, in an environment of their own; installing takes minutes, once")
    done = subprocess.run(  # noqa: S603 - uv
        [*environment(), "-c", "pass"], capture_output=True, text=True, check=False, env=variables()
    )
    if done.returncode:
        raise UserError(
            f"format=saved_model: {' '.join(PACKAGES)} cannot be installed ({done.stderr.strip()[-SHOWN_CHARACTERS:]})",
            "a connection to a package index once, or the packages in uv's cache",
            "connect, and export again; or leave saved_model out of format=",
        )


class _Runner:
    """Hands arrays to a process that has TensorFlow, by files in a folder.

    Args:
        model: folder with saved_model.pb.
        scratch: for the files.
    """

    def __init__(self, model: Path, scratch: Path) -> None:
        self._errors = scratch / "tensorflow.log"
        self._inputs, self._outputs = scratch / "tensorflow_inputs.npy", scratch / "tensorflow_outputs.npy"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own worker
                [*environment(), str(WORKER), "run", str(model)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=variables(),
            )
        weakref.finalize(self, _end, self._process)

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of a batch.

        Raises:
            CheckFailedError: when TensorFlow cannot run the file.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        np.save(self._inputs, inputs)
        with suppress(BrokenPipeError):  # what it said is told below
            self._process.stdin.write(f"{self._inputs}\t{self._outputs}\n")
            self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            self._process.wait()
            said = self._errors.read_text(errors="replace").strip()[-SHOWN_CHARACTERS:]
            raise CheckFailedError(
                f"format=saved_model: TensorFlow cannot run it ({said})",
                "a model that TensorFlow runs",
                "leave saved_model out of format=, and report the architecture",
            )
        found: NDArray[np.float32] = np.load(self._outputs)
        return found


def _end(process: subprocess.Popen[str]) -> None:
    """End a worker: it stops when its input ends."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # it has ended already
                pipe.close()
    process.wait()
