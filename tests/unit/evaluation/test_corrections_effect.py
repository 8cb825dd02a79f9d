"""What corrections bought: the counts of one pair, the cautions, and the interval over seeds and images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from classifier_training.evaluation.corrections_effect import CorrectionsEffect, JudgedImage, pool


def image(path: str, labels: str, predicted: str, **others: object) -> JudgedImage:
    """Labels and predictions of before and after, a letter each."""
    return JudgedImage(
        path=path,
        original=labels[0],
        corrected=labels[1],
        before=predicted[0],
        after=predicted[1],
        **others,  # type: ignore[arg-type]
    )


IMAGES = (
    image("1", "aa", "ba"),
    image("2", "aa", "aa"),
    image("3", "ab", "ab", is_checked=True),
    image("4", "bb", "ba"),
    image("5", "bb", "bb"),
)


def effect(*images: JudgedImage, split: str = "test", **left_out: int) -> CorrectionsEffect:
    return CorrectionsEffect(images=images, split=split, left_out=left_out)


def test_both_sets_of_labels_are_scored_on_the_same_images() -> None:
    found = effect(*IMAGES, dropped=2)
    # By the corrected labels: before 2 and 4, 5 of the b's; after 1, 2 and 3, 5.
    assert found.corrected.balanced_accuracy == pytest.approx(((1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2))
    assert found.original.balanced_accuracy == pytest.approx(((2 / 3 + 1 / 2) / 2, (2 / 3 + 1) / 2))
    assert [item.path for item in found.became_right] == ["1", "3"]
    assert [item.path for item in found.became_wrong] == ["4"]
    assert found.num_changed == 1
    assert found.left_out_words == "2 dropped"
    first, second = found.words
    assert first.startswith("balanced accuracy 0.583 -> 0.833 (+0.250, 95 % interval ")
    assert first.endswith("2 images became right, 1 wrong) on the corrected labels of 5 test images")
    assert second.endswith("on the original labels (1 label corrected)")
    values = found.to_dict()
    assert values["corrected_labels"]["accuracy"]["before"] == pytest.approx(3 / 5)
    assert values["corrected_labels"]["classes"]["a"]["recall_before"] == pytest.approx(1 / 2)
    assert values["left_out"] == {"dropped": 2, "moved": 0, "unknown_labels": 0, "in_one_run_alone": 0}


def test_whom_corrected_labels_favour_is_said_until_the_images_that_matter_were_looked_at() -> None:
    (caution,) = effect(*IMAGES).cautions
    assert "1 test label corrected" in caution
    assert "2 of the 3 images that the two runs predict differently were not looked at" in caution
    looked_at = [replace(item, is_checked=item.before != item.after) for item in IMAGES]
    assert effect(*looked_at).cautions == []
    uncorrected = [replace(item, corrected=item.original, is_checked=False) for item in IMAGES]
    assert effect(*uncorrected).cautions == []
    assert "chose the weights" in effect(*uncorrected, split="val").cautions[0]


def test_labels_of_images_that_both_predict_alike_do_not_matter_to_the_difference() -> None:
    found = effect(*IMAGES).corrected
    others = [replace(item, corrected="a") if item.path == "5" else item for item in IMAGES]
    changed = effect(*others).corrected
    assert found.accuracy_difference.value == pytest.approx(changed.accuracy_difference.value)


def test_one_pair_has_an_interval_over_images_alone() -> None:
    random = np.random.default_rng(0)
    images = [image(f"{row}", 2 * "ab"[row % 2], "".join(random.choice(["a", "b"], 2))) for row in range(400)]
    one = effect(*images)
    pooled = pool({0: one}, corrected=True)
    paired = one.corrected.balanced_accuracy_difference
    assert pooled.difference.method == "images"
    assert pooled.difference.value == pytest.approx(paired.value)
    assert pooled.difference.high - pooled.difference.low == pytest.approx(paired.high - paired.low, rel=0.12)
    grouped = [replace(item, group=f"g{number // 8}") for number, item in enumerate(images)]
    copies = [replace(item, path=f"{item.path}-{copy}", group=item.path) for item in images[:50] for copy in range(8)]
    assert pool({0: effect(*grouped)}, corrected=True).difference.method == "images"
    wide = pool({0: effect(*copies)}, corrected=True).difference
    narrow = pool({0: effect(*(replace(item, group="") for item in copies))}, corrected=True).difference
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("shared", "spread"), [(True, 0.0), (True, 0.1), (False, 0.1)])
def test_the_interval_over_seeds_and_images_holds(*, shared: bool, spread: float) -> None:
    """True difference 0.1; each seed has its own, and all seeds have the same images or not."""
    random = np.random.default_rng(1)
    num_seeds, num_images, repeats, true = 3, 100, 200, 0.1
    held = 0
    for _ in range(repeats):
        effects = {}
        hard = random.random(num_images)
        for seed in range(num_seeds):
            gain = true + spread * random.standard_normal()
            own = hard if shared else random.random(num_images)
            # An image is right when its difficulty is below the accuracy, with a little chance of its own.
            draws = np.clip(own + 0.1 * random.standard_normal(num_images), 0, 1)
            right = [draws < 0.6, draws < 0.6 + gain]
            effects[seed] = effect(
                *(
                    image(
                        f"{row}" if shared else f"{seed}-{row}",
                        2 * "ab"[row % 2],
                        "".join("ab"[row % 2] if hits[row] else "ba"[row % 2] for hits in right),
                    )
                    for row in range(num_images)
                )
            )
        found = pool(effects, corrected=True).difference
        held += found.low <= true <= found.high
    assert held / repeats >= 0.93
