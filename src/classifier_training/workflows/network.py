"""The network of a run: built, given its start, and tried on the sizes that it will see.

Torch and what needs it are imported when it is built, so that help and configuration errors come at once.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.core.register import describe
from classifier_training.models.head import start_small
from classifier_training.models.stages import split_stages
from classifier_training.training.transfer import AutoTransfer, choose_transfer, refuse_transfer
from classifier_training.workflows.heads import RETRAIN_HEAD
from classifier_training.workflows.start import inherit, only_start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel, Weights
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
        num_trainable: parameters that learn in the first epoch.
        transfer: which layers learn, and when; auto is resolved.
    """

    built: BuiltModel
    image_size: int
    first_size: int
    batch_size: int
    min_batch_size: int
    num_trainable: int
    transfer: Transfer


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
    started_from: Weights | None,
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
        has_checkpoint: whether a checkpoint brings all weights; then no others are read or fetched.
        started_from: trained weights that the run of that checkpoint began with, if it says so.
        seed: of its random weights.

    Raises:
        UserError: when a size, the transfer or the weights do not suit it.
    """
    import torch

    from classifier_training.models.checkpointing import checkpointed_modules
    from classifier_training.models.forward import fit_input, fit_smaller
    from classifier_training.models.weights import without_weights
    from classifier_training.training.batch_size import DEFAULT_BATCH_SIZE
    from classifier_training.training.features import ends_linear, linear_head
    from classifier_training.training.progressive import check_progressive

    if has_checkpoint:
        model = without_weights(model)
    elif origin:
        model = only_start(model, origin)
    torch.manual_seed(seed)
    built: BuiltModel = model(len(class_names))
    if built.weights is None or not built.weights.has_head:
        start_small(built.network, len(class_names))
    if retrains_head:
        linear_head(built.network, setting=RETRAIN_HEAD)
    if transfer.probes:
        linear_head(built.network, setting=f"transfer={describe(transfer)['type']}")
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
    if has_checkpoint:
        built = dataclasses.replace(built, weights=started_from)
    is_trained = built.pretrained or (has_checkpoint and not isinstance(transfer, AutoTransfer))
    refuse_transfer(transfer, built.architecture, is_trained=is_trained, max_epochs=trainer.max_epochs)
    if isinstance(transfer, AutoTransfer):
        transfer = choose_transfer(ends_linear=is_trained and ends_linear(built.network, image_size=image_size))
    num_trainable = _num_trainable(built.network, transfer)
    if num_trainable:
        log.info("weights: %s", _weights_words(built, len(class_names), has_checkpoint=has_checkpoint))
    return Network(built, image_size, first_size, batch_size, min_batch_size, num_trainable, transfer)


def _weights_words(built: BuiltModel, num_classes: int, *, has_checkpoint: bool) -> str:
    """Say what a network starts from."""
    if has_checkpoint:
        return f"those of the checkpoint; the run began with {built.weights}" if built.weights else "the checkpoint's"
    if built.weights is None:
        return "random"
    return str(built.weights) + (
        "" if built.weights.has_head else f"; the last layer is new, for {num_classes} classes"
    )


def _num_trainable(network: nn.Module, transfer: Transfer) -> int:
    """Count the parameters that learn in the first epoch."""
    stages = split_stages(network) if transfer.freezes else ()
    frozen = {name for stage in stages[: transfer.num_frozen(0, len(stages))] for name in stage.parameters}
    learning = [item for name, item in network.named_parameters() if name not in frozen and item.requires_grad]
    return sum(parameter.numel() for parameter in learning)
