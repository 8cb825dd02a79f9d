"""Line charts as SVG inside a page: no script, no library, and the colours of the page in light and dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.report import Html, escape

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_COLOURS = 8
"""Styles of lines in runs.css; a ninth line looks like the first."""

MAX_DOTS = 40
"""Epochs up to which each value has a dot, which says it when it is pointed at."""

MAX_POINTS = 600
"""Points of a line; of more, the mean of as many neighbours as needed is drawn."""


@dataclass(frozen=True)
class Series:
    """A line.

    Args:
        name: in the legend.
        values: by epoch from 1; None leaves a gap.
    """

    name: str
    values: Sequence[float | None]

    @property
    def known(self) -> list[tuple[int, float]]:
        """Epochs from 1 and their values, without those that are missing or no numbers."""
        return [(row, value) for row, value in enumerate(self.values, 1) if value is not None and math.isfinite(value)]

    @property
    def words(self) -> str:
        """Name and newest value."""
        return f"{self.name} {self.known[-1][1]:.4g}" if self.known else self.name


@dataclass(frozen=True)
class Axes:
    """Where values are on a drawing.

    Args:
        left: edge of the plotted area, as are the next three.
        right: edge.
        top: edge.
        bottom: edge.
        last: epoch at the right edge; 1 is at the left one.
        low: value at the bottom.
        high: value at the top.
    """

    left: float
    right: float
    top: float
    bottom: float
    last: int
    low: float
    high: float

    def x(self, epoch: float) -> str:
        """Place of an epoch, across."""
        return f"{self.left + (epoch - 1) / max(self.last - 1, 1) * (self.right - self.left):.1f}"

    def y(self, value: float) -> str:
        """Place of a value, down."""
        return f"{self.top + (self.high - value) / ((self.high - self.low) or 1) * (self.bottom - self.top):.1f}"

    def path(self, series: Series, style: str) -> str:
        """Return a line."""
        step = math.ceil(len(series.values) / MAX_POINTS)
        drawn: list[str] = []
        before = -1
        by_place: dict[int, list[tuple[int, float]]] = {}
        for epoch, value in series.known:
            by_place.setdefault((epoch - 1) // max(step, 1), []).append((epoch, value))
        for place, points in by_place.items():
            epochs, values = zip(*points, strict=True)
            at = f"{self.x(sum(epochs) / len(epochs))} {self.y(sum(values) / len(values))}"
            drawn.append(f"{'L' if place == before + 1 and drawn else 'M'}{at}")
            before = place
        return f'<path class="line {style}" d="{" ".join(drawn)}"/>' if drawn else ""


WIDTH, HEIGHT = 440, 240


def line_chart(title: str, series: Sequence[Series], *, marked: int | None = None) -> Html:
    """Return curves over epochs on one axis, with a legend.

    Args:
        title: heading of the chart.
        series: lines.
        marked: epoch from 1 with a vertical line: that of the best weights.
    """
    numbers = [value for line in series for _, value in line.known]
    heading = f"<h3>{escape(title)}</h3>"
    if not numbers:
        return Html(f'<figure class="chart">{heading}<p class="quiet">No epoch has ended yet.</p></figure>')
    ticks = nice_ticks(min(numbers), max(numbers))
    last = max(2, *(len(line.values) for line in series))
    axes = Axes(52, WIDTH - 10, 10, HEIGHT - 34, last, ticks[0], ticks[-1])
    pieces = [
        f'<line class="grid" x1="{axes.left}" x2="{axes.right}" y1="{axes.y(tick)}" y2="{axes.y(tick)}"/>'
        f'<text x="{axes.left - 6}" y="{axes.y(tick)}" dy="4" text-anchor="end">{tick_words(tick)}</text>'
        for tick in ticks
    ]
    pieces += [
        f'<text x="{axes.x(epoch)}" y="{axes.bottom + 16}" text-anchor="middle">{epoch}</text>'
        for epoch in sorted({max(1, round(tick)) for tick in nice_ticks(1, last) if tick <= last})
    ]
    pieces.append(f'<text x="{(axes.left + axes.right) / 2}" y="{HEIGHT - 3}" text-anchor="middle">epoch</text>')
    if marked is not None:
        place = axes.x(marked)
        pieces.append(f'<line class="best" x1="{place}" x2="{place}" y1="{axes.top}" y2="{axes.bottom}"/>')
    legend = []
    for number, line in enumerate(series):
        style = f"s{number % NUM_COLOURS}"
        pieces.append(axes.path(line, style))
        if len(line.values) <= MAX_DOTS:
            pieces += [
                f'<circle class="dot {style}" cx="{axes.x(epoch)}" cy="{axes.y(value)}" r="2.5">'
                f"<title>{escape(line.name)}, epoch {epoch}: {value:.4g}</title></circle>"
                for epoch, value in line.known
            ]
        legend.append(
            '<li><svg class="sample" viewBox="0 0 24 8" aria-hidden="true">'
            f'<path class="line {style}" d="M1 4 L23 4"/></svg> {escape(line.words)}</li>'
        )
    said = f"{title} by epoch: {'; '.join(line.words for line in series)}"
    return Html(
        f'<figure class="chart">{heading}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">'
        f'{"".join(pieces)}</svg><ul class="legend">{"".join(legend)}</ul></figure>'
    )


def sparkline(values: Sequence[float | None]) -> Html:
    """Return a small curve without axes, for a cell of a table; empty for fewer than two values."""
    series = Series("", values)
    known = [value for _, value in series.known]
    if len(known) < 2:
        return Html("")
    axes = Axes(2, 94, 3, 21, len(values), min(known), max(known))
    return Html(
        f'<svg class="spark" viewBox="0 0 96 24" role="img" aria-label="from {known[0]:.4g} to {known[-1]:.4g}">'
        f"{axes.path(series, 's0')}</svg>"
    )


def tick_words(value: float) -> str:
    """Return a number of few characters: of 0.0004, 4e-4."""
    if value and abs(value) < 0.001:
        number, _, power = f"{value:.3e}".partition("e")
        return f"{float(number):g}e{int(power)}"
    return f"{value:.4g}"


def nice_ticks(low: float, high: float, *, number: int = 5) -> list[float]:
    """Return about so many round numbers at even distances, which span the two given ones."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-12):
        reach = abs(low) * 0.1 or 1.0
        low, high = low - reach, high + reach
    least = (high - low) / (number - 1)
    power = 10 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]
