"""The job of training: the run folder made, the images ready to be loaded, and all that is known in one object."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.callbacks.observer import RunContext
from classifier_training.core.errors import UserError
from classifier_training.core.files import Room, remove, size_bytes
from classifier_training.core.metrics import goal_of
from classifier_training.core.processes import process_rank, work_in
from classifier_training.core.run_dir import RunDir, write_json, write_text
from classifier_training.core.runtime import versions
from classifier_training.core.types import TEST, VAL
from classifier_training.data.corrections import append_corrections
from classifier_training.data.splitting.manifest import write_manifest
from classifier_training.data.store.plan import open_stores
from classifier_training.workflows.training.start import config_text, write_start
from classifier_training.workflows.training.torchrun import tell_launcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from classifier_training.callbacks.observer import Observer
    from classifier_training.data.corrections import LabelCorrection
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.data.index import SampleIndex, SplitData
    from classifier_training.training.decisions import Decisions
    from classifier_training.training.device import Device
    from classifier_training.training.distillation_loss import DistillationLoss
    from classifier_training.training.imbalance import Correction
    from classifier_training.training.settings import TrainerSettings
    from classifier_training.workflows.training.inputs import Inputs
    from classifier_training.workflows.training.network import Network, Prepared
    from classifier_training.workflows.training.settings import TrainSettings
    from classifier_training.workflows.training.start import Begun, Start
    from classifier_training.workflows.training.team import Team


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that training needs.

    Args:
        run: what observers know of the run.
        settings: of the run; what was left to auto is replaced by what was chosen, step by step.
        observers: that see the run besides those of its configuration.
        network: the network and what it can take.
        datamodule: loads the images.
        correction: of unbalanced classes.
        device: where to compute, and how precisely.
        start: where the run begins.
        team: the processes that train together, if there are several.
        distillation: what teachers add to the loss, if there are any.
        estimated_seconds: of all epochs, by timed steps; 0 where none were timed.
        is_compiled: whether the network is compiled.
    """

    run: RunContext
    settings: TrainSettings
    observers: Sequence[Observer]
    network: Network
    datamodule: ImageFolderDataModule
    correction: Correction
    device: Device
    start: Start
    team: Team | None = None
    distillation: DistillationLoss | None = None
    estimated_seconds: float = 0.0
    is_compiled: bool = False

    @property
    def trainer(self) -> TrainerSettings:
        """Length, precision and gradients of the run."""
        return self.settings.trainer

    @property
    def decisions(self) -> Decisions:
        """What the run has decided so far."""
        return self.start.decisions

    def with_settings(self, **changed: Any) -> TrainingJob:
        """Return the job with other settings."""
        return replace(self, settings=replace(self.settings, **changed))

    def with_decisions(self, **changed: Any) -> TrainingJob:
        """Return the job with more decided."""
        return replace(self, start=replace(self.start, decisions=replace(self.decisions, **changed)))


def open_job(begun: Begun, inputs: Inputs, prepared: Prepared) -> TrainingJob:
    """Make the run folder, or take the resumed one, and open the images.

    Args:
        begun: the run; its stack closes the images.
        inputs: its data.
        prepared: its network, and where to compute.

    Raises:
        UserError: when the folder cannot be made, or there is no room for the run.
    """
    settings, splits, resumed = prepared.settings, inputs.loaded.splits, begun.resumed
    run_dir = resumed or RunDir.create(Path(settings.output), category=settings.category, name=settings.name)
    if resumed is None:
        begun.stack.enter_context(work_in(run_dir))
        begun.run_log.open(run_dir.log)
        # Before a store is filled: a run that is killed then can be resumed.
        record_inputs(run_dir, begun.config, inputs.loaded.index, inputs.loaded.corrections, inputs.loaded.replayed)
    room = None
    if begun.leads:
        tell_launcher(run_dir)
        room = room_of(prepared.network.built.network, splits, run_dir, is_new=resumed is None)
    refused = nullcontext() if resumed else removed_when_refused(run_dir)
    with refused, begun.team.in_turn() if begun.team else nullcontext():
        datamodule = begun.stack.enter_context(build_datamodule(inputs, prepared, room))
    if resumed and begun.leads:
        write_start(resumed, prepared.start)
        resumed.result.unlink(missing_ok=True)
        begun.run_log.open(resumed.log)
        record_inputs(resumed, begun.config, inputs.loaded.index, inputs.loaded.corrections, inputs.loaded.replayed)
    run = RunContext(
        run_dir=run_dir,
        config=begun.config,
        class_names=splits.class_names,
        tables=splits.tables,
        statistics={**inputs.loaded.statistics, "checks": inputs.checks},
        image_sizes=inputs.loaded.image_sizes,
        draws=lambda epoch: datamodule.sampler.draws(
            epoch, splits.num_classes, num_images=sum(datamodule.train_batch_sizes)
        ),
        model=prepared.network.built,
        preprocessing=datamodule.preprocessing,
        monitor=settings.monitor,
        monitor_mode=goal_of(settings.monitor),
        max_epochs=settings.trainer.max_epochs,
        num_trainable=prepared.network.num_trainable,
        drawer=begun.drawer,
        clock=begun.clock,
    )
    return TrainingJob(
        run=run, settings=settings, observers=begun.observers, network=prepared.network, datamodule=datamodule,
        correction=inputs.correction, device=prepared.device, start=prepared.start, team=begun.team,
    )  # fmt: skip


