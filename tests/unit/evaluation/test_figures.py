from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from tests.conftest import draw_picture

from classifier_training.evaluation.drawing import Drawer, Figure
from classifier_training.evaluation.figures import style
from classifier_training.evaluation.figures.daily import DailyFigure
from classifier_training.evaluation.figures.dataset import ClassBarsFigure, ImageSizesFigure, MeanImagesFigure
from classifier_training.evaluation.figures.grid import SampleGridFigure, Tile, caption
from classifier_training.evaluation.figures.maps import OcclusionFigure, OcclusionTile
from classifier_training.evaluation.figures.predictions import ConfusedPair, ConfusedPairsFigure, ConfusionMatrixFigure
from classifier_training.evaluation.figures.style import fit_lines, label_of, text_width
from classifier_training.evaluation.figures.training import HistoryFigure

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.text import Text


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


LONG = "definitely_a_very_long_class_name_with_many_words"
NAMES = {
    "two": ("cat", "dog"),
    "hundred": tuple(f"class {number:03d}" for number in range(100)),
    "long": (
        LONG,
        f"{LONG}_2",
        "W" * 60,
        "a" + "e\u0301" * 60,
        "Donaudampfschifffahrtsgesellschaftskapitän",
        "$a$ $b$",
    ),
    "japanese": ("猫", "柴犬", "とても長い日本語のクラス名はここにあります"),
    "arabic": ("قطة", "كلب صغير", "اسم فئة طويل جدا باللغة العربية للاختبار هنا"),
    "emoji": ("😀", "🐈 cat", "👩\u200d👩\u200d👧", "", "a\nb"),
}


def texts_of(figure: matplotlib.figure.Figure) -> list[Text]:
    """The captions of a figure, laid out as they are drawn."""
    style.adopt_fonts(figure)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    return list(axes.texts)


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_captions_stay_below_their_picture_and_can_be_told_apart(names: tuple[str, ...]) -> None:
    tiles = tuple(
        Tile(path="none", true_label=names[-row % len(names)], predicted_label=names[row % len(names)], confidence=0.87)
        for row in range(16)
    )
    pair = ConfusedPair(true_label=names[0], predicted_label=names[-1], count=3, support=20, paths=())
    occluded = OcclusionTile(
        image=np.zeros((8, 8, 3), np.uint8), falls=np.ones((2, 2), np.float32), true_label=names[0],
        predicted_label=names[-1], confidence=0.9,
    )  # fmt: skip
    means = np.zeros((len(names[:12]), 32, 32, 3), np.uint8)
    for figure in (
        SampleGridFigure(tiles=tiles, title="x").render(),
        ConfusedPairsFigure(pairs=(pair, pair), title="x").render(),
        OcclusionFigure(tiles=(occluded,) * 5, title="x").render(),
        MeanImagesFigure(means=means, class_names=names[:12]).render(),
    ):
        boxes = [text.get_window_extent() for text in texts_of(figure)]
        assert boxes
        assert not [one for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 for box in boxes)
    shown = {name: tuple(caption(name, name, 0.87)) for name in names}
    assert len(set(shown.values())) == len(names), "a caption for each name"


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    first, second = caption(LONG, LONG, 0.87)
    assert LONG.startswith(first.removesuffix("…"))
    assert LONG.endswith(second.removesuffix(" 87%"))
    assert len(first) + len(second) > 28
    first, second = caption("an_edit_mode_for_slides", "an_edit_mode_for_slides", 0.87)
    assert (first, second) == ("an_edit_mode_for_", "slides 87%"), "whole names are broken behind a separator"
    (line,) = fit_lines(LONG, 100, size=9)
    assert line.startswith("defi")
    assert line.endswith("words")
    assert text_width(line, size=9) <= 100


def has_box(figure: Figure, path: Path) -> bool:
    """Whether matplotlib says that it draws a box for a letter that it has not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        painted = figure.render()
        style.adopt_fonts(painted)
        painted.savefig(path)
    return any("Glyph" in str(warning.message) for warning in caught)


@pytest.fixture
def no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose only font is the one that matplotlib brings."""
    monkeypatch.setattr(style, "_other_fonts", list)
    style._fonts.cache_clear()
    yield
    style._fonts.cache_clear()


@pytest.mark.usefixtures("no_other_fonts")
def test_letters_without_a_font_are_shown_as_numbers_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("猫", "犬")
    figure = ConfusionMatrixFigure(counts=np.eye(2, dtype=np.int64), class_names=names, title="x")
    assert not has_box(figure, tmp_path / "a.png")
    assert [label_of(name) for name in names] == [r"\u732b", r"\u72ac"]
    drawer = Drawer()
    for number in range(2):
        drawer._tell_missing(figure.save(tmp_path / f"{number}.png"))
    (told,) = caplog.messages
    assert "no font of this machine has the letters 犬猫" in told
    assert "fonts-noto-cjk" in told
    assert "classifier-training[fonts]" in told
    assert style.take_missing() == ""


def test_a_japanese_font_is_found_where_the_package_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib_fontja")
    style._fonts.cache_clear()
    names = ("猫", "ラーメン")
    figure = ConfusionMatrixFigure(counts=np.eye(2, dtype=np.int64), class_names=names, title="x")
    assert not has_box(figure, tmp_path / "a.png")
    assert tuple(map(label_of, names)) == names
    assert figure.save(tmp_path / "b.png") == ""


@pytest.mark.parametrize(
    ("letters", "font"),
    [("猫ア", "fonts-noto-cjk"), ("한", "fonts-noto-cjk"), ("🐈", "fonts-symbola"), ("แ", "fonts-noto-core")],
)
def test_the_font_to_install_is_named(letters: str, font: str) -> None:
    assert font in style.font_advice(letters)


def test_fonts_for_several_scripts_are_named_together() -> None:
    assert style.font_advice("한🐈แ") == "Debian's fonts-noto-cjk; Debian's fonts-symbola; Debian's fonts-noto-core"


def test_wide_letters_are_cut_by_their_width() -> None:
    assert len(label_of("猫" * 100)) <= 12 + 1
    assert label_of("猫" * 12) == "猫" * 12


def test_a_share_stays_behind_a_name_that_is_written_from_right_to_left() -> None:
    (line,) = caption("קטן", "קטן", 0.87)
    assert line == "\u200eקטן\u200e 87%"  # noqa: RUF001 - Hebrew


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
    assert "first.png and later images are missing" in said
    assert {path.name for path in drawer.failures} == {"first.png", "second.png", "third.png"}


def test_values_by_day_are_plotted_with_gaps_marks_and_an_interval(tmp_path: Path) -> None:
    figure = DailyFigure(
        title="Accuracy",
        y_label="accuracy",
        days=("2026-03-01", "2026-03-02", "2026-03-09"),
        lines={"estimate": (0.9, math.nan, 0.7)},
        low=(0.85, math.nan, 0.6),
        high=(0.95, math.nan, 0.8),
        expected={"validation": 0.92},
        marked=("2026-03-09",),
    )
    figure.save(tmp_path / "daily.png")
    assert (tmp_path / "daily.png").stat().st_size > 5000
    (axes,) = figure.render().axes
    assert np.ptp(np.asarray(axes.lines[0].get_xdata(), dtype=float)) == 8, "days that are missing leave a gap"
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"estimate", "95 % interval", "validation"}
