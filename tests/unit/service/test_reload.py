"""A promoted run is taken over while requests go on, and one that cannot be opened is not."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from tests.served import ask, jpeg, make_service, running, write_model

from classifier_training.core.errors import UserError
from classifier_training.inference.predictor import Predictor
from classifier_training.service.engine import PRODUCTION, Engine
from classifier_training.service.reload import State, Watcher

if TYPE_CHECKING:
    import pytest

    from classifier_training.service.app import Service

IMAGE = jpeg((120, 100, 140))


class Reference:
    """What run= stands for, which a test changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_opened = 0

    def find(self) -> tuple[Path, ...]:
        if not self.path.exists():
            raise UserError("run=production: no run holds it", "a run", "promote one")
        return (self.path,)

    def open(self, paths: tuple[Path, ...]) -> Engine:
        self.num_opened += 1
        return Engine(Predictor(paths[0]), run=paths[0].stem)

    def watcher(self, service: Service, *, every_s: float = 60) -> Watcher:
        return Watcher(
            PRODUCTION, service.arms, find=self.find, state=State.of(self.find()), open_engine=self.open,
            metrics=service.metrics, every_s=every_s,
        )  # fmt: skip


def metric(service: Service, line: str) -> bool:
    return line in service.metrics.text("")[0].decode()


def test_the_same_run_is_not_opened_again_and_another_is(model: Path, tmp_path: Path) -> None:
    service, reference = make_service(model), Reference(model)
    watcher = reference.watcher(service)
    assert asyncio.run(watcher.look()) is False
    assert reference.num_opened == 0
    reference.path = write_model(tmp_path / "second.onnx", seed=1)
    before = weakref.ref(service.arms.engines[PRODUCTION])
    assert asyncio.run(watcher.look()) is True
    assert service.arms.engines[PRODUCTION].run == "second"
    gc.collect()
    assert before() is None, "the former model's memory is released"
    assert metric(service, 'classifier_reloads_total{arm="production",result="done"} 1.0')
    assert metric(service, 'run="second"')
    assert not metric(service, 'run="colours:v1"')


def test_a_file_that_is_written_anew_is_another_run(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.onnx")
    service, reference = make_service(path), Reference(path)
    watcher = reference.watcher(service)
    assert asyncio.run(watcher.look()) is False
    write_model(path, seed=5)
    assert asyncio.run(watcher.look()) is True


def test_a_run_that_cannot_be_opened_leaves_the_one_that_answers(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service, reference = make_service(model), Reference(model)
    watcher = reference.watcher(service)
    reference.path = tmp_path / "broken.onnx"
    reference.path.write_bytes(b"no model")
    for _ in range(3):
        assert asyncio.run(watcher.look()) is False
    assert reference.num_opened == 1, "it is not tried again while it is the same"
    assert service.arms.engines[PRODUCTION].run == "colours:v1"
    assert metric(service, 'classifier_reloads_total{arm="production",result="failed"} 1.0')
    assert metric(service, 'classifier_stale{arm="production"} 1.0')
    (record,) = [record for record in caplog.records if "cannot be opened" in record.getMessage()]
    assert "colours:v1 still answers" in record.getMessage()
    # The reference has nothing any more; then there is a good run.
    reference.path = tmp_path / "gone.onnx"
    assert asyncio.run(watcher.look()) is False
    assert "no run holds it" in caplog.records[-1].getMessage()
    reference.path = write_model(tmp_path / "good.onnx", seed=2)
    assert asyncio.run(watcher.look()) is True
    assert metric(service, 'classifier_stale{arm="production"} 0.0')
    # Back to what was served before it broke.
    reference.path = tmp_path / "broken.onnx"
    assert asyncio.run(watcher.look()) is False
    reference.path = tmp_path / "good.onnx"
    assert asyncio.run(watcher.look()) is False
    assert metric(service, 'classifier_stale{arm="production"} 0.0')


def test_fifty_reloads_under_load_fail_no_request(tmp_path: Path) -> None:
    models = [write_model(tmp_path / f"{seed}.onnx", seed=seed) for seed in range(2)]
    expected = {Predictor(path)(IMAGE).confidence for path in models}
    service, reference = make_service(models[0]), Reference(models[0])
    service._tasks = (reference.watcher(service, every_s=0.02).watch,)
    statuses: list[int] = []
    confidences: set[float] = set()
    is_over = threading.Event()

    with running(service.app()) as port:

        def send() -> None:
            while not is_over.is_set():
                status, _, text = ask(port, "POST", "/classify", IMAGE)
                statuses.append(status)
                if status == 200:
                    confidences.add(json.loads(text)["confidence"])

        clients = [threading.Thread(target=send) for _ in range(4)]
        for client in clients:
            client.start()
        wait = threading.Event()
        for number in range(1, 51):
            reference.path = models[number % 2]
            for _ in range(500):
                if service.arms.engines[PRODUCTION].run == str(number % 2):
                    break
                wait.wait(0.01)
        is_over.set()
        for client in clients:
            client.join()
    assert reference.num_opened == 50
    assert metric(service, 'classifier_reloads_total{arm="production",result="done"} 50.0')
    assert set(statuses) == {200}
    assert len(statuses) > 50
    assert confidences == expected
