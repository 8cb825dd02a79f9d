from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.core.runtime import CORES_VARIABLE, THREAD_VARIABLES
from classifier_training.models.torchvision_models import ResNet18
from classifier_training.training.device import Device, choose_device, sound_precision, unset_gradients


def test_the_cpu_can_always_be_had() -> None:
    device = choose_device("cpu", 32)
    assert (device.accelerator, device.precision, device.channels_last) == ("cpu", "32-true", True)
    assert "CPU" in device.words


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_that_was_asked_for_is_an_error() -> None:
    with pytest.raises(UserError, match=r"trainer.accelerator=cuda: PyTorch \S+ sees no such device") as error:
        choose_device("cuda", "auto")
    assert "trainer.accelerator=auto" in error.value.remedy


def test_half_precision_does_not_exist_on_the_cpu() -> None:
    with pytest.raises(UserError, match="16-mixed"):
        choose_device("cpu", "16-mixed")


@pytest.mark.parametrize(
    ("capabilities", "others"),
    [({"avx512_bf16": True}, ("bf16-mixed",)), ({"amx_bf16": True}, ("bf16-mixed",)), ({}, ())],
)
def test_the_cpu_trains_in_float32_unless_bfloat16_is_timed_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], others: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    device = choose_device("cpu", "auto")
    assert (device.precision, device.other_precisions) == ("32-true", others)
    assert choose_device("cpu", "bf16-mixed").other_precisions == choose_device("cpu", 32).other_precisions == ()


CPU = Device("cpu", "32-true", channels_last=True, words="a CPU", other_precisions=("bf16-mixed",))


def test_the_cpu_does_without_bfloat16_where_it_leaves_gradients_unset() -> None:
    network = ResNet18(pretrained=False)(3).network
    assert sound_precision(CPU, network, image_size=16, wanted="auto").other_precisions == ()
    asked = dataclasses.replace(CPU, precision="bf16-mixed", other_precisions=())
    with pytest.raises(UserError, match=r"trainer\.precision=bf16-mixed: at 16 px the maps that layer4\.0\.conv1"):
        sound_precision(asked, network, image_size=16, wanted="bf16-mixed")
    assert sound_precision(CPU, network, image_size=32, wanted="auto") is CPU
    assert sound_precision(asked, network, image_size=32, wanted="bf16-mixed") is asked


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "is_hit"),
    [(3, 2, 1, True), (5, 1, 1, True), (7, 1, 2, True), (3, 1, 1, False), (1, 2, 1, False), (3, 2, 2, False)],
)
def test_gradients_are_unset_under_a_stride_over_one_pixel_and_a_kernel_that_is_much_too_large(
    kernel: int, stride: int, size: int, is_hit: bool
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, kernel, stride, kernel // 2))
    assert (unset_gradients(network, image_size=size) == "0") is is_hit


@pytest.mark.parametrize(("variable", "kept"), [(None, 1), ("OMP_NUM_THREADS", 2), ("MKL_NUM_THREADS", 2)])
def test_threads_keep_to_the_cores_unless_their_number_is_set(
    variable: str | None, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(CORES_VARIABLE, "1")
    if variable is not None:
        monkeypatch.setenv(variable, "2")
    torch.set_num_threads(2)
    try:
        words = choose_device("cpu", 32).words
        assert torch.get_num_threads() == kept
        assert f"CPU with {kept} thread" in words
    finally:
        torch.set_num_threads(before)
