"""A data set in numbers: classes, image sizes, what happens to an image on its way into the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREEN, GREY, ORANGE, label_of, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    from numpy.typing import NDArray

MAX_BARS = 60
"""Classes shown by name; of more, the most frequent and the rarest halves are shown."""


@dataclass(frozen=True, kw_only=True)
class ClassBarsFigure(Figure):
    """Bars by class, the most frequent first, one colour a series.

    Args:
        series: values of each class [K] by legend; the first decides the order.
        class_names: [K].
        title: above the image.
        x_label: below it.
    """

    series: dict[str, NDArray[np.float64]]
    class_names: tuple[str, ...]
    title: str
    x_label: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        leading = next(iter(self.series.values()))
        order = np.argsort(-leading, kind="stable")
        left_out = max(0, len(order) - MAX_BARS)
        if left_out:
            order = np.concatenate([order[: MAX_BARS // 2], order[-(MAX_BARS // 2) :]])
        figure = new_figure(8, float(np.clip(1.4 + 0.26 * len(order), 3, 17)))
        axes = figure.add_subplot()
        rows = np.arange(len(order))
        thickness = 0.8 / len(self.series)
        for number, ((label, values), colour) in enumerate(
            zip(self.series.items(), (BLUE, ORANGE, GREEN, GREY), strict=False)
        ):
            bars = axes.barh(
                rows + (number - (len(self.series) - 1) / 2) * thickness,
                values[order],
                thickness,
                label=label,
                color=colour,
            )
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2)
        axes.set_yticks(rows, [label_of(self.class_names[row]) for row in order], fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.08)
        axes.set_xlabel(self.x_label)
        note = f"\n({left_out} classes in the middle are not shown)" if left_out else ""
        axes.set_title(self.title + note)
        axes.spines[["top", "right"]].set_visible(False)
        if len(self.series) > 1:
            axes.legend(frameon=False)
        return figure


@dataclass(frozen=True, kw_only=True)
class ImageSizesFigure(Figure):
    """Widths and heights of all images.

    Args:
        sizes: width and height in pixels, int64 [N, 2].
        input_size: side of the network's input, marked.
    """

    sizes: NDArray[np.int64]
    input_size: int

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure = new_figure(5.6, 5)
        axes = figure.add_subplot()
        distinct, counts = np.unique(self.sizes, axis=0, return_counts=True)
        area = np.clip(400 * counts / counts.max(), 12, None)
        axes.scatter(distinct[:, 0], distinct[:, 1], s=area, color=BLUE, alpha=0.5, linewidths=0, label="images")
        axes.scatter(
            [self.input_size], [self.input_size], marker="s", s=60, facecolors="none", edgecolors=ORANGE,
            linewidths=2, label=f"network input, {self.input_size} px",
        )  # fmt: skip
        reach = max(float(self.sizes.max()), float(self.input_size)) * 1.08
        axes.plot([0, reach], [0, reach], color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, reach)
        axes.set_ylim(0, reach)
        axes.set_aspect("equal")
        axes.set_xlabel("width (pixels)")
        axes.set_ylabel("height (pixels)")
        sizes = "one size" if len(distinct) == 1 else f"{len(distinct):,} sizes"
        axes.set_title(f"Image sizes: {len(self.sizes):,} files, {sizes}")
        axes.legend(frameon=False, loc="upper left")
        return figure
