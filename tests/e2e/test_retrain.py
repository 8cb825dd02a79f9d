"""`train init_from=RUN` without data: the run's own data and splits, with the corrections that the data have now."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import SMALL, read_csv

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.data.corrections import LabelCorrection, append_corrections
from classifier_training.workflows.evaluating.corrections_effect import corrections_words, renew_section

pytestmark = pytest.mark.usefixtures("quick_runs")

Train = Callable[[list[str]], Path]
QUICK = ("transfer=linear_probe", "trainer.accelerator=cpu", "callbacks=[checkpoint,onnx_export]")


@pytest.fixture
def origin(unsplit_folder: Path, train_here: Train) -> Path:
    """A run on a random split, with settings of its own."""
    typed = ["seed=3", "transforms.hflip=0.5", "transforms.policy=crop", "target.recall=0.5", "name=mine"]
    run = train_here([f"data.root={unsplit_folder}", "data.test_fraction=0.3", *SMALL, *typed])
    return run.absolute()


def splits(run: Path) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["split"], row["label"]) for row in read_csv(run / "splits.csv")}


def of_split(run: Path, split: str) -> Iterator[tuple[str, str]]:
    return ((path, label) for path, (own, label) in splits(run).items() if own == split)


def line(path: str, old: str, action: str, new: str = "") -> LabelCorrection:
    return LabelCorrection(path=path, old=old, action=action, new=new)  # type: ignore[arg-type]


def test_a_run_is_trained_again_with_its_data_and_the_corrections_of_now(
    origin: Path, unsplit_folder: Path, train_here: Train, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    train, test = list(of_split(origin, "train")), list(of_split(origin, "test"))
    (relabelled, old), (dropped, other), (moved, third) = train[0], test[0], train[1]
    new = "red" if old != "red" else "blue"
    changed, fourth = test[1]
    lines = [line(relabelled, old, "relabel", new), line(dropped, other, "drop"), line(moved, third, "move", "test")]
    lines.append(line(changed, fourth, "relabel", "red" if fourth != "red" else "blue"))
    append_corrections(unsplit_folder / "corrections.csv", lines)
    caplog.set_level(logging.INFO)
    run = train_here([f"init_from={origin}", *QUICK])
    before, after = splits(origin), splits(run)
    assert after == {
        path: (("test", label) if path == moved else (split, new if path == relabelled else label))
        for path, (split, label) in {**before, changed: (before[changed][0], lines[-1].new)}.items()
        if path != dropped
    }
    assert f"init_from={origin}: weights, data and splits, network and preprocessing of this run" in caplog.text
    assert f"images in {unsplit_folder}" in caplog.text
    assert "4 new since" in caplog.text
    assert "2 relabel, 1 drop, 1 move; 4 in all" in caplog.text
    assert "another label in the data" not in caplog.text
    config = (run / "config.yaml").read_text()
    for kept in ("policy: crop", "hflip: 0.5", "recall: 0.5", "name: mine", "image_size: 32", "name: test_resnet"):
        assert kept in config, kept
    effect = json.loads((run / "evaluation/corrections_effect.json").read_text())
    assert effect["corrections"]["new"] == {"relabel": 2, "drop": 1, "move": 1}
    assert effect["before"] == str(origin)
    assert effect["num_images"] == len(test) - 1
    assert effect["labels_corrected"] == 1
    assert effect["left_out"] == {"dropped": 1, "moved": 1, "unknown_labels": 0, "in_one_run_alone": 0}
    # Both runs' scores follow from their own files.
    labels = {row["path"]: row for row in read_csv(run / "evaluation/predictions.csv")}
    old_rows = {row["path"]: row for row in read_csv(origin / "evaluation/predictions.csv")}
    common = [path for path in labels if path in old_rows]
    for key, true in (("corrected_labels", labels), ("original_labels", old_rows)):
        for name, rows in (("after", labels), ("before", old_rows)):
            share = sum(rows[path]["predicted"] == true[path]["true"] for path in common) / len(common)
            assert effect[key]["accuracy"][name] == pytest.approx(share)


def test_nothing_new_and_a_chain_of_runs(
    origin: Path, unsplit_folder: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    path, label = next(of_split(origin, "train"))
    append_corrections(unsplit_folder / "corrections.csv", [line(path, label, "relabel", "red")])
    first = train_here([f"init_from={origin}", *QUICK]).absolute()
    caplog.set_level(logging.INFO)
    caplog.clear()
    second = train_here([f"init_from={first}", *QUICK])
    assert splits(second) == splits(first)
    assert "none new since" in caplog.text
    assert "another label in the data" not in caplog.text
    effect = json.loads((second / "evaluation/corrections_effect.json").read_text())
    assert effect["corrections"] == {"new": {}, "total": {"relabel": 1}}
    assert effect["words"][0].endswith("of which no label was corrected")
    assert effect["cautions"] == []
    # The same file with a line taken back.
    append_corrections(unsplit_folder / "corrections.csv", [line(path, label, "keep")])
    third = train_here([f"init_from={first}", *QUICK])
    assert splits(third) == splits(origin)


def test_typed_settings_go_over_those_of_the_run(origin: Path, train_here: Train) -> None:
    run = train_here(
        [f"init_from={origin}", *QUICK, "transforms.hflip=0.1", "seed=7", "data.image_size=40", "name=other"]
    )
    config = (run / "config.yaml").read_text()
    for typed in ("hflip: 0.1", "seed: 7", "image_size: 40", "policy: crop", "name: other"):
        assert typed in config, typed
    assert splits(run) == splits(origin)
    preset = train_here([f"init_from={origin}", *QUICK, "recipe=none"])
    config = (preset / "config.yaml").read_text()
    assert "policy: crop" in config, "the images must look to the network as they did"
    assert "hflip: 0.0" in config, "the recipe decides about augmentation"


def test_classes_may_come_and_go_by_corrections(
    origin: Path, unsplit_folder: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    blue = [path for path, (_, label) in splits(origin).items() if label == "blue"]
    red = [path for path, (split, label) in splits(origin).items() if label == "red" and split == "train"]
    lines = [line(path, "blue", "relabel", "sky") for path in blue[:-1]] + [line(blue[-1], "blue", "drop")]
    append_corrections(unsplit_folder / "corrections.csv", [*lines, line(red[0], "red", "relabel", "sky")])
    run = train_here([f"init_from={origin}", *QUICK])
    assert "1 class is new: sky" in caplog.text
    assert "1 class is gone: blue" in caplog.text
    assert {label for _, label in splits(run).values()} == {"green", "red", "sky"}
    effect = json.loads((run / "evaluation/corrections_effect.json").read_text())
    known = [path for path, label in of_split(run, "test") if label != "sky"]
    assert effect["num_images"] == len(known)
    assert effect["left_out"]["unknown_labels"] > 0


def test_data_that_moved_are_found_by_data_root(
    origin: Path, unsplit_folder: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    there = unsplit_folder.with_name("there")
    unsplit_folder.rename(there)
    with pytest.raises(UserError, match="its data are gone from") as caught:
        train_here([f"init_from={origin}", *QUICK])
    assert "data.root=/where/they/are/now" in caught.value.remedy
    caplog.set_level(logging.INFO)
    run = train_here([f"init_from={origin}", f"data.root={there}", *QUICK])
    assert splits(run) == splits(origin)
    assert f"images in {there}" in caplog.text
    assert (run / "evaluation/corrections_effect.json").exists()
    # Others of the same class names are other data, and the network is to be named.
    other = unsplit_folder.with_name("other")
    for image in list(there.rglob("*.png")):
        (other / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, other / image.parent.name / f"new_{image.name}")
    again = train_here([f"init_from={origin}", f"data.root={other}", *SMALL, *QUICK])
    assert "so that it is other data" in caplog.text
    assert not (again / "evaluation/corrections_effect.json").exists()


def test_what_says_nothing_on_its_data_is_answered(origin: Path, train_here: Train) -> None:
    (origin / "result.json").rename(origin / "result.bak")
    with pytest.raises(UserError, match="the run is not finished") as caught:
        train_here([f"init_from={origin}", *QUICK])
    assert f"resume={origin}" in caught.value.remedy
    (origin / "splits.csv").unlink()
    with pytest.raises(UserError, match=r"no splits.csv, so it is not known") as caught:
        train_here([f"init_from={origin}", *QUICK])
    assert "data.root=/my/images" in caught.value.remedy


def test_analyze_and_the_page_count_corrections_and_say_what_they_bought(
    origin: Path, unsplit_folder: Path, train_here: Train
) -> None:
    (first, old), (second, other) = list(of_split(origin, "test"))[:2]
    append_corrections(
        unsplit_folder / "corrections.csv",
        [line(first, old, "relabel", "red" if old != "red" else "blue"), line(second, other, "keep")],
    )
    run = RunDir(train_here([f"init_from={origin}", *QUICK]))
    words = corrections_words(run)
    assert words[0] == "corrections: 1 relabel, 1 keep"
    assert any("balanced accuracy" in text and "on the corrected labels" in text for text in words)
    page = run.report.read_text()
    assert page.count("<h2>Corrections</h2>") == 1
    assert f"Against {origin}:" in page
    assert renew_section(run)
    assert run.report.read_text() == page
    assert corrections_words(RunDir(origin)) == []
    assert "<h2>Corrections</h2>" not in (origin / "report.html").read_text()
