"""What a run decided by itself, kept beside its configuration so that going on decides nothing anew."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import write_json
from classifier_training.core.types import Weights

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The part of a run over which one schedule goes.

    Args:
        from_epoch: where the schedule begins.
        is_constant: whether the learning rate stays at its last value instead.
    """

    from_epoch: int = 0
    is_constant: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    """Epochs that were planned together to end in time.

    Args:
        from_epoch: the first.
        max_epochs: of the whole run, as planned then.
        num_batches: of each of them.
        batch_size: images in a batch; 0 where it was not written down.
    """

    from_epoch: int
    max_epochs: int
    num_batches: int
    batch_size: int = 0


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Values that the configuration left to the run; None where nothing was decided.

    Args:
        image_size: side of the network's input in pixels.
        batch_size: images in a batch.
        accumulate_grad_batches: batches whose gradients make one step.
        lr: highest learning rate.
        accelerator: device that the following were chosen for.
        precision: as Lightning names it.
        channels_last: whether images and weights have the channels innermost.
        is_compiled: whether torch.compile is used.
        phase: the part of the run that is being trained.
        weights: trained weights that it started from; None for random ones, and in runs from before this was kept.
        num_probe_images: training images that the linear probe was fitted to.
        num_calibrated: training images that the exported file is calibrated with, where a time limits them.
        first_classes: those of the run that is trained again, which keep their numbers.
        parts: the plan by which it ends in time, and the corrections of it; none without such a plan.
    """

    image_size: int | None = None
    batch_size: int | None = None
    accumulate_grad_batches: int | None = None
    lr: float | None = None
    accelerator: str | None = None
    precision: str | None = None
    channels_last: bool | None = None
    is_compiled: bool | None = None
    phase: Phase = Phase()
    weights: Weights | None = None
    num_probe_images: int | None = None
    num_calibrated: int | None = None
    first_classes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    def length(self, max_epochs: int) -> int:
        """Epochs of the run: as planned to end in time, else as configured."""
        return self.parts[-1].max_epochs if self.parts else max_epochs


def write_decisions(path: Path, decisions: Decisions) -> None:
    """Write decisions.json."""
    write_json(path, dataclasses.asdict(decisions))


def read_decisions(path: Path) -> Decisions:
    """Read decisions.json; a run from before there was such a file decided nothing.

    Raises:
        UserError: when the file is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        weights = found.get("weights")
        return Decisions(
            **{
                **found,
                "phase": Phase(**found["phase"]),
                "weights": None if weights is None else Weights(**weights),
                "first_classes": tuple(found.get("first_classes", ())),
                "parts": tuple(Part(**part) for part in found.get("parts", ())),
            }
        )
    except FileNotFoundError:
        return Decisions()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error})",
            "the file that the run wrote",
            "restore it from a copy of the run folder, or delete it to have the run decide anew",
        ) from error
