"""The network of a run: built, given its start, and tried on the sizes that it will see.

Torch and what needs it are imported when it is built, so that help and configuration errors come at once.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.training.transfer import refuse_transfer
from classifier_training.workflows.heads import PROBE, RETRAIN_HEAD
from classifier_training.workflows.start import inherit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel
    from classifier_training.data.source import DataSource
    from classifier_training.data.transforms import Transforms
    from classifier_training.training.settings import TrainerSettings
    from classifier_training.training.transfer import Transfer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A network that fits its pictures.

    Args:
        built: the network and its name.
        image_size: side of the pictures in pixels.
        first_size: of those of the first epoch, the smallest.
        batch_size: as configured, or the usual one where it is still to be found.
        min_batch_size: fewest images that it can be trained on at once.
    """

    built: BuiltModel
    image_size: int
    first_size: int
    batch_size: int
    min_batch_size: int


def build_network(
    model: Callable[..., Any],
    class_names: Sequence[str],
    *,
    data: DataSource,
    transforms: Transforms,
    trainer: TrainerSettings,
    transfer: Transfer,
    retrains_head: bool,
    origin: RunDir | None,
    has_checkpoint: bool,
    seed: int,
) -> Network:
    """Build the network and refuse what it cannot do, before a run folder is made.

    Args:
        model: builds it for a number of classes.
        class_names: [K].
        data: its sizes of pictures and batches.
        transforms: with the size that training begins with.
        trainer: length, and whether activations are computed again.
        transfer: which layers learn, and when.
        retrains_head: whether the last layer is fitted again at the end.
        origin: the run whose weights it starts from, if any.
        has_checkpoint: whether a checkpoint will bring trained weights.
        seed: of its random weights.

    Raises:
        UserError: when a size, the transfer or the weights do not suit it.
    """
    import torch

    from classifier_training.models.checkpointing import checkpointed_modules
    from classifier_training.models.forward import fit_input, fit_smaller
    from classifier_training.training.batch_size import DEFAULT_BATCH_SIZE
    from classifier_training.training.features import linear_head
    from classifier_training.training.progressive import check_progressive

    torch.manual_seed(seed)
    built: BuiltModel = model(len(class_names))
    if transfer.probes or retrains_head:
        linear_head(built.network, setting=PROBE if transfer.probes else RETRAIN_HEAD)
    if trainer.gradient_checkpointing:
        checkpointed_modules(built.network)
    image_size = data.image_size or built.input_spec.size
    batch_size = DEFAULT_BATCH_SIZE if data.batch_size == "auto" else data.batch_size
    min_batch_size = fit_input(built, image_size=image_size, batch_size=batch_size)
    first_size = check_progressive(trainer.max_epochs, image_size=image_size, start_scale=transforms.start_scale)
    if first_size != image_size:
        min_batch_size = max(min_batch_size, fit_smaller(built, image_size=first_size, batch_size=batch_size))
    # After the sizes: position embeddings have the shape that they were trained in.
    if origin:
        built = inherit(built, model, origin, class_names)
    log.info("model: %s, %s", built.architecture, "trained weights" if built.pretrained else "random weights")
    refuse_transfer(
        transfer,
        dataclasses.replace(built, pretrained=built.pretrained or has_checkpoint),
        max_epochs=trainer.max_epochs,
    )
    return Network(built, image_size, first_size, batch_size, min_batch_size)
