"""How a run computes fastest, found by timing a few steps: memory format, precision and compilation."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
import shutil
import time
from typing import TYPE_CHECKING

import torch

from classifier_training.core.errors import UserError
from classifier_training.training.trial import is_out_of_memory, trial_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifier_training.training.device import Device
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.trial import Trial

log = logging.getLogger(__name__)

MIN_PIXELS = 1e7
"""Pixels trained on in a whole run, below which nothing is timed."""

MAX_SHARE = 0.12
"""Of the estimated seconds of a run, what timing may take at most: a run of a few seconds has no time for it."""

PROBE_SECONDS, PROBE_SHARE = 3.0, 0.005
"""When timing has taken as long, and this share of the run, no other candidate is tried."""

CLEAR_GAIN = 1.1
"""How much faster a candidate must be than the usual choice. A near tie is left as it is, the same in every run."""

COMPILE_PAYS_SECONDS = {"cuda": 900.0, "cpu": 3600.0}
"""Estimated length of a run from which compiling, which takes a minute or more, is tried."""

COMPILE_GAIN = 1.05

MIN_TIMED = 4
"""Images below which a step that runs out of memory is not timed."""

PROBE_IMAGES, PROBE_PIXELS = 8, 2e5
"""The least that a timed step takes on the CPU: small images, in few of which the optimizer would take most of the
time, in larger batches. Beside a GPU a whole batch, which alone fills it."""


def probe_device(
    make: Callable[[Device], ClassifierModule],
    device: Device,
    *,
    batch_size: int,
    num_images: int,
) -> tuple[Device, float]:
    """Time a few steps with other memory formats and precisions, and take what is clearly faster.

    Args:
        make: makes the module for a device.
        device: the usual choice.
        batch_size: images in a batch.
        num_images: that the whole run trains on.

    Returns:
        The device with the fastest way to use it, and the estimated seconds of the run; 0 for a run so short that
        nothing was timed.
    """
    module = make(device)
    height, width = module.input_size
    if num_images * height * width < MIN_PIXELS:
        return device, 0.0
    started = time.perf_counter()
    number = num_timed(device, batch_size, module.input_size)
    while True:
        try:
            usual = fastest = seconds_of(module, device, number)
            break
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # The batch size is found later, or training says that it does not fit.
        if number <= MIN_TIMED:
            return device, 0.0
        number //= 2
    chosen = device
    estimated = usual / number * num_images
    budget = min(MAX_SHARE * estimated, max(PROBE_SECONDS, PROBE_SHARE * estimated))

    def has_time() -> bool:
        return time.perf_counter() - started + 3 * usual <= budget

    for candidate in _candidates(device):
        if not has_time():
            break
        try:
            seconds = seconds_of(make(candidate), candidate, number)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            continue
        log.debug("%s: %.4f s, usually %.4f s", candidate, seconds, usual)
        if seconds * CLEAR_GAIN < usual and has_time():
            # Another program may have held up the usual choice: it has a second chance.
            usual = min(usual, seconds_of(make(device), device, number))
        if seconds * CLEAR_GAIN < usual and seconds < fastest:
            chosen, fastest = candidate, seconds
    fastest = usual if chosen == device else fastest
    return chosen, fastest / number * num_images


def num_timed(device: Device, batch_size: int, input_size: tuple[int, int]) -> int:
    """Return how many images of this height and width a timed step takes."""
    if device.accelerator != "cpu":
        return batch_size
    height, width = input_size
    return min(batch_size, max(PROBE_IMAGES, round(PROBE_PIXELS / (height * width))))


def choose_compilation(
    make: Callable[[Device], ClassifierModule],
    device: Device,
    *,
    wanted: bool | str,
    batch_size: int,
    estimated_seconds: float,
) -> bool:
    """Decide whether to use torch.compile; auto compiles a trial where that can pay, and times it.

    Args:
        make: makes the module for a device.
        device: what is trained on.
        wanted: trainer.compile.
        batch_size: images in a batch.
        estimated_seconds: of the run; 0 where it is short.

    Raises:
        UserError: when it is asked for and the machine has no compiler.
    """
    check_compiler(device, wanted=wanted)
    if wanted != "auto" or missing_compiler(device.accelerator):
        return wanted is True
    if estimated_seconds < COMPILE_PAYS_SECONDS.get(device.accelerator, float("inf")):
        return False
    return compiling_pays(make(device), device, batch_size)


def check_compiler(device: Device, *, wanted: bool | str) -> None:
    """Raise when compilation is asked for and the machine has no compiler.

    Raises:
        UserError: then.
    """
    missing = missing_compiler(device.accelerator)
    if wanted is True and missing:
        raise UserError(
            f"trainer.compile=true: there is no {missing}",
            "what torch.compile makes programs with",
            f"install {missing}, or trainer.compile=auto",
        )


def compiling_pays(module: ClassifierModule, device: Device, batch_size: int) -> bool:
    """Whether compiled steps are clearly faster; not when the network cannot be compiled, which is said."""
    number = num_timed(device, batch_size, module.input_size)
    try:
        usual = seconds_of(module, device, number)
        compiled = seconds_of(module, device, number, compiles=True)
    except RuntimeError as error:  # what the compiler raises derives from it
        if is_out_of_memory(error):
            raise
        log.info("compile: off, the network cannot be compiled (%s)", str(error).partition("\n")[0])
        return False
    log.info("compile: steps take %.3f s compiled, %.3f s as they are", compiled, usual)
    return compiled * COMPILE_GAIN < usual


def seconds_of(module: ClassifierModule, device: Device, number: int, *, compiles: bool = False) -> float:
    """Time a step of training on a copy of the module: the faster of two, after one that warms up."""
    with trial_of(module, device.accelerator, device.precision) as trial:
        if compiles:
            trial.module.network.compile()
        batch = trial.synthetic(number)
        trial.step([batch])
        return min(_timed(trial, [batch]) for _ in range(2))


def missing_compiler(accelerator: str) -> str | None:
    """What torch.compile lacks on this machine; None when it can be used."""
    if accelerator == "cuda":
        return None if importlib.util.find_spec("triton") else "Triton"
    if accelerator == "mps":
        return "compiler for MPS that is ready for use"
    found = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return None if found else "C++ compiler"


def set_float32_products(device: Device) -> bool:
    """Have what float32 products are left in mixed precision computed in TF32, where the GPU has it.

    A user who asked for precision 32 gets all its digits.

    Returns:
        Whether TF32 is used.
    """
    tf32 = (
        device.accelerator == "cuda" and device.precision != "32-true" and torch.cuda.get_device_capability() >= (8, 0)
    )
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    return tf32


def _candidates(device: Device) -> Sequence[Device]:
    return [
        *(dataclasses.replace(device, precision=precision) for precision in device.other_precisions),
        dataclasses.replace(device, channels_last=not device.channels_last),
    ]


def _timed(trial: Trial, batches: Sequence[object]) -> float:
    started = time.perf_counter()
    trial.step(batches)  # type: ignore[arg-type] # it reads the loss, so the device has come to its end
    return time.perf_counter() - started
