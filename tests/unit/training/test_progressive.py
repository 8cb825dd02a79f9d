from __future__ import annotations

import pytest
import torch

from classifier_training.core.errors import UserError
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.training.progressive import check_progressive, epoch_size, shrink
from classifier_training.training.view import TrainingView


def sizes(max_epochs: int, *, image_size: int = 224, start_scale: float = 0.5) -> list[int]:
    return [
        epoch_size(epoch, max_epochs, image_size=image_size, start_scale=start_scale) for epoch in range(max_epochs)
    ]


def test_pictures_grow_in_steps_of_32_and_end_at_their_size() -> None:
    found = sizes(12)
    assert found[0] == 128 or found[0] == 96  # half of 224 is as near to the one as to the other
    assert found == sorted(found)
    assert all(size % 32 == 0 for size in found)
    assert found[9:] == [224, 224, 224]


@pytest.mark.parametrize("max_epochs", [1, 2, 3])
def test_the_last_epoch_always_has_the_full_size(max_epochs: int) -> None:
    assert sizes(max_epochs)[-1] == 224


def test_a_size_that_is_no_multiple_of_32_is_reached_nevertheless() -> None:
    found = sizes(8, image_size=100)
    assert found[0] in (32, 64)
    assert found[-1] == 100
    assert max(found) == 100


def test_the_full_size_throughout_is_the_default() -> None:
    assert sizes(4, start_scale=Transforms().start_scale) == [224] * 4


def test_a_start_that_changes_nothing_is_refused() -> None:
    assert check_progressive(4, image_size=64, start_scale=0.5) == 32
    for image_size, max_epochs in ((32, 4), (224, 1)):
        with pytest.raises(UserError, match=r"transforms\.start_scale=0\.5 has no effect"):
            check_progressive(max_epochs, image_size=image_size, start_scale=0.5)


def test_a_batch_is_shrunk_before_it_is_mixed_and_left_alone_at_its_size() -> None:
    batch = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    targets = torch.tensor([0, 1, 1, 0])
    view = TrainingView(
        transforms=Transforms(start_scale=0.5, mixup=1.0), num_classes=2, image_size=64, max_epochs=4, seed=0
    )
    images, shares = view(batch, targets, epoch=0, step=0)
    assert images.shape == (4, 3, 32, 32)
    assert shares.shape == (4, 2)
    assert shares.sum(1).tolist() == pytest.approx([1] * 4)
    assert view(batch, targets, epoch=3, step=0)[0].shape == (4, 3, 64, 64)
    assert shrink(batch, 64) is batch
    expected = torch.nn.functional.interpolate(batch.float(), (32, 32), mode="bilinear", antialias=True)
    assert (shrink(batch, 32).float() - expected).abs().max() <= 1.01
