"""Shadow and canary inside of one application; tests/e2e/test_rollout.py types the commands."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient
from tests.served import jpeg, write_model

from classifier_training.inference.predictor import Outputs, Predictor
from classifier_training.service.app import MOST_SHADOWED, Service
from classifier_training.service.arms import RolloutArms, RolloutRecorder, follow_verdict, is_chosen, key_of
from classifier_training.service.engine import Engine
from classifier_training.service.frame import REQUEST_ID
from classifier_training.service.limits import Gate
from classifier_training.service.metrics import Metrics
from classifier_training.service.records import VERDICT, Kind, Rollout, Served, read_rollout
from classifier_training.service.settings import Limits
from classifier_training.service.verdict import Rules

RED, BLUE = jpeg((200, 20, 20)), jpeg((20, 20, 200))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Production, and a new run that takes red for blue."""
    folder = tmp_path_factory.mktemp("models")
    new = write_model(folder / "new" / "model.onnx", seed=1)
    model = onnx.load(new)
    (weights,) = [one for one in model.graph.initializer if one.name == "weights"]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights)[:, ::-1].copy(), "weights"))
    onnx.save(model, new)
    return write_model(folder / "present" / "model.onnx"), new


class Started:
    """An application with two arms, and a client of it."""

    def __init__(self, models: tuple[Path, Path], kind: Kind, share: float, folder: Path | None) -> None:
        engines = [Engine(Predictor(path), run=name) for path, name in zip(models, ("a", "b"), strict=True)]
        gate = Gate(Limits())
        metrics = Metrics(gate)
        self.folder = folder
        self.arms = RolloutArms(*engines, kind=kind, share=share)
        self.recorder = RolloutRecorder(folder, self.arms, metrics)
        self.service = Service(self.arms, gate, metrics, name="colours", version="0", recorder=self.recorder)

    @contextmanager
    def client(self) -> Iterator[TestClient]:
        with TestClient(self.service.app()) as client:
            yield client

    def breaks(self, run: Callable[[NDArray[np.float32]], Outputs]) -> None:
        """Have the new run's model do something else."""
        self.arms.engines[self.arms.kind]._batcher._run = run

    def records(self) -> Rollout:
        assert self.folder is not None
        return read_rollout(self.folder)

    def metric(self, name: str) -> dict[tuple[str, ...], float]:
        found = [
            sample
            for family in self.service.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name
        ]
        return {tuple(sample.labels.values()): sample.value for sample in found}


def classify(client: TestClient, request_id: str, image: bytes = RED) -> Any:
    response = client.post("/classify", content=image, headers={REQUEST_ID: request_id, "content-type": "image/jpeg"})
    assert response.status_code == 200, response.text
    assert response.headers[REQUEST_ID] == request_id
    return response.json()["label"]


def test_the_share_is_kept_and_the_same_ids_are_chosen_everywhere() -> None:
    ids = [f"request-{number}" for number in range(20_000)]
    chosen = [is_chosen(one, "aaaa", 0.1) for one in ids]
    assert sum(chosen) / len(chosen) == pytest.approx(0.1, abs=0.01)
    assert chosen == [is_chosen(one, "aaaa", 0.1) for one in ids]
    # A larger share keeps those that a smaller one had; another run has others.
    assert all(is_chosen(one, "aaaa", 0.2) for one, was in zip(ids, chosen, strict=True) if was)
    again = [is_chosen(one, "bbbb", 0.1) for one in ids]
    assert sum(one and two for one, two in zip(chosen, again, strict=True)) / len(ids) == pytest.approx(0.01, abs=0.004)
    assert all(is_chosen(one, "aaaa", 1.0) for one in ids)
    # The arm of an id is part of the interface: replicas of two versions of the program must agree.
    assert [is_chosen(one, "aaaa", 0.1) for one in ids[:40]].index(True) == ARM_OF_IDS


ARM_OF_IDS = 16


