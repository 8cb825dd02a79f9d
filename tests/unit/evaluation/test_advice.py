from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from classifier_training.core.types import SplitResult
from classifier_training.evaluation.advice import Grounds, headline, remarks
from classifier_training.evaluation.measures import measure
from classifier_training.evaluation.metrics import confusion_counts
from classifier_training.evaluation.mistakes import SortedPredictions
from classifier_training.evaluation.results import Evaluation
from classifier_training.evaluation.training_facts import Training

NAMES = ("good", "weak", "few", "never")


def grounds() -> Grounds:
    """100 images of good, all right; 50 of weak, half predicted as good; 4 of few, right; 30 of never, none right."""
    targets = np.repeat([0, 1, 2, 3], [100, 50, 4, 30])
    answers = np.concatenate([np.zeros(100), np.tile([0, 1], 25), np.full(4, 2), np.tile([0, 1, 2], 10)]).astype(int)
    measures = measure(np.eye(4, dtype=np.float32)[answers] * 4, targets, num_classes=4)
    return Grounds(
        evaluation=Evaluation("test", measures),
        class_names=NAMES,
        counts=confusion_counts(targets, answers, 4),
        train_counts={"good": 500, "weak": 12, "few": 40, "never": 30},
        calibration={"ece_after": 0.2, "temperature": None},
        num_sure_mistakes=3,
        data_checks=("2 groups of exact copies",),
    )


def test_classes_are_judged_by_their_intervals() -> None:
    verdict = grounds().verdict
    assert [[check.label for check in verdict.standing(name, "recall")] for name in ("reached", "missed", "open")] == [
        [0], [3, 1], [2],
    ]  # fmt: skip
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
    cells = {(true, predicted): answers.cell(true, predicted).tolist() for true in (0, 1) for predicted in (0, 1)}
    assert cells == {(0, 0): [0, 3], (0, 1): [2, 1], (1, 0): [], (1, 1): []}


def test_what_the_verdict_waits_for_comes_first_then_the_largest_gain() -> None:
    found = [remark for remark in remarks(grounds()) if remark.remedy]
    assert [remark.title for remark in found[:3]] == [
        "Not good enough: never, weak", "Never predicted: never", "Most confused: weak is predicted as good",
    ]  # fmt: skip
    gains = [remark.gain for remark in found if not remark.decides]
    assert gains == sorted(gains, reverse=True)
    # 90 % of 30 and of 50 are 72; 25 of them were found.
    assert found[0].gain == pytest.approx(47)
    few = dataclasses.replace(grounds().evaluation, verdict=None, split="val")
    assert remarks(dataclasses.replace(grounds(), evaluation=few))[0].decides


def test_classes_that_are_too_few_images_say_how_many_are_missing() -> None:
    (remark,) = [remark for remark in remarks(grounds()) if remark.title == "Inconclusive: few"]
    # 36 correct images of 36 have a lower end above 90 %.
    assert remark.remedy == "add test images: about 32 images of few"


def test_a_learning_curve_says_how_many_images_to_collect() -> None:
    row = {
        "reason": "more than 60 images",
        "label": "weak",
        "now": 0.5,
        "low": 0.4,
        "high": 0.6,
        "target": 0.9,
        "images_now": 12,
    }
    for wanted, low, high, words in (
        (112, 62, 412, "collect training images: about 100 more of weak (50 to 400)"),
        (112, 62, None, "collect training images: about 100 more of weak (50 or more)"),
        (112, 12, None, "collect training images: about 100 more of weak (perhaps far more)"),
        (
            None,
            None,
            None,
            "collect training images: more than 60 images of weak",
        ),
    ):
        rows = [{**row, "images_for_target": wanted, "images_low": low, "images_high": high}]
        found = remarks(dataclasses.replace(grounds(), learning_curve=rows))
        assert found[0].remedy == words


