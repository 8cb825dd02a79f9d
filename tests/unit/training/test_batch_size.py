from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.training.test_module import Linear, make
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.training import batch_size as subject
from classifier_training.training.batch_size import (
    WORKSPACE,
    batch_candidates,
    find_batch_size,
    largest_that_fits,
    measure_memory,
    steps_fit,
    told_out_of_memory,
)
from classifier_training.training.device import Device
from classifier_training.training.module import ClassifierModule

CPU = Device("cpu", "32-true", channels_last=False, words="CPU")


class Hungry(Linear):
    """Runs out of memory beyond some images, as a GPU does."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(x)


def convolutional() -> ClassifierModule:
    return make(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 3)))


def test_candidates_make_up_the_effective_batch() -> None:
    assert batch_candidates(64, 1) == [64, 32, 16, 8, 4, 2, 1]
    assert batch_candidates(64, 2)[-1] == 2
    assert batch_candidates(192, 1) == [192, 96, 48, 24, 12, 6, 3]


def test_what_does_not_fit_is_halved() -> None:
    module = make(Hungry(20))
    assert largest_that_fits(batch_candidates(64, 1), lambda size: steps_fit(module, CPU, size)) == 16
    with pytest.raises(UserError, match="not even 1 images fit"):
        largest_that_fits([2, 1], lambda size: steps_fit(make(Hungry(0)), CPU, size))


def test_another_error_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        steps_fit(make(nn.Sequential(nn.Flatten(), nn.Linear(7, 3))), CPU, 4)


def test_an_image_adds_what_its_backward_pass_keeps() -> None:
    fixed, per_image = measure_memory(convolutional(), CPU, batch_size=2)
    weights = 16 * 27 + 16 + 3 * 16 * 36 + 3
    # AdamW keeps two numbers a weight and a step counter a tensor.
    assert fixed == 4 * (5 * weights + 4)
    # The input, the convolution's answer, which is also what ReLU keeps, in float32; and small things.
    least = 4 * (3 * 64 + 16 * 36)
    assert least <= per_image / WORKSPACE < 2.5 * least
    assert measure_memory(convolutional(), CPU, batch_size=8)[1] == pytest.approx(per_image, rel=0.02)


def test_on_the_cpu_a_budget_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    module = convolutional()
    fixed, per_image = measure_memory(module, CPU, batch_size=2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    for number, expected in ((100, 64), (40, 32), (2, 2)):
        budget = 2 * (fixed + number * per_image + 10)
        monkeypatch.setattr(subject, "available_memory_bytes", lambda budget=budget: budget)
        assert find_batch_size(module, CPU, effective=64, smallest=1, num_images=500) == expected
    # Three images are all there are, so a batch of 64 is one of three.
    assert find_batch_size(module, CPU, effective=64, smallest=1, num_images=2) == 64
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_running_out_while_training_says_how_to_go_on(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")

    def fail() -> None:
        with told_out_of_memory(run, batch_size=64, accumulate_grad_batches=2):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has more to say.")

    with pytest.raises(UserError, match=r"batches of 64 images \(CUDA out of memory\)") as caught:
        fail()
    assert caught.value.remedy.startswith(
        "train again with data.batch_size=32 trainer.accumulate_grad_batches=4, or with data.batch_size=auto"
    )
    run.last_checkpoint.parent.mkdir(parents=True)
    run.last_checkpoint.touch()
    with pytest.raises(UserError) as caught:
        fail()
    assert caught.value.remedy == (
        f"classifier-training train resume={run.path} data.batch_size=32 trainer.accumulate_grad_batches=4"
    )
    with pytest.raises(ValueError, match="other"), told_out_of_memory(run, batch_size=2, accumulate_grad_batches=1):
        raise ValueError("other")


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [(18, 16), (160, 16), (639, 16), (640, 32), (1279, 32), (1280, 64), (500_000, 64)],
)
def test_few_images_are_fine_tuned_in_smaller_batches(num_images: int, expected: int) -> None:
    assert subject.suited_batch_size(num_images) == expected
