"""Charts as SVG."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from classifier_training.workflows.reviewing.charts import Series, line_chart, nice_ticks, sparkline, tick_words


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0, 0.25, 0.5, 0.75, 1]), (0.31, 0.69, [0.3, 0.4, 0.5, 0.6, 0.7]), (3, 3, [2.6, 2.8, 3.0, 3.2, 3.4]),
     (0, 0, [-1, -0.5, 0, 0.5, 1]), (1, 7, [0, 2, 4, 6, 8])],
)  # fmt: skip
def test_ticks_are_round_and_span_the_values(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_numbers_of_an_axis_are_short() -> None:
    assert [tick_words(value) for value in (0.0004, 0.00025, 0.25, 1500.0, 0.0)] == [
        "4e-4",
        "2.5e-4",
        "0.25",
        "1500",
        "0",
    ]


def points(path: str) -> list[list[tuple[float, float]]]:
    """The parts of a line, as they are drawn."""
    parts: list[list[tuple[float, float]]] = []
    for place in path.replace("M", "|M").replace("L", "|L").split("|")[1:]:
        x, y = map(float, place[1:].split())
        if place[0] == "M":
            parts.append([])
        parts[-1].append((x, y))
    return parts


def lines(chart: str) -> list[list[list[tuple[float, float]]]]:
    found = ElementTree.fromstring(chart).findall("./svg/path")
    return [points(item.attrib["d"]) for item in found]


def test_higher_values_are_higher_and_a_gap_stays_a_gap() -> None:
    (line,) = lines(line_chart("Loss", [Series("train", [1.0, 0.5, None, math.nan, 0.25, 0.75])]))
    assert [len(part) for part in line] == [2, 2]
    (first, second), (third, fourth) = line
    assert second[0] > first[0]
    assert second[1] > first[1]  # further down: less
    assert fourth[1] < third[1]


def test_thousands_of_epochs_are_thinned_and_keep_their_ends() -> None:
    chart = line_chart("Loss", [Series("train", [float(epoch) for epoch in range(5000)])])
    ((line,),) = lines(chart)
    assert 500 <= len(line) <= 600
    assert line[0][0] == pytest.approx(52, abs=1)
    assert line[-1][0] == pytest.approx(430, abs=1)
    assert len(chart) < 20_000


def test_names_are_escaped_and_a_chart_without_values_says_so() -> None:
    chart = line_chart("<b>", [Series('"><script>', [1.0])], marked=1)
    assert "<script>" not in chart
    ElementTree.fromstring(chart)
    assert "No epoch has ended yet" in line_chart("Loss", [Series("a", []), Series("b", [None])])


def test_a_small_curve_needs_two_values() -> None:
    assert sparkline([0.5]) == ""
    assert sparkline([None, math.inf, 0.5]) == ""
    assert 'aria-label="from 0.5 to 0.75"' in sparkline([0.5, None, 0.75])
