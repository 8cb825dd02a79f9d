"""Devices of ONNX Runtime."""

from __future__ import annotations

import pytest

from classifier_training.core.errors import UserError
from classifier_training.export.session import PROVIDERS, choose_providers

CPU, CUDA, MPS = (PROVIDERS[name] for name in ("cpu", "cuda", "mps"))


def test_auto_takes_cuda_where_it_is_and_the_cpu_stands_behind() -> None:
    assert choose_providers("auto", [CUDA, CPU]) == [CUDA, CPU]
    assert choose_providers("auto", [MPS, CPU]) == [CPU]
    assert choose_providers("mps", [MPS, CPU]) == [MPS, CPU]
    assert choose_providers("cpu", [CUDA, CPU]) == [CPU]


def test_a_device_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(UserError) as error:
        choose_providers("cuda", ["AzureExecutionProvider", MPS, CPU])
    assert error.value.came.startswith("trainer.accelerator=cuda")
    assert error.value.expected == "one of cpu, mps"