@contextmanager
def build_datamodule(inputs: Inputs, prepared: Prepared, room: Room | None) -> Iterator[ImageFolderDataModule]:
    """Give the data module of a run; its stores are closed when the block is left.

    Args:
        inputs: classes and tables.
        prepared: how large images and batches are, and where they are used.
        room: what the run will write; None where another process has looked.

    Raises:
        UserError: when a store was asked for, and there is no room, or none for the run.
    """
    from classifier_training.data.datamodule import ImageFolderDataModule, choose_num_workers

    network, device, settings = prepared.network, prepared.device, prepared.settings
    data, transforms = settings.data, settings.transforms
    preprocessing = transforms.evaluation(network.image_size, network.built.input_spec)
    with open_stores(
        inputs.loaded.splits,
        preprocessing=preprocessing,
        crop_scale=transforms.crop_scale,
        store=data.store,
        store_gb=data.store_gb,
        rank=process_rank(),
        room=room,
    ) as stores:
        yield ImageFolderDataModule(
            inputs.loaded.splits,
            preprocessing=preprocessing,
            augmentation=transforms,
            class_weights=inputs.correction.sampler_weights,
            batch_size=network.batch_size,
            num_workers=choose_num_workers(
                data.num_workers, accelerator=device.accelerator, num_ranks=process_rank().num_local
            ),
            on_error=data.on_error,
            seed=settings.seed,
            stores=stores,
            on_device=device.accelerator != "cpu",
            min_batch_size=network.min_batch_size * device.num_devices,
            replay=inputs.replay,
        )


def record_inputs(
    run_dir: RunDir,
    config: Mapping[str, Any],
    index: SampleIndex,
    corrections: Sequence[LabelCorrection] = (),
    replayed: NDArray[np.bool_] | None = None,
) -> None:
    """Write config.yaml, versions.json and, unless a resumed run has them, splits.csv and corrections.csv.

    Args:
        run_dir: where to.
        config: the run's configuration as plain values.
        index: every sample with its split, as corrected.
        corrections: of the data; without any there is no such file.
        replayed: of a run that trains again, which samples the run before was trained on, bool [N].
    """
    write_text(run_dir.config, config_text(config))
    write_json(run_dir.versions, versions())
    if not run_dir.splits.exists():
        if corrections and not run_dir.corrections.exists():
            append_corrections(run_dir.corrections, corrections)
        write_manifest(run_dir.splits, index, replayed=replayed)


@contextmanager
def removed_when_refused(run_dir: RunDir) -> Iterator[None]:
    """Remove the folder of a new run that the block refuses.

    Raises:
        UserError: then.
    """
    try:
        yield
    except UserError:
        remove(run_dir.path)
        raise


def room_of(network: nn.Module, splits: SplitData, run_dir: RunDir, *, is_new: bool) -> Room:
    """Return what a run is going to write.

    Args:
        network: of the run.
        splits: of its data; the held-out images are listed with the probability of each class, and mistakes twice.
        run_dir: of the run.
        is_new: whether nothing in its folder will be written over.
    """
    held_out = splits.tables.get(TEST, splits.tables[VAL])
    row_bytes = PATH_BYTES + PROBABILITY_BYTES * len(splits.class_names)
    return Room(
        output=run_dir.path.parent if is_new else run_dir.path,
        weights_bytes=4.0 * sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers())),
        table_bytes=2.0 * row_bytes * len(held_out),
        present_bytes=0.0 if is_new else size_bytes(run_dir.path),
    )


PATH_BYTES, PROBABILITY_BYTES = 150, 9
"""Of a row of predictions.csv."""
