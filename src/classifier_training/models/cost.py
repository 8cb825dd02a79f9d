"""Size and cost of a network: by layer, in training, and of many networks by name, measured once and cached.

Everything is found on the meta device: no weight is read, no image needed.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError, reason_of
from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import cache_dir, versions
from classifier_training.core.types import BuiltModel
from classifier_training.models.meta import meta_copy, on_meta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerRow:
    """One layer with parameters or FLOPs.

    Args:
        name: dotted path in the network.
        kind: class of the layer.
        output_shape: of one image.
        num_parameters: weights and biases.
        num_flops: for one image, a multiply and an add counted as two.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    num_parameters: int
    num_flops: int


@dataclass(frozen=True)
class ModelSummary:
    """Totals of a network and the table behind them.

    Args:
        architecture: the network's name.
        input_shape: channels, height and width of the image that was counted.
        num_parameters: weights and biases.
        num_trainable: trainable parameters.
        num_flops: for one image, a multiply and an add counted as two.
        layers: the rows, in the order of the network.
    """

    architecture: str
    input_shape: tuple[int, int, int]
    num_parameters: int
    num_trainable: int
    num_flops: int
    layers: tuple[LayerRow, ...]

    @property
    def size_mb(self) -> float:
        """Size of the float32 parameters in MiB."""
        return self.num_parameters * 4 / 2**20

    def to_text(self) -> str:
        """Return the table as text."""
        width = max([len(row.name) for row in self.layers] + [5])
        trainable = f"{self.num_trainable:,} of {_rounded(self.num_parameters)}"
        total = (
            f"{self.architecture}, input {'x'.join(map(str, self.input_shape))}: {self.num_parameters:,} parameters "
            f"(trainable: {'all' if self.num_trainable == self.num_parameters else trainable}; "
            f"{self.size_mb:.1f} MiB as float32), "
            f"{self.num_flops / 1e9:.3f} GFLOPs per image"
        )
        lines = [total, "", f"{'layer':<{width}}  {'kind':<18}  {'output':<16}  {'parameters':>12}  {'MFLOPs':>10}"]
        for row in self.layers:
            name, shape = f"{row.name:<{width}}", "x".join(map(str, row.output_shape))
            size, cost = f"{row.num_parameters:>12,}", f"{row.num_flops / 1e6:>10.2f}"
            lines.append(f"{name}  {row.kind:<18}  {shape:<16}  {size}  {cost}")
        return "\n".join(lines) + "\n"


def summarize(
    network: nn.Module, *, architecture: str, image_size: int, num_trainable: int | None = None
) -> ModelSummary:
    """Count parameters and FLOPs of one forward pass on the meta device.

    Args:
        network: any.
        architecture: its name.
        image_size: side of the square input in pixels.
        num_trainable: trainable parameters; those that require gradients when left out.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    input_shape = (3, image_size, image_size)
    # Without gradients: the counter's hooks fail on inputs that are views of parameters, as those of CaiT.
    shadow = meta_copy(network).eval().requires_grad_(requires_grad=False)
    shapes: dict[str, tuple[int, ...]] = {}
    leaves = {name: layer for name, layer in shadow.named_modules() if not list(layer.children())}
    for name, layer in leaves.items():
        layer.register_forward_hook(
            lambda _layer, _inputs, output, name=name: shapes.update({name: _output_shape(output)})
        )
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shadow(torch.empty(1, *input_shape, device="meta"))
    by_layer = counter.get_flop_counts()
    prefix = type(shadow).__name__
    rows = []
    for name, layer in leaves.items():
        num_parameters = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        num_flops = sum(by_layer.get(f"{prefix}.{name}", {}).values())
        if num_parameters or num_flops:
            rows.append(LayerRow(name, type(layer).__name__, shapes.get(name, ()), num_parameters, num_flops))
    return ModelSummary(
        architecture=architecture,
        input_shape=input_shape,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        num_trainable=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        if num_trainable is None
        else num_trainable,
        num_flops=counter.get_total_flops(),
        layers=tuple(rows),
    )


def _rounded(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"


def _output_shape(output: object) -> tuple[int, ...]:
    shape = getattr(output, "shape", None)
    return tuple(shape[1:]) if shape is not None else ()


MEASURED_BATCH = 2
"""Batch norm needs two values in training."""

FLOAT_BYTES = 4
COPIES = 4
"""Copies of each weight: itself, its gradient, and AdamW's two moments."""


