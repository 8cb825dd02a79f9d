from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier_training.core.errors import UserError
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.types import Batch, SampleKey
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.datamodule import ImageFolderDataModule, choose_num_workers
from classifier_training.data.dataset import ImageDataset
from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.index import SplitData, tabulate
from classifier_training.data.loader import prefetch
from classifier_training.data.pixel_format import PixelFormat
from classifier_training.data.samplers import inverse_frequency_weights
from classifier_training.data.store.folder import TableStore
from classifier_training.data.store.plan import open_stores

PREPROCESSING = Preprocessing(size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def data(split_folder: Path) -> SplitData:
    return tabulate(ImageFolder(root=str(split_folder)).read())


def module_of(
    data: SplitData,
    *,
    num_workers: int = 0,
    batch_size: int = 4,
    weighted: bool = True,
    stores: Mapping[str, TableStore] | None = None,
) -> ImageFolderDataModule:
    weights = inverse_frequency_weights(data.counts("train"), data.class_names) if weighted else None
    return ImageFolderDataModule(
        data,
        preprocessing=PREPROCESSING,
        augmentation=Transforms(hflip=0.5, rotation_degrees=10),
        class_weights=weights,
        batch_size=batch_size,
        num_workers=num_workers,
        on_error="raise",
        seed=5,
        stores=stores,
    )


def epoch_hash(module: ImageFolderDataModule, epoch: int) -> str:
    loader = module.train_dataloader()
    module.sampler.set_epoch(epoch)
    digest = hashlib.sha256()
    for batch in loader:
        digest.update(batch.images.contiguous().numpy().tobytes() + batch.indices.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_number_of_workers_changes_no_pixel(data: SplitData, num_workers: int) -> None:
    assert epoch_hash(module_of(data, num_workers=num_workers), 3) == epoch_hash(module_of(data), 3)


def test_epochs_differ_and_repeat(data: SplitData) -> None:
    module = module_of(data)
    assert epoch_hash(module, 0) != epoch_hash(module, 1)
    assert epoch_hash(module, 0) == epoch_hash(module_of(data), 0)


def test_evaluation_sees_every_image_once_in_order_and_as_the_predictor_would(data: SplitData) -> None:
    from PIL import Image

    batches = list(module_of(data).val_dataloader())
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(9))
    first = batches[0].images[0].permute(1, 2, 0).numpy()
    assert (first == PREPROCESSING.pixels(Image.open(data.tables["val"].paths[0]))).all()


def test_training_pictures_are_shown_whole_too_with_a_store_for_random_crops_or_without(data: SplitData) -> None:
    from PIL import Image

    exact = [PREPROCESSING.pixels(Image.open(path)) for path in data.tables["train"].paths]
    found = torch.cat([batch.images for batch in module_of(data).evaluation_loader("train")])
    assert (found.permute(0, 2, 3, 1).numpy() == np.stack(exact)).all()
    with open_stores(data, preprocessing=PREPROCESSING, crop_scale=0.7, store="on", store_gb=None) as stores:
        module = module_of(data, stores=stores)
        for _ in range(2):
            batches = list(module.evaluation_loader("train"))
            assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(18))
            found = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1)
            assert np.abs(found.numpy().astype(int) - np.stack(exact)).mean() < 3
        # What random crops need was kept on the way, whole.
        assert stores["train"].has(np.arange(18)).all()
        assert next(iter(module.train_dataloader())).images.shape == (4, 3, 16, 16)


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4, 4, 3, 3]), (17, [9, 9]), (18, [18]), (100, [18])])
def test_every_image_is_trained_on_in_batches_of_nearly_the_same_size(
    data: SplitData, batch_size: int, sizes: list[int]
) -> None:
    module = module_of(data, batch_size=batch_size, weighted=False)
    batches = list(module.train_dataloader())
    assert [len(batch.targets) for batch in batches] == sizes == module.train_batch_sizes
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(18))


def test_an_epoch_that_was_left_is_ended_in_the_same_batches_even_those_of_an_earlier_rule(data: SplitData) -> None:
    module = module_of(data)
    loader = module.train_dataloader()
    whole = [batch.indices.tolist() for batch in loader]
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    left = loader.state_dict()
    assert left == {"num_batches": 3, "num_images": 12, "batch_size": 4}
    again = module.train_dataloader()
    again.load_state_dict(left)
    assert [batch.indices.tolist() for batch in again] == whole[3:]
    # Two whole batches were all of such an epoch, and the rest was left out.
    module = module_of(data, batch_size=7)
    order = module.sampler.order(0).tolist()
    again = module.train_dataloader()
    again.load_state_dict({"num_batches": 1, "batch_size": 7})
    assert [batch.indices.tolist() for batch in again] == [order[7:13], order[13:]]
    with pytest.raises(UserError, match="stopped after 3 batches of 4 images, and would resume with batches of 7"):
        again.load_state_dict(left)


def test_an_unreadable_image_is_named_or_skipped_and_said_once(
    data: SplitData, caplog: pytest.LogCaptureFixture
) -> None:
    table = data.tables["val"]
    Path(table.paths[1]).write_bytes(b"no image")
    keys = [SampleKey(0, row, row) for row in range(4)]

    def dataset(on_error: str) -> ImageDataset:
        pixel_format = PixelFormat(preprocessing=PREPROCESSING)
        return ImageDataset(table, pixel_format=pixel_format, augmentation=None, seed=0, on_error=on_error)  # type: ignore[arg-type]

    with pytest.raises(UnreadableImageError, match=r"01\.png"):
        dataset("raise").__getitems__(keys)
    caplog.set_level(logging.WARNING)
    skipping = dataset("skip")
    for _ in range(2):
        assert skipping.__getitems__(keys).indices.tolist() == [0, 2, 3]
    assert caplog.text.count("01.png") == 1
    assert skipping.__getitems__([keys[1]]).images.shape == (0, 3, 16, 16)


def test_a_skipped_image_is_said_once_though_the_split_is_read_by_several_loaders(
    data: SplitData, caplog: pytest.LogCaptureFixture
) -> None:
    Path(data.tables["val"].paths[1]).write_bytes(b"no image")
    module = module_of(data)
    module.on_error = "skip"
    for _ in range(2):
        assert sum(len(batch.targets) for batch in module.val_dataloader()) == len(data.tables["val"]) - 1
    assert caplog.text.count("01.png") == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_comes_whole_out_of_a_loader_process(data: SplitData, num_workers: int) -> None:
    Path(data.tables["val"].paths[1]).write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"01\.png") as caught:
        list(module_of(data, num_workers=num_workers).val_dataloader())
    assert len(str(caught.value).splitlines()) == 3


def test_workers_follow_the_device() -> None:
    assert choose_num_workers(3, accelerator="cpu") == 3
    assert choose_num_workers("auto", accelerator="cpu") == 0
    assert choose_num_workers("auto", accelerator="mps") == 0
    assert 1 <= choose_num_workers("auto", accelerator="cuda") <= 8


def test_a_device_that_augments_sees_the_same_batch(data: SplitData) -> None:
    def first_batch(*, on_device: bool) -> Batch:
        module = module_of(data)
        module._on_device = on_device
        batch = next(iter(module.train_dataloader()))
        assert (batch.draws is not None) == on_device
        return module.on_after_batch_transfer(batch, 0)

    here, there = first_batch(on_device=False), first_batch(on_device=True)
    assert there.draws is None
    assert (here.images == there.images).all()


def test_an_error_of_the_thread_that_loads_ahead_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    found = prefetch(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="the second"):
        next(found)
