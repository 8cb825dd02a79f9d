from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runs import make_run

from classifier_training.cli import find_verb, run
from classifier_training.conf.help import overview, verb_help
from classifier_training.core.display import align, markdown
from classifier_training.core.errors import UserError
from classifier_training.core.processes import work_in
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.completion import candidates
from classifier_training.workflows.registering.registry import list_runs, show
from classifier_training.workflows.registering.sub_verbs import export_all, promote_run, report, stop
from classifier_training.workflows.serving.export import ExportResult


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    make_run(root, "2026-01-02/10-00-00", score=0.8)
    make_run(root, "2026-01-02/11-00-00", score=0.9, model="resnet50")
    make_run(root, "2026-01-03/10-00-00", score=0.7, data="/data/flowers", category="plants", name="first")
    make_run(root, "2026-01-04/10-00-00", finished=False)
    (make_run(root, "2026-01-05/10-00-00") / "model.onnx").unlink()
    return root


def folders(**settings: object) -> list[str]:
    return [record.folder.partition("2026-01-")[2][:5] for record in list_runs(**settings).records]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["03/10", "02/11", "02/10"]),
        ({"model": "resnet18"}, ["03/10", "02/10"]),
        ({"data": "flowers"}, ["03/10"]),
        ({"name": "first"}, ["03/10"]),
        ({"category": "plants"}, ["03/10"]),
        ({"at_least": 0.8}, ["02/11", "02/10"]),
        ({"metric": "loss", "at_most": 0.15}, ["02/11"]),
        ({"sort": "best"}, ["02/11", "02/10", "03/10"]),
        ({"sort": "worst"}, ["03/10", "02/10", "02/11"]),
        ({"metric": "loss", "sort": "best"}, ["02/11", "02/10", "03/10"]),
        ({"sort": "oldest"}, ["02/10", "02/11", "03/10"]),
        ({"status": "failed"}, ["04/10"]),
        ({"status": "damaged"}, ["05/10"]),
        ({"status": "all"}, ["05/10", "04/10", "03/10", "02/11", "02/10"]),
    ],
)
def test_runs_are_filtered_and_sorted(outputs: Path, settings: dict[str, object], expected: list[str]) -> None:
    assert folders(**settings) == expected


def test_the_list_shows_versions_aliases_and_what_was_left_out(outputs: Path) -> None:
    promote_run(run="resnet50", alias="production")
    text = str(list_runs(limit=2))
    assert "plants/first:v1" in text
    assert "… and 1 more: limit=0 shows all" in text
    assert "2026-01-05/10-00-00: model.onnx missing" in text
    assert folders(alias="production") == ["02/11"]
    with work_in(RunDir(outputs / "2026-01-04/10-00-00")):
        assert folders(status="running") == ["04/10"]
        assert folders(status="failed") == []
    with pytest.raises(UserError, match="no run has it") as caught:
        list_runs(metric="balanced_acuracy")
    assert caught.value.remedy == "metric=balanced_accuracy"
    assert "no run matches" in str(list_runs(model="vit"))


def test_one_run_is_shown_with_all_that_is_known(outputs: Path, tmp_path: Path) -> None:
    promote_run(run="resnet50", alias="production")
    text = str(show(run="production"))
    for words in ("resnet50:v1", "/data/animals", "2 epochs in 4 s", "test/balanced_accuracy  0.9000", "100.00% of 4"):
        assert words in text
    assert "production on 20" in text
    assert "model.onnx missing" in str(show(run=str(outputs / "2026-01-05/10-00-00")))
    elsewhere = make_run(tmp_path / "elsewhere", "2026-01-02/10-00-00", model="vit")
    assert "vit" in str(show(run=str(elsewhere)))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="no run folder"):
        show(run=str(tmp_path / "nothing"))


def test_the_report_names_the_best_of_each_task(outputs: Path, tmp_path: Path) -> None:
    promote_run(run="resnet50", alias="production")
    make_run(outputs, "2026-01-06/10-00-00", score=0.95, class_names=("cat", "dog", "horse"))
    result = report(folder=str(tmp_path / "site"))
    found = json.loads((tmp_path / "site/model_selection.json").read_text())
    best = {(task["data"], task["num_classes"]): task["best"]["run"] for task in found["tasks"]}
    assert best == {
        ("/data/animals", 2): "resnet50:v1",
        ("/data/animals", 3): "resnet18:v2",
        ("/data/flowers", 2): "plants/first:v1",
    }
    assert found["aliases"] == [
        {"scope": "", "alias": "production", "run": "resnet50:v1", "folder": "2026-01-02/11-00-00"}
    ]
    assert [one["folder"] for one in found["left_out"]] == ["2026-01-05/10-00-00"]
    assert "Best: **resnet50:v1**" in str(result)
    by_loss = json.loads(report(metric="loss").files[0].read_text())
    lowest = {(task["data"], task["num_classes"]): task["best"]["run"] for task in by_loss["tasks"]}
    assert lowest == best
    with pytest.raises(UserError, match="metric=f9"):
        report(metric="f9")


