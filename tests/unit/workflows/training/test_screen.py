from __future__ import annotations

from pathlib import Path

import numpy as np

from classifier_training.callbacks.observer import metric_words
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import SplitResult, epoch_name
from classifier_training.evaluation.measures import measure
from classifier_training.evaluation.results import class_table
from classifier_training.workflows.training.screen import class_words, majority_words, mistake_words


def logits_of(predicted: list[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes, dtype=np.float32)[predicted] * 3


def test_a_few_classes_are_listed_with_their_counts_and_many_by_their_ends() -> None:
    assert class_words(["cat", ""], np.array([1200, 3])) == "classes: cat 1,200, (empty) 3 training images"
    counts = np.arange(1, 14)
    assert class_words([f"c{n}" for n in range(13)], counts) == (
        "classes: from 1 (c0) to 13 (c12) training images, 7 in the median"
    )


def test_the_baseline_predicts_the_most_frequent_class_of_training() -> None:
    targets = np.array([0, 0, 0, 1])
    measures = measure(logits_of([0, 0, 0, 1], 3), targets, num_classes=3, intervals=False)
    assert majority_words(["a", "b", "c"], np.array([1, 5, 2]), measures) == (
        "for comparison, always predicting the most frequent class (b): balanced accuracy 0.5000, top-1 accuracy 0.2500"
    )
    # A class that is not tested.
    assert "balanced accuracy 0.0000, top-1 accuracy 0.0000" in majority_words(
        ["a", "b", "c"], np.array([1, 2, 5]), measures
    )


def test_the_table_has_the_worst_ten_classes_and_counts_the_others() -> None:
    names = [f"class {n}" for n in range(12)]
    targets = np.repeat(np.arange(12), 2)
    predicted = targets.copy()
    predicted[2 * 7] = 0
    measures = measure(logits_of(predicted.tolist(), 12), targets, num_classes=12, intervals=False)
    lines = class_table(measures, names)
    assert lines[0].split() == ["class", "precision", "recall", "images"]
    assert lines[1].split() == ["class", "7", "1.0000", "0.5000", "2"]
    assert len(lines) == 12
    assert lines[-1] == "and 2 more classes: recall 1.0000 or higher"
    few = class_table(measure(logits_of([0, 1], 3), np.array([0, 1]), num_classes=3, intervals=False), ["a", "b", "c"])
    assert few[-1].split() == ["c", "-", "-", "0"], "nothing is known of a class without images"


def test_three_mistakes_are_named_as_errors_csv_has_them(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    targets = np.array([0, 0, 0, 0, 1])
    logits = logits_of([1, 1, 1, 1, 1], 2)
    scored = SplitResult("test", logits, targets, np.arange(5), np.zeros(5, dtype=np.float32))
    assert mistake_words(run, scored) == [], "the table could not be written"
    run.evaluation.mkdir()
    rows = [f"/x/{n}.png,cat,dog,0.{9 - n}5,1,,0,0" for n in range(4)]
    run.errors.write_text("\n".join(["path,true,predicted,confidence,loss,group,prob_cat,prob_dog", *rows]) + "\n")
    assert mistake_words(run, scored) == [
        f"4 mistakes of 5, all in {run.errors}; the 3 with the highest loss:",
        "  /x/0.png  is cat, predicted dog (95%)",
        "  /x/1.png  is cat, predicted dog (85%)",
        "  /x/2.png  is cat, predicted dog (75%)",
    ]
    right = SplitResult("test", logits, np.ones(5, dtype=np.int64), np.arange(5), np.zeros(5, dtype=np.float32))
    run.errors.write_text("path,true,predicted,confidence\n")
    assert mistake_words(run, right) == ["no mistakes"]


def test_a_metric_that_is_not_defined_is_no_number() -> None:
    row = {"train/loss": 0.5, "val/loss": 0.25}
    assert (
        metric_words({**row, "val/auroc": 0.5}, "val/auroc") == "train/loss 0.5000  val/loss 0.2500  val/auroc 0.5000"
    )
    assert metric_words(row, "val/auroc") == (
        "train/loss 0.5000  val/loss 0.2500  val/auroc - (not defined for these predictions)"
    )


def test_people_count_epochs_from_one() -> None:
    assert epoch_name(0) == "epoch 1"
    assert epoch_name(4, 0.25) == "epoch 5 (25%) and those before fine-tuning (75%)"
    assert epoch_name(-1) == "the linear probe"
