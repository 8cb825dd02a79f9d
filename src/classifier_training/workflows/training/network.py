"""The network of a run: built, given its start, and tried on the sizes that it will see.

Torch and what needs it are imported when it is built, so that help and configuration errors come at once.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.conf.resume import saved_values
from classifier_training.core.errors import UserError
from classifier_training.core.register import TYPE_KEY, describe
from classifier_training.core.runtime import DETAIL, keep_large_blocks, setting
from classifier_training.core.types import BuiltModel, Weights
from classifier_training.data.image_settings import ChosenSize, choose_image_size
from classifier_training.models.head import start_small
from classifier_training.models.prune import is_pruned, prune_network, unpruned_name, with_widths
from classifier_training.models.stages import split_stages
from classifier_training.training.transfer import AutoTransfer, choose_transfer, refuse_transfer
from classifier_training.workflows.training.heads import RETRAIN_HEAD
from classifier_training.workflows.training.start import find_start
from classifier_training.workflows.training.teaching import uncompiled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.augmenting.transforms import Transforms
    from classifier_training.data.formats.source import DataSource
    from classifier_training.models.prune import Pruning
    from classifier_training.training.device import Device
    from classifier_training.training.settings import ModelBuilder
    from classifier_training.training.transfer import Transfer
    from classifier_training.workflows.training.inputs import Inputs
    from classifier_training.workflows.training.settings import TrainSettings
    from classifier_training.workflows.training.start import Begun, Start

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A network that fits its images.

    Args:
        built: the network and its name.
        image_size: side of the images in pixels.
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


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run trains, and where; nothing is written yet.

    Args:
        settings: of the run, with the length that it has.
        network: built, and tried on the sizes that it will see.
        device: where to compute, and how precisely.
        start: where the run begins.
    """

    settings: TrainSettings
    network: Network
    device: Device
    start: Start


def prepare(begun: Begun, inputs: Inputs) -> Prepared:
    """Choose the device, find where the run starts, and build the network.

    Raises:
        UserError: when the run cannot be resumed so, or the device or the network cannot do what is asked for.
    """
    from classifier_training.training.device import choose_device, sound_precision

    settings, trainer = begun.settings, begun.settings.trainer
    device = choose_device(trainer.accelerator, trainer.precision, trainer.num_devices)
    log.info("device: %s", device.words, extra=DETAIL)
    if device.accelerator == "cpu":
        keep_large_blocks()
    if settings.distillation:
        trainer = uncompiled(settings.distillation, trainer)
    start = find_start(begun, trainer)
    trainer = dataclasses.replace(trainer, max_epochs=start.decisions.length(trainer.max_epochs))
    settings = dataclasses.replace(settings, trainer=trainer)
    names, sizes = inputs.loaded.splits.class_names, inputs.loaded.training_sizes
    network = build_network(settings, names, sizes, begun.origin, start, num_images=inputs.num_epoch_images)
    decided_size = network.image_size if settings.data.named_size is None else None
    decisions = dataclasses.replace(
        start.decisions, image_size=decided_size, weights=network.built.weights, first_classes=inputs.first_classes
    )
    device = sound_precision(device, network.built.network, image_size=network.first_size, wanted=trainer.precision)
    return Prepared(
        settings=dataclasses.replace(settings, transfer=network.transfer),
        network=network,
        device=device,
        start=dataclasses.replace(start, decisions=decisions),
    )