def test_a_canary_answers_its_share_and_both_are_recorded(models: tuple[Path, Path], tmp_path: Path) -> None:
    started = Started(models, "canary", 0.3, tmp_path)
    with started.client() as client:
        labels = {f"r{number}": classify(client, f"r{number}") for number in range(60)}
        told = client.post("/feedback", json=[{"id": one, "label": "red"} for one in labels]).json()
        assert told == {"labels": 60, "of_no_class": 0}
        text = client.get("/metrics").text
    digest = started.arms.compared.new_sha256
    chosen = {one for one in labels if is_chosen(one, digest, 0.3)}
    assert chosen == {one for one, label in labels.items() if label == "blue"}
    served = started.records().served
    assert {one: (arm == "canary", got.label, got.failed, other) for one, (arm, got, other) in served.items()} == {
        one: (label == "blue", label, "", None) for one, label in labels.items()
    }
    assert all(0 < got.confidence <= 1 and 0 < got.seconds < 10 for _, got, _ in served.values())
    found = started.records().verdict(Rules(min_images=10))
    assert (found.state, found.num_requests + found.num_present) == ("roll back", 60)
    share = sum(label == "blue" for label in labels.values())
    assert f'classifier_predictions_total{{arm="canary",label="blue"}} {share:.1f}' in text
    assert f'classifier_predictions_total{{arm="production",label="red"}} {60 - share:.1f}' in text
    assert "image" not in "".join(file.read_text() for file in (tmp_path / "rollout").iterdir())


def test_a_shadow_is_compared_and_never_answers(models: tuple[Path, Path], tmp_path: Path) -> None:
    started = Started(models, "shadow", 1.0, tmp_path)
    with started.client() as client:
        assert {classify(client, f"r{number}") for number in range(30)} == {"red"}
        files = [("file", ("a.jpg", RED)), ("file", ("b.jpg", BLUE))]
        rows = client.post("/classify", files=files, headers={REQUEST_ID: "two"}).json()
        assert [row["label"] for row in rows] == ["red", "blue"]
        # What cannot be decoded is the fault of neither.
        assert client.post("/classify", content=b"none", headers={REQUEST_ID: "none"}).status_code == 400
    served = started.records().served
    assert len(served) == 32
    assert {other.label for _, _, other in served.values() if other is not None} == {"blue", "red"}
    assert served[key_of("two", 1)][1].label == "blue"
    assert started.metric("classifier_shadow_predictions_total") == {("false",): 32.0}
    assert started.metric("classifier_arm_failures_total") == {}
    assert "none" not in served


def test_a_slow_shadow_holds_up_nobody_and_what_it_misses_is_counted(models: tuple[Path, Path], tmp_path: Path) -> None:
    started = Started(models, "shadow", 1.0, tmp_path)
    free = threading.Event()

    def wait(inputs: NDArray[np.float32]) -> Outputs:
        free.wait(30)
        return Outputs(np.zeros((len(inputs), 3), np.float32), np.zeros(len(inputs), np.float32))

    started.breaks(wait)
    number = MOST_SHADOWED + 20
    with started.client() as client:
        begun = time.perf_counter()
        for one in range(number):
            classify(client, f"r{one}")
        assert time.perf_counter() - begun < 20
        assert not free.is_set()
        free.set()
    rollout = started.records()
    assert len(rollout.served) == number
    assert started.metric("classifier_shadow_missed_images_total") == {(): 20.0}
    assert rollout.verdict(Rules()).left_out["requests that the shadow was too busy for"] == 20


@pytest.mark.parametrize("how", ["raises", "gives no number"])
@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_a_broken_run_fails_no_request_and_is_rolled_back(
    kind: Kind, how: str, models: tuple[Path, Path], tmp_path: Path
) -> None:
    started = Started(models, kind, 0.5 if kind == "canary" else 1.0, tmp_path)

    def fail(inputs: NDArray[np.float32]) -> Outputs:
        if how == "raises":
            raise RuntimeError("out of memory")
        return Outputs(np.full((len(inputs), 3), np.nan, np.float32), np.zeros(len(inputs), np.float32))

    started.breaks(fail)
    with started.client() as client:
        assert {classify(client, f"r{number}") for number in range(60)} == {"red"}
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
        for number in range(8):
            asked = {"id": "x", "inputs": [tensor]}
            response = client.post("/v2/models/colours/infer", json=asked, headers={REQUEST_ID: f"t{number}"})
            assert response.status_code == 200
    rollout = started.records()
    assert len(rollout.served) == 68
    failed = sum(bool((served if other is None else other).failed) for _, served, other in rollout.served.values())
    expected = sum(
        kind == "shadow" or is_chosen(one, started.arms.compared.new_sha256, 0.5)
        for one in [*(f"r{number}" for number in range(60)), *(f"t{number}" for number in range(8))]
    )
    assert failed == expected > 20
    assert started.metric("classifier_arm_failures_total") == {(kind,): failed}
    found = rollout.verdict(Rules(min_images=20))
    assert found.state == "roll back"
    assert "failed 100.00%" in found.words