@dataclass(frozen=True)
class Cost:
    """Cost of one network, in float32.

    Args:
        image_size: side of the square input in pixels.
        num_parameters: weights and biases.
        num_flops: of one forward pass of one image, a multiply and an add counted as two.
        fixed_bytes: weights, gradients, AdamW's moments and buffers.
        bytes_per_image: activations of one image that are kept for the backward pass.
    """

    image_size: int
    num_parameters: int
    num_flops: int
    fixed_bytes: int
    bytes_per_image: int

    def training_mb(self, batch_size: int) -> float:
        """Memory for training with a batch size, in MiB, without that of libraries and kernels."""
        return (self.fixed_bytes + batch_size * self.bytes_per_image) / 2**20


def cost(built: BuiltModel, *, image_size: int) -> Cost:
    """Measure one network, which must accept images of that size."""
    network = built.network
    summary = summarize(network, architecture=built.architecture, image_size=image_size)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers())
    return Cost(
        image_size=image_size,
        num_parameters=summary.num_parameters,
        num_flops=summary.num_flops,
        fixed_bytes=COPIES * FLOAT_BYTES * summary.num_parameters + buffers,
        bytes_per_image=kept_bytes(network, image_size=image_size),
    )


def kept_bytes(network: nn.Module, *, image_size: int) -> int:
    """Count the bytes that autograd keeps per image between the forward and the backward pass."""
    import torch

    shadow = copy.deepcopy(network).to("meta").train().requires_grad_(requires_grad=True)
    own = {tensor.untyped_storage()._cdata for tensor in (*shadow.parameters(), *shadow.buffers())}  # noqa: SLF001
    # Views share one storage; the tensors are kept alive so that no address is reused.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)  # noqa: SLF001
        return tensor

    images = torch.empty(MEASURED_BATCH, 3, image_size, image_size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        shadow(images)
    total = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    return total // MEASURED_BATCH


Build = Callable[[int], Any]

SHAPED_BY = ("python", "torch", "torchvision", "timm")
"""Packages that define the networks, besides this one."""


def measure(
    builders: Mapping[str, Build], *, num_classes: int, image_size: int | None, foreign: Collection[str] = ()
) -> dict[str, Cost | str]:
    """Return the cost of each network by name, or the reason why it cannot be measured.

    Results are cached on disk and read without torch, until a package in `SHAPED_BY` changes.

    Args:
        builders: functions that build a network for a number of classes, by a unique name.
        num_classes: outputs of the networks.
        image_size: side of the input in pixels; the network's own if None.
        foreign: names of networks of other packages, which may change without notice: they are measured each time.
    """
    path = cache_dir() / "model_figures.json"
    stamp = _stamp()
    kept = _read(path, stamp)
    keys = {name: f"{name} {num_classes} {image_size}" for name in builders}
    absent = [name for name, key in keys.items() if key not in kept or name in foreign]
    if len(absent) > 1:
        log.info("measuring %d networks, once", len(absent))
    for name in absent:
        found = _measure(builders[name], num_classes=num_classes, image_size=image_size)
        kept[keys[name]] = found if isinstance(found, str) else dataclasses.asdict(found)
    if absent:
        write_json(path, {"stamp": stamp, "figures": kept})
    return {name: value if isinstance(value := kept[key], str) else Cost(**value) for name, key in keys.items()}


def _measure(build: Build, *, num_classes: int, image_size: int | None) -> Cost | str:
    from classifier_training.models.meta import fit_input

    try:
        built = on_meta(lambda: build(num_classes))
        if not isinstance(built, BuiltModel):
            return "it is no neural network"
        size = image_size or built.input_spec.size
        fit_input(built, image_size=size, batch_size=2)
    except UserError as error:
        return error.came
    try:
        return cost(built, image_size=size)
    except Exception as error:  # one network that cannot be counted must not end the list
        log.debug("%s cannot be counted", built.architecture, exc_info=error)
        return f"its cost cannot be counted ({reason_of(error)})"


def _stamp() -> str:
    """Hash everything that a cost depends on."""
    found = versions()
    digest = hashlib.sha256(" ".join(found[name] for name in SHAPED_BY).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _read(path: Path, stamp: str) -> dict[str, Any]:
    """Return the cached costs; none if they have another stamp, or the file is damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    figures = kept.get("figures") if isinstance(kept, dict) and kept.get("stamp") == stamp else None
    return figures if isinstance(figures, dict) else {}
