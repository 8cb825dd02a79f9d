from __future__ import annotations

import contextlib
import logging
import os
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from tests.conftest import draw_picture

from classifier_training.evaluation.drawing import Drawer, Figure
from classifier_training.evaluation.figures.confusion import ConfusionMatrixFigure
from classifier_training.evaluation.figures.dataset import ClassBarsFigure, ImageSizesFigure
from classifier_training.evaluation.figures.grid import SampleGridFigure, Tile
from classifier_training.evaluation.figures.history import HistoryFigure
from classifier_training.evaluation.figures.style import label_of

if TYPE_CHECKING:
    import matplotlib.figure


def saved(figure: Figure, path: Path) -> np.ndarray:
    figure.save(path)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("num_classes", [2, 10, 40, 200])
def test_a_confusion_matrix_is_dark_on_its_diagonal_whatever_its_size(tmp_path: Path, num_classes: int) -> None:
    names = tuple(f"class $number {row}" for row in range(num_classes))
    pixels = saved(
        ConfusionMatrixFigure(counts=np.eye(num_classes, dtype=int) * 7, class_names=names, title="x"),
        tmp_path / "a.png",
    )
    assert max(pixels.shape) < 2600
    dark = (pixels[..., 2] - pixels[..., 0] > 40) & (pixels.sum(axis=2) < 400)
    assert dark.mean() > 0.3 / num_classes


def test_classes_without_images_do_not_divide_by_zero(tmp_path: Path) -> None:
    counts = np.zeros((3, 3), dtype=int)
    with np.errstate(divide="raise", invalid="raise"):
        saved(ConfusionMatrixFigure(counts=counts, class_names=("", "b", "c"), title="x"), tmp_path / "a.png")


def test_a_sample_grid_shows_its_pictures_and_survives_a_missing_one(tmp_path: Path) -> None:
    draw_picture(tmp_path / "red.png", (250, 0, 0), seed=0, size=(60, 20))
    tiles = tuple(
        Tile(path=str(tmp_path / name), true_label="a", predicted_label=answer, confidence=0.9)
        for name, answer in (("red.png", "a"), ("none.png", "b"))
    )
    pixels = saved(SampleGridFigure(tiles=tiles, title="x"), tmp_path / "grid.png")
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 60)
    assert red.sum() > 128 * 30


def test_histories_bars_and_sizes_are_drawn(tmp_path: Path) -> None:
    history = HistoryFigure(
        curves={"train/loss": [2.0, 1.0], "val/loss": [None, 1.5]},
        epochs=[0, 1], title="Loss", y_label="loss", best_epoch=1, log_scale=True,
    )  # fmt: skip
    bars = ClassBarsFigure(
        series={"images": np.arange(200.0)}, class_names=tuple(map(str, range(200))), title="x", x_label="images"
    )
    sizes = ImageSizesFigure(sizes=np.array([[10, 20], [10, 20], [300, 5]]), input_size=32)
    for number, figure in enumerate((history, bars, sizes)):
        assert saved(figure, tmp_path / f"{number}.png").std() > 5


def test_labels_are_made_fit_to_print() -> None:
    assert label_of("") == "(empty)"
    assert label_of("$x$") == r"\$x\$"
    assert len(label_of("x" * 100)) == 24
    # Long names are often told apart by their ends.
    assert label_of("may_be_slide_powerpoint_edit_mode") != label_of("may_be_slide_powerpoint_side_screen")


@dataclass(frozen=True)
class Broken(Figure):
    def render(self) -> None:  # type: ignore[override]
        raise ValueError("cannot paint this")


def test_the_drawer_paints_elsewhere_and_reports_what_it_could_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    good = HistoryFigure(curves={"a": [1.0]}, epochs=[0], title="x", y_label="y", best_epoch=None)
    with Drawer() as drawer:
        drawer.submit(Broken(), tmp_path / "broken.png")
        drawer.submit(good, tmp_path / "folder" / "good.png")
    assert (tmp_path / "folder" / "good.png").stat().st_size > 1000
    assert "broken.png: ValueError: cannot paint this" in caplog.text
    assert drawer.failures == {tmp_path / "broken.png": "ValueError: cannot paint this"}


def test_a_failed_run_does_not_wait_for_its_pictures(tmp_path: Path) -> None:
    figure = HistoryFigure(curves={"a": [1.0]}, epochs=[0], title="x", y_label="y", best_epoch=None)
    with pytest.raises(KeyError), Drawer() as drawer:
        for number in range(30):
            drawer.submit(figure, tmp_path / f"{number}.png")
        raise KeyError
    assert len(list(tmp_path.glob("*.png"))) < 30


def test_letters_that_no_font_has_are_drawn_without_a_word(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    figure = ConfusionMatrixFigure(counts=np.eye(2, dtype=np.int64), class_names=("猫", "犬"), title="𓃠")
    assert saved(figure, tmp_path / "a.png").size
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


@dataclass(frozen=True)
class Deadly(Figure):
    """Ends the process that paints it."""

    def render(self) -> matplotlib.figure.Figure:
        os._exit(1)


def test_a_painter_that_dies_costs_its_pictures_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = np.eye(2, dtype=int)
    figure = ConfusionMatrixFigure(counts=counts, class_names=("a", "b"), title="x")
    with Drawer() as drawer:
        drawer.submit(Deadly(), tmp_path / "first.png")
        with contextlib.suppress(BrokenProcessPool):
            drawer._pending[0][1].result(timeout=60)
        drawer.submit(figure, tmp_path / "second.png")
        drawer.submit(figure, tmp_path / "third.png")
    (said,) = [record.getMessage() for record in caplog.records]
    assert "first.png and later pictures are missing" in said
    assert {path.name for path in drawer.failures} == {"first.png", "second.png", "third.png"}
