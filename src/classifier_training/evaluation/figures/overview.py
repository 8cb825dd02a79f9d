"""Pictures for a report on several networks: the way of the data, bars side by side, ROC curves over each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREEN, GREY, ORANGE, RED, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    from numpy.typing import NDArray

COLOURS = (BLUE, ORANGE, GREEN, RED, GREY)


@dataclass(frozen=True, kw_only=True)
class FlowFigure(Figure):
    """Steps, one after the other, each with what is known of it.

    Args:
        steps: title and words of each.
        title: above the picture.
    """

    steps: tuple[tuple[str, str], ...]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure = new_figure(2.3 * len(self.steps), 2.2)
        axes = figure.add_subplot()
        for place, (title, words) in enumerate(self.steps):
            box = {"boxstyle": "round,pad=0.6", "facecolor": "white", "edgecolor": BLUE}
            axes.text(place, 0, f"{title}\n\n{words}", ha="center", va="center", fontsize=9, bbox=box)
            if place:
                arrow = {"arrowstyle": "->", "color": GREY}
                axes.annotate("", (place - 0.42, 0), (place - 0.58, 0), arrowprops=arrow)
        axes.set_xlim(-0.6, len(self.steps) - 0.4)
        axes.set_ylim(-1, 1)
        axes.set_axis_off()
        axes.set_title(self.title)
        return figure


@dataclass(frozen=True, kw_only=True)
class BarsFigure(Figure):
    """Figures of several networks, a panel for each figure.

    Args:
        names: of the networks [M].
        panels: values [M] by the figure's name with its unit.
        title: above the picture.
    """

    names: tuple[str, ...]
    panels: dict[str, list[float]]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure = new_figure(1 + 2.8 * len(self.panels), 1.6 + 0.4 * len(self.names))
        figure.suptitle(self.title)
        for place, (label, values) in enumerate(self.panels.items()):
            axes = figure.add_subplot(1, len(self.panels), place + 1)
            bars = axes.barh(range(len(values)), values, color=COLOURS[place % len(COLOURS)], alpha=0.8)
            axes.bar_label(bars, fmt="%.4g", padding=2, fontsize=8)
            axes.margins(x=0.25)
            axes.set_yticks(range(len(values)), self.names if place == 0 else [""] * len(values))
            axes.invert_yaxis()
            axes.set_xlabel(label)
            axes.spines[["top", "right"]].set_visible(False)
        return figure


@dataclass(frozen=True, kw_only=True)
class RocFigure(Figure):
    """ROC curves of several networks over each other, all classes pooled (micro-average).

    Args:
        answers: probabilities [N, K] and class numbers [N] of each network, by its name.
    """

    answers: dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from sklearn.metrics import auc, roc_curve

        figure = new_figure(5.4, 4.8)
        axes = figure.add_subplot()
        for place, (name, (probabilities, targets)) in enumerate(self.answers.items()):
            is_class = np.arange(probabilities.shape[1]) == targets[:, None]
            false_alarms, hits, _ = roc_curve(is_class.ravel(), probabilities.ravel())
            label = f"{name} ({auc(false_alarms, hits):.3f})"
            axes.plot(false_alarms, hits, color=COLOURS[place % len(COLOURS)], linewidth=1.6, label=label)
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_title("ROC, all classes pooled (area)")
        axes.legend(frameon=False, loc="lower right")
        return figure
