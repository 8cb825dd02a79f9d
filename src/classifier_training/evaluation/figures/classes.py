"""How good the answers are, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREY, ORANGE, label_of, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    from numpy.typing import NDArray

MAX_BARS = 40
"""Classes shown; of more, the worst."""


@dataclass(frozen=True, kw_only=True)
class ClassScoresFigure(Figure):
    """Recall as bars with intervals and precision as dots, the worst class first.

    Args:
        recall: with its interval, float [K, 3]: value, low, high; NaN where there is none.
        precision: [K].
        support: images of each class [K].
        class_names: [K].
        title: above the picture.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    support: NDArray[np.int64]
    class_names: tuple[str, ...]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import PercentFormatter

        present = np.flatnonzero(np.isfinite(self.recall[:, 0]))
        order = present[np.argsort(self.recall[present, 0], kind="stable")][:MAX_BARS]
        figure = new_figure(8, float(np.clip(1.5 + 0.28 * len(order), 2.6, 14)))
        axes = figure.add_subplot()
        rows = np.arange(len(order))
        values, low, high = self.recall[order].T
        reach = np.vstack([values - low, high - values])
        axes.barh(rows, values, 0.7, color=BLUE, alpha=0.75, label="recall: found of the class")
        if np.isfinite(reach).all() and len(order):
            axes.errorbar(
                values, rows, xerr=reach.clip(min=0), fmt="none", ecolor=GREY, capsize=2, label="95 % interval"
            )
        axes.plot(self.precision[order], rows, "o", color=ORANGE, markersize=5, label="precision: right of the answers")
        names = [f"{label_of(self.class_names[row])}  ({self.support[row]:,})" for row in order]
        axes.set_yticks(rows, names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        hidden = len(present) - len(order)
        axes.set_title(
            self.title + (f"\n(the {len(order)} worst; {hidden} better ones are not shown)" if hidden else "")
        )
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside lower center")
        return figure
