"""`data.batch_size=auto`: the largest batch that fits, and what is said when one does not."""

from __future__ import annotations

import copy
import logging
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from classifier_training.core.errors import UserError
from classifier_training.core.runtime import CGROUPS, PROC, command, control_groups, setting
from classifier_training.training.trial import is_out_of_memory, trial_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir
    from classifier_training.training.device import Device
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.trial import Trial


def available_memory_bytes(*, proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Main memory that this process can take before the system ends it.

    On Linux the least of what is free and what each control group above the process has left, page cache that can be
    given back counted as free; elsewhere half of the machine's memory, which is all that can be known cheaply.

    Args:
        proc: where the kernel describes itself.
        cgroups: where it describes control groups, of version 1 or 2.
    """
    try:
        found = [_free(proc / "meminfo")]
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for group in control_groups("memory", proc=proc, cgroups=cgroups):
        found += _left(group, "memory.max", "memory.current", "inactive_file")
        found += _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return max(0, min(found))


def _free(meminfo: Path) -> int:
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024


def _left(group: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    try:
        most = (group / limit).read_text().strip()
        used = int((group / usage).read_text())
        statistics = (group / "memory.stat").read_text()
    except OSError:
        return []
    # Without a limit the one version says so in a word and the other in a number beyond all memory.
    if most == "max" or int(most) >= sys.maxsize // 2:
        return []
    spare = next((int(line.split()[1]) for line in statistics.splitlines() if line.split()[0] == reclaimable), 0)
    return [int(most) - used + spare]


log = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 64
"""Images that the optimizer sees at a step when the batch size is chosen here."""

FEWEST_STEPS, SMALLEST = 20, 16
"""Steps of an epoch and images of a batch, at the least, where trained weights are fine-tuned: docs/benchmarks.md."""

MEMORY_SHARE = 0.5
"""Share of the available main memory that training may take: other programs want some too, and so does the data."""

WORKSPACE = 1.5
"""Memory of a step over what its backward pass keeps: gradients of activations, and the kernels' own. A resnet18 at
224 px takes 1.2 times as much."""


def suited_batch_size(num_images: int) -> int:
    """Return the images of a batch for fine-tuning: 64, or fewer where an epoch would have too few steps.

    With three steps an epoch, as 160 images have in batches of 64, a rate that moves the weights takes them too far.

    Args:
        num_images: of the training split.
    """
    found = DEFAULT_BATCH_SIZE
    while found > SMALLEST and num_images < FEWEST_STEPS * found:
        found //= 2
    return found


def batch_candidates(effective: int, smallest: int) -> list[int]:
    """Return batch sizes that make up an effective one by accumulation: it, its half and so on, largest first."""
    found = [effective]
    while found[-1] % 2 == 0 and found[-1] // 2 >= smallest:
        found.append(found[-1] // 2)
    return found


def largest_that_fits(candidates: Sequence[int], fits: Callable[[int], bool]) -> int:
    """Return the first candidate that fits.

    Args:
        candidates: largest first.
        fits: whether one does.

    Raises:
        UserError: when none does.
    """
    for batch_size in candidates:
        if fits(batch_size):
            return batch_size
    raise UserError(
        f"data.batch_size=auto: not even {candidates[-1]} images fit into memory",
        "a network and images that can be trained on this device",
        "a smaller data.image_size or model, or another trainer.accelerator",
    )


def find_batch_size(module: ClassifierModule, device: Device, *, effective: int, smallest: int, num_images: int) -> int:
    """Find the largest batch that fits, without a trace on the module.

    A GPU is tried: whole steps on noise, halved when memory runs out. On the CPU a process that takes too much is
    killed, so there a small step is measured, and the largest batch is taken that needs no more than a share of the
    memory that is available.

    Args:
        module: what is going to be trained.
        device: on what.
        effective: images that the optimizer shall see at a step.
        smallest: fewest images that the network can be trained on at once.
        num_images: in the training split; a batch is never larger.

    Raises:
        UserError: when nothing fits.
    """
    candidates = batch_candidates(effective, smallest)
    if device.accelerator == "cpu":
        budget = int(available_memory_bytes() * MEMORY_SHARE)
        fixed, per_image = measure_memory(module, device, batch_size=max(2, smallest))
        log.info(
            "data.batch_size=auto: a step takes %s and %s an image; %s may be used",
            _mebibytes(fixed), _mebibytes(per_image), _mebibytes(budget),
        )  # fmt: skip
        return largest_that_fits(candidates, lambda size: fixed + per_image * min(size, num_images) <= budget)
    return largest_that_fits(candidates, lambda size: steps_fit(module, device, min(size, num_images)))


def steps_fit(module: ClassifierModule, device: Device, batch_size: int) -> bool:
    """Whether whole steps of training on so many images fit, an average of the weights beside them."""
    try:
        with trial_of(module, device.accelerator, device.precision) as trial:
            average = copy.deepcopy(trial.module.state_dict())
            for _ in range(2):  # the optimizer makes its state in the first
                trial.step([trial.synthetic(batch_size)])
            del average
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        log.info("data.batch_size=auto: %d images do not fit", batch_size)
        return False
    return True


def measure_memory(module: ClassifierModule, device: Device, *, batch_size: int) -> tuple[int, int]:
    """Measure in one small step what training takes, in bytes.

    Returns:
        Gradients, optimizer state and the copies of the weights that a run keeps; and what an image adds.
    """
    with trial_of(module, device.accelerator, device.precision) as trial:
        kept = _bytes_for_backward(trial, batch_size)
        state = sum(
            value.nbytes
            for values in trial.optimizer.state.values()
            for value in values.values()
            if isinstance(value, torch.Tensor)
        )
        weights = sum(parameter.nbytes for parameter in trial.module.parameters())
    # Beside the gradients: the averaged weights and the best ones, which wait to be written.
    return state + 3 * weights, int(WORKSPACE * kept / batch_size)


def _bytes_for_backward(trial: Trial, batch_size: int) -> int:
    parameters = {parameter.untyped_storage().data_ptr() for parameter in trial.module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trial.step([trial.synthetic(batch_size)])
    return sum(kept.values())


@contextmanager
def told_out_of_memory(run_dir: RunDir, *, batch_size: int, accumulate_grad_batches: int) -> Iterator[None]:
    """Turn an out-of-memory error of training into one that says how to resume with the same effective batch.

    Raises:
        UserError: then.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0].partition(". ")[0]
        smaller = f"data.batch_size={batch_size // 2} trainer.accumulate_grad_batches={2 * accumulate_grad_batches}"
        remedy = f"{command('train')} {setting('resume', run_dir.path)} {smaller}"
        if batch_size < 2:
            remedy = "a smaller data.image_size or model"
        elif not (run_dir.last_checkpoint.is_file() or run_dir.previous_checkpoint.is_file()):
            remedy = f"train again with {smaller}, or with data.batch_size=auto, which tries before it trains"
        raise UserError(
            f"training ran out of memory with batches of {batch_size} images ({reason})",
            "a batch that fits beside everything else on the device",
            remedy,
        ) from error


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB"