def build_network(
    settings: TrainSettings,
    class_names: Sequence[str],
    training_sizes: NDArray[np.integer[Any]],
    origin: RunDir | None,
    start: Start,
    *,
    num_images: int | None = None,
) -> Network:
    """Build the network and refuse what it cannot do, before a run folder is made.

    Args:
        settings: of the run.
        class_names: [K].
        training_sizes: width and height of each image of the training split [N, 2].
        origin: the run whose weights it starts from, if any.
        start: where the run begins; its checkpoint, if there is one, brings all weights, and no others are read or
            fetched.
        num_images: of an epoch; those of the training split when left out.

    Raises:
        UserError: when a size, the transfer or the weights do not suit it.
    """
    import torch

    from classifier_training.models.meta import fit_input, fit_smaller
    from classifier_training.models.stages import checkpointed_modules
    from classifier_training.models.weights import trained_state, without_weights
    from classifier_training.training.batch_size import DEFAULT_BATCH_SIZE, suited_batch_size
    from classifier_training.training.batch_transforms import check_progressive
    from classifier_training.training.linear_head import ends_linear, linear_head

    model, data, transforms = settings.model, settings.data, settings.transforms
    transfer, trainer = settings.transfer, settings.trainer
    has_checkpoint = start.checkpoint is not None
    if has_checkpoint:
        model = without_weights(model)
    elif origin:
        model = only_start(model, origin)
    torch.manual_seed(settings.seed)
    built = model(len(class_names))
    if not isinstance(built, BuiltModel):
        raise TypeError(f"model={describe(model)[TYPE_KEY]} returned a {type(built).__name__}, and not a BuiltModel")
    if built.weights is None or not built.weights.has_head:
        start_small(built.network, len(class_names))
    if settings.retrain_head:
        linear_head(built.network, setting=RETRAIN_HEAD)
    if transfer.probes:
        linear_head(built.network, setting=f"transfer={describe(transfer)['type']}")
    if trainer.gradient_checkpointing:
        checkpointed_modules(built.network)
    image_size = data.named_size
    if image_size is None:
        chosen = _known_size(built, start, origin) or suit_images(
            data, transforms, built, training_sizes, max_epochs=trainer.max_epochs, is_trained=built.pretrained
        )
        log.info("image size: %s", chosen)
        image_size = chosen.side
    batch_size = data.batch_size if isinstance(data.batch_size, int) else DEFAULT_BATCH_SIZE
    min_batch_size = fit_input(built, image_size=image_size, batch_size=batch_size)
    first_size = check_progressive(trainer.max_epochs, image_size=image_size, start_scale=transforms.start_scale)
    if first_size != image_size:
        min_batch_size = max(min_batch_size, fit_smaller(built, image_size=first_size, batch_size=batch_size))
    # After the sizes: position embeddings have the shape that they were trained in.
    if origin:
        built = inherit(built, model, origin, class_names)
    if start.checkpoint is not None:
        if settings.pruning or settings.init_from:
            built = with_widths(built, trained_state(start.checkpoint))
        built = dataclasses.replace(built, weights=start.decisions.weights)
    elif settings.pruning:
        built = prune(built, settings.pruning, image_size)
    is_trained = built.pretrained or (has_checkpoint and not isinstance(transfer, AutoTransfer))
    refuse_transfer(transfer, built.architecture, is_trained=is_trained, max_epochs=trainer.max_epochs)
    if isinstance(transfer, AutoTransfer):
        # A pruned network has to learn in all layers, and new statistics.
        is_whole = is_trained and not settings.pruning
        transfer = choose_transfer(ends_linear=is_whole and ends_linear(built.network, image_size=image_size))
    if data.batch_size is None and (transfer.probes or settings.pruning):
        batch_size = suited_batch_size(num_images or len(training_sizes))
    num_trainable = _num_trainable(built.network, transfer)
    if num_trainable:
        log.info("weights: %s", _weights_words(built, len(class_names), has_checkpoint=has_checkpoint))
    return Network(built, image_size, first_size, batch_size, min_batch_size, num_trainable, transfer)


def suit_images(
    data: DataSource,
    transforms: Transforms,
    built: BuiltModel,
    training_sizes: NDArray[np.integer[Any]],
    *,
    max_epochs: int,
    is_trained: bool,
) -> ChosenSize:
    """Choose the side of a network's input by the images that it is trained on, as data.image_size=auto does.

    Networks of one size keep it, and so do models that are fitted at once, whose number of features depends on it.

    Args:
        data: with the images in a batch.
        transforms: with the size that training begins with.
        built: the network.
        training_sizes: width and height of each image of the training split [N, 2].
        max_epochs: length of the run.
        is_trained: whether it starts from trained weights.
    """
    from classifier_training.models.meta import can_train
    from classifier_training.models.shallow_classifiers import ShallowNetwork
    from classifier_training.training.batch_transforms import epoch_size

    num_images = 1 if data.batch_size == 1 else 2
    start_scale = transforms.start_scale

    def takes(side: int) -> bool:
        if isinstance(built.network, ShallowNetwork):
            return False
        first = epoch_size(0, max_epochs, image_size=side, start_scale=start_scale)
        if start_scale < 1 and first == side:
            return False
        return all(can_train(built.network, image_size=size, num_images=num_images) for size in {side, first})

    return choose_image_size(built.input_spec.size, training_sizes, is_trained=is_trained, takes=takes)


