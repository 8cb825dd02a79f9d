"""How a run went, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREEN, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, kw_only=True)
class HistoryFigure(Figure):
    """Curves over the epochs.

    Args:
        curves: values by legend; None where an epoch has no value.
        epochs: their numbers.
        title: above the picture.
        y_label: beside it.
        best_epoch: marked by a line; None for no mark.
        log_scale: whether the values span orders of magnitude.
    """

    curves: dict[str, list[float | None]]
    epochs: list[int]
    title: str
    y_label: str
    best_epoch: int | None
    log_scale: bool = False

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(7, 4.2)
        axes = figure.add_subplot()
        for (label, values), colour in zip(self.curves.items(), (BLUE, ORANGE, GREEN, GREY), strict=False):
            shown = [float("nan") if value is None else value for value in values]
            axes.plot(self.epochs, shown, label=label, color=colour, marker="o", markersize=3, linewidth=1.6)
        if self.best_epoch is not None:
            axes.axvline(
                self.best_epoch,
                color=GREY,
                linestyle="--",
                linewidth=1,
                label=f"best: epoch {self.best_epoch}",
            )
        if self.log_scale:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(self.y_label)
        axes.set_title(self.title)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        return figure
