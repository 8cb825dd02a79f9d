"""Size and cost of a network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.models.shapes import shadow_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LayerRow:
    """One layer that has parameters or does arithmetic.

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
        num_trainable: those of them that learn.
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
        """Lay the table out for a text file."""
        width = max([len(row.name) for row in self.layers] + [5])
        trainable = f"{self.num_trainable:,} of {_rounded(self.num_parameters)}"
        total = (
            f"{self.architecture}, input {'x'.join(map(str, self.input_shape))}: {self.num_parameters:,} parameters "
            f"(trainable: {'all' if self.num_trainable == self.num_parameters else trainable}; "
            f"{self.size_mb:.1f} MiB as float32), "
            f"{self.num_flops / 1e9:.3f} GFLOPs an image"
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
    """Count parameters and operations of one forward pass on shapes alone: no weight is read, no image needed.

    Args:
        network: any.
        architecture: its name.
        image_size: side of the square input in pixels.
        num_trainable: parameters that learn; all that want gradients when left out.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    input_shape = (3, image_size, image_size)
    shadow = shadow_of(network).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    leaves = {name: layer for name, layer in shadow.named_modules() if not list(layer.children())}
    for name, layer in leaves.items():
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: shapes.update({name: _shape(output)}))
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


def _shape(output: object) -> tuple[int, ...]:
    shape = getattr(output, "shape", None)
    return tuple(shape[1:]) if shape is not None else ()
