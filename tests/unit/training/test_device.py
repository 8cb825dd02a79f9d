from __future__ import annotations

import logging

import pytest
import torch

from classifier_training.core.errors import UserError
from classifier_training.training.device import choose_device


def test_the_cpu_can_always_be_had() -> None:
    device = choose_device("cpu", 32)
    assert (device.accelerator, device.precision, device.channels_last) == ("cpu", "32-true", True)
    assert "CPU" in device.words


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said_and_the_cpu_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert choose_device("cuda", "auto").accelerator == "cpu"
    assert "trainer.accelerator=cuda" in caplog.text


def test_half_precision_does_not_exist_on_the_cpu() -> None:
    with pytest.raises(UserError, match="16-mixed"):
        choose_device("cpu", "16-mixed")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"), ({}, "32-true")],
)
def test_bfloat16_is_chosen_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_device("cpu", "auto").precision == precision
