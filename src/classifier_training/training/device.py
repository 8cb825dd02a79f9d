"""Where a run computes and in which precision: chosen once, said in words."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from classifier_training.core.errors import UserError, plural
from classifier_training.core.processes import is_torchrun, process_rank
from classifier_training.core.runtime import THREAD_VARIABLES, command, num_cores
from classifier_training.models.meta import meta_copy

if TYPE_CHECKING:
    from classifier_training.training.settings import Accelerator, Precision

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Type of the numbers in mixed precision; other precisions have none."""


@dataclass(frozen=True)
class Device:
    """A device and how to use it.

    Args:
        accelerator: cpu, cuda or mps, as Lightning names it.
        precision: 32-true, bf16-mixed or 16-mixed, as Lightning names it.
        channels_last: whether convolutions run faster with the channels innermost.
        words: one line for people.
        num_devices: how many of them share a batch, a process each.
        other_precisions: that the device has besides, to be taken where a step in them is clearly faster.
    """

    accelerator: str
    precision: str
    channels_last: bool
    words: str
    num_devices: int = 1
    other_precisions: tuple[str, ...] = ()


def autocast(accelerator: str, precision: str) -> torch.autocast:
    """Compute in a precision, as Lightning names it, inside a block."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(accelerator, dtype=dtype, enabled=dtype is not None)


def keep_to_cores() -> None:
    """Have PyTorch use no more threads than there are cores for them, unless the environment says how many.

    It counts the cores of the machine: under a container's limit of processor time, which it does not know, its threads
    would wait for each other at every step.
    """
    if os.environ.keys().isdisjoint(THREAD_VARIABLES[:2]) and torch.get_num_threads() > num_cores():
        torch.set_num_threads(num_cores())


def choose_device(accelerator: Accelerator, precision: Precision, num_devices: int | Literal["auto"] = 1) -> Device:
    """Take the wanted device, auto the fastest; PyTorch's threads keep to the cores.

    Raises:
        UserError: when it is not there, the precision does not exist on it, or there are fewer devices.
    """
    keep_to_cores()
    chosen, name = find_accelerator(accelerator)
    if precision == "16-mixed" and chosen == "cpu":
        raise UserError(
            "trainer.precision=16-mixed does not exist on the CPU",
            "auto, 32 or bf16-mixed",
            "trainer.precision=auto",
        )
    resolved = _choose_precision(chosen) if precision == "auto" else "32-true" if precision == 32 else precision
    # In bfloat16 some networks are faster, and those with depthwise convolutions are slower: it is timed.
    others = ("bf16-mixed",) if precision == "auto" and chosen == "cpu" and _cpu_multiplies_bf16() else ()
    # channels_last on MPS was many times slower until late in 2026, so it stays off there.
    number = 1 if num_devices == 1 and process_rank().is_alone else _own_number(num_devices, chosen)
    # The precision stands in a line of its own once it is timed.
    words = name if others else f"{name}, {resolved} precision"
    words += f", {number} processes that share every batch" if number > 1 else ""
    return Device(
        chosen, resolved, channels_last=chosen != "mps", words=words, num_devices=number, other_precisions=others
    )


def _own_number(wanted: int | Literal["auto"], accelerator: str) -> int:
    """Return how many processes torchrun has started, if they are as many as were asked for."""
    rank = process_rank()
    if rank.is_alone and not is_torchrun():
        number = _count(wanted, accelerator)
        if number > 1:
            raise UserError(
                f"trainer.num_devices={wanted} where another command trains the run, as tune and distill do",
                "runs of one process each",
                "trainer.num_devices=1",
            )
        return number
    if wanted not in ("auto", rank.num_ranks):
        raise UserError(
            f"trainer.num_devices={wanted}: torchrun started {plural(rank.num_ranks, 'process', 'processes')}",
            "as many as torchrun starts on all nodes together",
            f"trainer.num_devices={rank.num_ranks}, or trainer.num_devices=auto",
        )
    found = torch.cuda.device_count()
    if accelerator == "cuda" and rank.num_local > found:
        raise UserError(
            f"torchrun started {rank.num_local} processes on a node that has {found} CUDA GPUs",
            "a process for each GPU",
            f"torchrun --nproc-per-node={found}",
        )
    return rank.num_ranks


def count_devices(wanted: int | Literal["auto"], accelerator: Accelerator, *, alone: bool = True) -> int:
    """Return how many processes of this machine are to train together.

    Args:
        wanted: number of devices, or auto for all GPUs.
        accelerator: their kind.
        alone: whether no other machine trains with this one; with others, auto is one process without GPUs.

    Raises:
        UserError: when there are fewer devices, or they are to be counted and there are no CUDA GPUs.
    """
    kind, _ = find_accelerator(accelerator)
    return 1 if wanted == "auto" and kind != "cuda" and not alone else _count(wanted, kind)


def _count(wanted: int | Literal["auto"], accelerator: str) -> int:
    found = {"cuda": torch.cuda.device_count(), "cpu": num_cores()}.get(accelerator, 1)
    if wanted == "auto" and accelerator != "cuda":
        raise UserError(
            "trainer.num_devices=auto: there are no CUDA GPUs to be counted",
            "CUDA GPUs, or the number of processes to divide the CPU's cores among",
            f"trainer.num_devices={min(2, found)}, or leave out trainer=ddp: one process uses all cores already",
        )
    number = found if wanted == "auto" else wanted
    if number > found:
        what = {"cuda": "CUDA GPUs", "cpu": "cores"}.get(accelerator, "GPU")
        raise UserError(
            f"trainer.num_devices={number}: this process sees {found} {what}",
            f"1 to {found}",
            f"trainer.num_devices={found}",
        )
    return number


def sound_precision(device: Device, network: nn.Module, *, image_size: int, wanted: Precision) -> Device:
    """Do without bfloat16 where the CPU leaves gradients of it unset.

    Of convolutions that `unset_gradients` finds, oneDNN leaves the gradients of some weights as the memory was. Those
    weights meet padding alone, and batches in bfloat16 pass over them: the loss stays as it should be. One image in
    float32 multiplies them by zero, and where they have become NaN, so does its output.

    Args:
        device: as chosen.
        network: takes images of that size.
        image_size: of the smallest training images, in pixels.
        wanted: trainer.precision.

    Raises:
        UserError: when bf16-mixed was asked for.
    """
    if device.accelerator != "cpu" or "bf16-mixed" not in (device.precision, *device.other_precisions):
        return device
    name = unset_gradients(network, image_size=image_size)
    if name is None:
        return device
    reason = f"at {image_size} px the maps that {name} is shown are too small for the CPU's gradients in bfloat16"
    if wanted != "auto":
        raise UserError(
            f"trainer.precision={wanted}: {reason}", "larger images, or full precision", "trainer.precision=32"
        )
    return replace(device, other_precisions=())


def unset_gradients(network: nn.Module, *, image_size: int) -> str | None:
    """Name a convolution of which oneDNN leaves bfloat16 gradients unset; None when there is none.

    It is one with a stride over maps of one pixel, or with a kernel more than three times as large as its maps.
    Found by filling memory with large numbers (MALLOC_PERTURB_=128) and comparing with float32, on PyTorch 2.15.
    """
    shadow = meta_copy(network).eval()
    found: list[str] = []

    def look(name: str, layer: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        sides = zip(inputs[0].shape[2:], layer.kernel_size, layer.stride, strict=True)
        if any(kernel > 3 * side or (side == 1 and kernel > 1 and stride > 1) for side, kernel, stride in sides):
            found.append(name)

    for name, layer in shadow.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: look(name, layer, inputs))
    with torch.no_grad():
        shadow(torch.empty(2, 3, image_size, image_size, device="meta"))
    return found[0] if found else None


def find_accelerator(wanted: Accelerator) -> tuple[str, str]:
    """Return cuda, mps or cpu, and what it is in words.

    Raises:
        UserError: when PyTorch does not see the wanted one.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted in ("auto", "gpu", "cuda") and cuda:
        return "cuda", torch.cuda.get_device_name(0)
    if wanted in ("auto", "gpu", "mps") and mps:
        return "mps", "Apple GPU (MPS)"
    if wanted not in ("auto", "cpu"):
        raise UserError(
            f"trainer.accelerator={wanted}: PyTorch {torch.__version__} sees no such device here",
            {"mps": "an Apple GPU", "cuda": "a CUDA GPU"}.get(wanted, "a CUDA or Apple GPU")
            + " with its driver, and a PyTorch that is built for it",
            f"trainer.accelerator=auto, which takes one where it is there; {command('info')} lists the devices",
        )
    return "cpu", f"CPU with {plural(torch.get_num_threads(), 'thread')}"


def _choose_precision(accelerator: str) -> str:
    if accelerator == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed"
        return "16-mixed" if torch.cuda.get_device_capability() >= (7, 0) else "32-true"
    return "32-true"


def _cpu_multiplies_bf16() -> bool:
    """Whether the CPU has bfloat16 dot products; without them bf16 is emulated and several times slower."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
