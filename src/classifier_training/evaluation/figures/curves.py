"""ROC and precision-recall curves, of classes and of classifiers, and learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.display import left_to_right
from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREY, ORANGE, label_of, new_axes, new_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import matplotlib.figure
    from numpy.typing import NDArray

    from classifier_training.evaluation.ranking import Ranking

    Floats = NDArray[np.float64]

MAX_CURVES = 10
"""Classes that all have a curve; of more, the mean and the worst."""

NUM_WORST = 5
MAX_PANELS, PANELS_A_ROW = 6, 3
"""Classes whose learning curve is plotted."""

GRID = np.linspace(0, 1, 201)
"""Where curves are read off, to be averaged and plotted: a curve of 50,000 images has as many corners."""

Kind = Literal["roc", "precision_recall"]


@dataclass(frozen=True, kw_only=True)
class RankingCurvesFigure(Figure):
    """Curves of each class against the rest.

    Args:
        kind: roc or precision_recall.
        curves: values at `GRID`, by legend; the first is plotted heavier where it is a mean.
        title: above the image.
        has_mean: whether the first curve is the mean over the classes.
    """

    kind: Kind
    curves: dict[str, Floats]
    title: str
    has_mean: bool

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        import matplotlib as mpl

        figure, axes = new_axes(7, 5, title=self.title, grid=True)
        colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
        for number, (label, values) in enumerate(self.curves.items()):
            mean = self.has_mean and number == 0
            colour = "black" if mean else colours[(number - self.has_mean) % len(colours)]
            axes.plot(GRID, values, label=label, color=colour, linewidth=2.4 if mean else 1.3)
        if self.kind == "roc":
            axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.02)
        roc = self.kind == "roc"
        axes.set_xlabel("false positive rate" if roc else "recall")
        axes.set_ylabel("true positive rate" if roc else "precision")
        axes.legend(framealpha=0.8, edgecolor="none", fontsize=8, loc="lower right" if roc else "lower left")
        return figure


class RankingCurves:
    """The curves of all classes, read off while their rankings pass by: one ranking is held at a time."""

    def __init__(self) -> None:
        self._found: list[tuple[int, dict[Kind, tuple[float, Floats]]]] = []

    def add(self, number: int, ranking: Ranking) -> None:
        """Read the curves off a class's ranking; without images of the class, or of others, there are none."""
        if ranking.num_positive and ranking.num_negative:
            areas: dict[Kind, float] = {"roc": ranking.auroc, "precision_recall": ranking.average_precision}
            self._found.append((number, {kind: (area, _read_off(kind, ranking)) for kind, area in areas.items()}))

    def figure(self, kind: Kind, class_names: Sequence[str]) -> RankingCurvesFigure | None:
        """Return the plot of all classes, or of many the mean and the worst; None where no class has a curve.

        Args:
            kind: roc or precision_recall.
            class_names: [K].
        """
        found = [(*curves[kind], class_names[number]) for number, curves in self._found]
        if not found:
            return None
        word, title = ("area", "ROC") if kind == "roc" else ("average precision", "Precision and recall")
        mean_area = np.mean([area for area, _, _ in found])
        many = len(found) > MAX_CURVES
        shown = sorted(found, key=lambda item: item[0])[:NUM_WORST] if many else found
        mean = {f"mean of {len(found)} classes ({word} {mean_area:.3f})": np.mean([c for _, c, _ in found], axis=0)}
        # Two names may look alike once they are cut to a label's length.
        named = {
            f"{left_to_right(label_of(name))} ({area:.3f})" + "\u200b" * place: curve
            for place, (area, curve, name) in enumerate(shown)
        }
        return RankingCurvesFigure(
            kind=kind,
            curves={**(mean if many else {}), **named},
            title=f"{title}: the mean and the {len(shown)} worst classes" if many else f"{title} of each class",
            has_mean=many,
        )


def _read_off(kind: Kind, ranking: Ranking) -> Floats:
    if kind == "roc":
        # Of the corners above one place the highest counts, as on a plotted step.
        return np.asarray(np.interp(GRID, *ranking.roc_curve))
    found = ranking.hits / ranking.num_positive
    precision = ranking.hits / (ranking.ends + 1)
    # A step holds to the next share that is found, so the average precision is the area that is seen.
    return np.asarray(precision[np.searchsorted(found, GRID, side="left").clip(max=len(found) - 1)])


@dataclass(frozen=True, kw_only=True)
class RocFigure(Figure):
    """ROC curves of several classifiers, one each.

    Args:
        curves: false and true positive rates, by name; the first are plotted.
        title: above the image.
    """

    curves: Mapping[str, tuple[Sequence[float] | Floats, Sequence[float] | Floats]]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure, axes = new_axes(
            5.6, 5, title=self.title, x_label="false positive rate", y_label="true positive rate, mean over classes",
            grid=True,
        )  # fmt: skip
        for name, (alarms, hits) in list(self.curves.items())[:MAX_CURVES]:
            axes.plot(alarms, hits, linewidth=1.4, label=label_of(name))
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        axes.legend(frameon=False, loc="lower right", fontsize=8)
        return figure


@dataclass(frozen=True, kw_only=True)
class LearningCurvePanel:
    """The learning curve of a class.

    Args:
        label: the class.
        target: recall that is asked for.
        measured_images: training images of the class in each part that a linear probe was fitted to.
        measured_recall: of these probes.
        forecast: training images, recall, and both ends of its interval, from now on.
    """

    label: str
    target: float
    measured_images: Sequence[int]
    measured_recall: Sequence[float]
    forecast: Sequence[tuple[int, float, float, float]]


@dataclass(frozen=True, kw_only=True)
class LearningCurvesFigure(Figure):
    """Recall of classes against their number of training images, measured and forecast.

    Args:
        panels: a class each.
    """

    panels: Sequence[LearningCurvePanel]

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        # Rows are as full as they can be: two and two of four.
        rows = -(-len(self.panels) // PANELS_A_ROW)
        columns = -(-len(self.panels) // rows)
        figure = new_figure(max(3.2 * columns, 5.2), 2.7 * rows + 0.9)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        figure.suptitle("Recall by number of training images")
        lowest = min(min(*panel.measured_recall, *(item[2] for item in panel.forecast)) for panel in self.panels)
        for axes, panel in zip(grid.flat, self.panels, strict=False):
            images, recall, low, high = zip(*panel.forecast, strict=True)
            axes.fill_between(images, low, high, color=BLUE, alpha=0.2, linewidth=0, label="90 % interval")
            axes.plot(images, recall, color=BLUE, label="forecast")
            axes.plot(images[:1], recall[:1], color=BLUE, marker="o", markersize=5, linestyle="", label="now")
            axes.plot(
                panel.measured_images, panel.measured_recall, color=GREY, marker="o", markersize=3, linewidth=1,
                label="linear probe, on parts of the images",
            )  # fmt: skip
            axes.axhline(panel.target, color=ORANGE, linestyle="--", linewidth=1, label="target")
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(max(0.0, lowest - 0.05), 1.02)
            axes.set_title(label_of(panel.label), fontsize=10)
            axes.grid(alpha=0.25)
        for axes in grid.flat[len(self.panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("recall")
        for axes in grid.flat[max(0, len(self.panels) - columns) : len(self.panels)]:
            axes.set_xlabel("training images")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        return figure
