from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import quick
from tests.conftest import COLOURS, SMALL, draw_picture, read_csv

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.errors import UserError
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.register import entry

pytestmark = pytest.mark.usefixtures("quick_runs")

EVALUATE = entry("verb", "evaluate")


def evaluate(*words: str) -> object:
    return EVALUATE.run(compose(EVALUATE, words))


@pytest.mark.parametrize(
    ("words", "came"),
    [
        (["data.image_size=64"], "data.image_size=64 has no effect"),
        (["data.batch_size=3"], "data.batch_size=3 has no effect"),
        (["data.num_workers=2"], "data.num_workers=2 has no effect"),
        (["data.val_fraction=0.3", "data.root=/x"], "data.val_fraction=0.3 has no effect"),
        (["data=jsonl"], "names no data"),
        (["csv_safe=true"], "csv_safe=true without output"),
        (["experiment=local"], "there is no such setting"),
    ],
)
def test_settings_without_effect_are_refused(words: list[str], came: str) -> None:
    with pytest.raises(UserError, match=came):
        evaluate(*words)


def test_an_unreadable_image_ends_an_evaluation_unless_told_otherwise(
    split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    broken = split_folder / "test/red/00.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    with pytest.raises(UnreadableImageError, match=r"red/00\.png"):
        evaluate(f"run={run}")
    assert "on 8 images" in str(evaluate(f"run={run}", "data.on_error=skip", f"output={tmp_path}/found"))
    assert (tmp_path / "found/classification_report.json").is_file()
    with pytest.raises(UserError, match="results cannot be written there"):
        evaluate(f"run={run}", "output=/proc/x")


def test_results_for_two_folders_of_one_name_are_kept_apart(
    split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    for number, place in ((1, "site_a"), (2, "site_b"), (1, "site_a")):
        shutil.copytree(split_folder / "test", tmp_path / place / "images", dirs_exist_ok=True)
        evaluate(f"run={run}", f"data.root={tmp_path}/{place}/images", "intervals=false")
        folders = sorted(run.glob("evaluation_images*"))
        assert [folder.name.removeprefix("evaluation_images_all") for folder in folders] == ["", "_2"][: len(folders)]
        (first, *_) = read_csv(folders[number - 1] / "predictions.csv")
        assert place in first["path"]
    assert len(folders) == 2


def test_copies_of_training_images_make_no_model_ready(
    split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    shutil.copytree(split_folder / "test", tmp_path / "mixed")
    shutil.copy(split_folder / "train/red/00.png", tmp_path / "mixed/red/again.png")
    said = str(evaluate(f"run={run}", f"data.root={tmp_path}/mixed", f"against={run}", f"output={tmp_path}/found"))
    assert "optimistic: the model was trained on 1 of these images" in said
    assert "verdict: ready" not in said
    found = json.loads((tmp_path / "found/comparison.json").read_text())
    assert (found["num_images"], found["left_out"]["trained_on"]) == (9, 1)


def test_a_broken_test_image_does_not_cost_the_export(
    split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    broken = split_folder / "test/red/00.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-200])
    with pytest.raises(UnreadableImageError, match="have the trained run scored: classifier-training train resume="):
        train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]", "data.num_workers=1"])
    (run,) = (path.parent for path in tmp_path.glob("outputs/*/*/model_info.json"))
    assert not (run / "result.json").exists()
    broken.write_bytes(whole)
    assert train_here(["resume=latest"]).absolute() == run
    assert (run / "result.json").is_file()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("drawn")
def test_every_file_of_a_run_is_evaluated_alike(
    split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        quick.leave_out(patch.setattr)
        run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    trained = read_json(run / "evaluation/classification_report.json")
    assert trained["source"] == "best.ckpt"
    shutil.copy(run / "model.onnx", run / "model_copy.onnx")
    lone = tmp_path / "lone/my.onnx"
    lone.parent.mkdir()
    shutil.copy(run / "model.onnx", lone)
    test = f"data.root={split_folder}"
    for words, folder in (
        ([f"run={run}/checkpoints/best.ckpt"], run / "evaluation"),
        ([f"run={run}"], run / "evaluation"),
        ([f"run={run}/model_copy.onnx", "intervals=false"], run / "evaluation_model_copy"),
        ([f"run={lone}", test, "split=test"], lone.parent / "evaluation_my_images_test"),
    ):
        assert "balanced accuracy" in str(evaluate(*words))
        report = read_json(folder / "classification_report.json")
        assert report["source"] == Path(words[0]).name if "." in Path(words[0]).name else "model.onnx"
        assert report["metrics"]["loss"]["value"] == pytest.approx(trained["metrics"]["loss"]["value"], abs=1e-4)
        assert report["metrics"].keys() == trained["metrics"].keys()
        assert {path.name for path in folder.iterdir()} == {
            "classification_report.json", "predictions.csv", "errors.csv", "report.html", "class_scores.png",
            "confusion_matrix.png", "confusion_matrix_normalized.png", "roc_curves.png", "precision_recall_curves.png",
            "reliability.png", "confused_pairs.png", "worst_mistakes.png", "unsure_predictions.png", "calibration.json",
            "risk_coverage.csv", "risk_coverage.png",
        }  # fmt: skip
    for path in (run, run / "checkpoints/best.ckpt"):
        evaluate(f"run={path}", "maps=true", f"output={tmp_path}/maps")
        # The tiny network is wrong somewhere, so there is a mistake to look at.
        assert (tmp_path / "maps/errors.csv").read_text().count("\n") > 1
        for name in ("embedding.png", "occlusion.png"):
            assert (tmp_path / "maps" / name).stat().st_size > 5000
    with pytest.raises(UserError, match="own images are not known"):
        evaluate(f"run={lone}")
    with pytest.raises(UserError, match="no such file"):
        evaluate(f"run={run}/checkpoints/none.ckpt")

    # A run that exported nothing is scored by its checkpoint.
    (run / "model_info.json").unlink()
    assert "balanced accuracy" in str(evaluate(f"run={run}"))

    # Labels of other data are matched by name.
    other = tmp_path / "other"
    for number in range(3):
        draw_picture(other / "red" / f"{number}.png", COLOURS["red"], seed=number)
        draw_picture(other / "zebra" / f"{number}.png", COLOURS["blue"], seed=number)
    said = str(evaluate(f"run={lone}", f"data.root={other}", f"output={tmp_path}/found"))
    assert "left out, for labels that the model does not know ('zebra'): 3" in said
    assert "no image of 'blue', 'green'" in said
    report = read_json(tmp_path / "found/classification_report.json")
    assert report["left_out"]["unknown_labels"] == {"zebra": 3}
    assert report["missing_classes"] == ["blue", "green"]
    assert report["num_images"] == report["classes"]["red"]["support"] == 3


@pytest.mark.nightly
def test_two_runs_are_compared_on_images_that_neither_was_trained_on(
    split_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    small = [*SMALL, "callbacks=[checkpoint,onnx_export]"]
    run = train_here([f"data.root={split_folder}", *small])
    # The other run was trained on copies of two of the test images, and does not know the reds.
    other = tmp_path / "other"
    shutil.copytree(split_folder, other, ignore=shutil.ignore_patterns("red", "test"))
    for number in range(2):
        shutil.copy(split_folder / f"test/blue/0{number}.png", other / f"train/blue/copy_{number}.png")
    against = train_here([f"data.root={other}", *small, "seed=1"])
    assert "left out" not in str(evaluate(f"run={run}", f"against={against}", f"output={tmp_path}/found"))
    found = read_json(tmp_path / "found/comparison.json")
    assert found["left_out"] == {"trained_on": 2, "unknown_labels": 3, "unreadable": 0}
    assert found["num_images"] == 4
    assert found["classes"].keys() == {"blue", "green"}
    own = {row["path"]: row for row in read_csv(tmp_path / "found/predictions.csv")}
    changed = read_csv(tmp_path / "found/comparison.csv")
    for row in changed:
        assert row["predicted"] == own[row["path"]]["predicted"] != row["predicted_against"]
        expected = "gained" if row["predicted"] == row["true"] else "lost"
        assert row["change"] == (expected if row["true"] in (row["predicted"], row["predicted_against"]) else "other")
    assert found["gained"] == sum(row["change"] == "gained" for row in changed)
    assert found["lost"] == sum(row["change"] == "lost" for row in changed)

    same = str(evaluate(f"run={run}", f"against={run}/checkpoints/best.ckpt", f"output={tmp_path}/same"))
    assert "classify the same of the 9 images correctly" in same
    assert read_csv(tmp_path / "same/comparison.csv") == []
    with pytest.raises(UserError, match="against=nowhere"):
        evaluate(f"run={run}", "against=nowhere")
    copies = tmp_path / "copies"
    shutil.copytree(other / "train/blue", copies / "blue", ignore=shutil.ignore_patterns("0*"))
    with pytest.raises(UserError, match="no image is left to compare on; left out: 2 trained on"):
        evaluate(f"run={run}", f"against={against}", f"data.root={copies}")


def test_figures_of_slices_and_a_metric_of_the_users_choice(
    jsonl_folder: Path, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    run = train_here(
        [
            f"data.root={jsonl_folder}", *SMALL, "trainer.max_epochs=2", "monitor=val/ece",
            "callbacks=[checkpoint,early_stopping]", "callbacks.early_stopping.monitor=val/auroc_class_7",
        ]
    )  # fmt: skip
    rows = read_csv(run / "metrics.csv")
    scores = [float(row["val/ece"]) for row in rows]
    assert read_json(run / "result.json")["best_epoch"] == int(np.argmin(scores))
    assert all(0 <= float(row["val/auroc_class_7"]) <= 1 for row in rows)
    assert "val/matthews" not in rows[0]
    said = str(evaluate(f"run={run}", "slices=[player,size]", f"output={tmp_path}/found"))
    assert "worst slice: " in said
    slices = read_csv(tmp_path / "found/slices.csv")
    assert [(row["by"], row["value"], row["num_images"]) for row in slices] == [
        ("player", "0", "3"), ("player", "1", "3"), ("size", "under 32 px", "6"),
    ]  # fmt: skip
    assert read_json(tmp_path / "found/classification_report.json")["worst_slice"]["by"] in ("player", "size")
    evaluate(f"run={run}", "slices=player", "split=val", f"output={tmp_path}/found")
    with pytest.raises(UserError, match="slices=group: the images have no groups"):
        evaluate(f"run={run}", "slices=group")
    with pytest.raises(UserError, match="no such field") as caught:
        evaluate(f"run={run}", "slices=[plyer]")
    assert caught.value.remedy == "'slices=[player]'"
