"""Students with and without a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

    from classifier_training.evaluation.students import StudentScore


@dataclass(frozen=True, kw_only=True)
class DistillationFigure(Figure):
    """Accuracy and agreement of every run, by the way that it was taught; the bar is the mean.

    Args:
        scores: the runs.
        teacher_accuracy: drawn as a line.
    """

    scores: tuple[StudentScore, ...]
    teacher_accuracy: float

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        ways = sorted(dict.fromkeys(score.taught for score in self.scores), key=lambda way: way is not None)
        labels = ["alone" if way is None else str(way) for way in ways]
        figure = new_figure(10, 1.8 + 0.42 * len(ways))
        for place, (title, name) in enumerate([("accuracy", "accuracy"), ("answers as the teacher", "agreement")]):
            axes = figure.add_subplot(1, 2, place + 1)
            for row, way in enumerate(ways):
                values = [getattr(score, name) for score in self.scores if score.taught == way]
                axes.barh(row, sum(values) / len(values), color=GREY if way is None else BLUE, alpha=0.35)
                axes.plot(values, [row] * len(values), "o", color=GREY if way is None else BLUE, markersize=5)
            if name == "accuracy":
                axes.axvline(self.teacher_accuracy, color=ORANGE, linestyle="--", linewidth=1.4, label="teacher")
                axes.legend(frameon=False, loc="lower left")
            lowest = min(getattr(score, name) for score in self.scores)
            axes.set_xlim(max(0.0, lowest - 0.1), 1.0)
            axes.set_yticks(range(len(ways)), labels if place == 0 else [""] * len(ways))
            axes.invert_yaxis()
            axes.set_title(title)
            axes.spines[["top", "right"]].set_visible(False)
        return figure