def test_a_canary_of_another_input_gets_no_tensors_and_none_gets_a_version_of_production(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    started = Started(models, "canary", 1.0, tmp_path)
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
    with started.client() as client:
        classify(client, "r1")
        for place in ("infer", "versions/1/infer"):
            client.post(f"/v2/models/colours/{place}", json={"inputs": [tensor]}, headers={REQUEST_ID: place})
        started.arms.engines["canary"].predictor.preprocessing = replace(
            started.arms.engines["canary"].preprocessing, size=(48, 48)
        )
        response = client.post("/v2/models/colours/infer", json={"inputs": [tensor]}, headers={REQUEST_ID: "other"})
        assert response.status_code == 200
    arms = {one: arm for one, (arm, _, _) in started.records().served.items()}
    assert arms == {"r1": "canary", "infer": "canary", "versions/1/infer": "production", "other": "production"}


def test_it_ends_when_production_is_the_new_run_and_begins_again_against_another(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    started = Started(models, "canary", 1.0, tmp_path)
    with started.client() as client:
        assert classify(client, "r1") == "blue"
        present = started.arms.engines["production"]
        started.arms.engines["production"] = Engine(Predictor(models[1]), run="b")
        assert not started.arms.is_active
        assert classify(client, "r2") == "blue"
        assert started.metric("classifier_rollout_active") == {("canary",): 0.0}
        started.arms.engines["production"] = present
        assert classify(client, "r3") == "blue"
    assert set(started.records().served) == {"r1", "r3"}


def test_a_verdict_to_roll_back_ends_it(models: tuple[Path, Path], tmp_path: Path) -> None:
    import asyncio

    started = Started(models, "canary", 1.0, tmp_path)
    compared = started.arms.compared

    def write(state: str, **changes: str) -> None:
        text = {**replace(compared, **changes).to_dict(), "verdict": {"state": state, "words": "it is worse"}}  # type: ignore[arg-type]
        (tmp_path / VERDICT).parent.mkdir(exist_ok=True)
        (tmp_path / VERDICT).write_text(json.dumps(text))

    async def look() -> None:
        task = asyncio.create_task(follow_verdict(started.arms, tmp_path, every_s=0.01))
        await asyncio.sleep(0.3)
        task.cancel()

    for state, changes in (("promote", {}), ("keep on", {}), ("roll back", {"new_sha256": "another"})):
        write(state, **changes)
        asyncio.run(look())
        assert started.arms.is_active
    (tmp_path / VERDICT).write_text("{")
    asyncio.run(look())
    write("roll back")
    asyncio.run(look())
    assert started.arms.ended == "it is worse"
    with started.client() as client:
        assert classify(client, "r1") == "red"


def test_labels_that_are_none_are_refused_and_without_records_there_is_no_place_for_them(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    with Started(models, "shadow", 1.0, None).client() as client:
        classify(client, "r1")
        assert client.post("/feedback", json={"id": "r1", "label": "red"}).status_code == 404
    started = Started(models, "shadow", 1.0, tmp_path)
    with started.client() as client:
        long = json.dumps({"id": "r", "label": "x" * 300}).encode()
        many = json.dumps([{"id": "r", "label": "red"}] * 1001).encode()
        half = rb'{"id": "r", "label": "\ud800"}'
        for wrong in (
            b"",
            b"{",
            b"3",
            b'{"id": 1, "label": "red"}',
            b'[{"id": "r1"}]',
            b"[" * 100_000,
            long,
            many,
            half,
        ):
            assert client.post("/feedback", content=wrong).status_code == 400
        assert client.post("/feedback", json={"id": "r1", "label": "mauve"}).json() == {"labels": 1, "of_no_class": 1}
        classify(client, "r1")
    assert started.records().truths == {"r1": "mauve"}


def test_a_record_is_that_of_the_model_that_answered(models: tuple[Path, Path], tmp_path: Path) -> None:
    started = Started(models, "canary", 1.0, tmp_path)
    with started.client() as client:
        classify(client, "r1")
    (file,) = (tmp_path / "rollout").iterdir()
    header, record = map(json.loads, file.read_text().splitlines())
    assert header["new"] == {"run": "b", "sha256": started.arms.compared.new_sha256}
    assert Served.from_dict(record).label == "blue"
