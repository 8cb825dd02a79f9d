"""How a trained network moves to new data: what learns, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import describe, register

EpochCount = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A way to move a network; what is frozen follows from the epoch alone, so a resumed run freezes the same.

    Attributes:
        probes: whether the head is fitted to stored features before the first epoch.
        trains: whether there are epochs at all.
        freezes: whether any layer or statistic is frozen at any time.
        unfreezes: whether some of what is frozen learns later.
        freezes_statistics: whether all batch norms normalize by the statistics that the network came with.
    """

    probes: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    freezes: ClassVar[bool] = False
    unfreezes: ClassVar[bool] = False
    freezes_statistics: ClassVar[bool] = False

    def num_frozen(self, epoch: int, num_stages: int) -> int:  # noqa: ARG002
        """How many stages, counted from the stem, are frozen in an epoch; the head is the last of `num_stages`."""
        return 0


@register(group="transfer", name="full")
@dataclass(frozen=True, kw_only=True)
class FullFineTuning(Transfer):
    """All layers learn from the first step on."""


@register(group="transfer", name="linear_probe")
@dataclass(frozen=True, kw_only=True)
class LinearProbe(Transfer):
    """The head alone is fitted, to features that are computed once; nothing is trained by epochs."""

    probes = True
    trains = False
    freezes = True

    def num_frozen(self, epoch: int, num_stages: int) -> int:  # noqa: ARG002
        """All but the head."""
        return num_stages - 1


@register(group="transfer", name="lp_ft")
@dataclass(frozen=True, kw_only=True)
class ProbeThenFineTune(Transfer):
    """The head is fitted to features that are computed once, then the later layers learn, too.

    A random head would push good features away in the first steps (Kumar et al. 2022, arXiv:2202.10054). Batch norms
    keep their statistics: those of a large data set are better than those of a small one. The run ends with a mean of
    the weights before and after fine-tuning, which generalizes better than either (Wortsman et al. 2022,
    arXiv:2109.01903), unless the linear probe or an epoch has a higher validation score.

    Args:
        frozen_share: share of the network's stages, counted from the stem, that stay as they are; the more, the quicker
            a step is.
        interpolation: share of the weights after fine-tuning in that mean; 1 for these alone. auto is 0.5, or 0.25,
            0.75 or 1 where that has a clearly higher validation score.
    """

    probes = True
    freezes = True
    freezes_statistics = True

    frozen_share: Annotated[float, Field(ge=0, lt=1)] = 0.34
    interpolation: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"

    def num_frozen(self, epoch: int, num_stages: int) -> int:  # noqa: ARG002
        """The share, rounded down."""
        return math.floor(self.frozen_share * num_stages)


@register(group="transfer", name="progressive_unfreezing")
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
    unfreezes = True

    head_epochs: EpochCount = 1
    every_epochs: EpochCount = 1
    stages: EpochCount | None = None

    def num_frozen(self, epoch: int, num_stages: int) -> int:
        """One fewer every `every_epochs` once the head has had its time."""
        below = num_stages - 1
        thawed = 0 if epoch < self.head_epochs else 1 + (epoch - self.head_epochs) // self.every_epochs
        return below - min(thawed, below, self.stages or below)


@register(group="transfer", name="auto")
@dataclass(frozen=True, kw_only=True)
class AutoTransfer(Transfer):
    """lp_ft for a network with trained weights that ends in one linear layer, else full; the default."""


def choose_transfer(*, ends_linear: bool) -> Transfer:
    """Return the way that auto stands for.

    Args:
        ends_linear: whether the network starts from trained weights and ends in one linear layer.
    """
    return ProbeThenFineTune() if ends_linear else FullFineTuning()


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
            "transfer=linear_probe for the head alone, or transfer.head_epochs=1",
        )