def _known_size(built: BuiltModel, start: Start, origin: RunDir | None) -> ChosenSize | None:
    """Return the side that a run, or the one whose weights it starts from, was trained at; None where there is none."""
    from classifier_training.workflows.evaluating.run_model import describe_trained

    if start.decisions.image_size is not None:
        return ChosenSize(start.decisions.image_size, "as the run began")
    if start.checkpoint is not None:
        # Runs from before this was decided had the network's own size.
        return ChosenSize(built.input_spec.size, "the network's own, as the run began")
    if origin is None:
        return None
    info, _ = describe_trained(origin)
    if unpruned_name(info.architecture) != built.architecture:
        # That is refused when its weights are to be loaded.
        return None
    return ChosenSize(info.preprocessing.size[0], f"that of {origin.path}")


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


def only_start(model: ModelBuilder, origin: RunDir) -> ModelBuilder:
    """Return what builds the network from random weights, for those of another run to take their place.

    Raises:
        UserError: when weights are asked for twice.
    """
    from classifier_training.models.weights import without_weights

    found = describe(model)
    asked = found if isinstance(found, dict) else {}
    if asked.get("pretrained") is True or asked.get("weights"):
        raise UserError(
            f"init_from={origin.path}, and weights asked for by model.pretrained or model.weights: two starts",
            "one of them",
            "leave out model.pretrained and model.weights",
        )
    return without_weights(model)


def inherit(built: BuiltModel, build: ModelBuilder, origin: RunDir, class_names: Sequence[str]) -> BuiltModel:
    """Give a new network the weights that a run keeps; see `inherit_weights` for the head.

    Raises:
        UserError: when the run's network is another one.
    """
    from classifier_training.models.head import class_axes, inherit_weights
    from classifier_training.models.weights import trained_state
    from classifier_training.workflows.evaluating.run_model import describe_trained

    info, weights = describe_trained(origin)
    if unpruned_name(info.architecture) != built.architecture:
        raise UserError(
            f"init_from={origin.path}: that run trained {info.architecture}, and this one trains {built.architecture}",
            "the same network",
            f"{_model_words(saved_values(origin.config))}, or leave out init_from",
        )
    state, axes = trained_state(weights), class_axes(lambda number: build(number).network)
    if is_pruned(info.architecture):
        built = with_widths(built, state, class_axes=axes)
    words = inherit_weights(
        built.network,
        state,
        axes=axes,
        own_classes=class_names,
        their_classes=info.class_names,
    )
    log.info("init_from: weights of %s; %s", origin.path, words)
    theirs = Weights.from_dict(info.training_info.get("weights"))
    found = Weights(info.architecture, f"run {origin.path}", theirs.license if theirs else None, has_head=True)
    return dataclasses.replace(built, weights=found)


def prune(built: BuiltModel, pruning: Pruning, image_size: int) -> BuiltModel:
    """Remove channels of a trained network, and say how much of it is left.

    Raises:
        UserError: when its weights are random, or it cannot be pruned so.
    """
    if built.weights is None:
        raise UserError(
            f"pruning=channels: {built.architecture} starts from random weights, which do not say what matters",
            "the weights of a finished run, or trained ones of the network",
            "init_from=RUN, or leave pruning out",
        )
    pruned, plan = prune_network(built, pruning, image_size=image_size)
    log.info("pruning: %s, at %d px", plan, image_size)
    return pruned


def _model_words(config: Mapping[str, Any]) -> str:
    node = config.get("model")
    if not isinstance(node, dict):
        return "choose the model of that run"
    words = [setting("model", node.get("type"))]
    starts = ("type", "pretrained", "weights")
    words += [setting(f"model.{key}", value) for key, value in node.items() if key not in starts and value is not None]
    return " ".join(words)
