"""`info`: what a bug report should say."""

from __future__ import annotations

from dataclasses import dataclass

from classifier_training.core.register import register
from classifier_training.core.runtime import num_cores, versions


@dataclass(frozen=True)
class InfoResult:
    """Versions and devices, as lines of name and value."""

    lines: dict[str, str]

    def __str__(self) -> str:
        width = max(map(len, self.lines))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.lines.items())


@register(
    group="verb",
    name="info",
    examples=("info",),
)
def info() -> InfoResult:
    """Show versions, devices, and the device and precision that training would choose."""
    import torch

    from classifier_training.training.device import choose_device

    cuda = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return InfoResult(
        {
            **versions(),
            "processor cores": str(num_cores()),
            "CUDA devices": ", ".join(cuda) or "none",
            "MPS": "available" if torch.backends.mps.is_available() else "not available",
            "training would use": choose_device("auto", "auto").words,
        }
    )
