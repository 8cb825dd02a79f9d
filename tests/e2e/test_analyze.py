"""`analyze` as it is typed, and the check of the data before a training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.conftest import NETWORK, SETTINGS, SMALL, read_csv
from tests.server import Ended

from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.load import read_samples
from classifier_training.data.splitting.manifest import write_manifest

pytestmark = pytest.mark.usefixtures("quick_runs")

Command = Callable[..., Ended]


@pytest.mark.usefixtures("drawn")
def test_a_folder_with_faults_becomes_a_report(command: Command, split_folder: Path, tmp_path: Path) -> None:
    blue = split_folder / "train" / "blue"
    shutil.copyfile(blue / "00.png", split_folder / "val" / "blue" / "copy.png")
    (blue / "zero.png").write_bytes(b"")
    shutil.copyfile(blue / "01.png", blue / 'new\nline <script>alert("x").png')
    before = sorted(split_folder.rglob("*"))
    done = command("analyze", f"data.root={split_folder}")
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert "1 file cannot be read" in done.out
    report = tmp_path / "data_report"
    for name in (
        "report.html", "statistics.json", "findings.json", "class_distribution.png", "class_balance.png",
        "image_sizes.png", "aspect_ratios.png", "brightness.png", "modes.png", "mean_images.png",
        "samples/class_0000.png",
    ):  # fmt: skip
        assert (report / name).stat().st_size > 0, name
    assert read_csv(report / "quarantine.csv") == [
        {"path": "train/blue/zero.png", "reason": "is not an image, or is empty or damaged"}
    ]
    codes = [finding["code"] for finding in json.loads((report / "findings.json").read_text())]
    assert codes[:2] == ["unreadable_files", "exact_copies_across_splits"]
    statistics = json.loads((report / "statistics.json").read_text())
    assert statistics["splits"]["train"]["class_counts"] == {"blue": 10, "green": 6, "red": 4}
    assert statistics["files"]["num_unreadable"] == 1
    page = (report / "report.html").read_text()
    assert "<script>alert" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert sorted(split_folder.rglob("*")) == before, "nothing is removed"
    assert command("analyze", f"data.root={split_folder}", "fail_on=error").code == 1


def test_data_that_is_not_split_is_analyzed_as_one(command: Command, unsplit_folder: Path, tmp_path: Path) -> None:
    done = command("analyze", f"data.root={unsplit_folder}", "output=there", "near_duplicates=false")
    assert done.code == 0, done.err
    statistics = json.loads((tmp_path / "there" / "statistics.json").read_text())
    assert statistics["splits"]["all"]["num_images"] == 30


@pytest.mark.parametrize("word", ["data.batch_size=3", "data.store=off", "transforms.hflip=0.5"])
def test_a_setting_without_effect_is_refused(command: Command, split_folder: Path, word: str) -> None:
    done = command("analyze", f"data.root={split_folder}", word)
    assert done.code == 2
    assert "has no effect on an analysis" in done.err


@pytest.mark.usefixtures("quick_runs")
def test_training_refuses_copies_across_splits_until_told(command: Command, split_folder: Path) -> None:
    shutil.copyfile(split_folder / "train" / "blue" / "00.png", split_folder / "test" / "blue" / "copy.png")
    words = ("train", f"data.root={split_folder}", *SMALL)
    done = command(*words)
    assert done.code == 2
    assert "exact duplicates across splits" in done.err
    assert "test/blue/copy.png" in done.err
    allowed = command(*words, "allow_leaks=true")
    assert allowed.code == 0, allowed.err
    assert "data check: 2 files in 1 group are exact duplicates across splits" in allowed.err


@pytest.mark.usefixtures("quick_runs")
def test_labels_that_the_model_contradicts_are_ranked(
    command: Command, train_here: Callable[..., Path], unsplit_folder: Path, tmp_path: Path
) -> None:
    for number in range(40):
        for name, colour in (("blue", (30, 60, 200)), ("red", (200, 40, 40))):
            Image.new("RGB", (32, 32), tuple(value + number for value in colour)).save(
                unsplit_folder / name / f"more{number}.png"
            )
    # The same bytes with another label, and an image that looks wrong among the blue ones.
    shutil.copyfile(unsplit_folder / "red" / "more7.png", unsplit_folder / "blue" / "copy.png")
    words = [*NETWORK, *SETTINGS[:2], "trainer.max_epochs=4", "trainer.accelerator=cpu", "data.val_fraction=0.4"]
    run = train_here([f"data.root={unsplit_folder}", *words, "allow_leaks=true"])
    done = command("analyze", f"run={run}")
    assert done.code == 0, done.err
    rows = read_csv(run / "label_issues" / "label_issues.csv")
    samples = read_csv(run / "splits.csv")
    assert len(rows) == len(samples)
    doubtful = [row["is_issue"] == "true" for row in rows]
    assert doubtful == sorted(doubtful, reverse=True), "the doubtful come first"
    assert all(0 <= float(row["label_quality"]) <= 1 for row in rows), "training images, too"
    assert {row["fold"] for row in rows} == {""}
    twins = {str(unsplit_folder / "red" / "more7.png"), str(unsplit_folder / "blue" / "copy.png")}
    found = {row["path"]: row for row in rows if row["duplicate_of"]}
    assert set(found) == twins
    assert {row["duplicate_of"] for row in found.values()} == twins
    assert {row["is_issue"] for row in found.values()} == {"true"}
    assert "train: " in done.out
    assert "judged by linear probes on the network's features" in done.out
    assert f"review run={run}" in done.out
    page = (run / "label_issues" / "report.html").read_text()
    assert "Duplicate with another label (2)" in page
    assert command("analyze", f"run={run}", "data.batch_size=3").code == 2

    # Made a cross-validated run of two folds, the predictions of these take the place of the probes'.
    names = sorted({row["label"] for row in samples})
    header = ["path", "true", "predicted", "confidence", "loss", "group", "fold", *(f"prob_{name}" for name in names)]
    lines = [",".join(header)]
    training = [row for row in samples if row["split"] == "train"]
    for number, row in enumerate(training):
        wrong = names[(names.index(row["label"]) + 1) % len(names)]
        seen = wrong if number == 5 else row["label"]
        shares = [0.9 if name == seen else 0.1 / (len(names) - 1) for name in names]
        values = ["/elsewhere/" + row["path"], row["label"], seen, 0.9, 0.1, "", number % 2, *shares]
        lines.append(",".join(map(str, values)))
    (run / "evaluation" / "out_of_fold.csv").write_text("\n".join(lines) + "\n")
    done = command("analyze", f"run={run}", "output=folds")
    assert done.code == 0, done.err
    assert "judged by out-of-fold predictions" in done.out
    by_path = {row["path"]: row for row in read_csv(tmp_path / "folds" / "label_issues.csv")}
    assert len(by_path) == len(samples)
    judged = [by_path[str(unsplit_folder / row["path"])] for row in training]
    assert [row["fold"] for row in judged] == [str(number % 2) for number in range(len(training))]
    assert {float(row["label_quality"]) for row in judged[:5]} == {0.9}
    assert float(judged[5]["label_quality"]) < 0.11
    assert judged[5]["is_issue"] == "true"
    assert {row["fold"] for row in by_path.values() if row["split"] != "train"} == {""}


@pytest.mark.usefixtures("quick_runs")
def test_edits_of_a_splits_file_become_corrections_by_the_command_that_is_named(
    command: Command, split_folder: Path, tmp_path: Path
) -> None:
    edited = tmp_path / "edited.csv"
    write_manifest(edited, read_samples(ImageFolder(root=str(split_folder))))
    edited.write_text(edited.read_text().replace("train/blue/00.png,blue", "train/blue/00.png,red"))
    analyze = ("analyze", f"data.root={split_folder}", f"data.splits={edited}")
    analyzed = command(*analyze)
    assert analyzed.code == 0, analyzed.err
    assert "1 label of edited.csv edited" in analyzed.out
    findings = {
        finding["code"]: finding for finding in json.loads((tmp_path / "data_report/findings.json").read_text())
    }
    assert findings["edited_labels"]["rows"] == [["train/blue/00.png", "blue to red"]]
    remedy, _, copy = findings["edited_labels"]["remedy"].partition("; or for every verb: ")
    obeyed = command(*remedy.removeprefix("classifier-training ").split(), *SMALL, "callbacks.onnx_export=null")
    assert obeyed.code == 0, obeyed.err
    assert "corrections: 1 label changed" in obeyed.err
    assert "another label" not in obeyed.err
    _, source, target = copy.split()
    shutil.copyfile(tmp_path / source, target)
    again = command(*analyze)
    assert "the labels of edited.csv are those of the data" in again.out
    assert "corrections: 1 label changed" in again.out
