"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import label_of, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    from numpy.typing import NDArray

MAX_ANNOTATED = 25
"""Classes up to which every cell shows its count."""


@dataclass(frozen=True, kw_only=True)
class ConfusionMatrixFigure(Figure):
    """Heat map of the answers, coloured by the share of each true class.

    Args:
        counts: images by true class (rows) and answer (columns), int64 [K, K].
        class_names: [K].
        title: above the picture.
        normalised: whether the cells show shares of the true class in per cent instead of numbers of images.
    """

    counts: NDArray[np.int64]
    class_names: tuple[str, ...]
    title: str
    normalised: bool = False

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        import seaborn
        from matplotlib.colors import PowerNorm

        num_classes = len(self.class_names)
        side = float(np.clip(2.2 + 0.42 * num_classes, 4.5, 22))
        figure = new_figure(side + 1.2, side)
        axes = figure.add_subplot()
        support = self.counts.sum(axis=1, keepdims=True)
        shares = np.divide(self.counts, support, out=np.zeros(self.counts.shape), where=support > 0)
        annotated = num_classes <= MAX_ANNOTATED
        names = [label_of(name) for name in self.class_names]
        step = 1 if num_classes <= 60 else -(-num_classes // 60)
        seaborn.heatmap(
            shares,
            ax=axes,
            # Without numbers a confusion of one image in a hundred must be seen by its colour.
            norm=PowerNorm(1 if annotated else 0.5, vmin=0, vmax=1),
            cmap="Blues",
            square=True,
            annot=self._words(shares) if annotated else False,
            fmt="",
            annot_kws={"size": 8},
            xticklabels=step,
            yticklabels=step,
            cbar_kws={"label": "share of the true class", "shrink": 0.8},
            linewidths=0.5 if annotated else 0,
            linecolor="white",
        )
        # Thousands of texts inside the axes cannot move its border, but measuring them takes most of the time.
        for text in axes.texts:
            text.set_in_layout(False)
        fits = max(map(len, names)) * 0.1 < (side - 1) / num_classes
        axes.set_xticks(np.arange(0, num_classes, step) + 0.5, names[::step], rotation=0 if fits else 90)
        axes.set_yticks(np.arange(0, num_classes, step) + 0.5, names[::step], rotation=0)
        axes.set_xlabel("answer")
        axes.set_ylabel("true class")
        axes.set_title(self.title, fontsize=float(np.clip(side, 11, 18)))
        return figure

    def _words(self, shares: NDArray[np.float64]) -> NDArray[np.str_]:
        # A share that rounds to nothing is something all the same.
        percent = np.where(shares < 0.005, "<1", np.char.mod("%.0f", 100 * shares))
        return np.where(self.counts > 0, percent if self.normalised else self.counts.astype(str), "")
