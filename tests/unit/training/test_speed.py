from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.unit.training.test_module import Linear, make
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.training import speed
from classifier_training.training.device import Device
from classifier_training.training.module import ClassifierModule

CPU = Device("cpu", "32-true", channels_last=True, words="CPU")


class Slow(Linear):
    """Takes longer with the channels innermost, or with them outermost."""

    def __init__(self, slow_when_last: bool) -> None:
        super().__init__()
        self.slow_when_last = slow_when_last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_contiguous(memory_format=torch.channels_last) == self.slow_when_last:
            weight = torch.ones(300, 300)
            for _ in range(20):
                weight = weight @ weight / 300
        return super().forward(x)


def build(network: nn.Module, device: Device) -> ClassifierModule:
    return make(network, channels_last=device.channels_last)


@pytest.mark.parametrize("slow_when_last", [True, False])
def test_the_faster_memory_format_is_taken(slow_when_last: bool) -> None:
    network = Slow(slow_when_last)
    device, seconds = speed.probe_device(lambda device: build(network, device), CPU, batch_size=4, num_images=10**8)
    assert device.channels_last is not slow_when_last
    assert seconds > 0


class Casting(Linear):
    """Takes longer in bfloat16, or in float32."""

    def __init__(self, slow_precision: torch.dtype) -> None:
        super().__init__()
        self.slow_precision = slow_precision

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_mixed = torch.is_autocast_enabled("cpu")
        if (self.slow_precision == torch.bfloat16) == is_mixed:
            weight = torch.ones(300, 300)
            with torch.autocast("cpu", enabled=False):
                for _ in range(20):
                    weight = weight @ weight / 300
        return super().forward(x)


@pytest.mark.parametrize(("slow", "taken"), [(torch.bfloat16, "32-true"), (torch.float32, "bf16-mixed")])
def test_the_faster_precision_is_taken(slow: torch.dtype, taken: str) -> None:
    network, device = Casting(slow), dataclasses.replace(CPU, other_precisions=("bf16-mixed",))
    found, _ = speed.probe_device(lambda one: build(network, one), device, batch_size=4, num_images=10**8)
    assert found.precision == taken


def test_a_short_run_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> float:
        raise AssertionError("timed")

    monkeypatch.setattr(speed, "seconds_of", fail)
    found = speed.probe_device(lambda device: build(Slow(True), device), CPU, batch_size=4, num_images=1000)
    assert found == (CPU, 0.0)
    assert not speed.choose_compilation(
        lambda device: build(Slow(True), device), CPU, wanted="auto", batch_size=4, estimated_seconds=100
    )


def test_a_batch_that_does_not_fit_is_timed_smaller_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[str, int]] = []
    fits = 16

    def timing(_: ClassifierModule, device: Device, number: int) -> float:
        timed.append((device.precision, number))
        if number > fits or device.precision != "32-true":
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(speed, "seconds_of", timing)
    monkeypatch.setattr(speed, "num_timed", lambda *_: 64)
    device = dataclasses.replace(CPU, other_precisions=("bf16-mixed",))
    found, seconds = speed.probe_device(lambda one: build(Slow(True), one), device, batch_size=64, num_images=10**8)
    assert found.precision == "32-true"
    assert seconds == pytest.approx(10**8 / 16)
    assert [number for _, number in timed[:3]] == [64, 32, 16]
    fits = 0
    assert speed.probe_device(lambda one: build(Slow(True), one), device, batch_size=64, num_images=10**8) == (
        device,
        0.0,
    )


def test_timing_takes_a_small_share_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def timing(module: ClassifierModule, device: Device, number: int) -> float:
        timed.append(device.precision)
        return 1.0 if device.precision == "32-true" else 0.5

    monkeypatch.setattr(speed, "seconds_of", timing)
    monkeypatch.setattr(speed, "PROBE_SECONDS", 10.0)
    device = dataclasses.replace(CPU, other_precisions=("bf16-mixed",))
    for num_images, taken in ((4 * 20, "32-true"), (4 * 100, "bf16-mixed")):
        monkeypatch.setattr(speed, "MIN_PIXELS", 0)
        found, _ = speed.probe_device(lambda one: build(Slow(True), one), device, batch_size=4, num_images=num_images)
        assert found.precision == taken, f"{num_images} images, timed {timed}"


def test_what_held_up_the_usual_choice_for_a_moment_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held_up = iter([2.0, 1.0])
    monkeypatch.setattr(
        speed, "seconds_of", lambda _, device, number: next(held_up) if device.precision == "32-true" else 1.2
    )
    monkeypatch.setattr(speed, "PROBE_SECONDS", 10.0)
    device = dataclasses.replace(CPU, channels_last=False, other_precisions=("bf16-mixed",))
    monkeypatch.setattr(speed, "_candidates", lambda one: [dataclasses.replace(one, precision="bf16-mixed")])
    found, seconds = speed.probe_device(lambda one: build(Slow(True), one), device, batch_size=4, num_images=10**6)
    assert found == device
    assert seconds == pytest.approx(10**6 / 4)


@pytest.mark.parametrize(("side", "number"), [(16, 64), (64, 49), (128, 12), (224, 8)])
def test_a_timed_step_holds_more_of_small_images(side: int, number: int) -> None:
    assert speed.num_timed(CPU, 64, (side, side)) == number


def test_a_compiler_that_is_not_there_is_named_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)

    def choose(wanted: bool | str) -> bool:
        return speed.choose_compilation(
            lambda device: build(Slow(True), device), CPU, wanted=wanted, batch_size=4, estimated_seconds=1e9
        )

    with pytest.raises(UserError, match=r"trainer\.compile=true: there is no C\+\+ compiler"):
        choose(True)
    assert choose("auto") is False
    assert choose(False) is False
