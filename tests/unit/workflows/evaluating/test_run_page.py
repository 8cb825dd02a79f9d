from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.pages import HOSTILE, write_evaluation

from classifier_training.evaluation.figures.curves import RankingCurves, RankingCurvesFigure
from classifier_training.evaluation.predictions import Predictions


@pytest.mark.parametrize(
    ("names", "targets"),
    [
        (("a", "b"), [0, 0, 0]),
        (("a",), [0, 0]),
        (tuple(f"class {n}" for n in range(200)), list(range(200)) * 2),
        (HOSTILE, list(range(5)) * 4),
    ],
    ids=["one class present", "one class", "200 classes", "hostile names"],
)
def test_a_page_is_written_whatever_the_classes(tmp_path: Path, names: tuple[str, ...], targets: list[int]) -> None:
    _, painted = write_evaluation(tmp_path, names, targets)
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 10 * 2**20
    assert page.count("<script>") == 1
    assert "<img src=x" not in page
    assert "Confusion matrix" in page
    # One figure of each kind is painted here; the others are like it.
    for name in ("reliability.png", "class_scores.png"):
        painted.figures[name].save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_many_classes_have_a_list_of_pairs_in_place_of_the_matrix(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(200))
    write_evaluation(tmp_path, names, list(range(200)) * 2, accuracy=0.2)
    page = (tmp_path / "report.html").read_text()
    assert 'class="matrix"' not in page
    assert page.count('class="panel"') == 100
    assert "The 100 most frequent of" in page


def test_curves_of_many_classes_are_the_mean_and_the_worst() -> None:
    targets = np.arange(60) % 20
    shares = np.full((60, 20), 0.01)
    shares[np.arange(60), targets] = 0.8
    # The last class is found no better than by chance.
    shares[:, 19] = 0.01

    def plotted(targets: np.ndarray) -> RankingCurvesFigure | None:
        curves = RankingCurves()
        for number, ranking in Predictions(scores=shares, targets=targets, kind="probabilities").rankings():
            curves.add(number, ranking)
        return curves.figure("roc", tuple(map(str, range(20))))

    figure = plotted(targets)
    assert figure is not None
    labels = list(figure.curves)
    assert labels[0] == "mean of 20 classes (area 0.975)"
    assert labels[1] == "19 (0.500)"
    assert len(labels) == 6
    assert plotted(np.zeros(60, dtype=np.int64)) is None