def test_a_format_whose_converter_crashes_is_named_and_the_others_are_written(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*, format: dict[str, object], quantization: str, **_: object) -> ExportResult:  # noqa: A002
        if quantization == "fp16":
            raise RuntimeError("Nodes in a graph must be topologically sorted\nand more")
        (name,) = format
        lines = (f"{name}.x: fine",) if quantization == "none" else ("onnx.x: fine", f"model_{quantization}.x: fine")
        return ExportResult(outputs, lines, demo=False)

    monkeypatch.setattr("classifier_training.workflows.registering.sub_verbs.export", export)
    found = export_all(run=str(outputs / "2026-01-02/10-00-00"))
    assert found.failed == {"fp16": "RuntimeError: Nodes in a graph must be topologically sorted"}
    assert found.exit_code == 3
    assert found.lines[0] == "onnx.x: fine"
    assert found.lines[-1] == "model_int8.x: fine"
    assert "torchscript.x: fine" in found.lines


def test_a_run_without_its_images_is_exported_in_no_format(outputs: Path) -> None:
    with pytest.raises(UserError, match="no format could be written"):
        export_all(run=str(outputs / "2026-01-02/10-00-00"))


def test_a_sub_verb_is_a_word_and_so_may_its_run_be(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb, words = find_verb(["registry", "show", "resnet50:v1", "output=x"])
    assert (verb.command, words) == ("registry show", ["resnet50:v1", "output=x"])
    assert find_verb(["registry"])[0].command == "registry"
    assert find_verb(["train", "seed=1"])[1] == ["seed=1"]
    assert run(["registry"]) == 0
    assert "plants/first:v1" in capsys.readouterr().out
    assert run(["registry", "show", "resnet50:v1"]) == 0
    with pytest.raises(UserError, match="registry lst: there is no sub-verb of that name") as caught:
        run(["registry", "lst"])
    assert caught.value.remedy == "classifier-training registry list"
    with pytest.raises(UserError, match="limt=3") as caught:
        run(["registry", "list", "limt=3"])
    assert "limit" in str(caught.value)
    with pytest.raises(UserError, match="alias is missing"):
        run(["registry", "promote", "latest"])


def test_help_and_completion_know_sub_verbs() -> None:
    text = verb_help(entry("verb", "registry"))
    for name in ("cleanup", "export", "list", "promote", "report", "show"):
        assert f"\n  {name} " in text
        assert f"settings of registry {name}:" in text
    assert "publish.tracking_uri=null" in verb_help(entry("registry", "promote"))
    assert "\n  registry promote\n" in overview("1")
    assert candidates("classifier-training registry l") == ["list "]
    assert "at_least=" in candidates("classifier-training registry list at_")
    assert candidates("classifier-training registry nonsense x") == []


def test_tables() -> None:
    assert align(("a", "bb"), [("xxx", "1")], right=frozenset({"bb"})) == ["a    bb", "xxx   1"]
    assert markdown(("a",), [("x|y",)]) == ["| a |", "|---|", "| x\\|y |"]


def test_the_newest_run_in_training_is_asked_to_stop(outputs: Path) -> None:
    with pytest.raises(UserError, match="no process trains a run below"):
        stop()
    with pytest.raises(UserError, match="it has come to its end"):
        stop(run=str(outputs / "2026-01-02/10-00-00"))
    unfinished = RunDir(outputs / "2026-01-04/10-00-00")
    with pytest.raises(UserError, match="no process trains it"):
        stop(run=str(unfinished.path))
    newer = RunDir(make_run(outputs, "2026-01-04/11-00-00", finished=False))
    with work_in(unfinished), work_in(newer):
        assert str(stop()).endswith("rm outputs/2026-01-04/11-00-00/stop.request")
        assert newer.stop_request.exists()
        assert not unfinished.stop_request.exists()
        stop(run=str(unfinished.path))
        assert unfinished.stop_request.exists()
