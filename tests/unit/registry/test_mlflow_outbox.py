from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from tests.runs import make_run

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.registry.mlflow_outbox import Outbox, flat, metric_name
from classifier_training.registry.mlflow_server import Server, connect


def history(server: Server, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in server.client.get_metric_history(run_id, key)]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(make_run(tmp_path / "outputs", "2026-01-02/10-00-00"))


def test_a_resumed_run_is_the_same_run_there_and_no_metric_is_twice_or_lost(run: RunDir, mlflow_uri: str) -> None:
    server = connect(None, purpose="a test")
    first = Outbox(run, mlflow_uri)
    run_id = first.open(server)
    for step in (10, 20):
        first.add({"val/loss": 1 / step, "epoch": step / 10}, step)
    assert first.num_unsent == 4
    assert first.send(server) == 4
    # Killed after the server had these, and before the file said so.
    first.add({"val/loss": 0.5}, 30)
    facts = run.mlflow_run
    before = facts.read_bytes()
    first.send(server)
    facts.write_bytes(before)
    with first.run.mlflow_metrics.open("a") as file:
        file.write('{"step": 40, "metr')

    resumed = Outbox(run, mlflow_uri)
    assert resumed.open(server) == run_id
    for step in (30, 40):
        resumed.add({"val/loss": 0.25, "epoch": step / 10}, step)
    resumed.send(server)
    assert resumed.num_unsent == 0
    assert history(server, run_id, "val/loss") == [(10, 0.1), (20, 0.05), (30, 0.5), (40, 0.25)]
    assert [step for step, _ in history(server, run_id, "epoch")] == [10, 20, 30, 40]
    found = server.client.get_run(run_id)
    assert found.info.status == "RUNNING"
    assert found.data.params["model.type"] == "resnet18"
    assert {"host", "folder", "data", "mlflow.user"} <= found.data.tags.keys()


def test_what_a_resumed_run_changes_is_a_tag(run: RunDir, mlflow_uri: str) -> None:
    server = connect(None, purpose="a test")
    run_id = Outbox(run, mlflow_uri).open(server)
    run.config.write_text(run.config.read_text().replace("seed: 1", "seed: 2"))
    Outbox(run, mlflow_uri).open(server)
    data = server.client.get_run(run_id).data
    assert (data.params["seed"], data.tags["resumed with seed"]) == ("1", "2")


def test_a_run_that_was_deleted_there_is_named_and_both_remedies_work(run: RunDir, mlflow_uri: str) -> None:
    server = connect(None, purpose="a test")
    outbox = Outbox(run, mlflow_uri)
    run_id = outbox.open(server)
    outbox.add({"loss": 1.0}, 1)
    outbox.send(server)
    server.client.delete_run(run_id)
    outbox.add({"loss": 2.0}, 2)
    with pytest.raises(UserError, match="was deleted there") as caught:
        outbox.send(server)
    assert f"mlflow runs restore --run-id {run_id}" in caught.value.remedy
    assert outbox.num_unsent == 1
    server.client.restore_run(run_id)
    assert outbox.send(server) == 1
    server.client.delete_run(run_id)
    outbox.run.mlflow_run.unlink()
    again = Outbox(run, mlflow_uri)
    assert again.open(server) != run_id
    assert again.send(server) == 2


def test_thousands_of_metrics_of_one_step_arrive(run: RunDir, mlflow_uri: str) -> None:
    server = connect(None, purpose="a test")
    outbox = Outbox(run, mlflow_uri)
    run_id = outbox.open(server)
    outbox.add({f"val/acc_class_{number}": number / 2500 for number in range(2500)}, 1)
    outbox.add({"val/loss": float("nan"), "val/other": float("inf")}, 1)
    assert outbox.send(server) == 2502
    assert len(server.client.get_run(run_id).data.metrics) == 2502


def test_a_metric_that_is_refused_is_counted_and_keeps_no_other_back(run: RunDir, mlflow_uri: str) -> None:
    server = connect(None, purpose="a test")
    Outbox(run, mlflow_uri).add({"good": 1.0, "better": 2.0}, 1)
    with Outbox(run, mlflow_uri).run.mlflow_metrics.open("a") as file:
        file.write('{"step": 1, "timestamp": -1, "metrics": {"bad": 1.0}}\n')
    outbox = Outbox(run, mlflow_uri)
    outbox.open(server)
    outbox.add({"best": 3.0}, 2)
    assert outbox.send(server) == 3
    assert outbox.refused.keys() == {"bad"}
    assert "1 metric refused" in outbox.words()


def test_names_of_metrics_are_taken_and_stay_apart() -> None:
    labels = [
        "",
        "a",
        "a/b",
        "a//b",
        "../a",
        "a+",
        "a*",
        "a&",
        "a ",
        "猫",
        "🐈",
        "x" * 300,
        "a/",
        "/",
        ".",
        *string.punctuation,
    ]
    names = [f"val/acc_class_{label}" for label in labels]
    sent = [metric_name(name) for name in names]
    validation = pytest.importorskip("mlflow.utils.validation")
    for name in sent:
        validation._validate_metric_name(name)
        assert len(name) <= 250
    assert len(set(sent)) == len(set(names))
    assert metric_name("val/acc_class_猫") == "val/acc_class_猫"


def test_settings_are_flat_and_short() -> None:
    found = flat({"a": {"b": [1, 2], "c": {}}, "long": "x" * 1000, "none": None})
    assert found == {"a.b": "[1, 2]", "a.c": "{}", "long": "x" * 499 + "…", "none": "None"}


def test_another_server_gets_a_run_of_its_own_with_all_metrics(run: RunDir, mlflow_uri: str) -> None:
    server = connect(None, purpose="a test")
    outbox = Outbox(run, mlflow_uri)
    outbox.open(server)
    outbox.add({"loss": 1.0}, 1)
    outbox.send(server)
    other = Outbox(run, "http://me:TOPSECRET@elsewhere")
    assert (other.run_id, other.num_unsent) == (None, 1)
    assert "TOPSECRET" not in other.words()
    assert json.loads(outbox.run.mlflow_run.read_text())["rows_sent"] == 1
