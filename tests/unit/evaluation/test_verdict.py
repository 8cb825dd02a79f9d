from __future__ import annotations

import dataclasses

import numpy as np

from classifier_training.core.types import SplitResult
from classifier_training.evaluation.measures import measure
from classifier_training.evaluation.metrics import confusion_counts
from classifier_training.evaluation.mistakes import SortedPredictions, most_confused
from classifier_training.evaluation.results import Evaluation
from classifier_training.evaluation.verdict import Grounds, Standing, headline, remarks

NAMES = ("good", "weak", "few", "never")


def grounds() -> Grounds:
    """100 images of good, all right; 50 of weak, half predicted as good; 4 of few, right; 30 of never, none right."""
    targets = np.repeat([0, 1, 2, 3], [100, 50, 4, 30])
    answers = np.concatenate([np.zeros(100), np.tile([0, 1], 25), np.full(4, 2), np.tile([0, 1, 2], 10)]).astype(int)
    measures = measure(np.eye(4, dtype=np.float32)[answers] * 4, targets, num_classes=4)
    return Grounds(
        evaluation=Evaluation("test", measures),
        class_names=NAMES,
        confusions=most_confused(confusion_counts(targets, answers, 4)),
        train_counts={"good": 500, "weak": 12, "few": 40, "never": 30},
        calibration={"ece_after": 0.2, "temperature": None},
        num_sure_mistakes=3,
        data_checks=("2 groups of exact copies",),
    )


def test_classes_are_judged_by_their_intervals() -> None:
    assert Standing.of(grounds().evaluation.measures.by_class["recall"]) == Standing((0,), (3, 1), (2,))
    assert headline(grounds()).endswith(
        "Of 4 classes 1 reaches a recall of 90 %, 2 do not, 1 is inconclusive: too few test images."
    )


def test_the_verdict_says_what_is_wrong_and_what_to_do() -> None:
    found = {remark.title: remark for remark in remarks(grounds())}
    assert [*found][:2] == ["Not good enough: never, weak", "Never predicted: never"]
    assert found["Not good enough: never, weak"].remedy == "collect training images of weak first"
    assert found["Most confused: weak is predicted as good"].words.startswith("25 of 50 images of weak (50 %)")
    assert found["Data check"].words == "2 groups of exact copies"
    assert found["The confidences are not calibrated"].kind == "warning"
    assert "The classes are imbalanced, 41.7 : 1" in found
    assert "These are val images" not in found
    changed = dataclasses.replace(grounds().evaluation, split="val", missing_classes=["x"], unreadable=["y"])
    titles = [remark.title for remark in remarks(dataclasses.replace(grounds(), evaluation=changed))]
    assert {"These are val images", "Not tested: x", "Images that cannot be read: 1"} <= set(titles)


def test_the_verdict_says_why_no_temperature_is_applied() -> None:
    for ece, title in ((0.02, "Confidence is well calibrated"), (0.2, "Confidence is poorly calibrated")):
        calibration = {"ece_after": ece, "temperature": 1.0, "reason": "no gain on held-out folds"}
        found = {item.title: item for item in remarks(dataclasses.replace(grounds(), calibration=calibration))}
        assert found[title].words.endswith(" No temperature is applied: no gain on held-out folds.")


def test_answers_are_ordered_as_a_person_looks_at_them() -> None:
    logits = np.array([[9, 0], [0, 1], [0, 5], [1, 0]], dtype=np.float32)
    targets = np.array([0, 0, 0, 0])
    answers = SortedPredictions(
        SplitResult("test", logits, targets, np.arange(4), np.array([0, 1.3, 5, 0.3], np.float32)), 2
    )
    assert answers.worst().tolist() == [2, 1]
    assert answers.unsure().tolist() == [3, 0]
    assert {pair: rows.tolist() for pair, rows in answers.cells().items()} == {(0, 0): [0, 3], (0, 1): [2, 1]}
