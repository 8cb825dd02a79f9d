"""ROC and precision-recall curves, of classes and of classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.display import left_to_right
from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import GREY, label_of, new_axes
from classifier_training.evaluation.ranking import Ranking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import matplotlib.figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MAX_CURVES = 10
"""Classes that all have a curve; of more, the mean and the worst."""

NUM_WORST = 5
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


def ranking_curves(
    kind: Kind, probabilities: NDArray[np.floating], targets: NDArray[np.int64], class_names: tuple[str, ...]
) -> RankingCurvesFigure | None:
    """Return the curves of all classes, or of many the mean and the worst; None where no class has one.

    Args:
        kind: roc or precision_recall.
        probabilities: float [N, K].
        targets: int64 [N].
        class_names: [K].
    """
    found: list[tuple[float, str, Floats]] = []
    for number, name in enumerate(class_names):
        ranking = Ranking.of(probabilities[:, number].astype(np.float64), targets == number)
        if ranking.num_positive and ranking.num_negative:
            area = ranking.auroc if kind == "roc" else ranking.average_precision
            found.append((area, name, _read_off(kind, ranking)))
    if not found:
        return None
    word, title = ("area", "ROC") if kind == "roc" else ("average precision", "Precision and recall")
    areas = np.array([area for area, _, _ in found])
    many = len(found) > MAX_CURVES
    shown = sorted(found, key=lambda item: item[0])[:NUM_WORST] if many else found
    mean = {f"mean of {len(found)} classes ({word} {areas.mean():.3f})": np.mean([c for _, _, c in found], axis=0)}
    # Two names may look alike once they are cut to a label's length.
    named = {
        f"{left_to_right(label_of(name))} ({area:.3f})" + "\u200b" * place: curve
        for place, (area, name, curve) in enumerate(shown)
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
        y_label: beside it.
    """

    curves: Mapping[str, tuple[Sequence[float] | Floats, Sequence[float] | Floats]]
    title: str
    y_label: str = "true positive rate, mean over classes"

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure, axes = new_axes(
            5.6, 5, title=self.title, x_label="false positive rate", y_label=self.y_label, grid=True
        )
        for name, (alarms, hits) in list(self.curves.items())[:MAX_CURVES]:
            axes.plot(alarms, hits, linewidth=1.4, label=label_of(name))
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        axes.legend(frameon=False, loc="lower right", fontsize=8)
        return figure
