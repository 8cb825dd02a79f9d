"""An evaluation's page without a training: made-up answers on drawn images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tests.conftest import draw_picture

from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import SplitResult, SplitTable
from classifier_training.evaluation.metrics import cross_entropies
from classifier_training.workflows.evaluating.run_page import write_run_page
from classifier_training.workflows.evaluating.scores import write_scores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier_training.evaluation.drawing import Figure
    from classifier_training.evaluation.results import Evaluation

HOSTILE = (
    '<script>document.title="1"</script>',
    "🐈 cat\nnext line",
    "long " * 60,
    '"><img src=x onerror=alert(1)>',
    "",
)


class Painted:
    """Takes figures as a `Drawer` does, and keeps them."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}

    def submit(self, figure: Figure, path: Path) -> None:
        self.figures[path.name] = figure


def write_evaluation(
    folder: Path, class_names: Sequence[str], targets: Sequence[int], *, accuracy: float = 0.7
) -> tuple[Evaluation, Painted]:
    """Write an evaluation folder and its page; answers are right with the given chance."""
    rng = np.random.default_rng(0)
    paths = [str(folder / "images" / f"{number}.png") for number in range(min(len(targets), 8))]
    for number, path in enumerate(paths):
        draw_picture(folder / "images" / f"{number}.png", (30 * number, 90, 120), seed=number)
        assert path
    known = np.array(targets, dtype=np.int64)
    logits = rng.normal(size=(len(known), len(class_names))).astype(np.float32)
    right = rng.random(len(known)) < accuracy
    logits[right, known[right]] += 5
    result = SplitResult("test", logits, known, np.arange(len(known)), cross_entropies(logits, known))
    table = SplitTable("test", [paths[row % len(paths)] for row in range(len(known))], known, [""] * len(known))
    painted = Painted()
    evaluation = write_scores(
        folder, result, table, class_names, painted, calibration=None, source="model.onnx", intervals=False  # type: ignore[arg-type]
    )  # fmt: skip
    write_run_page(
        folder / "report.html", RunDir(folder), folder, result, table, class_names, evaluation, temperature=None
    )
    return evaluation, painted
