from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import COLOURS, draw_picture
from tests.unit.export.test_export import PREPROCESSING

from classifier_training.core.errors import UserError
from classifier_training.core.images import read_rgb
from classifier_training.core.run_dir import RunDir
from classifier_training.inference.decoding import decode
from classifier_training.inference.predictor import Predictor
from classifier_training.inference.sources import Item
from classifier_training.models.timm_models import timm_model


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    made = []
    for number, colour in enumerate(COLOURS.values()):
        draw_picture(tmp_path / f"{number}.png", colour, seed=number)
        made.append(str(tmp_path / f"{number}.png"))
    (tmp_path / "broken.png").write_bytes(b"x")
    return [made[0], str(tmp_path / "broken.png"), *made[1:]]


def test_answers_are_those_of_the_network_on_the_same_pixels(run_dir: RunDir, paths: list[str]) -> None:
    torch.manual_seed(0)
    network = timm_model(3, name="test_resnet", pretrained=False).network.eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(PREPROCESSING.tensor(read_rgb(paths[0])))[None]).softmax(1)[0]
    found = Predictor(run_dir.path)(paths[0])
    assert found.label == "abc"[int(expected.argmax())]
    assert found.confidence == pytest.approx(expected.max().item(), abs=1e-5)


def test_a_single_file_that_does_not_exist_is_an_error_and_in_a_list_an_answer(
    run_dir: RunDir, paths: list[str]
) -> None:
    predictor = Predictor(run_dir.path)
    with pytest.raises(UserError, match=r"nowhere\.jpg: there is no such file"):
        predictor("nowhere.jpg")
    with pytest.raises(UserError, match="a folder"):
        predictor(run_dir.path)
    good, missing = predictor([paths[0], "nowhere.jpg"])
    assert good.error is None
    assert missing.label is None
    assert missing.error
    assert predictor(paths[1]).error  # unreadable


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_order_and_answers_do_not_depend_on_the_batch(run_dir: RunDir, paths: list[str], batch_size: int) -> None:
    predictor = Predictor(run_dir.path)
    found = list(predictor.predict(paths, batch_size=batch_size, probabilities=True))
    assert [item.path for item in found] == paths
    assert [item.error is None for item in found] == [True, False, True, True]
    single = predictor(paths[3])
    assert found[3].label == single.label
    assert found[3].confidence == pytest.approx(single.confidence, abs=1e-5)
    assert sum((found[0].probabilities or {}).values()) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_read_changes_no_bit_of_the_others(run_dir: RunDir, paths: list[str]) -> None:
    predictor = Predictor(run_dir.path)
    whole = [answer.logits for answer in predictor.raw_outputs([paths[0], paths[0], *paths[2:]])]
    spoilt = [answer.logits for answer in predictor.raw_outputs(paths)]
    assert spoilt[1] is None
    for row in (0, 2, 3):
        assert np.array_equal(whole[row], spoilt[row])  # type: ignore[arg-type]


def test_the_threshold_marks_and_keeps_the_label(run_dir: RunDir, paths: list[str]) -> None:
    found = next(Predictor(run_dir.path).predict(paths, threshold=1.0, top_k=2))
    assert found.rejected
    assert found.label == found.top_k[0][0]
    assert len(found.top_k) == 2
    assert found.to_dict()["top_k"][0] == {"label": found.label, "probability": found.confidence}  # type: ignore[index]


def test_an_image_in_memory_is_classified_as_its_file_is(run_dir: RunDir, paths: list[str]) -> None:
    predictor = Predictor(run_dir.path)
    expected = predictor(Path(paths[0])).top_k
    with Image.open(paths[0]) as image:
        pixels = np.asarray(image.convert("RGB"))
        assert predictor(image).top_k == expected
        assert predictor(image.convert("RGBA")).top_k == expected
    for array in (
        pixels,
        pixels.transpose(2, 0, 1),
        pixels / 255,
        (pixels / 255).astype(np.float32).transpose(2, 0, 1),
        pixels.astype(np.uint16) * 257,
        np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    ):
        assert predictor(array).top_k == expected
    assert predictor(Path(paths[0]).read_bytes()).top_k == expected
    several = predictor([paths[0], pixels, paths[1]])
    assert predictor((paths[0], pixels, paths[1])) == predictor(iter([paths[0], pixels, paths[1]])) == several
    assert [one.top_k for one in several] == [expected, expected, predictor(paths[1]).top_k]
    assert predictor([]) == []


def test_grey_pixels_are_classified_as_an_image_of_that_grey(run_dir: RunDir) -> None:
    predictor = Predictor(run_dir.path)
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    expected = predictor(np.dstack([grey] * 3)).top_k
    assert predictor(grey).top_k == predictor(grey[:, :, None]).top_k == expected
    assert predictor(grey > 99).top_k == predictor((grey > 99).astype(np.uint8) * 255).top_k


@pytest.mark.parametrize(
    ("array", "came"),
    [
        (np.full((4, 4, 3), 200.0), "float64 [4, 4, 3] from 200 to 200"),
        (np.zeros((2, 4, 4, 3), np.uint8), "uint8 [2, 4, 4, 3]"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 [0, 4, 3]"),
        (np.zeros((5, 5, 7), np.uint8), "uint8 [5, 5, 7]"),
        (np.zeros((4, 4), np.int64), "int64 [4, 4]"),
    ],
)
def test_an_array_of_another_form_is_refused(run_dir: RunDir, array: np.ndarray, came: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"an array of {came}")):
        Predictor(run_dir.path)(array)


def test_bytes_that_are_no_image_are_refused(run_dir: RunDir) -> None:
    with pytest.raises(UserError, match="is not an image"):
        Predictor(run_dir.path)(b"words")


def test_a_pillow_image_without_plain_colours_is_refused(run_dir: RunDir) -> None:
    with pytest.raises(UserError, match="mode F"):
        Predictor(run_dir.path)(Image.new("F", (4, 4)))


def test_the_model_says_where_it_runs(run_dir: RunDir) -> None:
    assert Predictor(run_dir.path, accelerator="cpu").device.startswith("CPU")


def test_images_are_taken_as_they_are_needed_and_no_sooner(run_dir: RunDir, paths: list[str]) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield paths[0]

    found = Predictor(run_dir.path).predict(endless(), batch_size=4)
    for _ in range(40):
        assert next(found).error is None
    assert taken <= 40 + 2 * 4 + 1


def test_a_picture_too_long_and_thin_to_crop_is_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (1, 60_000)).save(tmp_path / "a.png")
    crop = dataclasses.replace(PREPROCESSING, policy="crop", size=(224, 224))
    item = Item(str(tmp_path / "a.png"), "")
    assert "too long and thin" in (next(decode([item], crop, ahead=1)).error or "")
    assert next(decode([item], PREPROCESSING, ahead=1)).error is None