def test_training_that_was_cut_or_still_improving_is_said() -> None:
    cut = Training(is_cut=True, ended="trainer.max_time=0:01:00 is over after 2 of 9 epochs, before the end; time=…")
    (found,) = [item for item in remarks(dataclasses.replace(grounds(), training=cut)) if item.title.startswith("Tr")]
    assert "trainer.max_time=0:01:00 is over after 2 of 9 epochs" in found.words
    assert "time=…" in found.remedy
    epochs = [
        {"val/macro_f1": f"{value}", "train/acc_top1": "0.99", "val/acc_top1": "0.7"}
        for value in (0.4, 0.5, 0.5, 0.6, 0.6, 0.7)
    ]
    training = Training(epochs=epochs, monitor="val/macro_f1", input_side=64, image_side=250)
    titles = {item.title: item for item in remarks(dataclasses.replace(grounds(), training=training))}
    assert titles["Training was still improving"].gain == pytest.approx(18.4)
    assert "Training images fit much better than new ones" in titles
    assert (
        titles["The network sees 64 of 250 pixels"].remedy == "try data.image_size=128: an epoch takes 4 times as long"
    )


def test_what_rejecting_gives_is_said_where_it_reaches_more_than_all_predictions() -> None:
    rejecting = [
        {"precision": 0.6, "found_precision": 0.7, "found_coverage": 0.9},
        {"precision": 0.9, "found_precision": 0.95, "found_coverage": 0.5},
    ]
    calibration = {**grounds().calibration, "rejecting": rejecting}
    titles = [item.title for item in remarks(dataclasses.replace(grounds(), calibration=calibration))]
    assert "Rejecting unsure predictions: 95.0 % of the others are correct" in titles


def test_the_images_to_a_target_are_whole_ones_in_each_class() -> None:
    targets = np.repeat([0, 1, 2], [8, 8, 10])
    answers = np.concatenate([np.repeat([0, 2], [3, 5]), np.repeat([1, 2], [3, 5]), np.full(10, 2)])
    measures = measure(np.eye(3, dtype=np.float32)[answers] * 4, targets, num_classes=3)
    found = dataclasses.replace(
        grounds(),
        evaluation=Evaluation("test", measures),
        class_names=NAMES[:3],
        counts=confusion_counts(targets, answers, 3),
    )
    assert [check.shortfall for check in found.verdict.standing("missed", "recall")] == [5, 5]
    (remark,) = [item for item in remarks(found) if item.title.startswith("Not good enough")]
    # 90 % of 8 are 7.2 images, so 8 must be correct in each of two classes, where 3 were.
    assert (remark.gain, remark.gain_words) == (10, "10 more correct images would reach the target")


def test_fine_tuning_that_made_it_worse_is_said_with_a_remedy_where_the_loss_is_high() -> None:
    rows = [{"train/loss": "1.2", "val/acc_top1": "0.25"}, {"train/loss": "3.5", "val/acc_top1": "0.2"}]
    training = Training(epochs=rows, monitor="val/acc_top1", probe_score=0.95, learning_rate=0.5)
    words, remedy = training.worsened(4)
    assert words == (
        "fine-tuning made it worse (best epoch val/acc_top1 0.2500, the linear probe 0.9500); its weights are not used"
    )
    assert remedy == "a lower learning rate may help: optimizer.lr=0.05"
    titles = {item.title: item for item in remarks(dataclasses.replace(grounds(), training=training))}
    assert titles["Fine-tuning made it worse"].remedy == remedy
    # A loss that fell, below that of a guess, is no sign of a high learning rate.
    calm = [{**rows[0], "train/loss": "0.9"}, {**rows[1], "train/loss": "0.4"}]
    assert dataclasses.replace(training, epochs=calm).worsened(4) == (words, "")
    # An epoch that scored as high was passed over for another reason; other weights were kept; a probe has no epochs.
    for other in (
        dataclasses.replace(training, probe_score=0.25),
        dataclasses.replace(training, probe_score=None),
        dataclasses.replace(training, epochs=[{"val/acc_top1": "0.2"}]),
    ):
        assert other.worsened(4) == ("", "")
