"""How a pretrained network moves to new data: what learns, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import describe, register

EpochCount = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A way to move a network; what is frozen follows from the epoch alone, so a resumed run freezes the same.

    Attributes:
        freezes: whether anything is frozen at any time.
        probes: whether the head is fitted to stored features before the first epoch.
    """

    freezes: ClassVar[bool] = False
    probes: ClassVar[bool] = False

    def num_frozen(self, epoch: int, num_stages: int) -> int:  # noqa: ARG002
        """How many stages, counted from the stem, are frozen in an epoch; the head is the last of `num_stages`."""
        return 0


@register(group="transfer", name="full")
@dataclass(frozen=True, kw_only=True)
class FullFineTuning(Transfer):
    """All layers learn from the first step on, the default."""


@register(group="transfer", name="features")
@dataclass(frozen=True, kw_only=True)
class FeatureExtraction(Transfer):
    """The head alone learns; the layers below, batch-norm statistics included, stay as they are."""

    freezes = True

    def num_frozen(self, epoch: int, num_stages: int) -> int:  # noqa: ARG002
        """All but the head."""
        return num_stages - 1


@register(group="transfer", name="progressive")
@dataclass(frozen=True, kw_only=True)
class ProgressiveUnfreezing(Transfer):
    """The head learns first, then one more stage of layers after another, from the head down.

    Howard & Ruder 2018 (arXiv:1801.06146). Lower learning rates for deeper stages are optimizer.layer_decay.

    Args:
        head_epochs: epochs in which the head alone learns.
        every_epochs: epochs from one stage to the next.
        stages: how many stages below the head learn in the end; all when left out.
    """

    freezes = True

    head_epochs: EpochCount = 1
    every_epochs: EpochCount = 1
    stages: EpochCount | None = None

    def num_frozen(self, epoch: int, num_stages: int) -> int:
        """One fewer every `every_epochs` once the head has had its time."""
        below = num_stages - 1
        thawed = 0 if epoch < self.head_epochs else 1 + (epoch - self.head_epochs) // self.every_epochs
        return below - min(thawed, below, self.stages or below)


@register(group="transfer", name="probe")
@dataclass(frozen=True, kw_only=True)
class ProbeThenFineTune(Transfer):
    """The head is fitted to features stored once, then all layers learn, which takes fewer epochs.

    A random head would push good features away in the first steps (Kumar et al. 2022, arXiv:2202.10054).
    """

    probes = True


def refuse_transfer(transfer: Transfer, architecture: str, *, is_trained: bool, max_epochs: int) -> None:
    """Make sure that a way to move a network has something to move.

    Args:
        transfer: the way.
        architecture: the network's name.
        is_trained: whether it starts from trained weights.
        max_epochs: length of the run.

    Raises:
        UserError: when the network starts from random weights, or the run ends before a stage is unfrozen.
    """
    name = describe(transfer)["type"]
    if (transfer.freezes or transfer.probes) and not is_trained:
        raise UserError(
            f"transfer={name}: {architecture} starts from random weights, whose features are worth nothing",
            "a network that was trained before",
            "model.pretrained=true, or model.weights=FILE; transfer=full trains from random weights",
        )
    if isinstance(transfer, ProgressiveUnfreezing) and transfer.head_epochs >= max_epochs:
        raise UserError(
            f"transfer.head_epochs={transfer.head_epochs} and trainer.max_epochs={max_epochs}: nothing but the head "
            "would ever learn",
            "fewer epochs for the head than in all",
            "transfer=features for the head alone, or transfer.head_epochs=1",
        )
