"""Settings of prediction that carry the same keys as in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.export.session import Accelerator


@register(group="predict_data", name="default")
@dataclass(frozen=True, kw_only=True)
class PredictData:
    """How images go through the model.

    Args:
        batch_size: images in a batch.
    """

    batch_size: Annotated[int, Field(ge=1)] = 32


@register(group="predict_reject", name="default")
@dataclass(frozen=True, kw_only=True)
class RejectSettings:
    """Which answers are marked as rejected.

    Args:
        precision: take from each class's validation answers the lowest threshold above which this share is right.
        coverage: take from each class's validation answers the threshold that this share of them reaches.
        foreign: also reject images unlike the training data; about one in twenty of the right kind is rejected too.
    """

    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    coverage: Annotated[float, Field(gt=0, le=1)] | None = None
    foreign: bool = False


@register(group="predict_trainer", name="default")
@dataclass(frozen=True, kw_only=True)
class PredictTrainer:
    """Where the model runs.

    Args:
        accelerator: auto takes CUDA where ONNX Runtime has it, else the CPU, and says which.
    """

    accelerator: Accelerator = "auto"
