"""The pictures of a run, as its network wants to see them: out of stores where there are some.

Torch and Lightning are imported when they are opened, so that help and configuration errors come at once.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier_training.core.ranks import own_share
from classifier_training.data.store.plan import open_stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.core.room import Room
    from classifier_training.data.augmenting.transforms import Transforms
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.data.formats.source import DataSource
    from classifier_training.data.index import SplitData
    from classifier_training.training.device import Device
    from classifier_training.workflows.training.network import Network


@contextmanager
def open_pictures(
    splits: SplitData,
    network: Network,
    *,
    data: DataSource,
    transforms: Transforms,
    class_weights: NDArray[np.float64] | None,
    device: Device,
    seed: int,
    room: Room | None,
) -> Iterator[ImageFolderDataModule]:
    """Give the data module of a run; its stores are let go of when the block is left.

    Args:
        splits: classes and tables.
        network: says how large pictures and batches are.
        data: how they are read and stored.
        transforms: what becomes of them.
        class_weights: how often one image of each class is drawn [K]; None takes every image once an epoch.
        device: where they are used.
        seed: of the run.
        room: what the run will write; None where another process has looked.

    Raises:
        UserError: when a store was asked for, and there is no room, or none for the run.
    """
    from classifier_training.data.datamodule import ImageFolderDataModule, choose_num_workers

    preprocessing = transforms.evaluation(network.image_size, network.built.input_spec)
    with open_stores(
        splits,
        preprocessing=preprocessing,
        crop_scale=transforms.crop_scale,
        store=data.store,
        store_gb=data.store_gb,
        share=own_share(device.num_devices),
        room=room,
    ) as stores:
        yield ImageFolderDataModule(
            splits,
            preprocessing=preprocessing,
            augmentation=transforms,
            class_weights=class_weights,
            batch_size=network.batch_size,
            num_workers=choose_num_workers(
                data.num_workers, accelerator=device.accelerator, num_ranks=device.num_devices
            ),
            on_error=data.on_error,
            seed=seed,
            stores=stores,
            on_device=device.accelerator != "cpu",
            min_batch_size=network.min_batch_size * device.num_devices,
        )
